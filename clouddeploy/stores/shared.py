"""The state in shared storage, for several people: conditional writes, a lock that is renewed, late writers fenced off.

    state.json            the state, and which hold of the lock wrote it
    lock.json             who holds it (`lease`)
    journal.jsonl/000007  what the seventh holder appended; likewise audit.jsonl/000007
    state.json.v1         the state before a migration

A holder that lost the lock by time may not know it yet. So whoever takes over first rewrites what the other one could
still write: the state, and its part of each log. All writes name the version they replace, so the late ones fail.
"""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.errors import Conflict, ProviderError
from clouddeploy_providers.waiters import RETRY_S, retrying

from clouddeploy.errors import LockedError, StateError
from clouddeploy.stores.base import STATE, Stored, lines_of
from clouddeploy.stores.cell import Cell
from clouddeploy.stores.lease import MARGIN_S, TTL_S, Lease, uptime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from clouddeploy_providers.object_store import ObjectStore

    Result = TypeVar("Result")

log = logging.getLogger(__name__)

LOGS = ("journal.jsonl", "audit.jsonl")
SEAL = b'{"sealed_by": '
"""Begins a line that is no entry: it only gives a log's object another version."""
READERS = 8
SEAL_TRIES = 10
"""A late writer gets through between our reading and writing at most once, since its own version is old then."""


