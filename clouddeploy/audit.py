"""Who did what with a deployment, when, and how it ended: a log of JSON lines, each with the hash of the one before.

The chain is that of the runtime's audit logs, so one verifier reads both, see `clouddeploy_runtime.audit_chain`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import audit_chain
from clouddeploy_runtime.audit_chain import FIRST, TORN, ChainBroken, Link, Verified, digest, follow
from clouddeploy_runtime.errors import printable

from clouddeploy.errors import StateError
from clouddeploy.stores import LocalStore
from clouddeploy.stores.base import actor as this_actor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from clouddeploy.stores import StateStore

LOG = "audit.jsonl"
MAX_DETAIL = 500
"""Signs; an error of a cloud may quote a whole request."""
TRIES = 100
"""For a log that other processes append to as well; each try that fails means that another one got through."""


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
        end = Link(FIRST)
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
        body["hash"] = digest(previous, body)
        return json.dumps(body, separators=(",", ":")).encode() + b"\n", body["hash"]


def verify(path: Path, *, store: StateStore | None = None, known: str = "", is_part: bool = False) -> Verified:
    """Returns what an audit log holds, after checking every line of it and of files that were set aside before.

    Args:
        path: the file; with another store only its name matters.
        store: where it is kept; default: in the file's folder.
        known: the hash of an entry that must be in it.
        is_part: believe how the oldest file begins, since those before it are elsewhere.

    Raises:
        StateError: it cannot be read, a line does not continue the chain (names the first), or `known` is missing.
    """
    where = str(path) if store is None else f"{store.where}/{path.name}"
    lines = (link for _, link in read(path, store=store, is_part=is_part))
    try:
        found = audit_chain.counted(lines, known=known, where=where)
    except audit_chain.AuditBroken as exc:
        raise StateError(exc.what, why=exc.why, hint=exc.hint) from exc
    if found == Verified(0, FIRST):
        raise StateError(
            f"there is no audit log {where}", hint="name an audit.jsonl, or a deploy file that was applied"
        )
    return found


def read(path: Path, *, store: StateStore | None = None, is_part: bool = False) -> Iterator[tuple[Path, Link]]:
    """Yields the lines of a log, each with its file, while they continue the chain; arguments as in `verify`.

    Raises:
        StateError: as in `verify`.
    """
    if store is not None:
        yield from ((path, link) for link in _links(store.read(path.name), f"{store.where}/{path.name}"))
        return
    if not path.exists():
        return
    try:
        yield from audit_chain.read(path, is_part=is_part)
    except audit_chain.AuditBroken as exc:
        raise StateError(exc.what, why=exc.why, hint=exc.hint) from exc


def _links(body: bytes, where: str) -> Iterator[Link]:
    try:
        yield from follow(body)
    except ChainBroken as exc:
        fault = audit_chain.broken(where, exc.line)
        raise StateError(fault.what, why=fault.why, hint=fault.hint) from exc


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
