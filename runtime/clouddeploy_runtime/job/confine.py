"""What a job's process may touch, and what its parent does so that a job cannot touch it.

User code runs as the same user as the site's parent process, so without this it reads what that user reads: the site's
private key, the audit log, other jobs, the user's own keys. Every measure is one that needs no privilege.
"""

from __future__ import annotations

import ctypes
import glob
import resource
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime.job import landlock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VARIABLE = "CLOUDDEPLOY_CONFINEMENT"
"""How the launcher tells a job's process its bounds."""
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_CAPABILITY_VERSION = 0x20080522
_KEPT_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 10, 14, 23))
"""Of a job that runs as root, as in a container: to read and own files (0, 1, 3, 4), low ports (10), locked memory for
fast networks (14), scheduling (23). Not to look into other processes, to mount, or to set the clock.

Source:
    capabilities(7); the numbers are those of linux/capability.h
"""
_OOM_SCORE = 500
"""A job counts as if it used half of the machine's memory more than it does: the kernel takes it, not the parent."""
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/gnu", "/proc", "/sys"),
    # What links in /etc lead to: resolvers, certificates, fonts.
    *("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd", "/run/nvidia-persistenced"),
    *("/var/lib/ca-certificates", "/var/cache/fontconfig", "/var/lib/sss/pipes"),
)
"""Trees that programs read; no homes, no /tmp, no other data."""
DEVICES = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts"),
    *("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/infiniband"),
)
INSTALLATIONS = "/opt/clouddeploy"
"""Where deployed sites are; others of this machine are as much hidden as the job's own."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the tree itself, not a file in it
"""Of all processes of the machine: a job could read and change there what other jobs, and others of its user, share."""


class Bounds(msgspec.Struct, frozen=True):
    """What a job's process may read and write beside the system and its Python.

    A tree named here is open even where it lies inside a hidden one; what is hidden inside it stays closed.

    Attributes:
        code: folders that Python imports from, first of all, once the bounds are set: a module in them that is named
            like one of Python's own must not run before.
        readable: trees.
        writable: trees; also readable.
        hidden: trees.
        shares_memory: whether `SHARED_MEMORY` is open, which multiprocessing and PyTorch's data loaders need.
        is_confined: whether all this counts.
    """

    code: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    shares_memory: bool = True
    is_confined: bool = True


def guard_parent() -> None:
    """Close this process's memory and environment to others of its user: no ptrace, no /proc/PID/mem, no core file.

    A launcher calls it before each job; may be repeated.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt() -> None:
    """Make orphans of what this process starts its own children, so that they can be found; may be repeated."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def enter(bounds: Bounds) -> str:
    """Put this process into its bounds, for good.

    Returns:
        One line for the job's log: what it may touch.

    Raises:
        OSError: the kernel has Landlock and refused.
    """
    adopt()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _offer_to_the_kernel()
    if not bounds.is_confined:
        return "This job is not confined: local/resources.json of the site says so."
    _drop_capabilities()
    if landlock.version() == 0:
        ctypes.CDLL(None).prctl(landlock.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return "This job is not confined: the kernel has no Landlock."
    landlock.restrict(_rules(bounds))
    readable, writable = ", ".join(bounds.readable), ", ".join(bounds.writable)
    return f"This job may read the system, its Python, {readable}, and write {writable}."


def _offer_to_the_kernel() -> None:
    path = Path("/proc/self/oom_score_adj")
    try:
        if int(path.read_text()) < _OOM_SCORE:
            path.write_text(str(_OOM_SCORE))
    except OSError:
        sys.stderr.write("The kernel was not told to take this job first when memory runs out.\n")


def _drop_capabilities() -> None:
    # Landlock does not keep a reader of /proc with CAP_PERFMON away, and what else root may do is no job's business.
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = struct.pack("=Ii", _CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    masks = (_KEPT_CAPABILITIES & 0xFFFFFFFF, _KEPT_CAPABILITIES >> 32)
    # Twice effective, permitted and inheritable: the lower 32 and the higher 32.
    held = struct.unpack("=6I", data.raw)
    kept = [bits & masks[place // 3] for place, bits in enumerate(held)]
    if libc.capset(header, struct.pack("=6I", *kept)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _rules(bounds: Bounds) -> Iterator[tuple[Path, int]]:
    hidden = tuple(Path(one).resolve() for one in (INSTALLATIONS, *bounds.hidden))
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(one for one in sys.path if Path(one).is_absolute())}
    shared = (SHARED_MEMORY,) if bounds.shares_memory else ()
    for roots, access in (
        ((*SYSTEM, *sorted(python), *bounds.code, *bounds.readable), landlock.READ),
        ((*shared, *bounds.writable), landlock.WRITE),
    ):
        for root in roots:
            for tree in without(Path(root).resolve(), hidden):
                yield tree, access
    for pattern in DEVICES:
        for device in glob.glob(pattern):  # noqa: PTH207 - an absolute pattern
            yield Path(device), landlock.DEVICE


def without(tree: Path, hidden: Iterable[Path]) -> Iterator[Path]:
    """Return the trees that make up a tree without what is hidden in it.

    The kernel's rules only allow, so a folder with something hidden inside is named by its other entries. What comes
    into such a folder later stays closed, and so does the list of its names. Links are left out: what they lead to has
    rules of its own.
    """
    inside = [one for one in hidden if one.is_relative_to(tree)]
    if not inside:
        yield tree
    elif tree not in inside:
        try:
            entries = sorted(tree.iterdir())
        except OSError:
            return
        for entry in entries:
            if not entry.is_symlink():
                yield from without(entry, inside)
