"""Threads that make blocking calls for one thread, which takes their results as they come.

All start before there is work: starting a thread waits for it to run, which takes long when many others compute. And
taking a result costs the same however many are under way, which is not so with futures.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Key = TypeVar("Key")


@dataclass(frozen=True)
class Result(Generic[Key]):
    """What came of one call."""

    key: Key
    value: Any
    error: BaseException | None


class Workers(Generic[Key]):
    """A context that ends without waiting for what is under way; nobody gets the results of that any more.

    Args:
        count: so many calls at once; what is more waits.
    """

    def __init__(self, count: int) -> None:
        self._todo: queue.SimpleQueue[tuple[Key, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result[Key]] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"step-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Workers[Key]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while not self._todo.empty():  # only this thread adds to it
            try:
                self._todo.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._todo.put(None)

    def begin(self, key: Key, call: Callable[[], Any]) -> None:
        """Makes a call in one of the threads."""
        self._todo.put((key, call))

    def results(self, *, not_before: float = 0.0) -> list[Result[Key]]:
        """Waits until a call has ended; returns all that have, in the order in which they did.

        Args:
            not_before: a moment of `time.monotonic` that is waited for too, so that one look finds more.
        """
        found = [self._results.get()]
        time.sleep(max(0.0, not_before - time.monotonic()))
        while not self._results.empty():
            found.append(self._results.get())
        return found

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            key, call = item
            try:
                result = Result(key, call(), None)
            except BaseException as error:  # noqa: BLE001 - the owner of the results decides
                result = Result(key, None, error)
            self._results.put(result)
            del item, call, result
