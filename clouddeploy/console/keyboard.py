"""Where lines come from: the part that a terminal and a pipe have in common, and the pipe."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK_BYTES = 1 << 16


class IdleTooLong(Exception):
    """Nobody has typed anything for so long that the session is to end."""


class Keyboard(Protocol):
    """Somebody, or a script, who types."""

    def command(self, prompt: str) -> str:
        """Return the next command line.

        Raises:
            EOFError: there is none any more.
            KeyboardInterrupt: the line was given up.
            IdleTooLong: there was no input for the idle time.
        """
        ...

    def answer(self, prompt: str) -> str:
        """Return the answer to a question; raises as `command` does."""
        ...


class Pipe:
    """Lines of a pipe or a file; prompts are not shown.

    Args:
        descriptor: of what is read.
        idle_s: how long to wait for more.
    """

    def __init__(self, descriptor: int, *, idle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor = descriptor
        self._idle_s = idle_s
        self._clock = clock
        self._left = b""
        self._is_over = False

    def command(self, prompt: str) -> str:  # noqa: ARG002 - nobody sees it
        """Return the next line."""
        deadline = self._clock() + self._idle_s
        while b"\n" not in self._left and not self._is_over:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - self._clock()))
            if not ready:
                raise IdleTooLong
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
            self._left += chunk
            self._is_over = not chunk
        if not self._left:
            raise EOFError
        line, _, self._left = self._left.partition(b"\n")
        return line.decode(errors="replace").removesuffix("\r")

    answer = command
