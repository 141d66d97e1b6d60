"""Files that survive a kill: a reader finds the old content or the new one, and the new one stays."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MODE = 0o600
"""Born so, before there is content: what a deployment keeps is nobody else's business."""


def replace(path: Path, text: str) -> None:
    """Replaces a file; once this returns, neither a kill nor a power cut brings the old content back.

    Raises:
        OSError: it could not be written; the old content is still there.
    """
    aside = path.with_name(f"{path.name}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def append(path: Path, lines: bytes, *, at: int | None = None) -> int | None:
    """Appends whole lines; once this returns, neither a kill nor a power cut takes them away.

    A kill may have left half a line at the end; what comes next begins on a line of its own.

    Args:
        path: made when it does not exist.
        lines: end with a line feed.
        at: how long the file has to be, in bytes; None: however long it is.

    Returns:
        How long the file is now; None when it was not as long as `at` said, and nothing was written.

    Raises:
        OSError: it could not be written; half a line may be there.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for this write only: another process may append too
        size = os.fstat(descriptor).st_size
        if at is not None and size != at:
            return None
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if is_torn else b"") + lines
        written = os.write(descriptor, data)
        if written != len(data):  # the disk is full; the next try would say so, this one only writes less
            os.write(descriptor, data[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if size == 0:
        sync_folder(path.parent)
    return size + len(data)


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk; the content of a new file is nothing without its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
