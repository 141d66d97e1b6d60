"""Starts submitted jobs when their sites are there and hold what they need, and finds the running ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import InvalidJob, JobNotFound
from clouddeploy_runtime.job.buffers import RECLAIM_S
from clouddeploy_runtime.jobs import SERVER, JobStatus
from clouddeploy_runtime.lifecycle import write_atomically
from clouddeploy_runtime.server import statements
from clouddeploy_runtime.server.reservations import Reservations
from clouddeploy_runtime.server.running import RunningJob
from clouddeploy_runtime.server.store import stamp
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.tensor_memory import TensorMemory, asks_for_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from clouddeploy_runtime.jobs import JobInfo, JobSpec
    from clouddeploy_runtime.jobs.spec import Need
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.wire import federation_pb2 as pb

log = logging.getLogger(__name__)

TRIES = 10
"""So many tries in vain end a job; the reference's number."""
_FIRST_PAUSE_S = 10.0
_LONGEST_PAUSE_S = 600.0
RETURN_S = 10.0
"""After a start, sites that were connected before it have so long to come back, or a job would start without them."""
_HISTORY = 20
_END_S = 5.0
"""At a shutdown the ends of the jobs have so long to be recorded; a disk that stays full must not hold it up."""
_KNOWN_SITES = "sites.json"


