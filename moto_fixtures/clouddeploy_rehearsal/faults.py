"""What can go wrong in an emulated cloud, on request, and how often it did."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable
from dataclasses import dataclass, field

Watch = Callable[[str, bool], bool]
"""Told of each call twice, before it is handled and (True) before it is answered; returns whether it is lost there."""

CAPACITY, THROTTLE, DROP, LAG = "capacity", "throttle", "drop", "lag"


@dataclass
class Tally:
    """Counts how often each fault was met; may be used from several threads."""

    _found: Counts[str] = field(default_factory=Counts)
    _asked: dict[str, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hit(self, fault: str) -> None:
        """Counts one more."""
        with self._lock:
            self._found[fault] += 1

    def hits(self, fault: str) -> int:
        """Returns how often a fault was met."""
        with self._lock:
            return self._found[fault]

    def rank(self, place: str, zone: str) -> int:
        """Returns the how manieth zone of its place this was to be asked for a machine, from 0."""
        with self._lock:
            asked = self._asked.setdefault(place, [])
            if zone not in asked:
                asked.append(zone)
            return asked.index(zone)


@dataclass(frozen=True)
class Faults:
    """Which faults the clouds show; none by default."""

    latency_s: float = 0.0
    """Every answer takes so much longer."""
    no_capacity: frozenset[str] = frozenset()
    """Machine sizes of which none is free."""
    scarce_zones: int = 0
    """In so many zones of each region, those that are asked first, no machine is free."""
    throttle_every: int = 0
    """Every nth call is refused for coming too fast; 0: none is."""
    drop_every: int = 0
    """The connection of every nth call is closed unanswered; 0: none is."""
    lag_s: float = 0.0
    """So long a new EC2 instance is invisible, and a new Azure resource missing from lists."""
    tally: Tally = field(default_factory=Tally, compare=False, repr=False)

    def has_capacity(self, size: str, *, place: str, zone: str) -> bool:
        """Returns whether a machine of the size is free in the zone; a refusal counts as a hit.

        Args:
            size: the cloud's name of it.
            place: the region.
            zone: the cloud's name of it; empty where the request names none, so that any will do.
        """
        is_scarce = size in self.no_capacity or (bool(zone) and self.tally.rank(place, zone) < self.scarce_zones)
        if is_scarce:
            self.tally.hit(CAPACITY)
        return not is_scarce

    def hides(self, born: float) -> bool:
        """Returns whether what was made at that moment of `time.monotonic` does not show yet."""
        is_hidden = bool(self.lag_s) and time.monotonic() < born + self.lag_s
        if is_hidden:
            self.tally.hit(LAG)
        return is_hidden


@dataclass
class Counter:
    """Counts calls to decide which of them meet a fault, and lets somebody watch them."""

    faults: Faults
    watch: Watch | None = None
    """None: nobody watches."""
    _calls: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def next(self, call: str = "") -> str:
        """Returns what happens to this call: `throttle`, `drop` or an empty text.

        Args:
            call: its name, as `calls` gives it.
        """
        number = next(self._calls)
        if self.watch is not None and self.watch(call, False):
            return DROP
        for fault, every in ((DROP, self.faults.drop_every), (THROTTLE, self.faults.throttle_every)):
            if every and number % every == 0:
                self.faults.tally.hit(fault)
                return DROP if self.loses_answer(call) else fault
        return ""

    def loses_answer(self, call: str = "") -> bool:
        """Returns whether the answer of a call that was handled does not arrive."""
        return self.watch is not None and self.watch(call, True)
