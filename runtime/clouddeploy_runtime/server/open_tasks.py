"""The tasks of one job that sites have yet to answer: sent, taken back in once per site, and bounded in time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime.job.messages import MessageTooLarge, Receipt, Result, SiteFailed, Task
from clouddeploy_runtime.server.tally import Cause
from clouddeploy_runtime.server.uploads import Uploads
from clouddeploy_runtime.wire import blobs
from clouddeploy_runtime.wire.federation_pb2 import RunTask, ServerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine

    from clouddeploy_runtime.job.buffers import Buffer, BufferPool
    from clouddeploy_runtime.job.messages import Delivery, Message
    from clouddeploy_runtime.server.rounds import Rounds

log = logging.getLogger(__name__)

LEAST_BYTES, FACTOR = 64 << 20, 4
"""An answer may be so many bytes, or so many times as large as what was asked."""


@dataclass(eq=False)
class _OpenTask:
    task: Task
    buffer: Buffer | None
    checksum: str
    targets: frozenset[str]
    pending: set[str]
    deadlines: dict[str, asyncio.TimerHandle] = field(default_factory=dict)


class OpenTasks:
    """Keeps what was asked of whom.

    A controller asks one thing at a time: its next task ends the ones before, whoever still owes an answer.

    Args:
        job_id: the job's.
        pool: where updates go; the controller maps its buffers.
        task_s: how long a site may take for one task; 0: as long as it wants.
        push: sends an event to a site, when it is connected.
        tell: sends a message to the controller; it has a buffer of its own accord until it releases it.
        overdue: called with site and reason when a task took too long; the task has not failed yet.
        rounds: is told who answered and who failed.
    """

    def __init__(
        self,
        job_id: str,
        *,
        pool: BufferPool,
        task_s: float,
        push: Callable[[str, ServerEvent], None],
        tell: Callable[[Message, Buffer | None], Awaitable[None]],
        overdue: Callable[[str, str], None],
        rounds: Rounds | None = None,
    ) -> None:
        self._job_id = job_id
        self._pool = pool
        self._task_s = task_s
        self._push = push
        self._tell = tell
        self._overdue = overdue
        self._rounds = rounds
        self._open: dict[str, _OpenTask] = {}
        self._closed: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._uploads = Uploads(job_id, pool)

    async def open(self, task: Task, buffer: Buffer | None, *, sites: tuple[str, ...]) -> None:
        """Take the controller's next task; `send` brings it to the sites.

        Args:
            task: names the sites; none: all.
            buffer: its parameters; given back when the task is closed.
            sites: of the job.
        """
        for task_id in list(self._open):
            self._close(task_id)
        checksum = "" if buffer is None else await asyncio.to_thread(blobs.checksum, buffer.view[: task.size])
        targets = frozenset(task.targets or sites) & set(sites)
        self._closed.discard(task.task_id)
        self._open[task.task_id] = _OpenTask(task, buffer, checksum, targets, set(targets))

    def send(self, site: str) -> None:
        """Send a site what it has not answered; it does nothing twice."""
        for open_task in self._open.values():
            if site not in open_task.pending:
                continue
            task = open_task.task
            event = RunTask(
                job_id=self._job_id,
                task=msgspec.msgpack.encode(task),
                blob="" if open_task.buffer is None else f"task:{task.task_id}",
                size=task.size,
                checksum=open_task.checksum,
            )
            self._push(site, ServerEvent(run_task=event))
            if self._task_s and site not in open_task.deadlines:
                why = f"{site}: task {task.name!r} of round {task.round} took longer than {self._task_s:g} s"
                loop = asyncio.get_running_loop()
                open_task.deadlines[site] = loop.call_later(self._task_s, self._overdue, site, why)

    def restart_clock(self, site: str) -> None:
        """Give a site its whole time again: its trainer begins anew."""
        for open_task in self._open.values():
            timer = open_task.deadlines.pop(site, None)
            if timer is not None:
                timer.cancel()

    @property
    def owed(self) -> int:
        """How many answers are to come."""
        return sum(len(open_task.pending) for open_task in self._open.values())

    @property
    def held_bytes(self) -> int:
        """Memory of the parameters that sites can download, which is the controller's, and of the updates."""
        asked = sum(one.buffer.capacity for one in self._open.values() if one.buffer is not None)
        return asked + self._pool.in_use

    def is_owed_by(self, site: str) -> bool:
        """Tell whether a site has yet to answer something."""
        return any(site in open_task.pending for open_task in self._open.values())

    def blob(self, site: str, task_id: str) -> memoryview | None:
        """Return the parameters of a task for a site that it was meant for."""
        open_task = self._open.get(task_id)
        if open_task is None or open_task.buffer is None or site not in open_task.targets:
            return None
        return open_task.buffer.view[: open_task.task.size]

    async def fail(
        self, site: str, reason: str, *, task_id: str | None = None, task_checksum: str = "", cause: Cause = Cause.SAID
    ) -> None:
        """Tell the controller that a site will not answer one task, or none of those that are open.

        Args:
            site: where.
            reason: why.
            task_id: the task's; None: all.
            task_checksum: of the parameters that the site had; a task with others has not failed. Empty: any.
            cause: what kind of reason it is.
        """
        for open_task in [one for key, one in self._open.items() if task_id is None or key == task_id]:
            if site in open_task.pending and task_checksum in {"", open_task.checksum}:
                self._settle(open_task, site)
                self._failed(site, reason, cause)
                self._uploads.drop(open_task.task.task_id, site)
                await self._tell(SiteFailed(task_id=open_task.task.task_id, site=site, reason=reason), None)

    async def received(self, site: str, delivery: Delivery) -> int:
        """Return how many bytes of an answer are here already, of a call that was cut."""
        return await self._uploads.position(site, delivery) if delivery.result.task_id in self._open else 0

    async def accept(self, site: str, delivery: Delivery, stream: AsyncIterable[bytes]) -> Receipt:
        """Take a site's result straight into shared memory and hand it to the controller, exactly once.

        Raises:
            BlobCorrupt: what came is not what was announced; the site sends it again.
            Superseded: the site has begun to send it again meanwhile.
        """
        result = delivery.result
        open_task = self._open.get(result.task_id)
        if open_task is None:
            return Receipt.TAKEN if result.task_id in self._closed else Receipt.NOT_OPEN
        if delivery.task_checksum != open_task.checksum:
            return Receipt.STALE
        if site not in open_task.pending:
            return Receipt.TAKEN
        most = max(LEAST_BYTES, FACTOR * open_task.task.size)
        if not 0 <= result.size <= most:
            reason = f"{site}: its answer is of {result.size} bytes, and may be of {most}"
            await self.fail(site, reason, task_id=result.task_id, cause=Cause.ANSWER)
            return Receipt.TAKEN
        buffer = await self._uploads.receive(site, delivery, stream)
        if site not in open_task.pending or self._open.get(result.task_id) is not open_task:
            if buffer is not None:  # given up while it came; the controller has counted it as failed
                buffer.release()
            return Receipt.TAKEN
        self._settle(open_task, site)  # from here on a repetition is not taken
        # A task of its own: the site may hang up now, and would not have its answer counted.
        await asyncio.shield(self._spawn(self._hand_over(site, result, buffer)))
        return Receipt.TAKEN

    async def _hand_over(self, site: str, result: Result, buffer: Buffer | None) -> None:
        message = Result(
            task_id=result.task_id,
            site=site,  # from the certificate, whatever the message claims
            name=result.name,
            round=result.round,
            meta=result.meta,
            size=result.size,
        )
        if self._rounds is not None:
            self._rounds.answered(site)
        try:
            await self._tell(message, buffer)
        except MessageTooLarge as exc:
            if buffer is not None:
                buffer.release()
            self._failed(site, f"{site}: {exc}", Cause.ANSWER)
            await self._tell(SiteFailed(task_id=result.task_id, site=site, reason=f"{site}: {exc}"), None)

    def _failed(self, site: str, reason: str, cause: Cause) -> None:
        if self._rounds is not None:
            self._rounds.failed(site, reason, cause)

    def _settle(self, open_task: _OpenTask, site: str) -> None:
        open_task.pending.discard(site)
        timer = open_task.deadlines.pop(site, None)
        if timer is not None:
            timer.cancel()
        if not open_task.pending:
            self._close(open_task.task.task_id)

    def _close(self, task_id: str) -> None:
        open_task = self._open.pop(task_id, None)
        if open_task is None:
            return
        self._closed.add(task_id)
        for timer in open_task.deadlines.values():
            timer.cancel()
        self._uploads.drop(task_id)
        if open_task.buffer is not None:
            open_task.buffer.release()

    def close(self) -> None:
        """Forget everything: the job has ended."""
        for task_id in list(self._open):
            self._close(task_id)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
