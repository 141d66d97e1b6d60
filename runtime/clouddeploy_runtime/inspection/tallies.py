"""Counts what a job has done at a site: tasks, the time that they took, and what went over the line."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

_MAX_NAMES = 100
"""Tasks have a handful of names; a job that makes up more has the rest counted together."""
_OTHERS = "others"


@dataclass
class TaskTally:
    """Tasks of one name.

    Attributes:
        answered: so many of them.
        failed: so many were not done.
        seconds: from the server's wish to its receipt, of those answered, together.
        bytes_in: parameters that came with them.
        bytes_out: parameters that went back.
    """

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0


class JobTally:
    """The tasks of one job; counted in the event loop, read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskTally] = {}

    def answered(self, name: str, *, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Count a task whose answer the server took."""
        with self._lock:
            one = self._of(name)
            one.answered += 1
            one.seconds += seconds
            one.bytes_in += bytes_in
            one.bytes_out += bytes_out

    def failed(self, name: str) -> None:
        """Count a task that was not done."""
        with self._lock:
            self._of(name).failed += 1

    def _of(self, name: str) -> TaskTally:
        known = name if name in self._tasks or len(self._tasks) < _MAX_NAMES else _OTHERS
        return self._tasks.setdefault(known[:_MAX_NAMES], TaskTally())

    def report(self) -> dict[str, Any]:
        """Return `tasks` by name."""
        with self._lock:
            return {"tasks": {name: asdict(one) for name, one in self._tasks.items()}}
