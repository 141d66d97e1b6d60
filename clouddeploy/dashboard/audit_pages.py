"""Reads the dashboard's audit log for people: the newest entries first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOG = "audit.jsonl"
_MAX_BYTES = 4 << 20
"""So much of the file's end is read; older entries are for `clouddeploy audit verify` and a pager."""


def newest(path: Path, *, count: int, skip: int = 0, search: str = "") -> list[dict[str, Any]]:
    """Returns entries of the log, the newest first.

    Args:
        path: the file.
        count: so many at most.
        skip: so many newer ones are left out.
        search: part of what an entry says, in either case; empty: all.
    """
    found: list[dict[str, Any]] = []
    for line in _lines(path):
        if search and search.lower().encode() not in line.lower():
            continue
        if skip:
            skip -= 1
            continue
        entry = json.loads(line)
        found.append(entry)
        if len(found) >= count:
            break
    return found


def _lines(path: Path) -> Iterator[bytes]:
    """Yields whole lines, the last one first."""
    if not path.exists():
        return
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _MAX_BYTES))
        lines = file.read().split(b"\n")
    for line in reversed(lines if size <= _MAX_BYTES else lines[1:]):
        if line.endswith(b"}"):
            yield line
