"""Append-only decisions: an intent is on disk before the cloud is asked, its result before anything builds on it.

The journal answers one question after a kill: which calls may have happened that the state does not know about?
It is also the deployment's diary, so it is never rewritten. Secrets have no place in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy.stores import LocalStore
from clouddeploy.stores.base import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from clouddeploy.stores import StateStore

LOG = "journal.jsonl"
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
    token: str = ""
    """The idempotency token that the call carried; empty for a deletion."""
    time: str = ""
    """When, ISO 8601; empty in journals that did not say."""


class _Known:
    """What the entries so far come to."""

    def __init__(self) -> None:
        self.pending: dict[tuple[str, str], Intent] = {}
        self.nodes: dict[str, str] = {}
        self.made: dict[str, Intent] = {}
        self.places: dict[tuple[str, tuple[tuple[str, str], ...]], None] = {}

    def add(self, entry: Mapping[str, Any]) -> None:
        node, name = entry.get("node"), entry.get("name")
        if not isinstance(node, str) or not isinstance(name, str):
            return
        self.nodes[name] = node
        key = (str(entry.get("operation", "")), node)
        if entry["event"] == INTEND:
            self.pending[key] = Intent(
                operation=key[0],
                node=node,
                name=name,
                provider=entry.get("provider", ""),
                settings=entry.get("settings", {}),
                token=entry.get("token", ""),
                time=entry.get("time", ""),
            )
            self._note_place(self.pending[key])
        elif entry["event"] in {DONE, FAILED}:
            intent = self.pending.pop(key, None)
            if entry["event"] == DONE and key[0] == "create" and intent is not None:
                self.made[node] = intent
            elif entry["event"] == DONE and key[0] == "delete":
                self.made.pop(node, None)

    def _note_place(self, intent: Intent) -> None:
        if intent.provider:
            self.places[intent.provider, tuple(sorted(intent.settings.items()))] = None


class Journal:
    """One deployment's journal; only the thread that owns the state writes it.

    Args:
        path: the file; with another store only its name matters.
        store: where it is kept; default: in the file's folder.
    """

    def __init__(self, path: Path, *, store: StateStore | None = None) -> None:
        self._log = path.name
        self._store = store or LocalStore(path.parent)
        self._known: _Known | None = None
        self._held: list[bytes] | None = None

    def hold(self) -> None:
        """Keeps entries until `flush` writes them all at once."""
        self._held = []

    def flush(self) -> None:
        """Writes what was held; returns once it is on disk."""
        if self._held:
            self._store.append(self._log, b"".join(self._held))
            self._held = []

    def release(self) -> None:
        """From now on writes every entry by itself again; what was held and not written is dropped.

        An intent without its result stays open then, which is always safe; a result that nothing else knows is not.
        """
        self._held = None
        self._known = None

    def intend(
        self, operation: str, *, node: str, name: str, token: str = "", provider: str, settings: Mapping[str, str]
    ) -> None:
        """Records that a call is about to be made; returns once that is on disk, unless entries are held."""
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
        return list(self._read().pending.values())

    def nodes(self) -> dict[str, str]:
        """Returns, by resource name, the node that any call was ever made for."""
        return dict(self._read().nodes)

    def made(self) -> dict[str, Intent]:
        """Returns, by node, the creations that succeeded and were followed by no deletion."""
        return dict(self._read().made)

    def places(self) -> list[tuple[str, dict[str, str]]]:
        """Returns every provider and settings that anything was ever asked of."""
        return [(provider, dict(settings)) for provider, settings in self._read().places]

    def _append(self, entry: dict[str, Any]) -> None:
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}
        line = json.dumps(entry).encode() + b"\n"
        if self._held is None:
            self._store.append(self._log, line)
        else:
            self._held.append(line)
        if self._known is not None:
            self._known.add(entry)

    def _read(self) -> _Known:
        """Reads the journal once; from then on this object is its only writer."""
        if self._known is None:
            known = _Known()
            for entry in _entries(self._store.read(self._log)):
                known.add(entry)
            self._known = known
        return self._known


@dataclass
class Memory:
    """What a journal still knows when the state beside it is lost."""

    deployment: str = ""
    """Empty: the journal never said."""
    attempts: dict[str, int] = field(default_factory=dict)
    """By node, the number that the next request's token has to carry."""


def remembered(store: StateStore) -> Memory:
    """Returns what is needed to find a deployment again by its tags, and to ask for nothing with an old token."""
    memory = Memory()
    for entry in _entries(store.read(LOG)):
        event, node = entry["event"], entry.get("node")
        if isinstance(entry.get("deployment"), str):
            memory.deployment = entry["deployment"]
        if not isinstance(node, str):
            continue
        if event == INTEND:
            attempt = str(entry.get("token", "")).rpartition("/")[2]
            if attempt.isdecimal():
                memory.attempts[node] = int(attempt)
        elif event == FAILED or (event == DONE and entry.get("operation") == "delete"):
            memory.attempts[node] = memory.attempts.get(node, 0) + 1
    return memory


def _entries(body: bytes) -> Iterator[dict[str, Any]]:
    for line in lines_of(body):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # half a line, cut by a kill before its fsync returned: nothing was built on it
        if isinstance(entry, dict) and "event" in entry:
            yield entry
