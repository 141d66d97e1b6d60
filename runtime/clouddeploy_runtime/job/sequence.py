"""The workflows of one job that has several: a training, and after it the evaluation of what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_runtime.job.controller import Controller


class InOrder:
    """Runs controllers one after the other.

    In a process that goes on after a restart each finds what it has kept: a training whose rounds are all done ends at
    once.

    Args:
        parts: in their order; they share the job's folder, so at most the first keeps a checkpoint.
    """

    def __init__(self, parts: Sequence[Controller]) -> None:
        self.parts = tuple(parts)

    def run(self) -> dict[str, Any]:
        """Runs all; returns their metrics together."""
        metrics: dict[str, Any] = {}
        for part in self.parts:
            metrics |= part.run()
        return metrics
