"""What can go wrong in an emulated cloud, on request."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Faults:
    """Which faults the clouds show; none by default."""

    latency_s: float = 0.0
    """Every answer takes so much longer."""
    no_capacity: frozenset[str] = frozenset()
    """Machine sizes of which none is free."""
    throttle_every: int = 0
    """Every nth call is refused for coming too fast; 0: none is."""
    drop_every: int = 0
    """The connection of every nth call is closed unanswered; 0: none is."""
    lag_s: float = 0.0
    """So long a new EC2 instance is invisible, and a new Azure resource missing from lists."""


@dataclass
class Counter:
    """Counts calls to decide which of them meet a fault."""

    faults: Faults
    _calls: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def next(self) -> str:
        """Returns what happens to this call: `throttle`, `drop` or an empty text."""
        number = next(self._calls)
        if self.faults.drop_every and number % self.faults.drop_every == 0:
            return "drop"
        if self.faults.throttle_every and number % self.faults.throttle_every == 0:
            return "throttle"
        return ""
