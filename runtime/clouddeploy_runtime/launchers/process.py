"""A job in a process of its own on this machine, with a socket to its parent and nothing else of the parent's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clouddeploy_runtime.job.buffers import Mappings
from clouddeploy_runtime.job.messages import MAX_FRAME, Abort, Frame, Message, Release, decode, encode

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.job.buffers import Buffer, BufferPool

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "CUDA_VISIBLE_DEVICES",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
)
"""The environment a job gets: what programs need to run, and none of what the parent knows."""


@dataclass(frozen=True)
class JobLaunch:
    """What a job process has to know."""

    job_id: str
    role: Literal["controller", "trainer"]
    site: str
    app_dir: Path
    run_dir: Path
    sites: tuple[str, ...]
    data_dir: Path | None


class JobProcess:
    """The parent's end of a running job process."""

    def __init__(self, process: asyncio.subprocess.Process, connection: socket.socket, pool: BufferPool) -> None:
        self._process = process
        self._socket = connection
        self._pool = pool
        self._sent: set[int] = set()
        self._mappings = Mappings(self._give_back)
        self._lock = asyncio.Lock()
        self._ending = asyncio.get_running_loop().create_task(self._end())

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    async def send(self, message: Message, buffer: Buffer | None = None) -> None:
        """Sends a message; a buffer stays the parent's, and its descriptor travels once.

        Raises:
            OSError: the process is gone.
        """
        async with self._lock:
            key, capacity = (None, 0) if buffer is None else (buffer.key, buffer.capacity)
            frame = encode(Frame(message, key=key, capacity=capacity))
            descriptors = [buffer.fd] if buffer is not None and buffer.key not in self._sent else []
            while True:
                try:
                    socket.send_fds(self._socket, [frame], descriptors)
                except BlockingIOError:
                    await self._ready(writing=True)
                else:
                    break
            if buffer is not None:
                self._sent.add(buffer.key)

    async def receive(self) -> tuple[Message, Buffer | None] | None:
        """Returns the next message; None once the process has ended and everything was read."""
        while True:
            try:
                data, descriptors, _flags, _address = socket.recv_fds(self._socket, MAX_FRAME, 1)
            except BlockingIOError:
                await self._ready(writing=False)
                continue
            except ConnectionResetError:
                continue  # it left with something unread; what it said before that can still be read
            except OSError:
                return None
            if not data:
                await self._ending
                self._socket.close()
                return None
            frame = decode(data)
            if isinstance(frame.message, Release):
                self._pool.release(frame.message.key)
                continue
            return frame.message, self._mappings.buffer_of(frame, descriptors)

    async def wait(self) -> int:
        """Returns the exit status once the process has ended; negative for a signal."""
        return await self._process.wait()

    def terminate(self) -> None:
        """Asks the process to end; harmless when it has."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process; harmless when it has ended."""
        self._signal(signal.SIGKILL)

    async def stop(self, reason: str, *, grace_s: float) -> None:
        """Asks the job to end, and ends it when it has not after `grace_s`; harmless when it has ended."""
        with contextlib.suppress(OSError):  # it has ended already
            await self.send(Abort(reason=reason))
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), grace_s)
        except TimeoutError:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        # The whole group: a script's own workers end with it.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _end(self) -> None:
        await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        # A worker in a session of its own may still hold the other end; what has arrived can be read all the same.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    async def _ready(self, *, writing: bool) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
        add(self._socket, wake)
        try:
            await ready
        finally:
            remove(self._socket)

    def _give_back(self, key: int) -> None:
        with contextlib.suppress(OSError):  # the process has ended, and its buffers with it
            self._socket.send(encode(Frame(Release(key))))


async def launch(job: JobLaunch, pool: BufferPool) -> JobProcess:
    """Starts a job's process.

    Args:
        job: what to run.
        pool: the parent's buffers for this job; takes back what the process releases.

    Raises:
        OSError: it cannot be started.
    """
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.setblocking(False)
    job.run_dir.mkdir(parents=True, exist_ok=True)
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment["PYTHONPATH"] = str(job.app_dir / "custom")
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    words = ["--fd", str(theirs.fileno()), "--parent", str(os.getpid()), "--job", job.job_id, "--role", job.role]
    words += ["--site", job.site, "--app", str(job.app_dir), "--run", str(job.run_dir), "--sites", ",".join(job.sites)]
    if job.data_dir is not None:
        words += ["--data", str(job.data_dir)]
    with theirs, (job.run_dir / "log.txt").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "clouddeploy_runtime.job",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=job.run_dir,
            env=environment,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return JobProcess(process, mine, pool)
