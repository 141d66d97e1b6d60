"""Removes what a parent that was killed has left at an engine: `python -m clouddeploy_runtime.outposts.sweeping`.

A process of its own, since a parent would keep the memory of the engine's client for as long as it runs.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import msgspec

from clouddeploy_runtime.errors import RuntimeFault, printable
from clouddeploy_runtime.outposts import engines

log = logging.getLogger(__name__)

VARIABLE = "CLOUDDEPLOY_SWEEP"
"""What is to be swept, as JSON; no secret is in it."""


class Sweep(msgspec.Struct, frozen=True):
    """Where, and whose."""

    kind: str
    settings: dict[str, Any]
    site: str


def main() -> int:
    """Sweep once; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = msgspec.json.decode(os.environ.pop(VARIABLE), type=Sweep)
    try:
        engines.sweep(given.kind, given.settings, given.site)
    except RuntimeFault as exc:
        log.error("%s", printable(str(exc)))  # noqa: TRY400 - a message for people
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
