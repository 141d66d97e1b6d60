"""One running job at a site: between the server's events and the trainer process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import msgspec

from clouddeploy_runtime import job_folders, jobs, temporary_folder
from clouddeploy_runtime.client.site_tasks import SiteTasks
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job.messages import Done, Result
from clouddeploy_runtime.launchers import JobLaunch, orphans
from clouddeploy_runtime.studies import named
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from clouddeploy_runtime.client.transfer import Transfer
    from clouddeploy_runtime.inspection.tallies import JobTally
    from clouddeploy_runtime.job.buffers import BufferPool
    from clouddeploy_runtime.launchers import Launcher, Running
    from clouddeploy_runtime.privacy import Scope

log = logging.getLogger(__name__)

_STOP_S = 5.0


@dataclass(frozen=True)
class Ending:
    """How a job ended at a site.

    Attributes:
        reason: empty: as it should. After the first line the end of the trainer's log.
        is_crash: it ended without a word, so another try may help.
    """

    reason: str = ""
    is_crash: bool = False


@dataclass(frozen=True)
class Place:
    """Where a site runs its jobs.

    Attributes:
        site: its name.
        folder: the job's own; its log stays there, and what the trainer wrote.
        data_dir: the site's data.
        hidden: the kit and the workspace, which are not the job's business.
        code: folders with code of the site's own.
        environment: what the job was lent, such as CUDA_VISIBLE_DEVICES.
    """

    site: str
    folder: Path
    data_dir: Path | None
    hidden: tuple[Path, ...] = ()
    code: tuple[Path, ...] = ()
    environment: Mapping[str, str] | None = None


class SiteJob:
    """Runs one job's trainer; `run` returns how it ended.

    Args:
        start: the server's wish.
        place: where it runs.
        launcher: starts the trainer.
        transfer: to the server and back.
        pool: shared memory for this job; closed at its end.
        check: called in a thread with the app's folder before anything of it runs; raises what speaks against it, and
            returns the site's privacy scope for it.
        report: sends an event to the server.
    """

    def __init__(
        self,
        start: pb.StartJob,
        *,
        place: Place,
        launcher: Launcher,
        transfer: Transfer,
        pool: BufferPool,
        check: Callable[[Path], Scope | None],
        report: Callable[[pb.ClientEvent], None],
    ) -> None:
        self.job_id = start.job_id
        self._start = start
        self._place = place
        self._launcher = launcher
        self._transfer = transfer
        self._pool = pool
        self._check = check
        self._scope: Scope | None = None
        self._report = report
        self._tasks = SiteTasks(
            start.job_id, site=place.site, transfer=transfer, pool=pool, report=report, gone=self._is_gone
        )
        self._process: Running | None = None
        self._fetching: asyncio.Task[bytes] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.app = start.app
        self._is_stopping = False

    def add(self, event: pb.RunTask) -> None:
        """Take a task; the server repeats those that it has no answer to."""
        self._tasks.add(event)

    async def run(self) -> Ending:
        """Fetch the job, start the trainer and relay tasks and results until it ends."""
        ending = Ending()
        try:
            if await self._launch():
                scope = "" if self._scope is None else self._scope.name
                self._report(pb.ClientEvent(job_deployed=pb.JobDeployed(job_id=self.job_id, scope=scope)))
                ending = await self._receive()
        except (RuntimeFault, OSError, msgspec.MsgspecError, RecursionError, grpc.RpcError) as exc:
            log.exception("Job %s failed at %s", self.job_id, self._place.site, extra={"job": self.job_id})
            ending = Ending(f"{self._place.site}: {exc}")
            if self._process is None:
                refusal = pb.JobDeployed(job_id=self.job_id, reason=ending.reason)
                self._report(pb.ClientEvent(job_deployed=refusal))
        finally:
            await self._close()
        return Ending() if self._is_stopping else ending

    async def _launch(self) -> bool:
        """Start the trainer; returns whether it runs, which it does not when it was told to stop meanwhile."""
        start, folder = self._start, self._place.folder
        fetching = self._transfer.fetch_bytes(self.job_id, start.blob, size=start.size, checksum=start.checksum)
        self._fetching = asyncio.create_task(fetching)
        await asyncio.wait({self._fetching})
        if self._is_stopping:
            return False
        await asyncio.to_thread(self._unpack, self._fetching.result())
        app = folder / "job" / start.app
        await asyncio.to_thread(temporary_folder.check, self._pool)
        self._scope = await asyncio.to_thread(self._check, app)  # reads every file
        if self._is_stopping:
            return False
        spec = await asyncio.to_thread(jobs.read_meta, folder / "job")
        job = JobLaunch(
            job_id=self.job_id,
            role="trainer",
            site=self._place.site,
            app_dir=app,
            run_dir=folder / "run",
            sites=tuple(start.sites),
            data_dir=self._place.data_dir,
            environment={**(self._place.environment or {}), **(self._scope.environment() if self._scope else {})},
            code=self._place.code,
            hidden=self._place.hidden,
            study=named(start.study),
            wishes=spec.wishes_of(self._place.site),
            need=spec.need_of(self._place.site),
        )
        job.run_dir.mkdir(parents=True, exist_ok=True)
        self._process = await self._launcher.launch(job, self._pool)
        if self._is_stopping:
            await self._process.stop("the job was stopped", grace_s=_STOP_S)
        self._tasks.begin(self._process)
        return True

    def _unpack(self, archive: bytes) -> None:
        folder = self._place.folder / "job"
        job_folders.remove(folder)  # of a trainer before this one
        if os.path.lexists(folder):  # a link in it could lead what is unpacked elsewhere
            raise OSError(f"what an earlier start has left in {folder} cannot be removed")
        jobs.unpack(archive, folder)

    async def _receive(self) -> Ending:
        if self._process is None:
            return Ending()
        done: Done | None = None
        while (received := await self._process.receive()) is not None:
            message, buffer = received
            if isinstance(message, Result):
                self._tasks.answered(message, buffer)
            elif isinstance(message, Done) and done is None:
                done = message
                # A thread of the script's own might keep the process from ending.
                self._spawn(self._process.stop("", grace_s=_STOP_S))
            else:
                self._process.complain("it said that it was done over and over")
        code = await self._process.wait()
        await self._tasks.delivered()
        if done is not None and done.reason:
            return self._failed(done.reason if done.reason.startswith(self._place.site) else self._named(done.reason))
        if done is not None or code == 0:
            return Ending()
        return self._failed(self._process.ending(), is_crash=True)

    def _named(self, reason: str) -> str:
        return f"{self._place.site}: {reason}"

    def _failed(self, reason: str, *, is_crash: bool = False) -> Ending:
        first = reason.replace("\n", " ")
        tail = "" if self._process is None else self._process.printed()
        return Ending(f"{first}\n{tail}" if tail else first, is_crash=is_crash)

    def _is_gone(self) -> None:
        log.warning(
            "The server does not run job %s any more; its trainer is stopped", self.job_id, extra={"job": self.job_id}
        )
        self._spawn(self.stop("the server does not run this job any more"))

    @property
    def tally(self) -> JobTally:
        """What it has done."""
        return self._tasks.tally

    @property
    def status(self) -> str:
        """What it does, in the words of `check_status`."""
        if self._is_stopping:
            return "stopping"
        return "starting" if self._process is None else "running"

    async def stop(self, reason: str) -> None:
        """End the trainer: ask, then insist. What it has not delivered is lost."""
        self._is_stopping = True
        self._tasks.cancel()
        if self._fetching is not None:
            self._fetching.cancel()
        if self._process is not None:
            await self._process.stop(reason, grace_s=_STOP_S)

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as steps:  # each is done whatever became of those before: the last first
            # The job comes with each start; what the trainer wrote, and its log, is the site's.
            steps.push_async_callback(asyncio.to_thread, job_folders.remove, self._place.folder / "job")
            steps.callback(self._pool.close)
            steps.push_async_callback(self._tasks.closed)
            if self._process is not None:
                steps.push_async_callback(self._process.wait)
                self._process.kill()
            self._tasks.cancel()
            if self._fetching is not None:
                self._fetching.cancel()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def sweep(folder: Path) -> None:
    """End what a client that was killed has left running, and remove its job folders; logs and results stay."""
    orphans.end_below(folder.resolve())
    for left in folder.glob("*/job"):
        job_folders.remove(left)
