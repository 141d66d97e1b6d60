"""What a machine needs to know and to get for its Python environment; `clouddeploy.wheelhouse` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class PythonTarget:
    """The Python of a machine: `3.11` on `x86_64`."""

    version: str
    machine: str


@dataclass(frozen=True)
class Wheelhouse:
    """One folder of wheels as a single archive.

    Attributes:
        archive: a tar with the wheels and a requirements.txt with their hashes.
        digest: short digest of what it was made from.
    """

    archive: Path
    digest: str
