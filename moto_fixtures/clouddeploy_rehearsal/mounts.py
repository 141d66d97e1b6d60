"""Runs a program that sees folders elsewhere than they are, as a container does: `python -m ... FILE PROGRAM ...`.

FILE is a JSON list of `[source, target, whether it is read only]`. A mount namespace of the program's own; who is not
root gets it in a user namespace, where the kernel allows them.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18


def enter(mounts: list[tuple[str, str, bool]]) -> None:
    """Give this process the mounts, and nobody else.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    _done(libc.unshare(_NEWNS | (_NEWUSER if user else 0)), "unshare")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text, encoding="ascii")
    _done(libc.mount(b"none", b"/", None, _REC | _PRIVATE, None), "/")
    for source, target, is_read_only in mounts:
        names = (source.encode(), target.encode())
        _done(libc.mount(*names, None, _BIND, None), target)
        if is_read_only:
            _done(libc.mount(*names, None, _BIND | _REMOUNT | _RDONLY, None), target)


def _done(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    enter([tuple(one) for one in json.loads(Path(sys.argv[1]).read_bytes())])
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - it becomes the program
