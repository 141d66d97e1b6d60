"""What the C library does with memory that was freed: kept while jobs move gigabytes, given back after them.

gRPC frees a mebibyte and asks for the next, thousands of times a round. By default the pages between go back to the
system and come anew, each as a fault; that was 5 % of a round of 1 GB. What is kept is given back by `give_back`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""malloc.h of glibc."""
_KEPT_BYTES = 256 << 20
"""Above the windows of two streams (`wire.rpc`)."""
_PAD_BYTES = 64 << 20
"""As large as a heap of a thread's arena, which is kept too then."""
_LARGE_BYTES = 32 << 20
"""The most that glibc takes; from here on a piece is mapped by itself."""


@functools.cache
def keep_freed() -> None:
    """Keep freed pages from now on; where the C library is another, it does as it likes."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _PAD_BYTES)


def give_back() -> None:
    """Give all freed pages back to the system."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
