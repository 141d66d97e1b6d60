"""The machine's half of an upload: `python3 -c THIS TARGET MODE LOST_S`; needs nothing but Python 3.8.

It says `have SIZE SHA256` of what a cut transfer left in TARGET.part, and reads `FROM SIZE` and a newline, the bytes of
the file from there on (FROM is what it has, or 0: begin anew), and the 32 bytes of the whole file's sha256. Only when
they agree TARGET is replaced, and it says `done`. While a half computes a digest that takes long, it sends empty lines,
so that the other sees it live. `clouddeploy.remote.upload` is the other half.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import stat
import sys

BLOCK_BYTES = 256 * 1024
ALIVE_BYTES = 64 * 1024 * 1024
"""An empty line after so many bytes that were digested: every few seconds on the slowest disk."""
PIPE_BYTES = 1024 * 1024
F_SETPIPE_SZ = 1031
"""From linux/fcntl.h; Python 3.8 and 3.9 do not name it."""
DAMAGED = 3
"""The exit status when what came is not what was sent."""


class NotOurs(OSError):
    """What lies there cannot be continued."""


def reopen(aside: str, mode: int) -> int:
    """Opens what a cut transfer left.

    Raises:
        OSError: there is nothing, or it has another mode or owner, or its transfer still goes on.
    """
    file = os.open(aside, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.fstat(file)
        if not stat.S_ISREG(there.st_mode) or stat.S_IMODE(there.st_mode) != mode or there.st_uid != os.geteuid():
            raise NotOurs
    except OSError:
        os.close(file)
        raise
    return file


def begin(aside: str, mode: int) -> int:
    """Makes the file anew, with its mode before its first byte."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.fchmod(file, mode)
    return file


def digest_of(file: int) -> tuple[hashlib._Hash, int]:
    """Returns the digest and the size of what a file holds."""
    digest, have = hashlib.sha256(), 0
    while block := os.read(file, BLOCK_BYTES):
        digest.update(block)
        have += len(block)
        if not have % ALIVE_BYTES:
            sys.stdout.write("\n")
            sys.stdout.flush()
    return digest, have


def receive(target: str, *, mode: int, lost_s: int) -> int:
    """Takes one file from standard input; returns the exit status.

    Args:
        target: where it goes.
        mode: its permissions.
        lost_s: end when nothing comes for so many seconds; what came is kept.
    """
    aside = target + ".part"
    try:
        file = reopen(aside, mode)
    except OSError:
        file = begin(aside, mode)
    with contextlib.suppress(OSError):  # a socket, or more than this user may have: it works with what there is
        fcntl.fcntl(0, F_SETPIPE_SZ, PIPE_BYTES)  # sshd waits less for us; a sixth of the time of a large file
    stdin = os.fdopen(0, "rb")
    digest, have = digest_of(file)
    sys.stdout.write(f"have {have} {digest.hexdigest()}\n")
    sys.stdout.flush()
    signal.alarm(lost_s)
    while (line := stdin.readline()) == b"\n":
        signal.alarm(lost_s)
    first, size = map(int, line.split())
    if first != have:
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        digest, first = hashlib.sha256(), 0
    while first < size:
        signal.alarm(lost_s)
        block = stdin.read1(min(BLOCK_BYTES, size - first))
        if not block:
            sys.stderr.write(f"the transfer was cut after {first} bytes\n")
            return 1
        digest.update(block)
        first += len(block)
        while block:
            block = block[os.write(file, block) :]
    if stdin.read(digest.digest_size) != digest.digest():
        os.unlink(aside)
        sys.stderr.write(f"sha256 {digest.hexdigest()}\n")
        return DAMAGED
    here, there = os.fstat(file), os.stat(aside)
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        sys.stderr.write("another transfer of the same file began meanwhile\n")
        return 1
    signal.alarm(0)  # all has come; a slow disk is not a lost link
    os.fsync(file)
    os.replace(aside, target)
    folder = os.open(os.path.dirname(target) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(folder)
    os.close(folder)
    sys.stdout.write("done\n")
    return 0


def main() -> None:
    """Does what the command line says."""
    target, mode, lost_s = sys.argv[1:]
    try:
        sys.exit(receive(target, mode=int(mode, 8), lost_s=int(lost_s)))
    except OSError as error:
        sys.exit(f"{error.filename or target}: {error.strerror}")


if __name__ == "__main__":
    main()
