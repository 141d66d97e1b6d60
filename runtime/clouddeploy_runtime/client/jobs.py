"""One running job at a site: between the server's events and the trainer process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import grpc
import msgspec

from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job.messages import Done, Result, Task
from clouddeploy_runtime.launchers.process import JobLaunch, JobProcess, launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clouddeploy_runtime.client.transfer import Transfer
    from clouddeploy_runtime.job.buffers import Buffer, BufferPool
    from clouddeploy_runtime.wire import federation_pb2 as pb

log = logging.getLogger(__name__)

_STOP_S = 5.0


class SiteJob:
    """Runs one job's trainer; `run` returns the reason when it ended badly, else an empty text."""

    def __init__(
        self,
        start: pb.StartJob,
        *,
        site: str,
        folder: Path,
        data_dir: Path | None,
        transfer: Transfer,
        pool: BufferPool,
        report_task: Callable[[str, str, str], None],
    ) -> None:
        self.job_id = start.job_id
        self._start = start
        self._site = site
        self._folder = folder
        self._data_dir = data_dir
        self._transfer = transfer
        self._pool = pool
        self._report_task = report_task
        self._tasks: asyncio.Queue[pb.RunTask | None] = asyncio.Queue()
        self._seen: set[str] = set()
        self._lent: dict[str, Buffer] = {}
        self._process: JobProcess | None = None
        self._is_stopping = False

    def add(self, event: pb.RunTask) -> None:
        """Queue a task; the server repeats those that it has no answer to after a reconnect."""
        task = msgspec.msgpack.decode(event.task, type=Task)
        if task.task_id not in self._seen:
            self._seen.add(task.task_id)
            self._tasks.put_nowait(event)

    async def run(self) -> str:
        """Fetch the job, start the trainer and relay tasks and results until it ends."""
        relay: asyncio.Task[None] | None = None
        reason = ""
        try:
            await self._launch()
            relay = asyncio.create_task(self._relay_tasks())
            reason = await self._receive()
        except (RuntimeFault, OSError, msgspec.MsgspecError, grpc.RpcError) as exc:
            log.exception("Job %s failed at %s", self.job_id, self._site, extra={"job": self.job_id})
            reason = f"{self._site}: {exc}"
        finally:
            if relay is not None:
                relay.cancel()
                await asyncio.gather(relay, return_exceptions=True)
            if self._process is not None:
                self._process.kill()
                await self._process.wait()
            for buffer in self._lent.values():
                buffer.release()
            self._pool.close()
        return "" if self._is_stopping else reason

    async def _launch(self) -> None:
        archive = await self._transfer.fetch_bytes(
            self.job_id, self._start.blob, size=self._start.size, sha256=self._start.sha256
        )
        await asyncio.to_thread(jobs.unpack, archive, self._folder / "job")
        run_dir = self._folder / "run"
        run_dir.mkdir(parents=True, exist_ok=True)
        if self._is_stopping:
            return
        self._process = await launch(
            JobLaunch(
                job_id=self.job_id,
                role="trainer",
                site=self._site,
                app_dir=self._folder / "job" / self._start.app,
                run_dir=run_dir,
                sites=tuple(self._start.sites),
                data_dir=self._data_dir,
            ),
            self._pool,
        )

    async def _relay_tasks(self) -> None:
        while (event := await self._tasks.get()) is not None:
            task = msgspec.msgpack.decode(event.task, type=Task)
            try:
                await self._relay(task, event)
            except (RuntimeFault, OSError, grpc.RpcError) as exc:
                log.warning("Task %s of job %s failed: %s", task.task_id, self.job_id, exc)
                self._report_task(self.job_id, task.task_id, f"{self._site}: {exc}")

    async def _relay(self, task: Task, event: pb.RunTask) -> None:
        if self._process is None:
            return
        buffer: Buffer | None = None
        if event.blob:
            buffer = self._pool.acquire(event.size)
            self._lent[task.task_id] = buffer
            await self._transfer.fetch(self.job_id, event.blob, into=buffer.view[: event.size], sha256=event.sha256)
        with contextlib.suppress(OSError):  # the trainer has ended; `_receive` finds out why and says so
            await self._process.send(task, buffer)

    async def _receive(self) -> str:
        if self._process is None:
            return ""
        done: Done | None = None
        while (received := await self._process.receive()) is not None:
            message, buffer = received
            if isinstance(message, Result):
                await self._answer(message, buffer)
            elif isinstance(message, Done):
                done = message
        code = await self._process.wait()
        if code == 0 and (done is None or not done.reason):
            return ""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{self._site}: {done.reason if done and done.reason else f'the trainer {how}'}"

    async def _answer(self, result: Result, buffer: Buffer | None) -> None:
        lent = self._lent.pop(result.task_id, None)
        if lent is not None:
            lent.release()
        try:
            await self._transfer.send(self.job_id, result, buffer.view[: result.size] if buffer else memoryview(b""))
        finally:
            if buffer is not None:
                buffer.release()

    async def stop(self, reason: str) -> None:
        """End the trainer: ask, then insist."""
        self._is_stopping = True
        if self._process is not None:
            await self._process.stop(reason, grace_s=_STOP_S)
