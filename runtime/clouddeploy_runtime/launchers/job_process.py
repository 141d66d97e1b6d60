"""A running job process as its parent sees it: messages, buffers, its end and the reason for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job.buffers import BufferRefused, Mappings
from clouddeploy_runtime.job.messages import (
    MAX_FRAME,
    Abort,
    Done,
    Frame,
    Message,
    Progress,
    Release,
    Result,
    Task,
    decode,
    encode,
)
from clouddeploy_runtime.launchers import ending as endings
from clouddeploy_runtime.launchers import memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.job.buffers import Buffer, BufferPool
    from clouddeploy_runtime.launchers import orphans
    from clouddeploy_runtime.launchers.base import JobLaunch
    from clouddeploy_runtime.launchers.output import Output
    from clouddeploy_runtime.launchers.temporary import Temporary

log = logging.getLogger(__name__)

_LEFT_S = 5.0
"""A job that has left its connection has nothing to say any more; so long it may take to end."""
_KILL_S = 5.0
"""A killed process that the kernel has not ended by then waits for a device; nobody waits for it here."""
_OUTPUT_S = 5.0
"""For what it has printed to reach the disk, once it has ended."""
_SHARE = 2
"""A job's own buffers may hold one part in so many of the memory that its parent may use."""
_MAX_COMPLAINTS = 100
"""Messages that make no sense: a few come with a race, so many are meant."""
_BUSY_S, _BUSY_PACKETS = 0.005, 64
_SAYS: Mapping[str, tuple[type[Message], ...]] = {
    "controller": (Task, Progress, Done, Release),
    "trainer": (Result, Done, Release),
}


class _Pace:
    """Keeps one job that talks without end from having its parent's loop to itself."""

    def __init__(self) -> None:
        self._packets = 0
        self._since = 0.0

    def rest(self) -> None:
        """Note that it has nothing to say just now."""
        self._packets = 0

    async def keep(self) -> None:
        """Called before each packet: leave the others as much time as this job has had."""
        now = time.monotonic()
        if not self._packets:
            self._since = now
        self._packets += 1
        if self._packets > _BUSY_PACKETS or now - self._since > _BUSY_S:
            self._packets = 0
            await asyncio.sleep(_BUSY_S)


