"""What the C library does with memory that was freed.

gRPC asks for a mebibyte and frees it, thousands of times a round, in a dozen threads. By default each few threads have
an arena of their own, which keeps what it once had. Of a single one all goes back to the system, by `give_back`.
"""

from __future__ import annotations

import contextlib
import ctypes

_M_ARENA_MAX = -8
"""malloc.h of glibc."""


def use_one_arena() -> None:
    """Let all threads share one arena; for a process that has just one yet. Another C library does as it likes."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give all freed pages back to the system."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
