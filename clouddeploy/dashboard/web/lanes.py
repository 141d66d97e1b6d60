"""Threads for requests of one sort, so that many of these hold up no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Lane:
    """So many threads, beside those that all other requests share.

    Args:
        width: how many of its requests are worked on at once; the others wait for these.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._threads: anyio.CapacityLimiter | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Runs something in one of its threads."""
        if self._threads is None:  # not before there is an event loop
            self._threads = anyio.CapacityLimiter(self._width)
        return await anyio.to_thread.run_sync(work, limiter=self._threads)
