"""Many threads ask about one thing each, and one request asks about all of them: clouds count requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Answer = TypeVar("Answer")


class _Round(Generic[Answer]):
    """What is asked with one request, and what came of it."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.answers: Mapping[str, Answer] | None = None
        self.error: Exception | None = None


class Together(Generic[Answer]):
    """Asks with one request at a time; whoever comes while it is under way shares the next one.

    Args:
        ask: returns answers by key; a key may lack its answer.
        most: how many keys one request may have.
    """

    def __init__(self, ask: Callable[[Sequence[str]], Mapping[str, Answer]], *, most: int) -> None:
        self._ask = ask
        self._most = most
        self._asking = threading.Lock()
        self._guard = threading.Lock()
        self._next: _Round[Answer] = _Round()

    def get(self, key: str) -> Answer | None:
        """Returns the answer of a request that began after this call; None: it has none for this key.

        Raises:
            Exception: whatever the request raised; everybody who shares it gets that.
        """
        with self._guard:
            if len(self._next.keys) == self._most:
                self._next = _Round()
            mine = self._next
            mine.keys.add(key)
        with self._asking:
            if mine.answers is None and mine.error is None:
                self._run(mine)
        if mine.error is not None:
            raise mine.error
        return (mine.answers or {}).get(key)

    def _run(self, mine: _Round[Answer]) -> None:
        with self._guard:
            if self._next is mine:
                self._next = _Round()
        try:
            mine.answers = self._ask(sorted(mine.keys))
        except Exception as error:  # noqa: BLE001 - each of those who share it raises it
            mine.error = error
