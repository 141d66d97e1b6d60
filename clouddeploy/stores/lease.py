"""A lock in shared storage: an object that its holder renews, and that others may take once it did not.

Nobody's clock has to be right. The holder counts from before it asked for a renewal; the others compare two times that
the storage itself gave. So nobody takes it before its holder has stopped to believe in it. A holder that was asleep
when that happened is refused by the versions of what it writes, which the new one has changed (`shared`).
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_providers.errors import Conflict, ProviderError

from clouddeploy.errors import LockedError, StateError
from clouddeploy.stores.base import holder_text
from clouddeploy.stores.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_providers.object_store import ObjectStore, StoredObject

log = logging.getLogger(__name__)

KEY = "lock.json"
TTL_S = 60.0
"""Long enough for a slow line, short enough to wait for after a kill."""
MARGIN_S = 2.0
"""The storage's times are whole seconds, both of them."""
RENEWALS = 3
"""Per time to live; so two may fail."""
RETRIES = 12
"""Per time to live, once one has failed."""


def uptime() -> float:
    """Returns seconds that go on while the machine is suspended, where the system can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True)
class Holding:
    """What the object says."""

    holder: str
    token: str
    generation: int
    """One more with every holder; names what that one writes."""
    ttl_s: float
    unsealed: tuple[int, ...] = ()
    """Generations that lost the lock by time, and whose late writes nobody has made impossible yet."""
    renewals: int = 0
    is_free: bool = False


class Lease:
    """One run's hold on a deployment; `release` it.

    Args:
        objects: the storage.
        where: its address, for messages.
        last_generation: asked when there is no lock object: the largest number that was ever used.
        ttl_s: how long the lock outlives its holder.
        margin_s: for the coarseness of the storage's times.
        clock: seconds.
    """

    def __init__(
        self,
        objects: ObjectStore,
        where: str,
        *,
        last_generation: Callable[[], int] = lambda: 0,
        ttl_s: float = TTL_S,
        margin_s: float = MARGIN_S,
        clock: Callable[[], float] = uptime,
    ) -> None:
        self._objects = objects
        self._where = where
        self._last_generation = last_generation
        self._ttl_s = ttl_s
        self._margin_s = margin_s
        self._clock = clock
        self._cell = Cell(objects, KEY)
        self._mine = Holding("", secrets.token_hex(8), 0, ttl_s)
        self._writing = threading.Lock()
        self._until = clock()
        self._is_lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def token(self) -> str:
        """Names this hold."""
        return self._mine.token

    @property
    def generation(self) -> int:
        """Number of this hold."""
        return self._mine.generation

    @property
    def unsealed(self) -> tuple[int, ...]:
        """Earlier holds that may still try to write."""
        return self._mine.unsealed

    def acquire(self, command: str) -> None:
        """Takes the lock and keeps it in a thread. May be repeated after an error that passes.

        Raises:
            LockedError: another run holds it; says which, and for how long at most.
            ProviderError: the storage cannot be used.
        """
        there = self._objects.get(KEY)
        old = self._parse(there)
        is_mine = old.token == self.token  # the answer to an earlier try was lost
        if there is not None and not (old.is_free or is_mine) and there.age_s <= old.ttl_s + self._margin_s:
            raise self._held(old, left_s=old.ttl_s + self._margin_s - there.age_s)
        self._cell.version = there.version if there else None
        self._mine = Holding(
            holder=holder_text(command),
            token=self.token,
            generation=old.generation if is_mine else old.generation + 1,
            ttl_s=self._ttl_s,
            unsealed=old.unsealed if old.is_free or is_mine else (*old.unsealed, old.generation),
        )
        try:
            self._write()
        except Conflict as error:
            raise self._held(self._parse(self._objects.get(KEY)), left_s=self._ttl_s) from error
        if there is None:
            self._prove_conditions()
        if not (old.is_free or is_mine):
            log.warning("the lock of %r in %s was over, so it was taken", old.holder, self._where)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def sealed(self) -> None:
        """Notes that no earlier hold can write any more; the next renewal tells the others."""
        with self._writing:
            self._mine = replace(self._mine, unsealed=())

    def check(self) -> None:
        """Returns while the lock is held for certain.

        Raises:
            LockedError: it is not, and another run may hold it.
        """
        if self._is_lost or self._clock() >= self._until:
            raise self.lost()

    def lost(self) -> LockedError:
        """Returns the error of a run that others have overtaken; names whoever holds the lock now."""
        try:
            now = self._parse(self._objects.get(KEY))
        except (ProviderError, StateError) as error:
            why = f"the lock was not renewed in time, and who holds it now is not known: {error}"
        else:
            why = f"the lock is held now by: {now.holder}"
            if now.is_free:
                why = f"{now.holder or 'somebody'} held the lock meanwhile"
            elif now.token == self.token:
                why = "the lock was not renewed in time, or something else than a run has written"
        return LockedError(
            f"this run may not write to {self._where} any more",
            why=why,
            hint="nothing of another run was overwritten; run the same command again once nobody holds the lock",
        )

    def release(self) -> None:
        """Gives the lock back; where that fails it is over after its time."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._writing:
            self._mine = replace(self._mine, is_free=True)
        try:
            self._write()
        except Conflict:
            log.info("the lock in %s is somebody else's already", self._where)
        except ProviderError as error:
            log.warning(
                "the lock in %s could not be given back, it ends in %.0f s: %s", self._where, self._ttl_s, error
            )

    def _keep(self) -> None:
        pause_s = self._ttl_s / RENEWALS
        while not self._stop.wait(pause_s):
            try:
                self._write()
            except Conflict:
                self._is_lost = True
                return
            except ProviderError as error:
                log.warning("the lock in %s could not be renewed: %s", self._where, error)
                pause_s = self._ttl_s / RETRIES
            else:
                pause_s = self._ttl_s / RENEWALS

    def _write(self) -> None:
        with self._writing:
            asked = self._clock()
            self._mine = replace(self._mine, renewals=self._mine.renewals + 1)
            self._cell.write((json.dumps(asdict(self._mine), indent=2) + "\n").encode())
            self._until = asked + self._ttl_s

    def _prove_conditions(self) -> None:
        """Refuses storage that ignores conditions, as some that speak S3's protocol do: nothing would be safe there."""
        body = (json.dumps(asdict(self._mine), indent=2) + "\n").encode()
        try:
            self._objects.put(KEY, body, version=None)
        except Conflict:
            return
        raise StateError(
            f"{self._where} cannot keep a shared state",
            why="its storage overwrites what must not be overwritten: it ignores If-None-Match",
            hint="use storage with conditional writes, or keep the state in a folder",
        )

    def _parse(self, there: StoredObject | None) -> Holding:
        if there is None:
            return Holding("", "", self._last_generation(), self._ttl_s, is_free=True)
        try:
            return msgspec.json.decode(there.body, type=Holding)
        except msgspec.MsgspecError as error:
            raise StateError(
                f"cannot read the lock {self._where}/{KEY}",
                why=str(error),
                hint="once no run is under way, delete that object",
            ) from error

    def _held(self, holding: Holding, *, left_s: float) -> LockedError:
        return LockedError(
            f"another run holds the deployment in {self._where}",
            why=holding.holder or "its holder has just ended",
            hint=f"wait until it ends; if it was killed, its lock ends by itself in {max(left_s, 1):.0f} s",
        )
