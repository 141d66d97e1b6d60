"""The long-lived agent of a site: runs what the server asks for, as far as the site's policy allows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import jobs, launchers, lifecycle, settings, temporary_folder
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.audit import AuditLog
from clouddeploy_runtime.client import submitters
from clouddeploy_runtime.client.admission import Admission, Admitted
from clouddeploy_runtime.client.connection import Connection
from clouddeploy_runtime.client.inquiries import SiteInquiries
from clouddeploy_runtime.client.jobs import Ending, Place, SiteJob, sweep
from clouddeploy_runtime.client.resources import ResourceManager
from clouddeploy_runtime.client.transfer import Transfer
from clouddeploy_runtime.errors import AuthorizationRefused, JobNotFound, NoResources, RuntimeFault, printable
from clouddeploy_runtime.inspection.inspector import Inspector
from clouddeploy_runtime.inspection.subject import RunningHere, Subject
from clouddeploy_runtime.job.buffers import RECLAIM_S
from clouddeploy_runtime.jobs import components
from clouddeploy_runtime.jobs.archive import is_plain
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.lifecycle import StopSignal
from clouddeploy_runtime.tensor_memory import TensorMemory
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.inspection.tallies import JobTally
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.privacy import Scope
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

DATA_VARIABLE = "CLOUDDEPLOY_DATA_DIR"
"""Where the site's own data is; default `<workspace>/data` when that exists."""
_MAX_SHOWN = 100
_FAILED, _CRASHED = "JOB_FAILED", "JOB_CRASHED"
_MAX_TALLIES = 100
"""Of the last jobs, running or ended."""


