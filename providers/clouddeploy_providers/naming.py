"""Deterministic names and ownership tags."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clouddeploy_providers.resources import Kind, Owner

PREFIX = "clouddeploy"
TAG_DEPLOYMENT = f"{PREFIX}:deployment"
MAX_LENGTH = 63
"""Fits every name we make: Azure allows 64 characters for a virtual machine on Linux, 80 for network resources."""


def resource_name(owner: Owner, kind: Kind) -> str:
    """Returns `cd-<project>-<site>-<kind>-<deployment>`, lower case, at most 63 characters; the end is never cut."""
    stem = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in (owner.project, owner.site))
    tail = f"-{kind.value}-{owner.deployment}"
    return f"cd-{stem}"[: MAX_LENGTH - len(tail)].rstrip("-") + tail


def tags(owner: Owner, *, name: str, kind: Kind) -> dict[str, str]:
    """Returns the tags every resource is born with."""
    return {
        "Name": name,
        TAG_DEPLOYMENT: owner.deployment,
        f"{PREFIX}:project": owner.project,
        f"{PREFIX}:site": owner.site,
        f"{PREFIX}:kind": kind.value,
    }
