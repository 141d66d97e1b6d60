"""Facts of a place that do not change during a run: many threads want them at once, and one of them asks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Fact = TypeVar("Fact")


class Once:
    """Remembers what was answered; a question that failed is asked again by whoever wants to know next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._facts: dict[Hashable, Any] = {}

    def get(self, key: Hashable, ask: Callable[[], Fact]) -> Fact:
        """Returns the fact of that key, asking for it at most once at a time."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._facts:
                self._facts[key] = ask()
            fact: Fact = self._facts[key]
            return fact
