"""The folder for temporary files: whether it is there, can be written, lies on a disk and has room.

Python takes another folder without a word when the one that was asked for cannot be written. And a folder in memory, as
/tmp is on many a machine, takes the memory that tensors on disk are to save.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clouddeploy_runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from clouddeploy_runtime.job.buffers import BufferPool

log = logging.getLogger(__name__)

VARIABLES: Final = ("TMPDIR", "TEMP", "TMP")
"""Where Python looks, in this order."""
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "rootfs"})
"""File systems without a disk. Of an overlay a process cannot see what it lies on; it counts as a disk."""
LEAST_BYTES: Final = 64 << 20
"""Free space without which a folder counts as full: so large may any answer of a site be."""
_MIB = 1 << 20
_MOUNTS = Path("/proc/self/mounts")
_ESCAPED = re.compile(r"\\([0-7]{3})")
REMEDY = "Set TMPDIR to a folder on a disk with room for the tensors."


class TemporaryFolderRefused(RuntimeFault):
    """Tensors are to be kept on disk, and the temporary folder is no place for them."""

    error_code = "TEMPORARY_FOLDER_REFUSED"


@dataclass(frozen=True)
class Found:
    """What became of a look.

    Attributes:
        path: the folder that is used; empty: there is none.
        kind: its file system, as the kernel calls it; empty where it is not known.
        free_bytes: what this user may still write there.
        problem: the first thing that speaks against it; empty: nothing.
    """

    path: str = ""
    kind: str = ""
    free_bytes: int = 0
    problem: str = ""


def look(need_bytes: int = LEAST_BYTES, *, mounts: Path = _MOUNTS) -> Found:
    """Look at the folder that this process uses; it writes a page there, and leaves nothing.

    Args:
        need_bytes: that it should have free.
        mounts: the kernel's list of mounted file systems, proc(5).
    """
    asked = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), "")
    try:
        path = tempfile.gettempdir()
    except OSError as exc:
        return Found(problem=f"there is no temporary folder: {exc.strerror}")
    is_other = bool(asked) and str(Path(asked).absolute()) != path
    if is_other and (fault := _fault(asked)):
        return Found(path, problem=f"the temporary folder {asked} cannot be used ({fault}), and {path} is used instead")
    if fault := _fault(path):
        return Found(path, problem=f"the temporary folder {path} cannot be written: {fault}")
    kind, free = _kind(path, mounts), shutil.disk_usage(path).free
    problem = ""
    if kind in IN_MEMORY:
        problem = f"the temporary folder {path} is in memory ({kind}) and not on a disk"
    elif free < need_bytes:
        problem = (
            f"the temporary folder {path} has {free // _MIB} MiB free, and {-(-need_bytes // _MIB)} MiB are needed"
        )
    return Found(path, kind, free, problem)


def check(pool: BufferPool, size: int | None = None) -> None:
    """Refuse to go on with a job whose tensors all go to files where they cannot; other jobs are not looked at.

    Args:
        pool: the job's.
        size: of the answers that come next, of which at least one must find room; None: the job begins.

    Raises:
        TemporaryFolderRefused: names the folder and what speaks against it.
    """
    if not pool.is_on_disk:
        return
    found = look(LEAST_BYTES if size is None else pool.missing(size))
    if found.problem:
        raise TemporaryFolderRefused("tensors cannot be kept on disk", why=found.problem, hint=REMEDY)


def warn(*, is_needed: bool) -> None:
    """Say at a start what speaks against the folder.

    Args:
        is_needed: the site keeps all tensors on disk, so that it refuses jobs.
    """
    problem = look().problem
    if problem and is_needed:
        log.warning("Jobs are refused here, since tensors are to be kept on disk: %s. %s", problem, REMEDY)
    elif problem:
        log.warning("Tensors that memory has no room for may be lost: %s. %s", problem, REMEDY)


def _fault(path: str) -> str:
    """Return what keeps this process from writing a page in a folder; empty: nothing."""
    try:
        with tempfile.TemporaryFile(dir=path) as probe:
            os.posix_fallocate(probe.fileno(), 0, 1)
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def _kind(path: str, mounts: Path) -> str:
    """Return the file system of a folder: that of the longest mount point above it, and of those the last."""
    try:
        lines = os.fsdecode(mounts.read_bytes()).splitlines()
    except OSError:
        return ""
    whole, found, kind = Path(path).resolve(), -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < len(("device", "place", "kind")):
            continue
        place = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[1]))
        if whole.is_relative_to(place) and len(place.parts) >= found:
            found, kind = len(place.parts), fields[2]
    return kind
