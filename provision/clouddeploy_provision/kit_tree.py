"""Kits as files: written with exact modes, linked to an earlier result where nothing changed, told apart by digest."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SCRIPT = 0o755
PLAIN = 0o644
PRIVATE = 0o600
FOLDER = 0o755
STARTUP = "startup/"
LOCAL = "local/"
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
"""How file systems say that a file gets no second name; EPERM is Linux's answer for file systems that know none, and
that of `fs.protected_hardlinks` for files of somebody else."""


@dataclass(frozen=True)
class File:
    """One file of a kit."""

    content: bytes
    mode: int = PLAIN

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal; computed once, since most files stand in many kits."""
        return hashlib.sha256(self.content).hexdigest()


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of a file that was written: enough to see later, without reading it, that it is the same."""

    sha256: str
    size: int
    mode: int
    mtime_ns: int

    def is_file(self, file: File) -> bool:
        """Tell whether this is the file."""
        return self.mode == file.mode and self.size == len(file.content) and self.sha256 == file.sha256

    def is_untouched(self, status: os.stat_result) -> bool:
        """Tell whether the file on disk still looks as it was left."""
        return (self.size, self.mode, self.mtime_ns) == (
            status.st_size,
            stat.S_IMODE(status.st_mode),
            status.st_mtime_ns,
        )


def scan(kit: str, folders: Iterable[str] = ("startup", "local")) -> dict[str, os.stat_result]:
    """Return path → status of the regular files in some folders of a kit, at any depth, and of its `readme.txt`."""
    found: dict[str, os.stat_result] = {}
    for folder in folders:
        _scan(kit, folder, found)
    try:
        status = os.lstat(f"{kit}/readme.txt")
    except (FileNotFoundError, NotADirectoryError):
        return found
    if stat.S_ISREG(status.st_mode):
        found["readme.txt"] = status
    return found


def _scan(kit: str, folder: str, found: dict[str, os.stat_result]) -> None:
    try:
        entries = os.scandir(f"{kit}/{folder}")
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                _scan(kit, path, found)
            elif entry.is_file(follow_symlinks=False):
                found[path] = entry.stat(follow_symlinks=False)


def read(kit: Path | str, paths: Iterable[str]) -> dict[str, File]:
    """Read some files of a kit."""
    found = {}
    for path in paths:
        with open(f"{kit}/{path}", "rb") as file:  # noqa: PTH123 - see make_folder
            found[path] = File(file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode))
    return found


ALL = 0o777
"""The umask that takes everything away: with it every mode is set once more."""


def umask() -> int:
    """Return what this process takes from the modes of new files; asking the system itself would mean to set it."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - see make_folder
            return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return ALL


def make_folders(kit: str, paths: Iterable[str], *, mask: int = ALL) -> None:
    """Make a kit's folders, those of the files included.

    Args:
        kit: its folder, which must not exist.
        paths: of files.
        mask: this process's umask, where the caller knows it; saves a call for each folder.
    """
    parents = {path.rpartition("/")[0] for path in paths} | {"transfer"}
    for parent in tuple(parents):
        while "/" in parent:
            parent = parent.rpartition("/")[0]  # noqa: PLW2901 - upwards
            parents.add(parent)
    make_folder(kit, mask=mask)
    for parent in sorted(parents - {""}):
        make_folder(f"{kit}/{parent}", mask=mask)


def make_folder(path: str, *, mask: int = ALL) -> None:
    """Make one folder; its mode is exact whatever the umask."""
    os.mkdir(path, FOLDER)  # noqa: PTH102 - a tenth of a pathlib call, thousands of times
    if FOLDER & mask:
        os.chmod(path, FOLDER)  # noqa: PTH101


def write(kit: str, files: Mapping[str, File], *, mask: int = ALL) -> dict[str, Stored]:
    """Write files into a kit's existing folders; private ones are born private, every mode is exact."""
    stored = {}
    for path, file in files.items():
        born = keys.PRIVATE_MODE if file.mode & mask else file.mode
        handle = os.open(f"{kit}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, born)
        try:
            left = memoryview(file.content)
            while left:
                left = left[os.write(handle, left) :]
            if born != file.mode:
                os.fchmod(handle, file.mode)
            mtime_ns = os.fstat(handle).st_mtime_ns
        finally:
            os.close(handle)
        stored[path] = Stored(file.sha256, len(file.content), file.mode, mtime_ns)
    return stored


def carry(source: str, kit: str, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Give signed files of an earlier kit a second name here, so that nothing is copied.

    Only for files that nobody edits in place: with what a site may change, the earlier result would change too. Where
    the file system has no second names, or no more of them for a file, it is copied.

    Returns:
        What now stands here: as it was stored, but for the time of what was copied.
    """
    found = dict(stored)
    for path in stored:
        try:
            os.link(f"{source}/{path}", f"{kit}/{path}", follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_LINK:
                raise
            found |= write(kit, read(source, [path]))
    return found
