"""What a job prints, in files of bounded size: `log.txt`, and the two before it."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAME = "log.txt"
FILE_BYTES = 20 << 20
KEPT = 2
"""Older files beside the one that is written."""
TAIL_BYTES = 2048
"""Kept in memory: enough for a traceback's end, too little for a site's data."""
_PIECE = 1 << 16
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""The folder is the job's: a link that it puts there must not lead its parent elsewhere, nor a pipe make it wait."""


class Output:
    """A pipe that a thread empties into files, at the pace at which they come; a full disk loses lines, not the job.

    Args:
        folder: gets the files.
        file_bytes: of each; when one is full, the oldest goes.
    """

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._limit = file_bytes
        self._file = -1
        self._size = 0
        self._tail = b""
        self._is_cut = False
        self._reader, self.writer = os.pipe()
        self._thread = threading.Thread(target=self._pump, name="job output", daemon=True)
        self._thread.start()

    def started(self) -> None:
        """Close this process's end: the pipe ends when the job's last process does. Harmless when repeated."""
        writer, self.writer = self.writer, -1
        if writer >= 0:
            os.close(writer)

    def finish(self, timeout_s: float) -> None:
        """Wait until all that was printed is in the files, if a process that cannot be ended does not print on."""
        self._thread.join(timeout_s)

    def tail(self) -> str:
        """Return the last that was printed, in whole lines.

        Not from the file: it lies in the job's folder, and could be a link to one of its parent's own by now.
        """
        text = self._tail.decode(errors="replace")
        return text.partition("\n")[2] if self._is_cut else text

    def _pump(self) -> None:
        try:
            self._open()
            while data := os.read(self._reader, _PIECE):
                self._keep(data)
                with contextlib.suppress(OSError):  # the disk is full: what is printed now is lost
                    self._write(data)
        finally:
            for descriptor in (self._reader, self._file, self._folder):
                if descriptor >= 0:
                    os.close(descriptor)

    def _keep(self, data: bytes) -> None:
        kept = self._tail + data[-TAIL_BYTES:]
        self._is_cut = self._is_cut or len(self._tail) + len(data) > TAIL_BYTES
        self._tail = kept[-TAIL_BYTES:]

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > self._limit and self._size:
            self._rotate()
        if self._file < 0:
            self._open()
        view = memoryview(data)
        while view and self._file >= 0:
            written = os.write(self._file, view)
            self._size += written
            view = view[written:]

    def _open(self) -> None:
        with contextlib.suppress(OSError):  # what the job has put there is no file: its own lines are lost
            file = os.open(NAME, _FLAGS, 0o644, dir_fd=self._folder)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:  # another name of a file of its parent's
                os.close(file)
                return
            self._file, self._size = file, status.st_size

    def _rotate(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = -1, 0
        names = [NAME, *(f"{NAME}.{number}" for number in range(1, KEPT + 1))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(OSError):
                os.rename(newer, older, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._open()
        if self._size:  # the job has put something in the way; the bound counts
            os.ftruncate(self._file, 0)
            self._size = 0
