"""`prepared.json` in an output: what `prepare` made there, so that a later one knows what others have changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "prepared.json"
VERSION = 1


@dataclass(frozen=True)
class Record:
    """What was made.

    Attributes:
        runtime: for which.
        project: whose.
        participant: whose.
        files: path → SHA-256, hexadecimal.
    """

    runtime: str
    project: str
    participant: str
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> frozenset[str]:
        """What `prepare` made at the top of the output; the rest is of the site that ran there."""
        return frozenset(path.partition("/")[0] for path in self.files) | {FILE}


def digests(root: Path) -> dict[str, str]:
    """Return the digests of all files below a folder, the record's own left out."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not path.is_symlink() and name != FILE:
            found[name] = digest(path)
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode(record: Record) -> str:
    """Return the file's content."""
    document = {"format_version": VERSION, "runtime": record.runtime, "project": record.project}
    return json.dumps({**document, "participant": record.participant, "files": dict(record.files)}, indent=1) + "\n"


def read(root: Path) -> Record | None:
    """Return what an output says of itself; None: `prepare` has not made it, or somebody has spoilt that file."""
    try:
        document = json.loads((root / FILE).read_bytes())
        if document["format_version"] != VERSION:
            return None
        files = {str(path): str(digest) for path, digest in document["files"].items()}
        return Record(str(document["runtime"]), str(document["project"]), str(document["participant"]), files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
