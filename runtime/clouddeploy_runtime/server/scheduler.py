"""Starts submitted jobs when enough of their sites are connected, and finds the running ones."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.server.running import RunningJob

if TYPE_CHECKING:
    from clouddeploy_runtime.jobs import JobInfo
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.server.store import JobStore

log = logging.getLogger(__name__)

BUDGET_BYTES = 16 << 30
"""Bound of one job's shared memory; above it the job fails instead of the machine."""
_MAX_RUNNING = 4
"""Jobs at a time; guessed, a site's memory usually allows fewer."""


class Scheduler:
    """Owns the running jobs."""

    def __init__(self, store: JobStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._running: dict[str, tuple[RunningJob, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        registry.watch(self._on_session)

    def wake(self) -> None:
        """Look again: a job was submitted or a client joined."""
        self._wake.set()

    def find(self, job_id: str) -> RunningJob | None:
        """Return a job that runs now."""
        entry = self._running.get(job_id)
        return entry[0] if entry else None

    async def run(self) -> None:
        """Start what can be started, for ever."""
        while True:
            for info in self._store.all():
                if info.status is JobStatus.SUBMITTED and len(self._running) < _MAX_RUNNING:
                    self._try_start(info)
            await self._wake.wait()
            self._wake.clear()

    def _try_start(self, info: JobInfo) -> None:
        try:
            spec = self._store.spec(info.job_id)
        except InvalidJob as exc:
            self._store.move(info.job_id, JobStatus.ABNORMAL, reason=str(exc))
            return
        sites = tuple(s.name for s in self._registry.connected() if spec.app_for(s.name) is not None)
        if len(sites) < spec.min_clients:
            return
        self._store.update(info.job_id, sites=sites)
        self._store.move(info.job_id, JobStatus.RUNNING)
        log.info("Job %s starts at %s", info.job_id, ", ".join(sites), extra={"job": info.job_id})
        job = RunningJob(
            info.job_id, sites=sites, store=self._store, registry=self._registry, pool=BufferPool(BUDGET_BYTES)
        )
        task = asyncio.get_running_loop().create_task(job.run())
        self._running[info.job_id] = (job, task)
        task.add_done_callback(lambda _: self._ended(info.job_id))

    def _ended(self, job_id: str) -> None:
        _, task = self._running.pop(job_id)
        if not task.cancelled() and task.exception() is not None:
            log.error("Job %s ended by a defect", job_id, exc_info=task.exception())
        self.wake()

    async def abort(self, job_id: str, *, reason: str) -> None:
        """End a job, whether it runs or waits; a finished one stays as it is."""
        job = self.find(job_id)
        if job is not None:
            await job.abort(reason)
        elif self._store.get(job_id).status is JobStatus.SUBMITTED:
            self._store.move(job_id, JobStatus.ABORTED, reason=reason)

    async def stop(self) -> None:
        """End every job; the record says that the server was stopped."""
        entries = list(self._running.values())
        await asyncio.gather(*(job.abort("the server was stopped") for job, _ in entries))
        await asyncio.gather(*(task for _, task in entries), return_exceptions=True)

    def _on_session(self, session: Session, joined: bool) -> None:
        for job, _ in list(self._running.values()):
            if session.name in job.sites:
                if joined:
                    job.joined(session)
                else:
                    job.left(session.name)
        if joined:
            self.wake()
