"""A running job's progress in its record: the newest one, and not more often than a disk should be asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.job.messages import Progress

PAUSE_S = 0.5
"""Between two writes, each of which waits for the disk. A round takes longer as a rule, so each is seen."""
MAX_BYTES = 256 << 10
"""Of all metrics of a job, whose record goes to the disk and to whoever lists jobs; more than one message holds."""
_MAX_TEXT = 1000
_DEPTH = 3


class ProgressRecord:
    """Takes what the controller says of its rounds, and writes it down.

    Args:
        write: changes fields of the job's record.
        metrics: those that are in it.
    """

    def __init__(self, write: Callable[..., None], metrics: Mapping[str, Any]) -> None:
        self._write = write
        self.metrics: Mapping[str, Any] = dict(metrics)
        self._newest: Progress | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take(self, message: Progress) -> None:
        """Write down a round that has ended: now, or with those that follow at once."""
        self.add(message.metrics)
        self._newest = message
        if self._timer is None:
            self._flush()
            self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._again)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Take metrics, which are written down with the next round or at the job's end; too many displace the older."""
        new = plain(metrics, depth=_DEPTH)
        whole = {**self.metrics, **new}
        self.metrics = whole if len(msgspec.json.encode(whole)) <= MAX_BYTES else new

    def close(self) -> None:
        """Write down what waits for it."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()

    def _again(self) -> None:
        self._timer = None
        if self._newest is not None:
            self._flush()
            self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._again)

    def _flush(self) -> None:
        message, self._newest = self._newest, None
        if message is not None:
            self._write(rounds=message.round, total_rounds=message.total_rounds, metrics=self.metrics)


def plain(value: Any, *, depth: int) -> Any:
    """Return what a job gave as a metric as JSON holds it: text cut, and no deeper than `depth`."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if depth and isinstance(value, Mapping):
        return {str(name)[:_MAX_TEXT]: plain(one, depth=depth - 1) for name, one in value.items()}
    if depth and isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(one, depth=depth - 1) for one in value]
    return f"<{type(value).__name__}>"
