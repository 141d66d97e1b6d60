"""A hash-chained JSONL log of every command, allowed or refused."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FIRST = "0" * 64


def _hash(previous: str, entry: dict[str, object]) -> str:
    body = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


class AuditLog:
    """Appends entries; each carries the hash of the one before, so a removed or edited line shows.

    Args:
        path: the file, created 0600; an existing chain is continued.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._last = _FIRST
        if path.exists():
            lines = path.read_text("utf-8").splitlines()
            if lines:
                self._last = str(_parsed(lines[-1]).get("hash", _FIRST))

    def record(self, *, user: str, role: str, action: str, address: str, allowed: bool, detail: str = "") -> None:
        """Append one entry and flush it to the disk before the command goes on."""
        with self._lock:
            entry: dict[str, object] = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "user": user,
                "role": role,
                "action": action[:100],
                "address": address,
                "result": "allowed" if allowed else "refused",
                "detail": detail,
                "previous": self._last,
            }
            entry["hash"] = self._last = _hash(self._last, entry)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(entry, separators=(",", ":")) + "\n")
                file.flush()
                os.fsync(file.fileno())


def _parsed(line: str) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def first_broken_line(path: Path) -> int | None:
    """Return the number (from 1) of the first line that does not continue the chain; None when all do."""
    previous = _FIRST
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        entry = _parsed(line)
        claimed = entry.pop("hash", None)
        if entry.get("previous") != previous or claimed != _hash(previous, entry):
            return number
        previous = str(claimed)
    return None
