"""A store, sites and a scheduler for tests: the sites and the running jobs are fakes, the clock is the test's."""

from __future__ import annotations

import asyncio
import json

from clouddeploy_runtime import jobs
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.server.scheduler import Scheduler
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.store import INCOMING, JobStore
from clouddeploy_runtime.settings import Settings
from clouddeploy_runtime.tls import Peer
from clouddeploy_runtime.wire import federation_pb2 as pb

ANN = Peer(name="ann", org="lab", role="lead")


class FakeJob:
    """Ends as it is told to: `end` names the status, an exception is a defect, None runs on."""

    def __init__(self, world, job_id, *, sites, reservations, store, is_resumed, pool, **_):
        self.job_id, self.sites, self.reservations, self.is_resumed = job_id, sites, dict(reservations), is_resumed
        self.pool = pool
        self.came, self.went = [], []
        self._world, self._store = world, store
        self._aborted = asyncio.Event()
        self.reason = ""
        world.jobs[job_id] = self

    async def run(self):
        if self._world.end is JobStatus.FAILED_TO_RUN:
            self._store.move(self.job_id, JobStatus.FAILED_TO_RUN, reason="site-1: no")
            return
        if self._store.get(self.job_id).status is not JobStatus.RUNNING:
            self._store.move(self.job_id, JobStatus.RUNNING)
        if isinstance(self._world.end, Exception):
            raise self._world.end
        if self._world.end is None:
            await self._aborted.wait()
            self._store.move(self.job_id, JobStatus.ABORTED, reason=self.reason)
        else:
            self._store.move(self.job_id, self._world.end, reason="said so")

    async def abort(self, reason, *, command=b""):
        self.reason = reason
        self._aborted.set()

    def joined(self, session):
        self.came.append(session.name)

    def left(self, site):
        self.went.append(site)


class World:
    """A store, sites and a scheduler on a clock that only moves when it is told to."""

    def __init__(self, folder, *, max_jobs=4, registry=None, takes=None):
        self.now = 1000.0
        self.end = None
        self.jobs = {}
        self.sessions = {}
        self.events = {}
        self.folder = folder
        self.store = JobStore(folder / "jobs")
        self.registry = registry or Registry()
        self.scheduler = Scheduler(
            self.store,
            self.registry,
            settings=Settings(max_jobs=max_jobs),
            start=lambda job_id, **more: FakeJob(self, job_id, **more),
            takes=takes,
            clock=lambda: self.now,
        )

    def submit(self, *, sites=("@ALL",), name="j", workflows=(), **meta):
        self.count = getattr(self, "count", 0) + 1
        folder = self.folder / f"submitted-{id(self)}-{self.count}"
        (folder / "app" / "config").mkdir(parents=True)
        for side in ("server", "client"):
            config = {"format_version": 2, "workflows": list(workflows)}
            (folder / "app" / "config" / f"config_fed_{side}.json").write_text(json.dumps(config))
        deploy_map = {"app": list(sites) if sites == ("@ALL",) else ["server", *sites]}
        (folder / "meta.json").write_text(json.dumps({"name": name, "deploy_map": deploy_map, **meta}))
        info = self.store.add(jobs.pack(folder), ANN)
        self.scheduler.wake()
        return info.job_id

    def join(self, *names):
        for name in names:
            session = self.registry.register(name=name, address="here", active_jobs=set())
            session.is_streaming = True
            self.sessions[name] = session
            self.registry.opened(session)

    def leave(self, name):
        self.registry.closed(self.sessions.pop(name))

    def asked(self, name, kind="check_resources"):
        """What a site was sent of this kind since the last look, besides the question what it has."""
        outbox = self.sessions[name].outbox
        sent = self.events.setdefault(name, [])
        while not outbox.empty():
            event = outbox.get_nowait()
            if event.WhichOneof("event") != "check_resources" or event.check_resources.job_id:
                sent.append(event)
        return [getattr(event, kind) for event in sent if event.WhichOneof("event") == kind]

    def answer(self, name, job_id, *, reservation="", reason=""):
        answer = pb.Resources(job_id=job_id, reservation=reservation, reason=reason)
        self.scheduler.resources(name, answer)

    async def look(self):
        """One look of the scheduler, and what follows from it at once."""
        pause = self.scheduler.look()
        for _ in range(5):
            await asyncio.sleep(0)
        return pause

    def status(self, job_id):
        return self.store.get(job_id).status

    def why(self, job_id):
        """The last cause in the job's history."""
        return self.store.get(job_id).schedule_history[-1].partition(" ")[2]


def left_in(store):
    """What there is in a store's folder, besides the empty one for what comes in."""
    paths = (*store.root.glob("*"), *store.root.glob(f"{INCOMING}/*"))
    return sorted(path.name for path in paths if path.name != INCOMING)


def play(scenario):
    """Run a scenario in a loop of its own, with a deadline."""
    asyncio.run(asyncio.wait_for(scenario(), 5))
