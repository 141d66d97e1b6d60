"""Who did what with a deployment, when, and how it ended: a log of JSON lines, each with the hash of the one before.

The chain is that of the runtime's audit logs, so one verifier reads both. It shows that a line was changed, removed or
inserted. That lines were cut off at the end it shows only to somebody who kept a later hash (`verify(known=…)`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import printable

from clouddeploy.errors import StateError
from clouddeploy.stores import LocalStore
from clouddeploy.stores.base import actor as this_actor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from clouddeploy.stores import StateStore

LOG = "audit.jsonl"
FIRST = "0" * 64
TORN = "torn line"
"""Event of an entry that follows half a line; a kill cut that one off while it was written."""
MAX_DETAIL = 500
"""Signs; an error of a cloud may quote a whole request."""
TRIES = 100
"""For a log that other processes append to as well; each try that fails means that another one got through."""


@dataclass(frozen=True)
class Verified:
    """What an unbroken audit log holds."""

    entries: int
    last_hash: str
    """Keep it elsewhere: a later verification can then tell that nothing up to it was cut off."""
    torn_lines: int = 0
    """Lines cut by a kill, recorded as such by the entry that follows; one at the very end counts too."""


@dataclass(frozen=True)
class Entry:
    """One thing that was done."""

    event: str
    """What: `create machine`, `delete machine`, `install`, `sign kits`."""
    result: str
    """How it ended: `done`, `failed`, `refused`."""
    node: str = ""
    """`<site>/<kind>`, or the site."""
    name: str = ""
    """The resource's name."""
    detail: str = ""
    """An id or an error; never a secret."""


class AuditTrail:
    """Appends to one deployment's audit log; an existing chain is continued. May be used from several threads.

    Args:
        path: the file; with another store only its name matters.
        command: the verb on the command line: `apply`.
        deployment: the deployment's id.
        actor: who runs it; default `user@host` of this process.
        store: where it is kept; default: in the file's folder. A shared one must be locked.
        now: the clock.
    """

    def __init__(
        self,
        path: Path,
        *,
        command: str,
        deployment: str = "",
        actor: str = "",
        store: StateStore | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._log = path.name
        self._store = store or LocalStore(path.parent)
        self._who = {"actor": actor or this_actor(), "command": command, "deployment": deployment}
        self._now = now
        self._lock = threading.Lock()
        self._size: int | None = None
        self._last = FIRST
        self._torn = b""

    def record(self, event: str, *, result: str, node: str = "", name: str = "", detail: str = "") -> None:
        """Appends one entry and returns once it is on disk; see `Entry`."""
        self.record_all([Entry(event, result=result, node=node, name=name, detail=detail)])

    def record_all(self, entries: Sequence[Entry]) -> None:
        """Appends entries, all with one write, and returns once they are on disk.

        Raises:
            StateError: they could not be written, or the log they would continue is broken.
        """
        if not entries:
            return
        with self._lock:
            for _ in range(TRIES):
                if self._size is None:
                    self._read()
                if self._append(entries):
                    return
                self._size = None  # another process has appended meanwhile
        raise StateError(f"cannot append to {self._log}", why="other runs keep writing to it", hint="end them first")

    def _read(self) -> None:
        body = self._store.read(self._log)
        end = _Link(FIRST)
        for end in _links(body, f"{self._store.where}/{self._log}"):  # noqa: B007 - the last one is wanted
            pass
        self._size, self._last, self._torn = len(body), end.hash, end.torn

    def _append(self, entries: Sequence[Entry]) -> bool:
        last, lines = self._last, b""
        if self._torn:
            lines, last = self._entry(TORN, {"result": "recorded", "sha256": _digest(self._torn)}, last)
        for entry in entries:
            facts = {"node": entry.node, "name": entry.name, "result": entry.result, "detail": entry.detail}
            line, last = self._entry(entry.event, facts, last)
            lines += line
        size = self._store.append(self._log, lines, at=self._size)
        if size is None:
            return False
        self._size, self._last, self._torn = size, last, b""
        return True

    def _entry(self, event: str, facts: dict[str, str], previous: str) -> tuple[bytes, str]:
        body: dict[str, Any] = {
            "time": self._now().isoformat(timespec="milliseconds"),
            **self._who,
            "event": event,
            **{key: printable(value)[:MAX_DETAIL] for key, value in facts.items() if value},
            "previous": previous,
        }
        body["hash"] = _hash(previous, body)
        return json.dumps(body, separators=(",", ":")).encode() + b"\n", body["hash"]


def verify(path: Path, *, store: StateStore | None = None, known: str = "") -> Verified:
    """Returns what an audit log holds, after checking every line of it.

    Args:
        path: the file; with another store only its name matters.
        store: where it is kept; default: in the file's folder.
        known: the hash of an entry that must be in it.

    Raises:
        StateError: it cannot be read, a line does not continue the chain (names the first), or `known` is missing.
    """
    where = str(path) if store is None else f"{store.where}/{path.name}"
    body = (store or LocalStore(path.parent)).read(path.name)
    if not body:
        raise StateError(
            f"there is no audit log {where}", hint="name an audit.jsonl, or a deploy file that was applied"
        )
    entries, torn, last = 0, 0, FIRST
    seen = not known
    for link in _links(body, where):
        entries += link.is_entry
        torn += bool(link.torn)
        last = link.hash
        seen = seen or last == known
    if not seen:
        raise StateError(
            f"{where} does not hold the entry {known}",
            why="lines were cut off at its end, or the whole chain was written anew",
            hint="restore it from a backup and find out who could write it",
        )
    return Verified(entries, last, torn)


@dataclass(frozen=True)
class _Link:
    hash: str
    is_entry: bool = True
    torn: bytes = b""
    """Half a line that follows the entry of that hash."""


def _links(body: bytes, where: str) -> Iterator[_Link]:
    """Yields a link per entry, and one per half line, which either the next entry records or nothing follows."""
    last, torn = FIRST, b""
    number = 0
    for number, line in enumerate(body.removesuffix(b"\n").split(b"\n") if body else (), start=1):
        entry = _continuing(line, last)
        if torn:
            if entry is None or entry.get("event") != TORN or entry.get("sha256") != _digest(torn):
                raise _broken(where, number - 1)
            yield _Link(last, is_entry=False, torn=torn)
            torn = b""
        elif entry is None:
            torn = line or b" "
            continue
        last = str(entry["hash"])
        yield _Link(last)
    if torn:
        if body.endswith(b"\n"):
            raise _broken(where, number)
        yield _Link(last, is_entry=False, torn=torn)


def _continuing(line: bytes, previous: str) -> dict[str, Any] | None:
    """Returns an entry with its hash when it continues the chain."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    claimed = entry.pop("hash", None)
    if entry.get("previous") != previous or claimed != _hash(previous, entry):
        return None
    return {**entry, "hash": claimed}


def _broken(where: str, number: int) -> StateError:
    return StateError(
        f"{where} is broken at line {number}",
        why="that line does not continue the chain: it was changed, or lines before it were removed or inserted",
        hint="rely on nothing from this line on: move the log aside, compare it with a backup and find out who could "
        "write it; the next run begins a new one",
    )


def _hash(previous: str, entry: dict[str, Any]) -> str:
    body = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
