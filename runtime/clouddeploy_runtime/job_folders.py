"""Folders that a job could write: removed, listed and read without following what it has put there.

A job runs as its parent's user. A link that it leaves leads wherever that user may go, a pipe makes its reader wait,
and folders can be nested deeper than Python calls, than a path is long and than there are descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import secrets
import stat
import time
from typing import IO, TYPE_CHECKING

from clouddeploy_runtime.jobs.archive import is_plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

REMOVAL_S = 30.0
"""So long a removal may take; guessed: a million files in a fast temporary folder. The next start goes on with it."""
MAX_DEPTH = 64
MAX_FILES = 10_000
"""Of one job's result: these two are the limits of an archive, which it is unpacked from."""
_MAX_ENTRIES = 100_000
"""Of one folder that are looked at; they are held to be sorted."""
_NO_LINK = os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | _NO_LINK
_PLAIN = os.O_RDONLY | os.O_NONBLOCK | _NO_LINK


def remove(path: Path, *, limit_s: float = REMOVAL_S) -> bool:
    """Remove a folder with all that is in it; returns whether it is gone, and says it in the log when it is not.

    Flat: the folders in a folder are moved up to the root before it goes. So it takes two descriptors and no depth of
    calls, whatever a job has nested.
    """
    try:
        _empty(path, time.monotonic() + limit_s)
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as exc:
        if exc.errno == errno.ENOTDIR:  # a link, which goes itself, or a file
            with contextlib.suppress(OSError):
                path.unlink()
                return True
        log.warning("%s cannot be removed: %s", path, exc.strerror or exc)
        return False
    return True


def _empty(path: Path, deadline: float) -> None:
    root = _opened_for_removal(str(path))
    try:
        names = (f"{secrets.token_hex(8)}-{number}" for number in itertools.count())
        while _pass(root, names, deadline):
            pass
    finally:
        os.close(root)


def _pass(root: int, names: Iterator[str], deadline: float) -> bool:
    """Remove each entry of the root once, moving up what is in it; returns whether there was one.

    Raises:
        OSError: nothing could be removed, or the time is over.
    """
    problem: OSError | None = None
    found = done = 0
    with os.scandir(root) as entries:
        for entry in entries:
            found += 1
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "it holds too much to be removed now")
            try:
                if entry.is_dir(follow_symlinks=False):
                    done += _flatten(root, entry.name, names, deadline)
                    os.rmdir(entry.name, dir_fd=root)
                else:
                    os.unlink(entry.name, dir_fd=root)
                done += 1
            except OSError as exc:
                problem = exc
    if problem is not None and not done:
        raise problem
    return bool(found)


def _flatten(root: int, name: str, names: Iterator[str], deadline: float) -> int:
    """Take the files out of a folder, and its folders up to the root; returns how many."""
    done = 0
    folder = _opened_for_removal(name, inside=root)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if time.monotonic() > deadline:
                    break
                if entry.is_dir(follow_symlinks=False):
                    os.close(_opened_for_removal(entry.name, inside=folder))  # a folder moves if it can be written
                    os.rename(entry.name, next(names), src_dir_fd=folder, dst_dir_fd=root)
                else:
                    os.unlink(entry.name, dir_fd=folder)
                done += 1
    finally:
        os.close(folder)
    return done


def _opened_for_removal(name: str, *, inside: int | None = None) -> int:
    """Open a folder, which a job may have closed to its own user."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | _NO_LINK, dir_fd=inside)
    try:
        with contextlib.suppress(OSError):
            os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)  # noqa: PTH101 - a descriptor, not a place
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)


def files(root: Path, *, limit: int = MAX_FILES) -> Iterator[str]:
    """Yield the plain files below a folder, as `a/b`: no links and pipes, no names that no archive takes.

    What is nested deeper than `MAX_DEPTH`, and what comes after `limit` files, is left out with a line in the log.
    """
    folders, left_out, count = [""], 0, 0
    while folders:
        below = []
        for entry in _entries(root, folders.pop()):
            name = entry.path.removeprefix(f"{root}/")
            if entry.is_dir(follow_symlinks=False) and is_plain(entry.name) and name.count("/") < MAX_DEPTH:
                below.append(name)
            elif entry.is_file(follow_symlinks=False) and is_plain(entry.name) and count < limit:
                count += 1
                yield name
            else:
                left_out += 1
        folders += reversed(below)
    if left_out:
        log.warning("%s: %d entries are left out: links, too deep, too many, or with names of no file", root, left_out)


def _entries(root: Path, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(f"{root}/{folder}" if folder else str(root)) as entries:
            return sorted(itertools.islice(entries, _MAX_ENTRIES), key=lambda entry: entry.name)
    except OSError:
        return []


def opened_folder(name: str, *, inside: int | None = None) -> int:
    """Return a descriptor of a folder, which is no link.

    Args:
        name: of one entry, when `inside` is given; else a path.
        inside: descriptor of the folder that it is in.

    Raises:
        OSError: there is none.
    """
    return os.open(name, _FOLDER, dir_fd=inside)


def opened(root: Path, name: str) -> IO[bytes]:
    """Open a plain file below a folder for reading; never waits.

    Args:
        root: a folder whose own place no job can change.
        name: below it, `a/b`.

    Raises:
        OSError: there is none, or one of the names is a link, or it is no plain file.
    """
    *folders, last = name.split("/")
    inside = os.open(root, _FOLDER)
    try:
        for folder in folders:
            before, inside = inside, os.open(folder, _FOLDER, dir_fd=inside)
            os.close(before)
        descriptor = os.open(last, _PLAIN, dir_fd=inside)
    finally:
        os.close(inside)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is no plain file", name)
    return os.fdopen(descriptor, "rb")


def end_of(root: Path, name: str, size: int) -> str:
    """Return the last `size` bytes of a plain file below a folder, as text; see `opened`.

    Raises:
        OSError: it cannot be opened.
    """
    with opened(root, name) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size).decode("utf-8", "replace")
