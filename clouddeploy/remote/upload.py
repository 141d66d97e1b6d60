"""Sends one file over one channel: continued where a cut transfer ended, checked, and shown only when it is whole.

Not SFTP, which paramiko does at half the speed of `scp` (every 32 KiB are acknowledged) and which needs six round trips
before a small file is there and six more for digest and rename. Here the bytes stream into a program on the machine
(`receive`) that does all of that itself: three round trips after the login, and as fast as `scp`. The digests are
computed beside the transfer on both sides; `sha256sum` there, as some distributions build it, takes as long as the
transfer.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn, Self

import paramiko

from clouddeploy.errors import UploadFailed
from clouddeploy.remote import commands
from clouddeploy.remote.receive import ALIVE_BYTES, DAMAGED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

PACKET_BYTES = 32 * 1024 - 64
"""What OpenSSH takes in one packet, and paramiko's room for its head: a larger piece would be copied once a packet."""
BLOCK_BYTES = 1024 * 1024
KEPT_S = 45
"""So long the machine keeps a silent transfer open; the next run continues what came."""
AGAIN = "run the same command again; it goes on where this one stopped"


def send(
    transport: paramiko.Transport,
    source: Path,
    target: str,
    *,
    mode: int,
    to: str,
    answer_s: float,
    cut: Callable[[], None],
) -> str:
    """Copies a file to a machine; see `Host.upload`.

    Args:
        transport: the connection, logged in.
        source: the file; it must not change meanwhile.
        target: its path there.
        mode: its permissions there, which it has before its first byte.
        to: the machine, for messages.
        answer_s: when so long nothing moves, the connection is given up.
        cut: gives it up.

    Returns:
        Its sha256.

    Raises:
        UploadFailed: it did not arrive as it is here, and `target` is what it was.
    """
    try:
        with source.open("rb") as content, _Watch(answer_s, cut) as watch:
            try:
                return _sent(transport, content, commands.receive(target, mode=mode, lost_s=KEPT_S), watch)
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise _Refused(watch.why(error)) from error
    except _Refused as error:
        what = "arrived damaged at" if error.status == DAMAGED else "could not be copied to"
        raise UploadFailed(f"{source.name} {what} {to}", why=str(error), hint=AGAIN) from error
    except OSError as error:
        raise UploadFailed(f"{source.name} cannot be read", why=str(error), hint="is it there, and yours?") from error


class _Refused(Exception):
    """It did not get there; `status` is that of the machine's half, if it ended."""

    def __init__(self, why: str, status: int = -1) -> None:
        super().__init__(why)
        self.status = status


def _sent(transport: paramiko.Transport, content: BinaryIO, command: Sequence[str], watch: _Watch) -> str:
    channel = transport.open_session(timeout=watch.limit_s)
    try:
        channel.settimeout(watch.limit_s)
        channel.exec_command(shlex.join(command))
        return _converse(channel, content, watch)
    finally:
        channel.close()


def _converse(channel: paramiko.Channel, content: BinaryIO, watch: _Watch) -> str:
    answers = channel.makefile("rb")
    while (line := answers.readline()) == b"\n":
        watch.moved()
    word, have, there = [*line.decode(errors="replace").split(), "", "0", ""][:3]
    if word != "have":
        _refuse(channel)
    size = os.fstat(content.fileno()).st_size

    def alive() -> None:
        channel.sendall(b"\n")
        watch.moved()

    digest, sent = _known(content, int(have), size=size, there=there, alive=alive)
    try:
        channel.sendall(f"{sent} {size}\n".encode())
        for block in _hashed(content, digest, size - sent):
            for begin in range(0, len(block), PACKET_BYTES):
                channel.sendall(block[begin : begin + PACKET_BYTES])
                watch.moved()
        channel.sendall(digest.digest())
        channel.shutdown_write()
    except OSError as error:
        if channel.exit_status < 0:
            raise
        _refuse(channel, error)  # a full disk, say: the machine knows better why
    if answers.readline() != b"done\n":
        _refuse(channel)
    return digest.hexdigest()


def _known(
    content: BinaryIO, have: int, *, size: int, there: str, alive: Callable[[], None]
) -> tuple[hashlib._Hash, int]:
    """Returns the digest so far and where to begin: behind what the machine has, when that is the file's beginning."""
    digest, read = hashlib.sha256(), 0
    while have <= size and read < have and (block := content.read(min(BLOCK_BYTES, have - read))):
        digest.update(block)
        read += len(block)
        if not read % ALIVE_BYTES:
            alive()
    if read == have and digest.hexdigest() == there:
        return digest, have
    content.seek(0)
    return hashlib.sha256(), 0


def _hashed(content: BinaryIO, digest: hashlib._Hash, count: int) -> Iterator[bytes]:
    """Yields the next `count` bytes in blocks, and adds them to the digest beside what is done with them."""
    with ThreadPoolExecutor(1) as beside:
        while count:
            block = content.read(min(BLOCK_BYTES, count))
            if not block:
                raise OSError("it became shorter while it was sent")
            adding = beside.submit(digest.update, block)
            yield block
            adding.result()
            count -= len(block)


def _refuse(channel: paramiko.Channel, cause: Exception | None = None) -> NoReturn:
    """Says how the machine's half ended.

    Raises:
        EOFError: it did not; the connection is gone.
    """
    said = b""
    while block := channel.recv_stderr(BLOCK_BYTES):
        said += block
    status = channel.recv_exit_status()
    if status < 0 and not said:
        raise EOFError("the connection broke") from cause
    raise _Refused(said.decode(errors="replace").strip()[-2000:] or f"exit status {status}", status) from cause


class _Watch:
    """Gives a connection up once nothing has moved for so long.

    paramiko's own waits know no timeout where a reply to a request or room in the socket is awaited.
    """

    def __init__(self, limit_s: float, cut: Callable[[], None]) -> None:
        self.limit_s = limit_s
        self._cut = cut
        self._over = threading.Event()
        self._has_cut = False
        self._last = time.monotonic()

    def moved(self) -> None:
        """Begins to wait anew."""
        self._last = time.monotonic()

    def why(self, error: Exception) -> str:
        """Says what an error means."""
        if isinstance(error, TimeoutError) or self._has_cut or time.monotonic() - self._last >= self.limit_s:
            return f"nothing moved for {self.limit_s:.0f} s"
        return str(error) or type(error).__name__

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(max(0.0, self._last + self.limit_s - time.monotonic())):
            if time.monotonic() - self._last >= self.limit_s:
                self._has_cut = True  # what was under way may still seem to move
                self._cut()
                return
