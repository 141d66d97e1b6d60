"""Append-only decisions: an intent is on disk before the cloud is asked, its result before anything builds on it.

The journal answers one question after a kill: which calls may have happened that the state does not know about?
It is also the deployment's diary, so it is never rewritten. Secrets have no place in it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

INTEND, DONE, FAILED = "intend", "done", "failed"


@dataclass(frozen=True)
class Intent:
    """A call that was about to be made and of which no result is known."""

    operation: str
    """`create`, `update` or `delete`."""
    node: str
    """`<site>/<kind>`."""
    name: str
    """The resource's deterministic name."""
    provider: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """With `provider`: where the call went, even when the site has left deploy.yml since."""


class Journal:
    """One deployment's journal file; only the thread that owns the state writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def intend(
        self, operation: str, *, node: str, name: str, token: str = "", provider: str, settings: Mapping[str, str]
    ) -> None:
        """Records that a call is about to be made; returns once that is on disk."""
        self._append(
            {
                "event": INTEND,
                "operation": operation,
                "node": node,
                "name": name,
                "token": token,
                "provider": provider,
                "settings": dict(settings),
            }
        )

    def done(self, operation: str, *, node: str, name: str, id: str = "") -> None:
        """Records that the call succeeded."""
        self._append({"event": DONE, "operation": operation, "node": node, "name": name, "id": id})

    def failed(self, operation: str, *, node: str, name: str, error: str) -> None:
        """Records that the call failed for certain."""
        self._append({"event": FAILED, "operation": operation, "node": node, "name": name, "error": error})

    def note(self, event: str, **facts: str) -> None:
        """Records a fact for the diary, e.g. `apply started`."""
        self._append({"event": event, **facts})

    def open_intents(self) -> list[Intent]:
        """Returns the intents without a result, oldest first."""
        pending: dict[tuple[str, str], Intent] = {}
        for entry in self._entries():
            key = (entry.get("operation", ""), entry.get("node", ""))
            if entry["event"] == INTEND:
                pending[key] = Intent(
                    operation=key[0],
                    node=key[1],
                    name=entry["name"],
                    provider=entry.get("provider", ""),
                    settings=entry.get("settings", {}),
                )
            elif entry["event"] in {DONE, FAILED}:
                pending.pop(key, None)
        return list(pending.values())

    def nodes(self) -> dict[str, str]:
        """Returns, by resource name, the node that any call was ever made for."""
        return {entry["name"]: entry["node"] for entry in self._entries() if "node" in entry and "name" in entry}

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}) + "\n"
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                # A kill may have left half a line; the next entry must not become part of it.
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                os.write(descriptor, (("\n" if torn else "") + line).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StateError(
                f"cannot write the journal {self._path}",
                why=str(error),
                hint="make room or fix the permissions, then repeat",
            ) from error

    def _entries(self) -> Iterator[dict[str, Any]]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # half a line, cut by a kill before its fsync returned: nothing was built on it
            if isinstance(entry, dict) and "event" in entry:
                yield entry