def pause_after(tries: int) -> float:
    """Return the seconds until the next try that counts; events in between are tries that do not."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (tries - 1))


class Scheduler:
    """Owns the running jobs. It looks when something happened, oldest job first; one that cannot start holds up none.

    Args:
        store: the jobs.
        registry: the sites.
        settings: how many jobs may run at a time, and in how much memory.
        start: makes a running job; `RunningJob`'s arguments.
        takes: tells whether jobs of a study may go to a site; None: all do.
        clock: seconds, only ever growing.
    """

    def __init__(
        self,
        store: JobStore,
        registry: Registry,
        *,
        settings: Settings | None = None,
        start: Callable[..., RunningJob] = RunningJob,
        takes: Callable[[str, Session], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._registry = registry
        self._max_jobs = max(1, (settings or Settings()).max_jobs)
        self._memory = TensorMemory(settings or Settings())
        self._start = start
        self._takes = takes or (lambda _study, _site: True)
        self._clock = clock
        self._began = clock()
        self.reservations = Reservations(registry)
        self._running: dict[str, tuple[RunningJob, asyncio.Task[None]]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._events = 0
        self._tried_at: dict[str, int] = {}
        """Job → the event after which it was tried last: without a new one it is not tried before it is due."""
        self._due: dict[str, float] = {}
        self._specs: dict[str, JobSpec] = {}
        """Of the jobs that wait: reading them anew at each look would hold up the server."""
        self._unresumed: set[str] = set()
        """Jobs that ran when the server stopped and cannot go on yet: the disk is full."""
        self._is_stopping = False
        self._end_reason = ""
        self._known = self._read_known()
        self._expected = set(self._known)
        registry.watch(self._on_session)

    def wake(self) -> None:
        """Look again: a job was submitted or has ended, a client joined, resources are free."""
        self._events += 1
        self._wake.set()

    def find(self, job_id: str) -> RunningJob | None:
        """Return a job that runs now."""
        entry = self._running.get(job_id)
        return entry[0] if entry else None

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the jobs that run now."""
        return tuple(self._running)

    def took_part(self, site: str, job_id: str) -> bool:
        """Tell whether a site was one of a job's, which may have ended."""
        try:
            return site in self._store.get(job_id).sites
        except JobNotFound:
            return False

    def resources(self, site: str, answer: pb.Resources) -> None:
        """Take a site's answer to the question whether it holds what a job needs."""
        self.reservations.answered(site, answer)

    async def run(self) -> None:
        """Go on with the jobs that ran when the server stopped, and start what can be started, for ever."""
        self.resume()
        while True:
            self._wake.clear()
            pause = self.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    def resume(self) -> None:
        """Go on with every job that ran, unless somebody had aborted it."""
        ran = (info for info in self._store.all() if info.status in {JobStatus.DISPATCHED, JobStatus.RUNNING})
        for job_id in [info.job_id for info in ran if info.job_id not in self._running]:
            self._unresumed.add(job_id)
            self._resume(job_id)

    def _resume(self, job_id: str) -> None:
        info = self._store.get(job_id)
        if info.reason and not info.status.is_final:
            self._end(job_id, JobStatus.ABORTED, info.reason)
        elif not info.status.is_final:
            log.info("Job %s goes on", job_id, extra={"job": job_id})
            with self._watched(job_id):
                self._launch(job_id, sites=info.sites, reservations=info.reservations, is_resumed=True)
        if job_id in self._running or self._store.get(job_id).status.is_final:
            self._unresumed.discard(job_id)

    def look(self) -> float | None:
        """Try each waiting job that something happened for; returns the seconds until the next try, None: no need."""
        if self._is_stopping:
            return None
        now = self._clock()
        for job_id in [one for one in self._unresumed if self._due.get(one, now) <= now]:
            self._resume(job_id)
        dues = [self._due.get(job_id, now) for job_id in self._unresumed]
        waiting: set[str] = set()
        for info in self._store.all():
            job_id = info.job_id
            if info.status is not JobStatus.SUBMITTED or job_id in self._asking or job_id in self._running:
                continue
            waiting.add(job_id)
            due = self._due.setdefault(job_id, now + pause_after(info.schedule_count) if info.schedule_count else now)
            if self._tried_at.get(job_id) != self._events or due <= now:
                self._tried_at[job_id] = self._events
                with self._watched(job_id):
                    self._try(info)
            dues.append(self._due.get(job_id, due))
        for job_id in set(self._specs) - waiting:
            del self._specs[job_id]
        if self._expected:
            dues.append(self._began + RETURN_S)
        later = [due for due in dues if due > now]
        return min(later) - now if later else None

    @contextlib.contextmanager
    def _watched(self, job_id: str) -> Any:
        """Keep one job's problem away from the others: a full disk is tried again, anything else ends the job."""
        try:
            yield
        except OSError as exc:
            log.error("Job %s cannot be handled now: %s", job_id, exc, extra={"job": job_id})  # noqa: TRY400
            self._due[job_id] = self._clock() + _FIRST_PAUSE_S
        except InvalidJob as exc:
            self._end(job_id, JobStatus.ABNORMAL, f"server: {exc}")
        except Exception as exc:
            log.exception("Job %s ends by a defect of the scheduler", job_id, extra={"job": job_id})
            self._end(job_id, JobStatus.ABNORMAL, f"server: {type(exc).__name__}: {exc}")

    def _end(self, job_id: str, status: JobStatus, reason: str) -> None:
        try:
            if not self._store.get(job_id).status.is_final:
                self._store.move(job_id, status, reason=reason)
        except OSError as exc:
            log.error("The end of job %s cannot be recorded: %s", job_id, exc, extra={"job": job_id})  # noqa: TRY400
            self._due[job_id] = self._clock() + _FIRST_PAUSE_S

    def _try(self, info: JobInfo) -> None:
        if len(self._running) + len(self._asking) >= self._max_jobs:
            self._put_off(
                info, f"{self._max_jobs} jobs run, as many as the server's resources.json allows", counts=False
            )
            return
        spec = self._specs.get(info.job_id)
        if spec is None:
            spec = self._specs[info.job_id] = self._store.spec(info.job_id)
        there = self._registry.connected()
        connected = {session.name for session in there if self._takes(info.study, session)}
        sites = tuple(sorted(site for site in connected if spec.app_for(site) is not None))
        away = self._expected - {session.name for session in there}
        late = sorted(site for site in away if spec.app_for(site) is not None)
        if late and self._clock() < self._began + RETURN_S:
            self._put_off(info, f"{', '.join(late)} may come back after the server's restart", counts=False)
        elif problem := _too_few(spec, sites):
            self._put_off(info, problem, counts=bool(there))
        elif any((needs := _needs(spec, sites)).values()):
            self._asking[info.job_id] = task = self._spawn(self._ask(info, spec, needs))
            task.add_done_callback(lambda _: self._asked(info.job_id))
        else:
            self._dispatch(info, dict.fromkeys(sites, ""))

    async def _ask(self, info: JobInfo, spec: JobSpec, needs: Mapping[str, Need | None]) -> None:
        with self._watched(info.job_id):
            manifest = statements.kept(self._store.root / info.job_id)
            reserved = await self.reservations.reserve(info.job_id, needs, manifest=manifest)
            problem = _too_few(spec, tuple(reserved.reservations))
            if problem:
                self.reservations.release(info.job_id, reserved.reservations)
                causes = "; ".join(f"{site}: {why}" for site, why in sorted(reserved.refused.items()))
                self._put_off(info, f"{problem} ({causes})", counts=True)
            else:
                self._dispatch(info, reserved.reservations)

    def _asked(self, job_id: str) -> None:
        del self._asking[job_id]
        self._wake.set()  # no event: the sites that have just said no are not asked again for it

    def _put_off(self, info: JobInfo, cause: str, *, counts: bool) -> None:
        """Note why a job waits; ten tries in vain, each later than the one before, end it.

        A try between them, because something happened, does not count: a job that waits for twenty sites would end
        when the tenth has come.
        """
        now = self._clock()
        tries = info.schedule_count
        if counts and self._due.get(info.job_id, now) <= now:
            tries += 1
            self._due[info.job_id] = now + pause_after(tries)
            if tries >= TRIES:
                self._store.update(info.job_id, schedule_count=tries, last_schedule_time=stamp())
                self._store.move(info.job_id, JobStatus.CAN_NOT_SCHEDULE, reason=f"after {tries} tries: {cause}")
                log.warning("Job %s cannot be started: %s", info.job_id, cause, extra={"job": info.job_id})
                return
        history = info.schedule_history
        is_new = not history or history[-1].partition(" ")[2] != cause
        if is_new:
            log.info("Job %s waits: %s", info.job_id, cause, extra={"job": info.job_id})
            history = (*history, f"{stamp()} {cause}")[-_HISTORY:]
        if is_new or tries != info.schedule_count:
            # With hundreds of jobs that wait, each event would write hundreds of records: causes alone may be lost.
            keep = self._store.note if tries == info.schedule_count else self._store.update
            keep(info.job_id, schedule_count=tries, last_schedule_time=stamp(), schedule_history=history)

    def _dispatch(self, info: JobInfo, reservations: Mapping[str, str]) -> None:
        sites = tuple(sorted(reservations))
        self._store.move(
            info.job_id,
            JobStatus.DISPATCHED,
            sites=sites,
            reservations=dict(reservations),
            schedule_count=info.schedule_count + 1,
            last_schedule_time=stamp(),
        )
        log.info("Job %s starts at %s", info.job_id, ", ".join(sites), extra={"job": info.job_id})
        self._launch(info.job_id, sites=sites, reservations=reservations, is_resumed=False)

    def _launch(
        self, job_id: str, *, sites: tuple[str, ...], reservations: Mapping[str, str], is_resumed: bool
    ) -> None:
        app = self._store.job_folder(job_id) / (self._store.spec(job_id).app_for(SERVER) or "")
        pool = self._memory.pool(on_disk=asks_for_disk(app))
        job = self._start(
            job_id,
            sites=sites,
            reservations=reservations,
            store=self._store,
            registry=self._registry,
            pool=pool,
            is_resumed=is_resumed,
        )
        loop = asyncio.get_running_loop()
        task = loop.create_task(job.run())
        task.add_done_callback(lambda _: loop.call_later(RECLAIM_S, pool.reclaim))
        self._running[job_id] = (job, task)
        task.add_done_callback(lambda _: self._ended(job_id, reservations))

    def _ended(self, job_id: str, reservations: Mapping[str, str]) -> None:
        _, task = self._running.pop(job_id)
        self._due.pop(job_id, None)
        self._tried_at.pop(job_id, None)
        defect = None if task.cancelled() else task.exception()
        if defect is not None:
            log.error("Job %s ended by a defect", job_id, exc_info=defect, extra={"job": job_id})
            self._end(job_id, JobStatus.ABNORMAL, f"server: {type(defect).__name__}: {defect}")
        elif not self._is_stopping:
            self._end(job_id, JobStatus.ABNORMAL, "server: the job stopped without saying how it ended")
        if not self._is_stopping:
            self.reservations.release(job_id, reservations)  # where the job was never started
        self.wake()

    async def abort(self, job_id: str, *, reason: str, command: bytes = b"") -> None:
        """End a job, whether it runs or waits; a finished one stays as it is. Returns when it is under way.

        Args:
            job_id: the job.
            reason: goes into the record.
            command: what the person whose wish it is signed, for the sites.

        The wish is in the record, so that a server that is killed before the job's end does not go on with it.
        """
        info = self._store.get(job_id)
        if info.status.is_final:
            return
        job, asking = self.find(job_id), self._asking.get(job_id)
        if asking is not None:
            asking.cancel()
        if job is None:
            self._store.move(job_id, JobStatus.ABORTED, reason=reason)
            return
        try:
            self._store.update(job_id, reason=info.reason or reason)
        except OSError as exc:
            log.warning("The wish to end job %s is not recorded: %s", job_id, exc, extra={"job": job_id})
        self._spawn(job.abort(reason, command=command))

    def end_all(self, reason: str) -> None:
        """Let the `stop` that follows end the running jobs for good, instead of leaving them for the next start."""
        self._end_reason = reason

    async def stop(self) -> None:
        """Let go of every job: it stays RUNNING, and goes on at the next start, unless `end_all` was called."""
        self._is_stopping = True
        self._store.close()
        for asking in list(self._asking.values()):
            asking.cancel()
        entries = list(self._running.values())
        if self._end_reason:
            await asyncio.gather(*(job.abort(self._end_reason) for job, _ in entries), return_exceptions=True)
        else:
            for _, task in entries:
                task.cancel()
        _, late = await asyncio.wait([task for _, task in entries], timeout=_END_S) if entries else (None, set())
        for task in late:
            log.error("The end of a job cannot be recorded, and the server stops; the job goes on at its next start")
            task.cancel()
        await asyncio.gather(*(task for _, task in entries), *self._background, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _on_session(self, session: Session, joined: bool) -> None:
        for job, _ in list(self._running.values()):
            if session.name in job.sites:
                if joined:
                    job.joined(session)
                else:
                    job.left(session.name)
        if joined:
            self.reservations.joined(session)
        else:
            self.reservations.left(session.name)
        self._remember(session.name, is_there=joined)
        if joined:
            self._expected.discard(session.name)
            self.wake()

    def _remember(self, site: str, *, is_there: bool) -> None:
        """Keep the names of the connected sites for the next start; those that leave because the server stops count."""
        if self._is_stopping or (site in self._known) is is_there:
            return
        self._known = self._known | {site} if is_there else self._known - {site}
        try:
            write_atomically(self._store.root / _KNOWN_SITES, json.dumps(sorted(self._known)).encode())
        except OSError as exc:
            log.warning("The names of the connected sites cannot be kept: %s", exc)

    def _read_known(self) -> frozenset[str]:
        try:
            names = json.loads((self._store.root / _KNOWN_SITES).read_bytes())
            return frozenset(str(name) for name in names)
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError, TypeError) as exc:
            log.warning("The names of the sites that were connected are lost: %s", exc)
            return frozenset()


def _too_few(spec: JobSpec, sites: tuple[str, ...]) -> str:
    """Say why a job cannot run with these sites; empty when it can."""
    missing = sorted(spec.mandatory_clients - set(sites))
    if missing:
        return f"{', '.join(missing)} must take part and cannot now"
    if len(sites) < spec.min_clients:
        there = ", ".join(sites) or "none"
        return f"{len(sites)} of at least {spec.min_clients} sites can take part now: {there}"
    return ""


def _needs(spec: JobSpec, sites: tuple[str, ...]) -> dict[str, Need | None]:
    """Return what each site is to hold; None: nothing."""
    needs = {site: spec.need_of(site) for site in sites}
    return {
        site: need if need.gpus or need.gib_per_gpu or need.cpus or need.memory_gib else None
        for site, need in needs.items()
    }
