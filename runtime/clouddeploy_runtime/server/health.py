"""Whether the server does what it is there for: its parts live, its port is open, and its event loop keeps up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.lifecycle import StopSignal

_BEAT_S = 1.0
_BEATS = 60
"""The lag that is told is the worst of the last minute: who asks every 15 s misses none."""


class Health:
    """What a probe asks for.

    Args:
        stop: set once the server stops.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._parts: dict[str, asyncio.Task[None]] = {}

    def watch(self, **parts: asyncio.Task[None]) -> None:
        """From now on the server is as well as these, which run for as long as it does, by name."""
        self._parts |= parts

    def problems(self) -> dict[str, str]:
        """Return what is wrong, by part; empty: nothing is. Of an error only its kind: anybody may ask."""
        if not self._parts:
            return {"server": "it starts"}
        return {name: _end_of(part) for name, part in self._parts.items() if part.done()}

    def hindrances(self) -> dict[str, str]:
        """Return why sites and people should not be sent here just now; empty: they may come."""
        return self.problems() or ({"server": "it stops"} if self._stop.cause else {})


def _end_of(part: asyncio.Task[None]) -> str:
    if part.cancelled():
        return "it was stopped"
    error = part.exception()
    return "it has ended" if error is None else f"it has ended by a {type(error).__name__}, see log.txt"


class Lag:
    """How late the event loop comes to what is due: all of the server's work waits for so long.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[float] = deque(maxlen=_BEATS)

    @property
    def worst_s(self) -> float:
        """The worst of the last minute."""
        return max(self._seen, default=0.0)

    async def run(self) -> None:
        """Measure, until cancelled."""
        while True:
            due = self._clock() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            self._seen.append(max(0.0, self._clock() - due))