class ClientAgent:
    """One site.

    Args:
        kit: a loaded, verified client kit.
        workspace: an existing folder for jobs, logs and `status.json`.
        stop: set when an admin stops the site from the server.
    """

    def __init__(self, kit: Kit, workspace: Path, stop: StopSignal) -> None:
        self._kit = kit
        self._stop = stop
        self._workspace = workspace
        self._settings = settings.load(kit.local)
        self._resources = ResourceManager(self._settings)
        self._launcher = launchers.of(self._settings, kit)
        self._memory = TensorMemory(self._settings)
        self._jobs_folder = workspace / "jobs"
        self._transfer = Transfer()
        self._jobs: dict[str, tuple[SiteJob, asyncio.Task[None]]] = {}
        self._admitted: dict[str, Admitted] = {}
        self._tallies: dict[str, JobTally] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._connection = Connection(
            kit,
            workspace,
            transfer=self._transfer,
            active_jobs=lambda: self._jobs,
            handle=self._handle,
            ended=self._ended_at_server,
        )
        audit = AuditLog(workspace / "audit.jsonl")
        self._admission = Admission(
            kit, workspace, audit, revoked=self._connection.revoked, studies=self._settings.studies
        )
        subject = Subject(
            kit.name,
            "client",
            kit.org,
            workspace=workspace,
            kit=kit.root,
            jobs=self._jobs_folder,
            run="run",
            running=self._running,
            stats=self._stats,
            hidden=(self._data_place(),),
        )
        self._inquiries = SiteInquiries(
            self._admission, Inspector(subject), submitter=self._submitter, send=self._connection.send
        )

    async def run(self) -> None:
        """Stay connected until cancelled."""
        await asyncio.to_thread(sweep, self._jobs_folder)
        await asyncio.to_thread(temporary_folder.warn, is_needed=self._settings.offloads_tensors)
        await self._connection.run()

    def _handle(self, event: pb.ServerEvent) -> None:
        """Do what the server says; what cannot be done, whatever it is, ends neither this site nor another job."""
        try:
            self._obey(event)
        except Exception as exc:  # the edge to the server
            if isinstance(event, pb.ServerEvent) and event.HasField("start_job"):
                log.exception("Job %s cannot be started", printable(event.start_job.job_id)[:_MAX_SHOWN])
                self._give_up(event.start_job, f"{self._kit.name}: {type(exc).__name__}: {exc}")
            else:
                log.exception("What the server said cannot be handled")

    def _give_up(self, start: pb.StartJob, reason: str) -> None:
        if start.job_id not in self._jobs:
            self._resources.release(start.reservation)
            self._resources.free(start.job_id)
            self._refuse(start.job_id, reason)

    def _obey(self, event: pb.ServerEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "start_job":
            self._start(event.start_job)
        elif kind == "run_task":
            entry = self._jobs.get(event.run_task.job_id)
            if entry is not None:
                entry[0].add(event.run_task)
        elif kind == "abort_job":
            self._abort(event.abort_job)
        elif kind == "revocations":
            self._connection.adopt(event.revocations.crl)
        elif kind == "check_resources":
            self._connection.send(pb.ClientEvent(resources=self._answer(event.check_resources)))
        elif kind == "release_resources":
            self._resources.release(event.release_resources.reservation)
        elif kind == "stop_site":
            self._stop_site(event.stop_site)
        elif kind == "ask_site":
            self._inquiries.asked(event.ask_site)

    def _running(self) -> list[RunningHere]:
        return [RunningHere(job_id, job.app, job.status) for job_id, (job, _) in list(self._jobs.items())]

    def _submitter(self, job_id: str) -> Peer | None:
        admitted = self._admitted.get(job_id)
        return submitters.known(self._jobs_folder, job_id) if admitted is None else admitted.submitter

    def _stats(self, job_id: str) -> Mapping[str, Any]:
        tally = self._tallies.get(job_id)
        if tally is None:
            raise JobNotFound(
                f"Nothing is known of the job {job_id[:_MAX_SHOWN]}", why="it has not run since the start"
            )
        return tally.report()

    def _stop_site(self, wish: pb.StopSite) -> None:
        """Stop, or start again, for an admin who signed that and whom this site's policy gives the right."""
        right = "restart" if wish.restart else "shutdown"
        try:
            user = self._admission.stop(wish)
        except RuntimeFault as exc:
            log.warning("%s wants a %s, which is refused here: %s (%s)", wish.user, right, exc, exc.error_code)
            return
        log.info("%s wants a %s", user.name, right)
        if wish.restart:
            self._stop.restart()
        else:
            self._stop.set()
        self._admission.ended(user, right, command=wish.command)

    def _abort(self, wish: pb.AbortJob) -> None:
        """End a job here: it has ended at the server, or a person who may wants it."""
        entry = self._jobs.get(wish.job_id)
        if entry is None:
            log.info("Job %s was to be stopped, and does not run here", printable(wish.job_id)[:_MAX_SHOWN])
            return
        try:
            user = self._admission.abort(wish, self._admitted.get(wish.job_id))
        except RuntimeFault as exc:
            extra = {"job": wish.job_id, "site": self._kit.name}
            log.warning("Job %s is not stopped: %s (%s)", wish.job_id, exc, exc.error_code, extra=extra)
            return
        self._spawn(self._end(entry[0], wish, user))

    async def _end(self, job: SiteJob, wish: pb.AbortJob, user: Peer | None) -> None:
        await job.stop(wish.reason)
        if user is not None:
            self._admission.ended(user, f"abort_job {wish.job_id}", command=wish.command)

    def _answer(self, question: pb.CheckResources) -> pb.Resources:
        if question.job_id:
            try:
                self._admission.question(question)
            except RuntimeFault as exc:
                log.warning("Job %s gets nothing here: %s (%s)", question.job_id, exc, exc.error_code)
                return pb.Resources(job_id=question.job_id, reason=str(exc), offer=self._resources.offer())
        return self._resources.answer(question)

    def _ended_at_server(self, job_id: str) -> None:
        entry = self._jobs.get(job_id)
        if entry is not None:
            self._spawn(entry[0].stop("the server does not run this job any more"))

    def _start(self, start: pb.StartJob) -> None:
        if start.job_id in self._jobs:
            return
        site = self._kit.name
        if not (is_plain(start.job_id) and is_plain(start.app or "none")):  # they become names of folders here
            shown = f"{start.job_id[:_MAX_SHOWN]!r} or {start.app[:_MAX_SHOWN]!r}"
            self._give_up(start, f"{site}: {shown} is no name of a job, or of an app")
            return
        try:
            admitted = self._admission.job(start)
        except RuntimeFault as exc:
            self._resources.release(start.reservation)
            code = "" if isinstance(exc, AuthorizationRefused) else f" ({exc.error_code})"
            self._refuse(start.job_id, f"{site}: {exc}{code}")
            return
        try:
            environment = self._resources.claim(start.job_id, start.reservation)
        except NoResources as exc:
            self._job_ended(admitted, code=exc.error_code, detail=str(exc))
            self._refuse(start.job_id, f"{site}: {exc}")
            return
        place = Place(
            site=site,
            folder=self._folder(start.job_id),
            data_dir=self._data_dir(),
            hidden=(self._kit.root, self._workspace),
            environment=environment,
        )
        pool = self._memory.pool()
        job = SiteJob(
            start,
            place=place,
            launcher=self._launcher,
            transfer=self._transfer,
            pool=pool,
            check=partial(self._check, admitted, start.app),
            report=self._connection.send,
        )
        self._admitted[start.job_id] = admitted
        while len(self._tallies) >= _MAX_TALLIES:
            del self._tallies[next(iter(self._tallies))]
        self._tallies[start.job_id] = job.tally
        task = asyncio.create_task(self._run_job(job))
        task.add_done_callback(lambda _: asyncio.get_running_loop().call_later(RECLAIM_S, pool.reclaim))
        self._jobs[start.job_id] = (job, task)

    def _check(self, admitted: Admitted, name: str, app: Path) -> Scope | None:
        """Refuse a job that is not what was signed, or names or brings what this site does not allow; in a thread.

        Returns:
            The site's privacy scope for it; None: the site has no scopes.

        Raises:
            RuntimeFault: names it.
        """
        submitters.note(self._folder(admitted.job_id), admitted.submitter)
        self._admission.folder(admitted, self._folder(admitted.job_id) / "job", name)
        own = app / "custom"
        chooses_code = jobs.read_meta(app.parent).chooses_code(self._kit.name)
        brings_code = chooses_code or (own.is_dir() and any(own.iterdir()))
        may_bring_code = brings_code and self._admission.may_bring_code(admitted)
        components.check(app, "client", self._settings, may_bring_code=may_bring_code, chooses_code=chooses_code)
        return self._admission.scope(admitted, app)

    def _refuse(self, job_id: str, reason: str) -> None:
        log.warning(
            "Job %s does not start: %s",
            printable(job_id)[:_MAX_SHOWN],
            reason,
            extra={"job": job_id, "site": self._kit.name},
        )
        self._connection.send(pb.ClientEvent(job_deployed=pb.JobDeployed(job_id=job_id, reason=reason)))

    def _folder(self, job_id: str) -> Path:
        return self._jobs_folder / Path(job_id).name

    def _data_place(self) -> Path:
        return Path(os.environ.get(DATA_VARIABLE) or self._workspace / "data")

    def _data_dir(self) -> Path | None:
        folder = self._data_place()
        return folder if folder.is_dir() else None

    async def _run_job(self, job: SiteJob) -> None:
        log.info("Job %s starts", job.job_id, extra={"job": job.job_id, "site": self._kit.name})
        ending = Ending(f"{self._kit.name}: the client stopped")
        try:
            ending = await job.run()
        except Exception as exc:  # the job's edge: whatever it is ends this job, with a reason, and no other
            log.exception("Job %s ended by a defect", job.job_id, extra={"job": job.job_id})
            ending = Ending(f"{self._kit.name}: {type(exc).__name__}: {exc}")
        finally:
            self._jobs.pop(job.job_id, None)
            admitted = self._admitted.pop(job.job_id, None)
            self._resources.free(job.job_id)
            event = pb.JobEnded(job_id=job.job_id, reason=ending.reason, crashed=ending.is_crash)
            self._connection.send(pb.ClientEvent(job_ended=event))
        how = ending.reason.partition("\n")[0] or "as it should"
        log.info("Job %s ended: %s", job.job_id, how, extra={"job": job.job_id})
        if admitted is not None:
            code = (_CRASHED if ending.is_crash else _FAILED) if ending.reason else ""
            self._job_ended(admitted, code=code, detail=how if code else "")

    def _job_ended(self, admitted: Admitted, *, code: str, detail: str) -> None:
        try:
            self._admission.job_ended(admitted, code=code, detail=detail)
        except RuntimeFault as exc:  # the disk is full: the job has ended all the same
            log.warning("The end of job %s is not in the audit log: %s", admitted.job_id, exc)

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
    stop = StopSignal(workspace)
    agent = ClientAgent(kit, workspace, stop)
    running = asyncio.create_task(agent.run())
    try:
        await lifecycle.until(stop, running)
    finally:
        log.info("The client stops")
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(running, return_exceptions=True)
        await agent.close()
