"""The tasks of one job at a site: fetched, given to the trainer one at a time, and their results kept until they count.

A result is kept until the server has said that it took it. A server that was killed asks again for what it had asked
for; a site that still has the answer sends that, instead of training once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import msgspec

from clouddeploy_runtime.client.transfer import Gone
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.inspection.tallies import JobTally
from clouddeploy_runtime.job.messages import Receipt, Task
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.client.transfer import Transfer
    from clouddeploy_runtime.job.buffers import Buffer, BufferPool
    from clouddeploy_runtime.job.messages import Result
    from clouddeploy_runtime.launchers import Running

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Work:
    """One task, from the server's wish to its receipt for the result."""

    task: Task
    event: pb.RunTask
    model: Buffer | None = None
    """What the trainer reads."""
    result: Result | None = None
    update: Buffer | None = None
    """What the trainer wrote, as a rule over the model."""
    is_wanted: bool = True
    """False: the server has gone on to another task."""
    running: asyncio.Task[None] | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server repeats its wish."""


class SiteTasks:
    """What a site owes the server in one job.

    Args:
        job_id: the job's.
        site: this one's name.
        transfer: to the server and back.
        pool: where parameters go on their way to the trainer.
        report: sends an event to the server.
        gone: called when the server does not run the job any more.
    """

    def __init__(
        self,
        job_id: str,
        *,
        site: str,
        transfer: Transfer,
        pool: BufferPool,
        report: Callable[[pb.ClientEvent], None],
        gone: Callable[[], None],
    ) -> None:
        self._job_id = job_id
        self._site = site
        self._transfer = transfer
        self._pool = pool
        self._report = report
        self._gone = gone
        self._process: Running | None = None
        self._has_process = asyncio.Event()
        self._turn = asyncio.Lock()
        """Of the trainer, which does one task at a time: what waits for it can still be taken back."""
        self._training: _Work | None = None
        self._works: dict[str, _Work] = {}
        self._taken: tuple[str, str, int] | None = None
        """The last task that counted, its parameters, and over which connection the server said so."""
        self.tally = JobTally()
        self._running: set[asyncio.Task[None]] = set()
        self._is_over = False
        """The trainer has ended, or was told to: nobody is there for another task."""

    def add(self, event: pb.RunTask) -> None:
        """Take a task. The same one again asks for its result; another one means that the others are over.

        Once the trainer has ended no other one is taken: the server learns of the end.
        """
        task = msgspec.msgpack.decode(event.task, type=Task)
        known = self._works.get(task.task_id)
        if known is not None and known.event.checksum == event.checksum:
            known.asked.set()
            return
        if self._taken == (task.task_id, event.checksum, self._transfer.connections):
            return  # the wish was on its way when the result was taken; a server that lost it has a new connection
        for work in list(self._works.values()):
            self._drop(work)
        if self._is_over:
            return
        work = self._works[task.task_id] = _Work(task, event)
        work.running = asyncio.get_running_loop().create_task(self._do(work))
        self._running.add(work.running)
        work.running.add_done_callback(self._running.discard)

    def begin(self, process: Running) -> None:
        """Use this trainer."""
        self._process = process
        self._has_process.set()

    def answered(self, result: Result, buffer: Buffer | None) -> None:
        """Take the trainer's result."""
        work = self._training
        if work is None or work.task.task_id != result.task_id:
            if buffer is not None:
                buffer.release()
            if self._process is not None:
                self._process.complain("it answered what it was not asked over and over")
            return
        self._training = None
        work.result, work.update = result, buffer
        if buffer is work.model:
            work.model = None  # the answer stands where the question was
        work.answered.set()

    async def delivered(self) -> None:
        """Return once every result that there is has been taken or is not wanted; the trainer has ended."""
        self._is_over = True
        training, self._training = self._training, None
        if training is not None:  # which the server may have taken back meanwhile
            self._drop(training)
        for work in [one for one in self._works.values() if not one.answered.is_set()]:
            self._drop(work)
        while self._running:
            await asyncio.wait(self._running)

    def cancel(self) -> None:
        """Give up everything."""
        self._is_over = True
        for task in self._running:
            task.cancel()

    async def closed(self) -> None:
        """Return once everything that was given up has ended."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _drop(self, work: _Work) -> None:
        """Forget a task; one that is being trained for is let finish, since the trainer cannot be interrupted."""
        work.is_wanted = False
        if self._works.get(work.task.task_id) is work:
            del self._works[work.task.task_id]
        if work.running is not None and work is not self._training:
            work.running.cancel()

    async def _do(self, work: _Work) -> None:
        task_id = work.task.task_id
        try:
            if await self._fetch(work):
                await self._train(work)
                await self._deliver(work)
        except Gone:
            self._gone()
        except (RuntimeFault, OSError, grpc.RpcError) as exc:
            self.tally.failed(work.task.name)
            log.warning("Task %s of job %s failed: %s", task_id, self._job_id, exc, extra={"job": self._job_id})
            failed = pb.TaskFailed(
                job_id=self._job_id,
                task_id=task_id,
                reason=f"{self._site}: {exc}",
                task_checksum=work.event.checksum,
            )
            self._report(pb.ClientEvent(task_failed=failed))
        finally:
            for buffer in (work.model, work.update):
                if buffer is not None:
                    buffer.release()
            if self._works.get(task_id) is work:
                del self._works[task_id]

    async def _fetch(self, work: _Work) -> bool:
        """Get the parameters; returns whether they are there: the server may have closed the task meanwhile."""
        event = work.event
        if not event.blob:
            return True
        work.model = await self._pool.obtain(event.size)
        while True:
            work.asked.clear()
            try:
                into = work.model.view[: event.size]
                await self._transfer.fetch(self._job_id, event.blob, into=into, checksum=event.checksum)
            except Gone:
                if not work.asked.is_set():  # else a server that was killed has opened it again
                    return False
            else:
                return True

    async def _train(self, work: _Work) -> None:
        await self._has_process.wait()
        async with self._turn:
            if self._process is None:
                return
            self._training = work
            with contextlib.suppress(OSError):  # the trainer has ended; who receives finds out why and says so
                await self._process.send(work.task, work.model)
            await work.answered.wait()
        if work.model is not None:
            work.model.release()  # twice does no harm

    async def _deliver(self, work: _Work) -> None:
        if work.result is None:
            return
        view = memoryview(b"") if work.update is None else work.update.view[: work.result.size]
        while work.is_wanted:
            work.asked.clear()
            receipt = await self._transfer.send(self._job_id, work.result, view, task_checksum=work.event.checksum)
            if receipt is Receipt.TAKEN:
                self._taken = (work.task.task_id, work.event.checksum, self._transfer.connections)
                self.tally.answered(
                    work.task.name,
                    seconds=time.monotonic() - work.began,
                    bytes_in=work.event.size if work.event.blob else 0,
                    bytes_out=len(view),
                )
            if receipt is not Receipt.NOT_OPEN:
                return
            await work.asked.wait()
