"""The outpost's end: `python -m clouddeploy_runtime.outposts.far CREDENTIAL`, run by a container engine or scheduler.

It calls its site, starts the job's process here as a site would do on its own machine, confined where the kernel can,
and carries messages, parameters and output. When the line breaks the job ends: nobody waits for it any more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from clouddeploy_runtime.errors import ClouddeployError, printable
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.messages import Frame, decode, encode
from clouddeploy_runtime.launchers import memory, temporary
from clouddeploy_runtime.launchers.base import JobLaunch
from clouddeploy_runtime.launchers.output import Output
from clouddeploy_runtime.launchers.process import ProcessLauncher
from clouddeploy_runtime.outposts import line
from clouddeploy_runtime.outposts.line import Kind, LineBroken, Receiver, Sender
from clouddeploy_runtime.outposts.near import LOST, Ended
from clouddeploy_runtime.outposts.post import Launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_runtime.launchers.base import Running

log = logging.getLogger(__name__)

_CALL_S = 60.0
"""The site listens before the outpost starts: what takes longer is a network that will not let it through."""
_GRACE_S = 3.0
_LAST_S = 30
"""For the last words to reach the site's machine; a site that takes them slowly has much to take."""
_SHARE = 2
"""Parameters may take one part in so many of the memory."""


class Passing(Output):
    """Passes what the job prints on to the site, and to this process's own output, where the engine looks for it."""

    def __init__(self, folder: Path, sender: Sender) -> None:
        self._sender = sender
        super().__init__(folder)

    def _open(self) -> None:
        """Open no file: the site has it."""

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(LineBroken):
            self._sender.send(Kind.OUTPUT, data)
        os.write(1, data)


class Outpost:
    """One job's process here, and the line to its site."""

    def __init__(self, launch: Launch, sender: Sender, receiver: Receiver) -> None:
        self._launch = launch
        self._sender = sender
        self._receiver = receiver
        self._pool = BufferPool(launch.memory_bytes or memory.limit_bytes() // _SHARE)
        self._is_evicted = False

    async def run(self) -> int:
        """Return the exit status of the job's process once it has ended; negative for a signal.

        Raises:
            OSError: it cannot be started.
        """
        given = self._launch
        launcher = ProcessLauncher(
            is_confined=given.is_confined,
            output=lambda folder: Passing(folder, self._sender),
        )
        job = JobLaunch(
            job_id=given.job_id,
            role=cast("Literal['controller', 'trainer']", given.role),
            site=given.site,
            app_dir=Path(given.app_dir),
            run_dir=Path(given.run_dir),
            sites=given.sites,
            data_dir=None if given.data_dir is None else Path(given.data_dir),
            environment={
                **{name: os.environ[name] for name in given.forwarded if name in os.environ},
                **given.environment,
            },
            code=tuple(map(Path, given.code)),
            readable=tuple(map(Path, given.readable)),
            writable=tuple(map(Path, given.writable)),
            hidden=tuple(map(Path, given.hidden)),
        )
        running = await launcher.launch(job, self._pool)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._evict, running)
        down = asyncio.create_task(self._down(running))
        up = asyncio.create_task(self._up(running))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if not up.done():
                await running.stop("the site is gone", grace_s=_GRACE_S)
            await up
            code = await running.wait()
        finally:
            down.cancel()
            if running.ending() == "":  # the line broke on the way up
                await running.stop("the site is gone", grace_s=_GRACE_S)
        if self._is_evicted and code < 0:
            return code  # without a last word: the site asks the engine, which knows why
        with contextlib.suppress(LineBroken):
            if code < 0:  # what the kernel did to it is known here alone
                await asyncio.to_thread(self._sender.send, Kind.OUTPUT, f"{running.ending()}\n".encode())
            await asyncio.to_thread(self._sender.send, Kind.ENDED, msgspec.json.encode(Ended(code)))
            await asyncio.to_thread(self._sender.finish, _LAST_S)
        return code

    def _evict(self, running: Running) -> None:
        """End the job: the engine ends this outpost, for a limit of time, a node that is needed, or somebody's wish."""
        self._is_evicted = True
        running.terminate()

    async def _down(self, running: Running) -> None:
        """Carry what the site says to the job, until the line breaks."""
        with contextlib.suppress(OSError):  # the job has ended
            while packet := await asyncio.to_thread(self._receiver.receive):
                if packet.kind is Kind.STOP:
                    running.terminate()
                if packet.kind is not Kind.MESSAGE:
                    continue
                frame = decode(packet.body)
                if frame.key is None:
                    await running.send(frame.message)
                    continue
                buffer = await self._pool.obtain(packet.size)
                await asyncio.to_thread(self._receiver.into, buffer.view[: packet.size])
                await running.send(frame.message, buffer)

    async def _up(self, running: Running) -> None:
        """Carry what the job says to the site, until it has ended."""
        while received := await running.receive():
            message, buffer = received
            payload = None if buffer is None else buffer.view[: getattr(message, "size", 0)]
            frame = encode(Frame(message, key=None if buffer is None else 0))
            try:
                await asyncio.to_thread(self._sender.send, Kind.MESSAGE, frame, payload)
            finally:
                if buffer is not None:
                    buffer.release()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job of one credential; returns the exit status."""
    parser = argparse.ArgumentParser(prog="clouddeploy_runtime.outposts.far")
    parser.add_argument("credential", type=Path)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    try:
        temporary.clear()  # of this account's earlier jobs that were killed here
        sender, receiver = line.call(line.Credential.read(given.credential), timeout_s=_CALL_S)
        packet = receiver.receive()
        if packet is None or packet.kind is not Kind.LAUNCH:
            raise LineBroken("The site of this job does not say what to run", why="it left, or speaks otherwise")
        launch = msgspec.json.decode(packet.body, type=Launch)
        # Not `asyncio.run`: it would wait for the thread that reads the line, and the site for this process's end.
        code = asyncio.new_event_loop().run_until_complete(Outpost(launch, sender, receiver).run())
    except (ClouddeployError, OSError, msgspec.MsgspecError) as exc:
        log.error("%s", printable(str(exc)))  # noqa: TRY400 - a message for people
        return LOST
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # Threads that wait for the line would keep the interpreter from ending.
    status = main()
    sys.stdout.flush()
    os._exit(status)