class JobProcess:
    """The parent's end of a running job process.

    Args:
        process: the process, just started.
        connection: to it; closed here.
        pool: the parent's buffers for this job; takes back what the process releases.
        job: what it runs.
        output: gets what it prints.
        temporary: its folder for temporary files; removed when it has ended.
        children: where the process is noted.
        oom_kills: the count of `ending.oom_kills` from before its start.
        farewell: of a process that has to clear up elsewhere: the signal that tells it to, and how many seconds it has
            until it is killed; None: it is killed at once.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: socket.socket,
        pool: BufferPool,
        *,
        job: JobLaunch,
        output: Output,
        temporary: Temporary,
        children: orphans.Children,
        oom_kills: int,
        farewell: tuple[signal.Signals, float] | None = None,
    ) -> None:
        self._process = process
        self._socket = connection
        self._pool = pool
        self._job = job
        self._output = output
        self._temporary = temporary
        self._children = children
        self._oom_kills = oom_kills
        self._farewell = farewell
        self._was_memory_short = False
        self._fault = ""
        self._grace_s: float | None = None
        self._is_killed = False
        self._is_receiving = False
        self._sent: set[int] = set()
        self._lent: set[int] = set()
        """What the process has now: it gives back nothing else, or it could have memory taken from under a transfer."""
        self._complaints = 0
        self._pace = _Pace()
        self._mappings = Mappings(self._give_back, is_strict=True, limit_bytes=memory.limit_bytes() // _SHARE)
        self._lock = asyncio.Lock()
        self._returns: deque[bytes] = deque()
        self._returning: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._ending = self._loop.create_task(self._end())

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    async def send(self, message: Message, buffer: Buffer | None = None) -> None:
        """Sends a message; a buffer stays the parent's, and its descriptor travels once.

        Raises:
            OSError: the process is gone.
            MessageTooLarge: it does not fit into one packet.
        """
        async with self._lock:
            key, capacity = (None, 0) if buffer is None else (buffer.key, buffer.capacity)
            frame = encode(Frame(message, key=key, capacity=capacity))
            descriptors = [buffer.fd] if buffer is not None and buffer.key not in self._sent else []
            await self._send(frame, descriptors)
            if buffer is not None:
                self._sent.add(buffer.key)
                self._lent.add(buffer.key)

    async def _send(self, frame: bytes, descriptors: list[int]) -> None:
        while True:
            try:
                socket.send_fds(self._socket, [frame], descriptors)
            except BlockingIOError:
                await self._ready(writing=True)
            else:
                return

    async def receive(self) -> tuple[Message, Buffer | None] | None:
        """Returns the next message; None once the process has ended and everything was read.

        A process that sends what is no message of a job is ended; `ending` says so.
        """
        self._is_receiving = True
        try:
            return await self._receive()
        finally:
            self._is_receiving = False

    async def _receive(self) -> tuple[Message, Buffer | None] | None:
        while not self._fault:
            await self._pace.keep()
            try:
                data, descriptors, flags, _address = socket.recv_fds(
                    self._socket, MAX_FRAME, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                self._pace.rest()
                await self._ready(writing=False)
                continue
            except ConnectionResetError:
                continue  # it left with something unread; what it said before that can still be read
            except OSError:
                break
            if not data and not descriptors:
                if not await self._has_ended(_LEFT_S) and self._process.returncode is None:
                    self._refuse("it closed its connection and went on")
                break
            received = self._read(data, descriptors, is_cut_off=bool(flags & socket.MSG_TRUNC))
            if received is not None and self._makes_sense(*received):
                return received
        await asyncio.shield(self._ending)
        self._socket.close()
        self._mappings.close()
        return None

    def _makes_sense(self, message: Message, buffer: Buffer | None) -> bool:
        """Tell whether a message is for the parent; what it gives back is taken, the rest held against the job."""
        if not isinstance(message, _SAYS[self._job.role]):
            self.complain(f"it sent {type(message).__name__} over and over")
            if buffer is not None:
                buffer.release()
        elif not isinstance(message, Release):
            return True
        elif message.key in self._lent:
            self._lent.discard(message.key)
            self._pool.release(message.key)
        else:
            self.complain("it gave back what it did not have over and over")
        return False

    def _read(self, data: bytes, descriptors: list[int], *, is_cut_off: bool) -> tuple[Message, Buffer | None] | None:
        """Return what a packet says; None when that is nothing, and the process is ended for it."""
        try:
            if is_cut_off:
                raise ValueError(f"more than {MAX_FRAME} bytes")
            frame = decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            for descriptor in descriptors:
                os.close(descriptor)
            self._refuse(f"it sent what is no message: {exc}")
            return None
        try:
            if frame.is_yours:
                return frame.message, self._back(frame, descriptors)
            return frame.message, self._mappings.buffer_of(frame, descriptors)
        except BufferRefused as exc:
            self._refuse(str(exc))
            return None

    def _back(self, frame: Frame, descriptors: list[int]) -> Buffer:
        """Return a buffer of this side that comes back with a message.

        Raises:
            BufferRefused: the process does not have it, or says that it holds more than it can.
        """
        for descriptor in descriptors:
            os.close(descriptor)
        key = -1 if frame.key is None else frame.key
        buffer = self._pool.held(key) if key in self._lent else None
        if buffer is None:
            raise BufferRefused("a buffer cannot be used", why=f"number {frame.key} was not lent")
        size = getattr(frame.message, "size", 0)
        if not 0 <= size <= buffer.capacity:
            raise BufferRefused("a buffer cannot be used", why=f"{size} bytes in one of {buffer.capacity}")
        self._lent.discard(key)
        return buffer

    async def wait(self) -> int:
        """Returns the exit status once the process has ended and nothing of it is left; negative for a signal."""
        await asyncio.shield(self._ending)
        if self._is_killed and not self._is_receiving:  # nobody will read what is left, and a killed job says nothing
            self._socket.close()
        return await self._process.wait()

    def ending(self) -> str:
        """Returns how the process ended, with its site, as one clause; empty while it runs."""
        code = self._process.returncode
        if code is None:
            return ""
        known = endings.Ending(
            code,
            was_memory_short=self._was_memory_short,
            fault=self._fault,
            grace_s=self._grace_s,
            was_killed=self._is_killed,
        )
        return endings.describe(known, site=self._job.site, role=self._job.role)

    def printed(self) -> str:
        """Returns the last lines of what the process has printed."""
        return self._output.tail()

    def complain(self, what: str) -> None:
        """Notes that it said what makes no sense just now; one that does so over and over is ended.

        Args:
            what: is named as the cause then.
        """
        self._complaints += 1
        if self._complaints == _MAX_COMPLAINTS:
            self._refuse(what)

    def terminate(self) -> None:
        """Asks the process to end; harmless when it has."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process; harmless when it has ended."""
        if self._process.returncode is None:
            self._is_killed = True
            if self._farewell is None:
                self._signal(signal.SIGKILL)
                return
            number, limit_s = self._farewell
            self._signal(number)
            self._loop.call_later(limit_s, self._signal, signal.SIGKILL)

    async def stop(self, reason: str, *, grace_s: float) -> None:
        """Asks the job to end, and ends it when it has not after `grace_s`; harmless when it has ended.

        A message is what a script in its own time sees; SIGTERM, after half of the time, what any program does. A job
        that reads neither does not make this take longer.
        """
        asking = self._loop.create_task(self._ask(reason))
        try:
            if await self._has_ended(grace_s / 2):
                return
            self.terminate()
            if await self._has_ended(grace_s / 2):
                return
            self._grace_s = grace_s
            self.kill()
            await self._has_ended(_KILL_S + (0.0 if self._farewell is None else self._farewell[1]))
        finally:
            asking.cancel()

    async def _ask(self, reason: str) -> None:
        with contextlib.suppress(OSError, RuntimeFault):  # it has ended already, or the reason is as long as a book
            await self.send(Abort(reason=reason))

    async def _has_ended(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(asyncio.shield(self._ending), timeout_s)
        except TimeoutError:
            return False
        return True

    def _refuse(self, fault: str) -> None:
        self._fault = self._fault or fault
        log.warning(
            "The %s of job %s at %s is ended: %s",
            self._job.role,
            self._job.job_id,
            self._job.site,
            fault,
            extra={"job": self._job.job_id, "site": self._job.site},
        )
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        # The whole group: a script's own workers end with it.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _end(self) -> None:
        await self._process.wait()
        self._was_memory_short = endings.oom_kills() > self._oom_kills
        try:
            await asyncio.to_thread(self._clear_up)
        finally:
            # Somebody may still hold the other end; what has arrived can be read all the same.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _clear_up(self) -> None:
        with contextlib.ExitStack() as steps:  # each is done whatever became of those before: the last one first
            steps.callback(self._temporary.remove)
            steps.callback(self._output.finish, _OUTPUT_S)
            steps.callback(self._children.ended, self.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def _ready(self, *, writing: bool) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        add, remove = (
            (self._loop.add_writer, self._loop.remove_writer)
            if writing
            else (self._loop.add_reader, self._loop.remove_reader)
        )
        add(self._socket, wake)
        try:
            await ready
        finally:
            remove(self._socket)

    def _give_back(self, key: int) -> None:
        frame = encode(Frame(Release(key)))
        if not self._returns:
            try:
                self._socket.send(frame)
            except BlockingIOError:
                pass  # the job does not read just now; lost, its memory would be lost with it
            except OSError:
                return  # the process has ended, and its buffers with it
            else:
                return
        self._returns.append(frame)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has the process
            self._loop.call_soon_threadsafe(self._start_returning)

    def _start_returning(self) -> None:
        if self._returning is None or self._returning.done():
            self._returning = self._loop.create_task(self._return())

    async def _return(self) -> None:
        async with self._lock:
            while self._returns:
                try:
                    await self._send(self._returns[0], [])
                except OSError:
                    self._returns.clear()
                else:
                    self._returns.popleft()
