"""One running job on the server: between its controller process and the sites that take part."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from clouddeploy_runtime import jobs, launchers, temporary_folder
from clouddeploy_runtime.errors import ClouddeployError
from clouddeploy_runtime.job import checkpoint
from clouddeploy_runtime.job.messages import Done, Progress, Task
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.launchers import JobLaunch
from clouddeploy_runtime.server.handout import Handout
from clouddeploy_runtime.server.open_tasks import OpenTasks
from clouddeploy_runtime.server.participants import Participants
from clouddeploy_runtime.server.progress import ProgressRecord
from clouddeploy_runtime.server.rounds import Rounds
from clouddeploy_runtime.server.tally import Cause
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.studies import named
from clouddeploy_runtime.wire.federation_pb2 import AbortJob, ServerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Coroutine, Mapping
    from pathlib import Path
    from typing import Any

    from clouddeploy_runtime.job.buffers import Buffer, BufferPool
    from clouddeploy_runtime.job.messages import Delivery, Message, Receipt
    from clouddeploy_runtime.launchers import Launcher, Running
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.server.store import JobStore

log = logging.getLogger(__name__)

_STOP_S = 10.0
"""How long a controller may take to end when it is told to, and after its last word."""
_RECORD_S = 2.0
"""Pause before the end of a job is recorded once more: the disk was full."""


class RunningJob:
    """Relays one job; `run` returns when its controller has ended, whatever the cause, and that is recorded.

    Args:
        job_id: a job of the store, DISPATCHED or RUNNING.
        sites: that take part.
        reservations: what the sites hold for it, by site.
        store: gets the job's progress and end.
        registry: the connected sites.
        pool: shared memory for this job; closed at its end.
        is_resumed: the server was stopped while it ran; the controller goes on from its checkpoint, and trainers that
            still run at their sites are kept.
        launcher: starts the controller; None: as a process of this machine.
        hidden: folders that the controller must not see.
    """

    def __init__(
        self,
        job_id: str,
        *,
        sites: tuple[str, ...],
        store: JobStore,
        registry: Registry,
        pool: BufferPool,
        reservations: Mapping[str, str] | None = None,
        is_resumed: bool = False,
        launcher: Launcher | None = None,
        hidden: tuple[Path, ...] = (),
    ) -> None:
        self.job_id = job_id
        self.sites = sites
        self._reservations = reservations or {}
        self._store = store
        self._registry = registry
        self._pool = pool
        self._launcher = launcher or launchers.of(Settings())
        self._hidden = hidden
        self._spec = store.spec(job_id)
        self._process: Running | None = None
        self.rounds = Rounds(store.root / job_id, registry.tally)
        self._tasks = OpenTasks(
            job_id,
            pool=pool,
            task_s=self._spec.task_s,
            push=self._push,
            tell=self._tell,
            overdue=lambda site, reason: self._spawn(self._stop_at(site, reason)),
            rounds=self.rounds,
        )
        self._participants = Participants(
            sites,
            min_clients=self._spec.min_clients,
            mandatory=self._spec.mandatory_clients,
            is_deploying=not (is_resumed and store.get(job_id).status is JobStatus.RUNNING),
        )
        self._handout = Handout(job_id, sites=sites, spec=self._spec, store=store)
        self.is_packed = False
        """Whether its sites can have what they run; no more once it ends."""
        self._progress = ProgressRecord(self._note, store.get(job_id).metrics)
        self._abort_reason: str | None = None
        self._abort_command = b""
        self._end_reason: str | None = None
        """Set when it has ended and the sites were told."""
        self._done: Done | None = None
        self._absent: dict[str, asyncio.TimerHandle] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run the job to its end and record how it ended; cancelled, it stays as it is and can be resumed."""
        try:
            await self._run()
            status, reason = await self._verdict()
        except Exception as exc:  # the job's edge: whatever it is ends this job, with a reason, and no other
            log.exception("Job %s failed at the server", self.job_id, extra={"job": self.job_id})
            what = str(exc) if isinstance(exc, ClouddeployError) else f"{type(exc).__name__}: {exc}"
            status, reason = JobStatus.EXECUTION_EXCEPTION, f"server: {what}"
            if isinstance(exc, temporary_folder.TemporaryFolderRefused) and self._is_dispatched:
                status = JobStatus.FAILED_TO_RUN
            if self._abort_reason is not None:
                status, reason = JobStatus.ABORTED, self._abort_reason
        except asyncio.CancelledError:
            log.info("Job %s is let go; it can be resumed", self.job_id, extra={"job": self.job_id})
            await self._close()
            raise
        self._end_at_sites(reason)
        await self._close()
        self.rounds.publish(self._store.run_folder(self.job_id))
        await self._record(status, reason)
        log.info("Job %s ended: %s %s", self.job_id, status, reason, extra={"job": self.job_id})

    async def _run(self) -> None:
        await asyncio.to_thread(temporary_folder.check, self._pool)
        await self._handout.pack()
        if self._abort_reason is not None:
            return
        self.is_packed = True
        for site in self.sites:
            session = self._registry.find(site)
            if session is None:
                self.left(site)
            else:
                self.joined(session)
        self._deadline = asyncio.get_running_loop().call_later(self._deploy_s(), self._deploy_is_over)
        try:
            run_dir = self._store.run_folder(self.job_id)
            run_dir.mkdir(parents=True, exist_ok=True)
            job = JobLaunch(
                job_id=self.job_id,
                role="controller",
                site=jobs.SERVER,
                app_dir=self._store.job_folder(self.job_id) / (self._spec.app_for(jobs.SERVER) or ""),
                run_dir=run_dir,
                sites=self.sites,
                data_dir=None,
                hidden=self._hidden,
                study=named(self._store.get(self.job_id).study),
                wishes=self._spec.wishes_of(jobs.SERVER),
                need=self._spec.needs.get(jobs.SERVER),  # @default is of the sites
            )
            self._process = await self._launcher.launch(job, self._pool)
            if self._must_end:
                await self._process.stop(self._abort_reason or "", grace_s=_STOP_S)
            await self._relay(self._process)
        finally:
            self._deadline.cancel()

    async def _relay(self, process: Running) -> None:
        while (received := await process.receive()) is not None:
            message, buffer = received
            if isinstance(message, Task):
                await self._distribute(message, buffer)
            elif isinstance(message, Progress):
                self.rounds.end(message)
                self._progress.take(message)
            elif isinstance(message, Done) and self._done is None:
                self._done = message
                # A thread of the workflow's own might keep the process from ending.
                self._spawn(process.stop("", grace_s=_STOP_S))
            else:
                process.complain("it said that it was done over and over")

    async def _distribute(self, task: Task, buffer: Buffer | None) -> None:
        await asyncio.to_thread(temporary_folder.check, self._pool, task.size)
        self.rounds.begin()
        await self._tasks.open(task, buffer, sites=self.sites)
        for site in self.sites:
            failed = self._participants.failure_of(site)
            if failed:
                await self._tasks.fail(site, failed, cause=Cause.OUT)
            else:
                self._tasks.send(site)

    @property
    def _is_dispatched(self) -> bool:
        return self._store.get(self.job_id).status is JobStatus.DISPATCHED

    @property
    def open_tasks(self) -> int:
        """How many answers the sites owe."""
        return self._tasks.owed

    @property
    def shared_bytes(self) -> int:
        """Memory of the buffers that are held."""
        return self._tasks.held_bytes

    @property
    def _must_end(self) -> bool:
        return self._abort_reason is not None or bool(self._participants.problem)

    async def _verdict(self) -> tuple[JobStatus, str]:
        if self._abort_reason is not None:
            return JobStatus.ABORTED, self._abort_reason
        if self._participants.problem:
            status = JobStatus.FAILED_TO_RUN if self._is_dispatched else JobStatus.EXECUTION_EXCEPTION
            return status, self._participants.problem
        if self._process is None:
            return JobStatus.ABNORMAL, "server: the job process never started"
        await self._process.wait()
        if self._done is None:
            return JobStatus.EXECUTION_EXCEPTION, self._process.ending()
        if self._done.status.upper().endswith("COMPLETED") or self._done.status.lower() == "ok":
            return JobStatus.COMPLETED, ""
        return JobStatus.EXECUTION_EXCEPTION, self._done.reason or self._done.status

    async def _record(self, status: JobStatus, reason: str) -> None:
        """Write down how the job ended; a full disk is waited for, since nothing else knows it."""
        is_said = False
        while True:
            try:
                changes = {"deploy_detail": self._participants.detail}
                if self._done is not None:
                    self._progress.add(self._done.metrics)
                    changes["metrics"] = self._progress.metrics
                self._store.update(self.job_id, **changes)
                self._store.move(self.job_id, status, reason=reason)
            except OSError as exc:
                if not is_said:
                    log.error("The end of job %s cannot be recorded yet: %s", self.job_id, exc)  # noqa: TRY400
                is_said = True
                await asyncio.sleep(_RECORD_S)
            else:
                break
        if status is JobStatus.COMPLETED:
            with contextlib.suppress(OSError):  # a few files too many in the result
                checkpoint.remove(self._store.run_folder(self.job_id))

    def _note(self, **changes: Any) -> None:
        """Change the record; what a full disk does not take is missing from it, and does not end the job."""
        try:
            self._store.update(self.job_id, **changes)
        except OSError as exc:
            log.warning("The progress of job %s is not recorded: %s", self.job_id, exc, extra={"job": self.job_id})

    # What the sites want.

    def blob(self, site: str, name: str) -> memoryview | bytes | None:
        """Return what a site of this job may download under a name: its own app, and the tasks that it got."""
        kind, _, rest = name.partition(":")
        if kind == "job":
            return self._handout.blob(site, rest)
        return self._tasks.blob(site, rest) if kind == "task" else None

    async def accept(self, site: str, delivery: Delivery, stream: AsyncIterable[bytes]) -> Receipt:
        """Take a site's result, once; see `OpenTasks.accept`."""
        self.deployed(site, "")  # two streams: what the site said before may come after it
        return await self._tasks.accept(site, delivery, stream)

    async def received(self, site: str, delivery: Delivery) -> int:
        """Return how many bytes of a result are here already."""
        return await self._tasks.received(site, delivery)

    def task_failed(self, site: str, task_id: str, reason: str, *, task_checksum: str = "") -> None:
        """Note that a site could not do one task; it gets the next one.

        Args:
            site: where.
            task_id: the task's.
            reason: why.
            task_checksum: of the parameters that it had; of others than those it was asked with last it is no news.
        """
        self._spawn(self._tasks.fail(site, reason, task_id=task_id, task_checksum=task_checksum))

    def deployed(self, site: str, reason: str, *, scope: str = "") -> None:
        """Note that a site has started the job, and in which of its privacy scopes, or why not."""
        if self._participants.deployed(site, reason, scope=scope):
            if reason:
                log.warning("Job %s: %s", self.job_id, reason, extra={"job": self.job_id, "site": site})
                self._spawn(self._tasks.fail(site, reason, cause=Cause.NOT_STARTED))
            self._review()
        elif not reason and self._participants.is_out(site):  # too late: the others have begun without it
            self._push_abort(site, self._participants.failure_of(site))

    def site_ended(self, site: str, reason: str, *, is_crash: bool = False) -> None:
        """Note that a site's trainer ended.

        Args:
            site: where.
            reason: why; empty: as it should. After the first line the end of its log.
            is_crash: it ended without a word, so it is started again, a few times.
        """
        reason, _, tail = reason.partition("\n")
        if tail:
            with contextlib.suppress(OSError):  # the reason says the most
                self._store.keep_error_log(self.job_id, site, tail)
        if reason:
            log.warning("Job %s: %s", self.job_id, reason, extra={"job": self.job_id, "site": site})
        if self._participants.ended(site, reason, is_crash=is_crash):
            session = self._registry.find(site)
            if session is not None and self.is_packed:  # else `joined` starts it
                self._tasks.restart_clock(site)
                self._start_at(session)
                self._tasks.send(site)
            return
        self._spawn(self._tasks.fail(site, self._participants.failure_of(site), cause=Cause.ENDED))
        self._review()

    def joined(self, session: Session) -> None:
        """Bring a site that connected up to date: start it, unless it runs, and send again what it has not answered."""
        site = session.name
        timer = self._absent.pop(site, None)
        if timer is not None:
            timer.cancel()
        if not self.is_packed:
            if self._end_reason is not None and self.job_id in session.jobs:
                self._end_at(session, self._end_reason)
            return
        has_trainer = self.job_id in session.jobs
        takes_part = self._participants.returned(site, has_trainer=has_trainer)
        if has_trainer and (not takes_part or self._participants.is_stopping(site)):
            self._push_abort(site, self._participants.failure_of(site))
            return
        if not takes_part:
            return
        if has_trainer:
            self.deployed(site, "")
        else:
            self._tasks.restart_clock(site)
            self._start_at(session)
        self._tasks.send(site)

    def left(self, site: str) -> None:
        """Give a site that lost its connection time to come back."""
        wait_s = self._spec.rejoin_s
        reason = f"{site}: no connection for {wait_s:g} s"
        loop = asyncio.get_running_loop()
        if site in self._absent:
            self._absent.pop(site).cancel()
        self._absent[site] = loop.call_later(wait_s, lambda: self._spawn(self._is_gone(site, reason)))

    async def _is_gone(self, site: str, reason: str) -> None:
        log.warning("Job %s: %s", self.job_id, reason, extra={"job": self.job_id, "site": site})
        self._participants.gone(site, reason)
        await self._tasks.fail(site, reason, cause=Cause.GONE)
        self._review()

    async def _stop_at(self, site: str, reason: str) -> None:
        """End a trainer that takes too long; when it has ended, it is started again, a few times."""
        log.warning("Job %s: %s", self.job_id, reason, extra={"job": self.job_id, "site": site})
        self._participants.stopping(site, reason)
        self._push_abort(site, reason)
        await self._tasks.fail(site, reason, cause=Cause.OVERDUE)

    def _deploy_s(self) -> float:
        return self._participants.deploy_s(self._handout.size_bytes)

    def _deploy_is_over(self) -> None:
        silent = self._participants.silent()
        away = silent.keys() & self._absent.keys() if self._participants.is_running else set[str]()
        for site in silent.keys() - away:
            self.deployed(site, silent[site])
        if away:  # they have time to come back, and then as much as the others had
            self._deadline = asyncio.get_running_loop().call_later(self._deploy_s(), self._deploy_is_over)

    def _review(self) -> None:
        """Go on from DISPATCHED to RUNNING, or end the job when too few sites have started it."""
        if self._participants.review():
            self._note(deploy_detail=self._participants.detail)
            if self._store.get(self.job_id).status is not JobStatus.RUNNING:
                with contextlib.suppress(OSError):  # `_note` has just said that the disk is full
                    self._store.move(self.job_id, JobStatus.RUNNING)
        elif self._participants.problem and self._process is not None:
            self._spawn(self._process.stop(self._participants.problem, grace_s=_STOP_S))

    def _start_at(self, session: Session) -> None:
        start = self._handout.start(session.name, reservation=self._reservations.get(session.name, ""))
        session.jobs.add(self.job_id)
        session.outbox.put_nowait(ServerEvent(start_job=start))

    def _push_abort(self, site: str, reason: str) -> None:
        """End a trainer although the job goes on: the server's own wish."""
        self._push(site, ServerEvent(abort_job=AbortJob(job_id=self.job_id, reason=reason)))

    def _push(self, site: str, event: ServerEvent) -> None:
        session = self._registry.find(site)
        if session is not None:  # `joined` sends what matters again
            session.outbox.put_nowait(event)

    async def _tell(self, message: Message, buffer: Buffer | None) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):  # the controller has ended; `run` finds out why
                await self._process.send(message, buffer)

    async def abort(self, reason: str, *, command: bytes = b"") -> None:
        """End the job, whatever it does just now: ask the controller, then insist.

        Args:
            reason: goes into the record.
            command: what the person whose wish it is signed, for the sites; empty: it is the server's own.
        """
        if self._abort_reason is None:
            self._abort_reason, self._abort_command = reason, command
        if self._process is not None:
            await self._process.stop(reason, grace_s=_STOP_S)

    def _end_at_sites(self, reason: str) -> None:
        self._end_reason = reason
        for site in self.sites:
            session = self._registry.find(site)
            if session is not None:
                self._end_at(session, reason)

    def _end_at(self, session: Session, reason: str) -> None:
        session.jobs.discard(self.job_id)
        wish = AbortJob(job_id=self.job_id, reason=reason, command=self._abort_command)
        session.outbox.put_nowait(ServerEvent(abort_job=wish))

    async def _close(self) -> None:
        self.is_packed = False  # who joins now is not started
        async with contextlib.AsyncExitStack() as steps:  # each is done whatever became of those before: the last first
            steps.callback(self._pool.close)
            steps.callback(self._handout.clear)
            if self._process is not None:
                steps.push_async_callback(self._process.wait)
                self._process.kill()
            for task in list(self._background):
                task.cancel()
            steps.callback(self._tasks.close)
            for timer in self._absent.values():
                timer.cancel()
            self._progress.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
