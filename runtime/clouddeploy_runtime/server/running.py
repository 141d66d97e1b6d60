"""One running job on the server: between its controller process and the sites' streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job.messages import Done, Progress, Result, SiteFailed, Task
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.launchers.process import JobLaunch, JobProcess, launch
from clouddeploy_runtime.wire import blobs
from clouddeploy_runtime.wire.federation_pb2 import AbortJob, RunTask, ServerEvent, StartJob

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from clouddeploy_runtime.job.buffers import Buffer, BufferPool
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.server.store import JobStore

log = logging.getLogger(__name__)

REJOIN_S = 20.0
"""How long a site may be unreachable before its open tasks count as failed: a restart of its network, not of it."""
_STOP_S = 10.0


@dataclass(eq=False)
class _OpenTask:
    task: Task
    buffer: Buffer | None
    sha256: str
    pending: set[str]
    receiving: set[str] = field(default_factory=set)


class RunningJob:
    """Relays one job; `run` returns when its controller has ended, whatever the cause."""

    def __init__(
        self, job_id: str, *, sites: tuple[str, ...], store: JobStore, registry: Registry, pool: BufferPool
    ) -> None:
        self.job_id = job_id
        self.sites = sites
        self._store = store
        self._registry = registry
        self._pool = pool
        self._spec = store.spec(job_id)
        self._process: JobProcess | None = None
        self._tasks: dict[str, _OpenTask] = {}
        self._failed: dict[str, str] = {}
        self._started: set[str] = set()
        self._abort_reason: str | None = None
        self._done: Done | None = None
        self._archives: dict[str, bytes] = {}
        self._absent: dict[str, asyncio.TimerHandle] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run the job to its end and record how it ended."""
        try:
            await self._run()
            status, reason = await self._verdict()
        except (RuntimeFault, OSError, ValueError, msgspec.MsgspecError) as exc:
            log.exception("Job %s failed at the server", self.job_id, extra={"job": self.job_id})
            status, reason = JobStatus.EXECUTION_EXCEPTION, f"server: {exc}"
        finally:
            self._close()
        if self._done is not None:
            metrics = {**self._store.get(self.job_id).metrics, **self._done.metrics}
            self._store.update(self.job_id, metrics=metrics)
        self._store.move(self.job_id, status, reason=reason)
        log.info("Job %s ended: %s %s", self.job_id, status, reason, extra={"job": self.job_id})

    async def _run(self) -> None:
        for site in self.sites:
            app = self._spec.app_for(site) or ""
            if app not in self._archives:
                folder = self._store.job_folder(self.job_id)
                self._archives[app] = await asyncio.to_thread(jobs.pack, folder, apps={app})
        run_dir = self._store.run_folder(self.job_id)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._process = await launch(
            JobLaunch(
                job_id=self.job_id,
                role="controller",
                site=jobs.SERVER,
                app_dir=self._store.job_folder(self.job_id) / (self._spec.app_for(jobs.SERVER) or ""),
                run_dir=run_dir,
                sites=self.sites,
                data_dir=None,
            ),
            self._pool,
        )
        for site in self.sites:
            self._start_at(site)
        while (received := await self._process.receive()) is not None:
            message, buffer = received
            if isinstance(message, Task):
                await self._distribute(message, buffer)
            elif isinstance(message, Progress):
                metrics = {**self._store.get(self.job_id).metrics, **message.metrics}
                self._store.update(
                    self.job_id, rounds=message.round, total_rounds=message.total_rounds, metrics=metrics
                )
            elif isinstance(message, Done):
                self._done = message

    async def _verdict(self) -> tuple[JobStatus, str]:
        if self._process is None:
            return JobStatus.ABNORMAL, "server: the job process never started"
        code = await self._process.wait()
        if self._abort_reason is not None:
            return JobStatus.ABORTED, self._abort_reason
        if self._done is None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return JobStatus.EXECUTION_EXCEPTION, f"server: the job process {how}"
        if self._done.status.upper().endswith("COMPLETED") or self._done.status.lower() == "ok":
            return JobStatus.COMPLETED, ""
        return JobStatus.EXECUTION_EXCEPTION, self._done.reason or self._done.status

    def _start_at(self, site: str) -> None:
        session = self._registry.find(site)
        if session is None:
            return  # `joined` starts it
        app = self._spec.app_for(site) or ""
        archive = self._archives[app]
        info = self._store.get(self.job_id)
        event = StartJob(
            job_id=self.job_id,
            app=app,
            sites=self.sites,
            blob=f"job:{app}",
            size=len(archive),
            sha256=blobs.digest(archive),
            submitter=info.submitter,
            submitter_org=info.submitter_org,
            submitter_role=info.submitter_role,
        )
        session.outbox.put_nowait(ServerEvent(start_job=event))
        session.jobs.add(self.job_id)
        self._started.add(site)

    async def _distribute(self, task: Task, buffer: Buffer | None) -> None:
        sha256 = "" if buffer is None else await asyncio.to_thread(blobs.digest, buffer.view[: task.size])
        targets = [site for site in (task.targets or self.sites) if site in self.sites]
        self._tasks[task.task_id] = _OpenTask(task=task, buffer=buffer, sha256=sha256, pending=set(targets))
        for site in targets:
            if site in self._failed:
                await self._fail_task(task.task_id, site, self._failed[site])
            else:
                self._send_task(task.task_id, site)

    def _send_task(self, task_id: str, site: str) -> None:
        session = self._registry.find(site)
        if session is None:
            return  # sent again when the site joins; `left` bounds the wait
        open_task = self._tasks[task_id]
        event = RunTask(
            job_id=self.job_id,
            task=msgspec.msgpack.encode(open_task.task),
            blob="" if open_task.buffer is None else f"task:{task_id}",
            size=open_task.task.size,
            sha256=open_task.sha256,
        )
        session.outbox.put_nowait(ServerEvent(run_task=event))

    def blob(self, name: str) -> memoryview | bytes | None:
        """Return what a site of this job may download under a name."""
        kind, _, rest = name.partition(":")
        if kind == "job":
            return self._archives.get(rest)
        open_task = self._tasks.get(rest) if kind == "task" else None
        if open_task is None or open_task.buffer is None:
            return None
        return open_task.buffer.view[: open_task.task.size]

    async def accept(self, site: str, result: Result, stream: AsyncIterable[bytes], *, sha256: str) -> None:
        """Take a site's result straight into shared memory and hand it to the controller, exactly once.

        Raises:
            BlobCorrupt: what came is not what was announced; the site sends it again.
        """
        open_task = self._tasks.get(result.task_id)
        if open_task is None or self._process is None or site not in open_task.pending - open_task.receiving:
            return  # a repetition of what was taken already, or a task that nobody waits for any more
        open_task.receiving.add(site)
        buffer = self._pool.acquire(result.size) if result.size else None
        try:
            if buffer is not None:
                view = buffer.view[: result.size]
                received = await blobs.receive(stream, view)
                await asyncio.to_thread(blobs.check, view, received=received, sha256=sha256)
            message = Result(
                task_id=result.task_id,
                site=site,  # from the certificate, whatever the message claims
                name=result.name,
                round=result.round,
                meta=result.meta,
                size=result.size,
            )
            if site not in open_task.pending:  # given up while it came; the controller has counted it as failed
                if buffer is not None:
                    buffer.release()
                return
            open_task.pending.discard(site)  # from here on a repetition is not taken
            with contextlib.suppress(OSError):  # the controller has ended; `run` finds out why
                await self._process.send(message, buffer)
        except BaseException:
            if buffer is not None:
                buffer.release()
            raise
        finally:
            open_task.receiving.discard(site)
        self._close_task(result.task_id)

    def _close_task(self, task_id: str) -> None:
        open_task = self._tasks.get(task_id)
        if open_task is None or open_task.pending:
            return
        del self._tasks[task_id]
        if open_task.buffer is not None:
            open_task.buffer.release()

    async def _fail_task(self, task_id: str, site: str, reason: str) -> None:
        open_task = self._tasks.get(task_id)
        if open_task is None or site not in open_task.pending or self._process is None:
            return
        open_task.pending.discard(site)
        with contextlib.suppress(OSError):  # the controller has ended; `run` finds out why
            await self._process.send(SiteFailed(task_id=task_id, site=site, reason=reason))
        self._close_task(task_id)

    async def task_failed(self, site: str, task_id: str, reason: str) -> None:
        """Note that a site could not do one task."""
        await self._fail_task(task_id, site, reason)

    async def site_ended(self, site: str, reason: str) -> None:
        """Note that a site's trainer ended; open and later tasks of the site fail with the reason."""
        if site in self._failed:
            return
        self._failed[site] = reason or f"{site}: the trainer has ended"
        if reason:
            log.warning("Job %s: %s", self.job_id, reason, extra={"job": self.job_id, "site": site})
        for task_id in list(self._tasks):
            await self._fail_task(task_id, site, self._failed[site])

    def joined(self, session: Session) -> None:
        """Bring a site that connected up to date: start it, or send again what it has not answered."""
        site = session.name
        timer = self._absent.pop(site, None)
        if timer is not None:
            timer.cancel()
        if site not in self._started:
            self._start_at(site)
        elif self.job_id not in session.jobs:
            self._spawn_ended(site, f"{site}: the client was restarted and its trainer is gone")
            return
        for task_id, open_task in self._tasks.items():
            if site in open_task.pending:
                self._send_task(task_id, site)

    def left(self, site: str) -> None:
        """Give a site that lost its connection time to come back."""
        loop = asyncio.get_running_loop()
        self._absent[site] = loop.call_later(
            REJOIN_S, self._spawn_ended, site, f"{site}: no connection for {REJOIN_S:.0f} s"
        )

    def _spawn_ended(self, site: str, reason: str) -> None:
        task = asyncio.get_running_loop().create_task(self.site_ended(site, reason))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def abort(self, reason: str) -> None:
        """End the job: ask the controller, then insist."""
        self._abort_reason = self._abort_reason or reason
        if self._process is not None:
            await self._process.stop(reason, grace_s=_STOP_S)

    def _close(self) -> None:
        reason = self._abort_reason or ""
        for site in self.sites:
            session = self._registry.find(site)
            if session is not None:
                session.jobs.discard(self.job_id)
                session.outbox.put_nowait(ServerEvent(abort_job=AbortJob(job_id=self.job_id, reason=reason)))
        for timer in self._absent.values():
            timer.cancel()
        for open_task in self._tasks.values():
            if open_task.buffer is not None:
                open_task.buffer.release()
        self._tasks.clear()
        self._archives.clear()
        self._pool.close()