class _Part:
    """What one hold has appended to a log."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.body = b""


class SharedStore:
    """See `StateStore`; writes only under its lock.

    Args:
        objects: the storage.
        where: its address, for people.
        patience_s: how long a failure that passes may last; a write gives up with the lock, too.
        ttl_s: how long the lock outlives a killed holder.
        margin_s: for the coarseness of the storage's times.
        clock: seconds.
    """

    def __init__(
        self,
        objects: ObjectStore,
        where: str,
        *,
        patience_s: float = RETRY_S,
        ttl_s: float = TTL_S,
        margin_s: float = MARGIN_S,
        clock: Callable[[], float] = uptime,
    ) -> None:
        self._objects = objects
        self._where = where
        self._patience_s = patience_s
        self._new_lease = partial(
            Lease,
            objects,
            where,
            last_generation=self._last_generation,
            ttl_s=ttl_s,
            margin_s=margin_s,
            clock=clock,
        )
        self._lease: Lease | None = None
        self._writing = threading.RLock()
        self._never = threading.Event()
        self._state = Cell(objects, STATE)
        self._empty: str | None = None
        """Version of a state that holds nothing but the name of its writer."""
        self._parts: dict[str, _Part] = {}
        self._earlier: dict[str, int] = {}
        """By log, how long the parts of earlier holders are."""

    @property
    def where(self) -> str:
        """The address."""
        return self._where

    def load(self) -> Stored | None:
        """Returns the state; also without the lock."""
        found = self._reading(STATE, lambda: self._objects.get(STATE))
        if found is None:
            return None
        try:
            envelope = json.loads(found.body)
        except ValueError:
            return Stored(found.body, found.version)  # its reader says what is wrong with it
        if not isinstance(envelope, dict) or "written_by" not in envelope:
            return Stored(found.body, found.version)  # a local state that was uploaded by hand
        if envelope.get("state") is None:
            self._empty = found.version
            return None
        return Stored(json.dumps(envelope["state"], indent=2).encode(), found.version)

    def save(self, body: bytes, *, version: str | None) -> str:
        """Replaces the state on condition."""
        with self._writing:
            lease = self._held()
            self._state.version = version or self._empty
            self._write(self._state, _envelope(lease, json.loads(body)), what=STATE)
            return str(self._state.version)

    def keep(self, name: str, body: bytes) -> None:
        """Writes a copy, unless there is one."""
        with self._writing:
            self._held()
            if self._reading(name, lambda: self._objects.get(name)) is None:
                self._write(Cell(self._objects, name), body, what=name)

    def append(self, log: str, lines: bytes, *, at: int | None = None) -> int | None:
        """Appends to this holder's part of a log."""
        with self._writing:
            lease = self._held()
            if log not in self._earlier:
                self.read(log)
            part = self._parts.setdefault(log, _Part(Cell(self._objects, _part_key(log, lease.generation))))
            if at is not None and at != self._earlier[log] + len(part.body):
                return None
            self._write(part.cell, part.body + lines, what=log)
            part.body += lines
            return self._earlier[log] + len(part.body)

    def read(self, log: str) -> bytes:
        """Returns the parts of a log, in the order of their holders; also without the lock."""
        with self._writing:
            mine = _part_key(log, self._lease.generation) if self._lease else ""
            part = self._parts.get(log)
            keys = [key for key in self._reading(log, lambda: self._objects.list(f"{log}/")) if key != mine]
            with ThreadPoolExecutor(READERS) as readers:
                found = readers.map(lambda key: self._reading(key, lambda: self._objects.get(key)), keys)
                parts = [_entries(one.body) for one in found if one is not None]
            earlier = b"".join(parts)
            self._earlier[log] = len(earlier)
            return earlier + (part.body if part else b"")

    @contextmanager
    def locked(self, command: str) -> Iterator[None]:
        """Holds the deployment; a killed holder's lock ends by itself after its time."""
        lease = self._new_lease()
        self._translated("lock the deployment", self._patiently(lambda: lease.acquire(command)))
        try:
            self._lease = lease
            self._fence(lease)
            yield
        finally:
            self._lease, self._parts, self._earlier = None, {}, {}
            lease.release()

    def _last_generation(self) -> int:
        """Returns the newest part's number; a lock object that somebody deleted must not start over."""
        numbers = [key.rpartition("/")[2] for name in LOGS for key in self._objects.list(f"{name}/")]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def _fence(self, lease: Lease) -> None:
        """Makes every late write of earlier holders fail."""
        if not lease.unsealed:
            return
        self._seal(STATE, partial(_rewritten, lease))
        for generation in lease.unsealed:
            for name in LOGS:
                self._seal(_part_key(name, generation), partial(_sealed, lease))
        lease.sealed()

    def _seal(self, key: str, change: Callable[[bytes | None], bytes]) -> None:
        def attempt() -> None:
            for _ in range(SEAL_TRIES):
                there = self._objects.get(key)
                try:
                    Cell(self._objects, key, version=there.version if there else None).write(
                        change(there.body if there else None)
                    )
                except Conflict:
                    continue
                return
            raise self._held().lost()

        self._translated(f"take over {key}", self._patiently(attempt))

    def _held(self) -> Lease:
        if self._lease is None:
            raise LockedError(
                f"{self._where} is not locked by this run",
                why="shared state is written under its lock only",
                hint="run the command again",
            )
        return self._lease

    def _write(self, cell: Cell, body: bytes, *, what: str) -> None:
        lease = self._held()

        def attempt() -> None:
            lease.check()
            cell.write(body)

        self._translated(f"write {what}", self._patiently(attempt))

    def _reading(self, what: str, call: Callable[[], Result]) -> Result:
        return self._translated(f"read {what}", self._patiently(call))

    def _patiently(self, call: Callable[[], Result]) -> Callable[[], Result]:
        return lambda: retrying(call, cancel=self._never, timeout_s=self._patience_s)

    def _translated(self, what: str, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except Conflict as error:
            raise self._held().lost() from error
        except ProviderError as error:
            raise StateError(
                f"cannot {what} in {self._where}",
                why=str(error),
                hint=error.hint or "docs/state.md shows what shared state needs; then run the same command again",
            ) from error


def _part_key(log: str, generation: int) -> str:
    return f"{log}/{generation:06d}"


def _entries(part: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines_of(part) if not line.startswith(SEAL))


def _envelope(lease: Lease, state: Any) -> bytes:
    writer = {"generation": lease.generation, "token": lease.token}
    return (json.dumps({"written_by": writer, "state": state}, indent=2) + "\n").encode()


def _sealed(lease: Lease, part: bytes | None) -> bytes:
    return (part or b"") + SEAL + json.dumps(lease.token).encode() + b"}\n"


def _rewritten(lease: Lease, body: bytes | None) -> bytes:
    """Returns the same state in the name of a new holder."""
    if body is None:
        return _envelope(lease, None)
    try:
        there = json.loads(body)
    except ValueError:
        return body + b"\n"  # damaged; another version all the same
    return _envelope(lease, there["state"] if isinstance(there, dict) and "written_by" in there else there)
