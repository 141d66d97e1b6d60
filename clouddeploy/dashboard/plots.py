"""Turns a job's rounds into small line charts: numbers for an SVG, which the page draws without any script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_runtime.jobs.rounds import Round

WIDTH, HEIGHT = 240, 80
_EDGE = 4
_MOST_POINTS = 120
_MOST_CHARTS = 4


@dataclass(frozen=True)
class Chart:
    """One metric over the rounds.

    Attributes:
        name: the metric's, as the job calls it.
        lines: of an SVG polyline each; a round without a number divides them.
        first, last: the outer rounds.
        lowest, highest: of the values.
        latest: the newest value.
    """

    name: str
    lines: tuple[str, ...]
    first: int
    last: int
    lowest: float
    highest: float
    latest: float

    @property
    def text(self) -> str:
        """The chart in words, for who does not see it."""
        return (
            f"{self.name}: {self.latest:.4g} after round {self.last}; "
            f"between {self.lowest:.4g} and {self.highest:.4g} since round {self.first}"
        )


def charts(rounds: Sequence[Round]) -> tuple[Chart, ...]:
    """Returns one chart for each of the first metrics that have two numbers or more."""
    names = dict.fromkeys(name for one in rounds for name in one.metrics)
    made = (_chart(name, [(one.round, one.metrics.get(name)) for one in rounds]) for name in names)
    return tuple(one for one in made if one is not None)[:_MOST_CHARTS]


def _chart(name: str, values: list[tuple[int, float | None]]) -> Chart | None:
    known = [(number, value) for number, value in values if value is not None]
    if len(known) < 2:  # noqa: PLR2004 - a line has two ends
        return None
    numbers = [value for _, value in known]
    lowest, highest = min(numbers), max(numbers)
    first, last = values[0][0], values[-1][0]
    step = -(-len(values) // _MOST_POINTS)
    shown = [*values[:-1:step], values[-1]]

    def place(number: int, value: float) -> str:
        across = _EDGE + (WIDTH - 2 * _EDGE) * (number - first) / max(1, last - first)
        share = (
            (value / 2 - lowest / 2) / (highest / 2 - lowest / 2) if highest > lowest else 0.5
        )  # halves: no overflow
        return f"{across:.1f},{HEIGHT - _EDGE - (HEIGHT - 2 * _EDGE) * share:.1f}"

    parts: list[list[str]] = [[]]
    for number, value in shown:
        if value is None:
            parts.append([])
        else:
            parts[-1].append(place(number, value))
    lines = tuple(" ".join(part if len(part) > 1 else part * 2) for part in parts if part)
    return Chart(name, lines, first, last, lowest, highest, numbers[-1])
