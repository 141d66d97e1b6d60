"""Landlock: a process gives up, for itself and all that it starts, every file but those it names. No privilege needed.

The kernel's interface by its system calls, since neither Python nor libc wraps it.

Source:
    https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
_VERSION = 1
_PATH_BENEATH = 1
_SCOPE_SIGNAL = 1 << 1
_ABI_REFER, _ABI_TRUNCATE, _ABI_NET, _ABI_IOCTL, _ABI_SCOPE = 2, 3, 4, 5, 6
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_BASIC = (1 << 13) - 1
READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (_BASIC | _REFER | _TRUNCATE) & ~(_MAKE_CHAR | _MAKE_BLOCK)
DEVICE = READ_FILE | READ_DIR | WRITE_FILE | _TRUNCATE | _IOCTL_DEV
_ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV


def version() -> int:
    """Return the version of the kernel's Landlock; 0 where there is none, or where it is switched off."""
    found: int = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    return max(0, found)


def restrict(rules: Iterable[tuple[Path, int]]) -> None:
    """Give up every file but these, for good; and signals to processes outside, where the kernel can (Linux 6.12).

    Counts for this thread and what it starts from here on, so it comes before the first thread. Sets
    PR_SET_NO_NEW_PRIVS, which Landlock needs.

    Args:
        rules: trees, or single files, each with the access to it; what does not exist is left out.

    Raises:
        OSError: the kernel refused.
    """
    abi = version()
    handled = _BASIC
    for needed, access in ((_ABI_REFER, _REFER), (_ABI_TRUNCATE, _TRUNCATE), (_ABI_IOCTL, _IOCTL_DEV)):
        if abi >= needed:
            handled |= access
    attributes = struct.pack("=QQQ", handled, 0, _SCOPE_SIGNAL)
    size = 24 if abi >= _ABI_SCOPE else 16 if abi >= _ABI_NET else 8
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    try:
        for path, access in rules:
            _allow(ruleset, path, access & handled)
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it does not exist, or this user cannot reach it anyway
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _ON_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
