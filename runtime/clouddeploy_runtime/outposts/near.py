"""The site's end of an outpost: `python -m clouddeploy_runtime.outposts.near`, started by a launcher.

To its parent it is the job's process: it takes its messages and its parameters, prints what the job prints, ends when
it ends and as it ends. When its parent is gone it ends the outpost.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import outposts
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.messages import Frame, decode, encode
from clouddeploy_runtime.launchers import memory
from clouddeploy_runtime.outposts import engines
from clouddeploy_runtime.outposts.line import Kind, LineBroken, Listening, Receiver, Sender
from clouddeploy_runtime.outposts.post import CREDENTIAL, VARIABLE, Errand

if TYPE_CHECKING:
    from clouddeploy_runtime.outposts.post import Post

log = logging.getLogger(__name__)

LOST = 104
"""Exit status when the outpost is gone: as `job.Exit.INFRASTRUCTURE`."""
_PR_SET_PDEATHSIG = 1
_GRACE_S = 4.0
"""Between being asked to end and removing the outpost; a parent kills this process 5 s after it asked."""


class Ended(msgspec.Struct):
    """How the job's process ended."""

    code: int
    """Negative for a signal."""


class Errands:
    """Carries one errand out.

    Args:
        errand: what is to run.
        post: where.
        channel: to the parent.
    """

    def __init__(self, errand: Errand, post: Post, channel: Channel) -> None:
        self._errand = errand
        self._post = post
        self._channel = channel
        self._over = threading.Event()
        self._stopping = threading.Event()
        self._code: int | None = None

    def run(self) -> int:
        """Return the exit status of the job's process; negative for a signal.

        Raises:
            RuntimeFault: there is no outpost, or it was lost.
        """
        way = self._post.way
        try:
            with Listening(way.host, bind=way.bind, ports=way.ports) as listening:
                credential = self._post.folder / CREDENTIAL
                listening.credential.write(credential)
                launch = self._post.open()
                sender, receiver = listening.wait(self._problem, timeout_s=way.pending_s, poll_s=way.poll_s)
            credential.unlink(missing_ok=True)
            sender.send(Kind.LAUNCH, msgspec.json.encode(launch))
            return self._relay(sender, receiver)
        finally:
            self._post.close()

    def stop(self) -> None:
        """Note that the job is to end."""
        self._stopping.set()
        self._over.set()

    def _problem(self) -> str:
        return "it was stopped" if self._stopping.is_set() else self._post.problem()

    def _relay(self, sender: Sender, receiver: Receiver) -> int:
        for carry, end in ((self._down, sender), (self._up, receiver)):
            threading.Thread(target=self._guarded, args=(carry, end), daemon=True).start()
        self._over.wait()
        if self._code is None and self._stopping.is_set():
            self._over.clear()
            try:
                sender.send(Kind.STOP)
                self._over.wait(_GRACE_S)
            except LineBroken as exc:
                log.warning("%s", exc)
        if self._code is not None:
            return self._code
        if self._stopping.is_set():
            return -signal.SIGTERM
        raise LineBroken("The process of the job is lost", why=self._post.problem() or "its line broke")

    def _guarded(self, carry: object, end: object) -> None:
        try:
            carry(end)  # type: ignore[operator]
        except (OSError, RuntimeFault, msgspec.MsgspecError) as exc:
            log.warning("%s", exc)
        finally:
            self._over.set()

    def _down(self, sender: Sender) -> None:
        """Carry the parent's messages to the outpost until the parent is gone."""
        while received := self._channel.receive():
            message, buffer = received
            payload = None if buffer is None else buffer.view[: getattr(message, "size", 0)]
            sender.send(Kind.MESSAGE, encode(Frame(message, key=None if buffer is None else 0)), payload)
            if buffer is not None:
                buffer.release()
        self._stopping.set()

    def _up(self, receiver: Receiver) -> None:
        """Carry what the outpost says to the parent until the job's process has ended."""
        limit_bytes = memory.limit_bytes()
        while packet := receiver.receive():
            if packet.kind is Kind.OUTPUT:
                _print(packet.body)
            elif packet.kind is Kind.ENDED:
                self._code = msgspec.json.decode(packet.body, type=Ended).code
                return
            elif packet.kind is Kind.MESSAGE:
                frame = decode(packet.body)
                if frame.key is None:
                    self._channel.send(frame.message)
                    continue
                if packet.size != getattr(frame.message, "size", -1) or packet.size > limit_bytes:
                    raise LineBroken("The line to a job elsewhere broke", why=f"{packet.size} bytes of parameters")
                buffer = self._channel.pool.acquire(packet.size)
                receiver.into(buffer.view[: packet.size])
                self._channel.send(frame.message, buffer)


def _print(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def main() -> int:
    """Run one errand; returns the exit status."""
    parser = argparse.ArgumentParser(prog=outposts.__name__)
    for name in ("fd", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    errand = msgspec.json.decode(os.environ.pop(VARIABLE), type=Errand)
    channel = Channel(socket.socket(fileno=given.fd))
    try:
        errands = Errands(errand, engines.post(errand), channel)
        signal.signal(signal.SIGTERM, lambda *_: errands.stop())
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != given.parent:
            return LOST
        return errands.run()
    except RuntimeFault as exc:
        log.error("%s", exc)  # noqa: TRY400 - a message for people
        return LOST


if __name__ == "__main__":
    status = main()
    if status < 0:  # ends as the job's process did
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
