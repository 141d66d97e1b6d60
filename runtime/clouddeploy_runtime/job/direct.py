"""Files of gigabytes that are written past the page cache.

Nobody reads a checkpoint soon. In the page cache it takes the memory of what is read, and new pages there can cost
ten times what the copy into them does; the disk takes the bytes from a block of ours instead.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

BLOCK_BYTES = 8 << 20
"""A multiple of what any disk calls a block, at an address that is one too: open(2), O_DIRECT."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class DirectFile:
    """A new file, written from its beginning to its end; where the file system knows no other way, by the page cache.

    What remains in memory, its end and what the file system notes of it, fsync(2) brings to the disk.

    Args:
        path: must not exist.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, _NEW | os.O_DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)  # some file systems make it before they say no
            self._descriptor = os.open(path, _NEW, 0o666)
        self._block = mmap.mmap(-1, BLOCK_BYTES)
        self._filled = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, with all that was written where no error has come."""
        try:
            if kind is None:
                self._end()
        finally:
            self._block.close()
            os.close(self._descriptor)

    def write(self, data: bytes | memoryview) -> int:
        """Add bytes; return how many.

        Raises:
            OSError: the disk did not take them.
        """
        with memoryview(data).cast("B") as whole:
            position = 0
            while position < len(whole):
                count = min(len(whole) - position, BLOCK_BYTES - self._filled)
                self._block[self._filled : self._filled + count] = whole[position : position + count]
                self._filled += count
                position += count
                if self._filled == BLOCK_BYTES:
                    self._put()
            return position

    def _end(self) -> None:
        """Write what is left, which is no whole number of blocks."""
        self._by_page_cache()
        self._put()

    def _put(self) -> None:
        with memoryview(self._block) as block:
            position = 0
            while position < self._filled:
                try:
                    position += os.write(self._descriptor, block[position : self._filled])
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._is_direct():
                        raise
                    self._by_page_cache()
                    continue
                if position < self._filled:
                    self._by_page_cache()  # the rest does not begin at a block
        self._filled = 0

    def _is_direct(self) -> bool:
        return bool(fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_DIRECT)

    def _by_page_cache(self) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
