"""The site's end of an outpost: `python -m clouddeploy_runtime.outposts.near`, started by a launcher.

To its parent it is the job's process: it takes its messages and its parameters, prints what the job prints, ends when
it ends and as it ends. When its parent is gone it ends the outpost.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import outposts
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.messages import Frame, Release, decode, encode
from clouddeploy_runtime.launchers import memory
from clouddeploy_runtime.outposts import engines
from clouddeploy_runtime.outposts.line import Kind, LineBroken, Listening, Receiver, Sender
from clouddeploy_runtime.outposts.post import AT_ONCE, CREDENTIAL, VARIABLE, Errand

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.outposts.post import Post

log = logging.getLogger(__name__)

LOST = 104
"""Exit status when the outpost is gone: as `job.Exit.INFRASTRUCTURE`."""
_PR_SET_PDEATHSIG = 1
_LOST_S = 3.0
_LOST_POLL_S = 0.2
_LAST_S = 30.0
"""For the last words of an outpost that takes no more; it sends them for as long, see `far`."""
_GRACE_S = 4.0
"""Between being asked to end and removing the outpost; a parent that will not wait so long says so."""
_SHARE = 2
"""Parameters of one job may take one part in so many of the memory here, as a parent takes no more from a job."""


_MAX_STATUS = 255
_ENDING = frozenset(
    {
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS),
        *(signal.SIGFPE, signal.SIGKILL, signal.SIGUSR1, signal.SIGSEGV, signal.SIGUSR2, signal.SIGPIPE),
        *(signal.SIGALRM, signal.SIGTERM, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSYS),
    }
)
"""Signals that end a process. This one ends as the outpost says that the job did, and another signal would stop it."""


class Ended(msgspec.Struct):
    """How the job's process ended."""

    code: int
    """Negative for a signal."""


class _News(Enum):
    """What happens while a job runs elsewhere."""

    ASKED = auto()
    """The job is to end."""
    HURRIED = auto()
    """It is to end now."""
    LEFT = auto()
    """The parent is gone."""
    DEAF = auto()
    """The outpost takes no more."""
    SILENT = auto()
    """It has said its last word, or its line broke."""


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
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()  # the one that a signal's handler may use
        self._is_stopping = False
        self._code: int | None = None
        channel.pool = BufferPool(memory.limit_bytes() // _SHARE)

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

    def stop(self, *, at_once: bool = False) -> None:
        """Note that the job is to end; without any grace when it is said so."""
        self._is_stopping = True
        self._news.put(_News.HURRIED if at_once else _News.ASKED)

    def _problem(self) -> str:
        return "it was stopped" if self._is_stopping else self._post.problem()

    def _relay(self, sender: Sender, receiver: Receiver) -> int:
        _aside(lambda: self._watched(lambda: self._down(sender), broken=_News.DEAF))
        _aside(lambda: self._watched(lambda: self._up(receiver), broken=_News.SILENT))
        last = self._until_the_end(sender)
        if self._code is not None:
            return self._code
        if self._is_stopping:
            return -(signal.SIGKILL if last is _News.HURRIED else signal.SIGTERM)
        why = self._cause() or "its line broke"
        if self._code is not None:
            return self._code
        raise LineBroken("The process of the job is lost", why=why)

    def _until_the_end(self, sender: Sender) -> _News | None:
        """Return what was the last to happen; None: what had to follow did not, in time."""
        deadline = math.inf
        while True:
            try:
                wait_s = None if math.isinf(deadline) else max(0.0, deadline - time.monotonic())
                news = self._news.get(timeout=wait_s)
            except queue.Empty:
                return None
            if news in {_News.SILENT, _News.HURRIED}:
                return news
            if news is _News.DEAF:  # it may have said its last word before
                deadline = min(deadline, time.monotonic() + _LAST_S)
            elif math.isinf(deadline):
                deadline = time.monotonic() + _GRACE_S
                # Not here: parameters that the other end does not take may be on their way.
                _aside(lambda: self._watched(lambda: sender.send(Kind.STOP), broken=_News.DEAF))

    def _cause(self) -> str:
        """Return what the engine says: it knows what ended a process a moment after it ended; empty: it does not."""
        deadline = time.monotonic() + _LOST_S
        while not (why := self._post.problem()) and time.monotonic() < deadline:
            time.sleep(_LOST_POLL_S)
        return why

    def _watched(self, carry: Callable[[], _News | None], *, broken: _News) -> None:
        news: _News | None = broken
        try:
            news = carry()
        except (OSError, RuntimeFault, msgspec.MsgspecError) as exc:
            log.warning("%s", exc)
        finally:
            if news is not None:
                self._news.put(news)

    def _down(self, sender: Sender) -> _News:
        """Carry the parent's messages to the outpost until the parent is gone."""
        while received := self._channel.receive():
            message, buffer = received
            payload = None if buffer is None else buffer.view[: getattr(message, "size", 0)]
            sender.send(Kind.MESSAGE, encode(Frame(message, key=None if buffer is None else 0)), payload)
            if buffer is not None:
                buffer.release()
        self._is_stopping = True
        return _News.LEFT

    def _up(self, receiver: Receiver) -> _News:
        """Carry what the outpost says to the parent until the job's process has ended."""
        pool = self._channel.pool
        while packet := receiver.receive():
            if packet.kind is Kind.OUTPUT:
                _print(packet.body)
            elif packet.kind is Kind.ENDED:
                code = msgspec.json.decode(packet.body, type=Ended).code
                self._code = code if 0 <= code <= _MAX_STATUS or -code in _ENDING else LOST
                break
            elif packet.kind is Kind.MESSAGE:
                frame = decode(packet.body)
                if isinstance(frame.message, Release):  # between this process and its parent alone
                    raise LineBroken("The line to a job elsewhere broke", why="it gave back what it never had")
                if frame.key is None:
                    self._channel.send(frame.message)
                    continue
                if packet.size != getattr(frame.message, "size", -1) or pool.missing(packet.size):
                    why = f"{packet.size} bytes of parameters, and {pool.in_use} are here, of {pool.budget_bytes}"
                    raise LineBroken("The line to a job elsewhere broke", why=why)
                buffer = pool.acquire(packet.size)
                receiver.into(buffer.view[: packet.size])
                self._channel.send(frame.message, buffer)
        return _News.SILENT


def _aside(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


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
        signal.signal(AT_ONCE, lambda *_: errands.stop(at_once=True))
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
        with contextlib.suppress(OSError):  # SIGKILL has no other way to act
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
