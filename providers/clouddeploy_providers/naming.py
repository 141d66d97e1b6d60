"""Deterministic names and ownership tags."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Owner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.resources import Kind

PREFIX = "clouddeploy"
TAG_DEPLOYMENT = f"{PREFIX}:deployment"
TAG_PROJECT = f"{PREFIX}:project"
TAG_SITE = f"{PREFIX}:site"
DIGEST = 6
MAX_LENGTH = 63
"""Fits every name we make: Azure allows 64 characters for a virtual machine on Linux, 80 for network resources."""


def resource_name(owner: Owner, kind: Kind) -> str:
    """Returns `cd-<project>-<site>-<kind>-<deployment>`, lower case, at most 63 characters; the end is never cut.

    Where project and site do not fit, a digest of both stands in for what is cut: two sites never share a name for it.
    """
    stem = f"cd-{plain(owner.project)}-{plain(owner.site)}"
    tail = f"-{kind.value}-{owner.deployment}"
    if len(stem) + len(tail) > MAX_LENGTH:
        tail = f"-{hashlib.sha256(f'{owner.project}/{owner.site}'.encode()).hexdigest()[:DIGEST]}{tail}"
        stem = stem[: MAX_LENGTH - len(tail)].rstrip("-")
    return stem + tail


def plain(text: str) -> str:
    """Returns a text as it stands in names: lower case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def tags(owner: Owner, *, name: str, kind: Kind) -> dict[str, str]:
    """Returns the tags every resource is born with."""
    return {
        "Name": name,
        TAG_DEPLOYMENT: owner.deployment,
        TAG_PROJECT: owner.project,
        TAG_SITE: owner.site,
        f"{PREFIX}:kind": kind.value,
    }


def owner_of(tagged: Mapping[str, str]) -> Owner | None:
    """Returns whose resource it is by its tags; None when it does not carry ours."""
    deployment = tagged.get(TAG_DEPLOYMENT)
    return Owner(deployment, tagged.get(TAG_PROJECT, ""), tagged.get(TAG_SITE, "")) if deployment else None
