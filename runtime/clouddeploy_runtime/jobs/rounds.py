"""What is known of a job's finished rounds: how long each took, what came of it, and what went over the line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MAX_ROUNDS = 1000
"""So many rounds of a job are kept, the latest."""
_MAX_METRICS = 32
_MAX_NAME = 64
MAX_REASONS = 5
_MAX_REASON = 200
"""Bounds of one round, so that a thousand of them fit into one answer of the server, which is at most 8 MiB."""


@dataclass(frozen=True)
class Round:
    """One finished round."""

    round: int
    """From 1."""
    total_rounds: int
    """Of the job."""
    seconds: float
    """From the end of the round before, or the job's first task, to its own end."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """What the controller reported, as far as it is numbers; None: infinite, or not a number."""
    bytes_down: int = 0
    """Sent to all sites together, what was sent twice counted twice."""
    bytes_up: int = 0
    """Received from all sites together."""
    answered: int = 0
    """Sites that answered."""
    failed: int = 0
    """Sites that did not do a task."""
    reasons: tuple[str, ...] = ()
    """Why, each naming its site; the first few."""


def numbers(metrics: object) -> dict[str, float | None]:
    """Return of a controller's metrics what is kept: the first numbers with their names."""
    found: dict[str, float | None] = {}
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(value, bool) or not isinstance(value, int | float) or len(found) >= _MAX_METRICS:
            continue
        found[str(name)[:_MAX_NAME]] = float(value) if math.isfinite(value) else None
    return found


def shortened(reason: str) -> str:
    """Return a reason, at most so long that it can be kept with its round."""
    return reason if len(reason) <= _MAX_REASON else f"{reason[: _MAX_REASON - 1]}…"
