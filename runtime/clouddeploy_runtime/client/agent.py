"""The long-lived agent of a site: runs what the server asks for, as far as the site's policy allows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import authorization, lifecycle, tls
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.audit import AuditLog
from clouddeploy_runtime.client.connection import Connection
from clouddeploy_runtime.client.jobs import SiteJob
from clouddeploy_runtime.client.transfer import Transfer
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.lifecycle import StopSignal
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from clouddeploy_runtime.kit import Kit

log = logging.getLogger(__name__)

DATA_VARIABLE = "CLOUDDEPLOY_DATA_DIR"
"""Where the site's own data is; default `<workspace>/data` when that exists."""
BUDGET_BYTES = 8 << 30


class ClientAgent:
    """One site.

    Args:
        kit: a loaded, verified client kit.
        workspace: an existing folder for jobs, logs and `status.json`.
    """

    def __init__(self, kit: Kit, workspace: Path) -> None:
        self._kit = kit
        self._workspace = workspace
        self._audit = AuditLog(workspace / "audit.jsonl")
        self._transfer = Transfer()
        self._jobs: dict[str, tuple[SiteJob, asyncio.Task[None]]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._connection = Connection(
            kit, workspace, transfer=self._transfer, active_jobs=lambda: self._jobs, handle=self._handle
        )

    async def run(self) -> None:
        """Stay connected until cancelled."""
        await self._connection.run()

    def _handle(self, event: pb.ServerEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "start_job":
            self._start(event.start_job)
        elif kind == "run_task":
            entry = self._jobs.get(event.run_task.job_id)
            if entry is not None:
                entry[0].add(event.run_task)
        elif kind == "abort_job":
            entry = self._jobs.get(event.abort_job.job_id)
            if entry is not None:
                self._spawn(entry[0].stop(event.abort_job.reason))
        elif kind == "revocations":
            self._connection.adopt(event.revocations.crl)

    def _start(self, start: pb.StartJob) -> None:
        if start.job_id in self._jobs:
            return
        if not self._permits(start):
            self._job_ended(start.job_id, f"{self._kit.name}: this site's policy refuses jobs of {start.submitter}")
            return
        job = SiteJob(
            start,
            site=self._kit.name,
            folder=self._workspace / "jobs" / Path(start.job_id).name,
            data_dir=self._data_dir(),
            transfer=self._transfer,
            pool=BufferPool(BUDGET_BYTES),
            report_task=self._task_failed,
        )
        self._jobs[start.job_id] = (job, asyncio.create_task(self._run_job(job)))

    def _permits(self, start: pb.StartJob) -> bool:
        """A site decides for itself, whatever the server decided."""
        submitter = tls.Peer(name=start.submitter, org=start.submitter_org, role=start.submitter_role)
        policy = authorization.load(self._kit.local)
        allowed = policy.permits(
            authorization.Request(
                user=submitter,
                right="submit_job",
                site_org=self._kit.org,
                submitter_name=submitter.name,
                submitter_org=submitter.org,
            )
        )
        self._audit.record(
            user=submitter.name,
            role=submitter.role,
            action=f"submit_job {start.job_id}",
            address=self._kit.host,
            allowed=allowed,
            detail=policy.problem,
        )
        return allowed

    def _data_dir(self) -> Path | None:
        folder = Path(os.environ.get(DATA_VARIABLE) or self._workspace / "data")
        return folder if folder.is_dir() else None

    async def _run_job(self, job: SiteJob) -> None:
        log.info("Job %s starts", job.job_id, extra={"job": job.job_id, "site": self._kit.name})
        reason = f"{self._kit.name}: the client stopped"
        try:
            reason = await job.run()
        finally:
            self._jobs.pop(job.job_id, None)
            self._job_ended(job.job_id, reason)
        log.info("Job %s ended: %s", job.job_id, reason or "as it should", extra={"job": job.job_id})

    def _job_ended(self, job_id: str, reason: str) -> None:
        self._connection.send(pb.ClientEvent(job_ended=pb.JobEnded(job_id=job_id, reason=reason)))

    def _task_failed(self, job_id: str, task_id: str, reason: str) -> None:
        event = pb.TaskFailed(job_id=job_id, task_id=task_id, reason=reason)
        self._connection.send(pb.ClientEvent(task_failed=event))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """End the running jobs and record that the site stopped."""
        entries = list(self._jobs.values())
        await asyncio.gather(*(job.stop("the client stops") for job, _ in entries))
        await asyncio.gather(*(task for _, task in entries), return_exceptions=True)
        self._connection.stopped()


async def serve(kit: Kit, workspace: Path) -> None:
    """Run a site's agent until it is told to stop.

    Raises:
        KitTampered: the kit is not as it was signed.
        KitRevoked: its certificate was revoked or replaced.
    """
    kits.verify(kit.root)
    memory.check(kit, workspace)
    agent = ClientAgent(kit, workspace)
    running = asyncio.create_task(agent.run())
    try:
        await lifecycle.until(StopSignal(workspace), running)
    finally:
        log.info("The client stops")
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(running, return_exceptions=True)
        await agent.close()
