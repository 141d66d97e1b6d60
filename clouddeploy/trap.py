"""Watches the calls of one process to emulated clouds and kills it at one of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field

from clouddeploy.killable import BEFORE, Point

ANY_CALL = "call"
"""Stands for every call: `Point(ANY_CALL, 17, …)` is the seventeenth to any cloud."""
NOWHERE = Point("nothing", 0, BEFORE)
QUIET_S = 30.0
POLL_S = 0.002


@dataclass
class Trap:
    """Kills a process once; afterwards it only counts."""

    point: Point = NOWHERE
    process: Future[int] = field(default_factory=Future)
    """Its id, as soon as it is known."""
    calls: list[str] = field(default_factory=list)
    is_sprung: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counts: Counter[str] = field(default_factory=Counter)
    _flying: dict[int, frozenset[tuple[str, int]]] = field(default_factory=dict)

    def watch(self, call: str, is_answered: bool) -> bool:
        """Returns whether the call or its answer is lost, since its sender was killed just now."""
        thread = threading.get_ident()
        with self._lock:
            if not is_answered:
                self.calls.append(call)
                self._counts[call] += 1
                self._flying[thread] = frozenset({(call, self._counts[call]), (ANY_CALL, len(self.calls))})
            names = self._flying.get(thread, frozenset())
            is_place = (self.point.what, self.point.occurrence) in names
            is_here = is_place and is_answered == (self.point.moment != BEFORE) and not self.is_sprung
            self.is_sprung |= is_here
            if is_answered or is_here:
                self._flying.pop(thread, None)
        if is_here:
            os.kill(self.process.result(QUIET_S), signal.SIGKILL)
        return is_here

    def wait_until_quiet(self) -> None:
        """Returns once every call that arrived was handled: what a killed process asked for still happens."""
        deadline = time.monotonic() + QUIET_S
        while self._flying and time.monotonic() < deadline:
            time.sleep(POLL_S)
