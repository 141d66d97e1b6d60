"""How one job ends at the server, whatever becomes of its controller, its sites and the disk."""

from __future__ import annotations

import asyncio
import json
import tempfile
from types import SimpleNamespace

import msgspec
import pytest
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job.buffers import BufferPool, NoBuffer
from clouddeploy_runtime.job.messages import Delivery, Done, Progress, Result, Task
from clouddeploy_runtime.jobs import JobInfo, JobStatus, parse_meta
from clouddeploy_runtime.server import progress, running
from clouddeploy_runtime.server.federation import FederationCalls
from clouddeploy_runtime.server.running import RunningJob
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.wire import rpc

META = {"name": "job", "min_clients": 1, "deploy_map": {"app": ["server", "site-1"], "other": ["site-2"]}}
COMPLETED = Done("FINISHED:COMPLETED", "", {"auc": 1.0})


class Store:
    """One job, and how often its record could not be written."""

    def __init__(self, root, status=JobStatus.DISPATCHED):
        self.root = root
        self.info = JobInfo("job", "job", status)
        self.full = 0
        for app in ("app", "other"):
            (root / "job" / app).mkdir(parents=True)
            (root / "job" / app / "config.json").write_text("{}")
        (root / "job" / "meta.json").write_text(json.dumps(META))

    def spec(self, _):
        return parse_meta(META)

    def get(self, _):
        return self.info

    def update(self, _, **changes):
        if self.full:
            self.full -= 1
            raise OSError(28, "No space left on device")
        self.info = JobInfo(**{**vars(self.info), **changes})
        return self.info

    def move(self, job_id, status, *, reason=""):
        return self.update(job_id, status=status, reason=reason)

    def job_folder(self, _):
        return self.root / "job"

    def run_folder(self, _):
        return self.root / "result"


class Controller:
    """A job process that says what it is told to say."""

    def __init__(self, *messages, ignores_stop=False):
        self.job = None
        self.sent = []
        self.killed = False
        self.complaints = []
        self.inbox = asyncio.Queue()
        for message in messages:
            self.inbox.put_nowait(message)

    async def launch(self, job, _pool):
        self.job = job
        return self

    async def send(self, message, buffer=None):
        self.sent.append(message)

    async def receive(self):
        message = await self.inbox.get()
        if isinstance(message, Exception):
            raise message
        return None if message is None else (message, None)

    async def wait(self):
        return 1

    def complain(self, what):
        self.complaints.append(what)

    def ending(self):
        return "server: the controller ended with exit code 1"

    def kill(self):
        self.killed = True

    async def stop(self, reason, *, grace_s):
        self.inbox.put_nowait(None)


def job(store, controller, *, registry=None, pool=None, **more):
    return RunningJob(
        "job",
        sites=("site-1", "site-2"),
        store=store,
        registry=registry or Registry(),
        pool=pool or BufferPool(1 << 20),
        launcher=controller,
        **more,
    )


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 1
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)


def ended(tmp_path, *messages, status=JobStatus.DISPATCHED):
    store = Store(tmp_path, status)

    async def run():
        controller = Controller(*messages)
        await job(store, controller).run()
        assert controller.killed

    asyncio.run(run())
    return store.info


def test_a_controller_that_says_so_completes_its_job(tmp_path):
    info = ended(tmp_path, Progress(1, 1, {"loss": 2.0}), COMPLETED, None)
    assert (info.status, info.reason, info.rounds) == (JobStatus.COMPLETED, "", 1)
    assert info.metrics == {"loss": 2.0, "auc": 1.0}


def test_a_launcher_learns_what_the_job_wishes_at_the_server_and_of_which_study_it_is(tmp_path):
    store = Store(tmp_path)
    store.info = JobInfo("job", "job", JobStatus.DISPATCHED, study="lung")
    wishes = {"server": {"docker": {"image": "x"}}, "site-1": {"docker": {"image": "y"}}}
    store.spec = lambda _: parse_meta(
        {**META, "launcher_spec": wishes, "resource_spec": {"server": {"num_of_cpus": 2}}}
    )
    controller = Controller(COMPLETED, None)

    async def run():
        await job(store, controller).run()

    asyncio.run(run())
    assert (controller.job.study, controller.job.need.cpus) == ("lung", 2)
    assert controller.job.wishes == {"docker": {"image": "x"}}


def test_a_controller_that_ends_without_a_word_is_named_with_its_end(tmp_path):
    info = ended(tmp_path, None)
    assert info.status is JobStatus.EXECUTION_EXCEPTION
    assert info.reason == "server: the controller ended with exit code 1"


@pytest.mark.parametrize("defect", [KeyError("x"), RuntimeFault("what", why="why")])
def test_a_defect_ends_the_job_with_a_reason_and_not_the_server(tmp_path, defect):
    info = ended(tmp_path, defect)
    assert info.status is JobStatus.EXECUTION_EXCEPTION
    assert info.reason == ("server: KeyError: 'x'" if isinstance(defect, KeyError) else "server: what: why")


@pytest.mark.fault("disk full at the end of a job", "recorded once there is room")
def test_the_end_of_a_job_is_recorded_once_the_disk_has_room_again(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_RECORD_S", 0.001)
    store = Store(tmp_path)

    async def run():
        store.full = 3
        await job(store, Controller(COMPLETED, None)).run()

    asyncio.run(run())
    assert store.info.status is JobStatus.COMPLETED


@pytest.mark.parametrize("moment", ["before", "packing", "launching", "running"])
def test_an_abort_ends_a_job_whatever_it_does_just_now(tmp_path, monkeypatch, moment):
    store = Store(tmp_path)

    async def run():
        controller = Controller()
        one = job(store, controller)
        loop = asyncio.get_running_loop()
        packing, launched = asyncio.Event(), asyncio.Event()
        goes_on = asyncio.Event()

        def pack(*_, **__):
            loop.call_soon_threadsafe(packing.set)
            if moment == "packing":
                asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result(5)
            return b"zip"

        async def launch(_job, _pool):
            launched.set()
            if moment == "launching":
                await goes_on.wait()
            return controller

        monkeypatch.setattr(running.jobs, "pack", pack)
        controller.launch = launch
        if moment == "before":
            await one.abort("enough")
        work = asyncio.create_task(one.run())
        if moment != "before":
            await (packing if moment == "packing" else launched).wait()
            await one.abort("enough")
        goes_on.set()
        await asyncio.wait_for(work, 5)

    asyncio.run(run())
    assert (store.info.status, store.info.reason) == (JobStatus.ABORTED, "enough")


def test_a_job_that_is_let_go_keeps_its_state_and_its_sites(tmp_path):
    store = Store(tmp_path, JobStatus.RUNNING)

    async def run():
        registry = Registry()
        session = registry.register(name="site-1", address="::1", active_jobs={"job"})
        registry.opened(session)
        controller = Controller()
        work = asyncio.create_task(job(store, controller, registry=registry, is_resumed=True).run())
        controller.inbox.put_nowait(Progress(1, 2, {}))
        await until(lambda: store.info.rounds)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert controller.killed
        assert session.outbox.empty()  # no AbortJob, and no StartJob: its trainer runs

    asyncio.run(run())
    assert store.info.status is JobStatus.RUNNING


def test_too_few_sites_that_can_start_a_job_end_it_and_say_why(tmp_path):
    store = Store(tmp_path)

    async def run():
        one = job(store, Controller())
        work = asyncio.create_task(one.run())
        await until(lambda: one._process)
        for site in one.sites:
            one.deployed(site, f"{site}: no")
        await asyncio.wait_for(work, 5)

    asyncio.run(run())
    assert store.info.status is JobStatus.FAILED_TO_RUN
    assert store.info.reason == "1 sites must take part: site-1: no; site-2: no"
    assert store.info.deploy_detail == {"site-1": "site-1: no", "site-2": "site-2: no"}


def test_a_job_is_running_once_enough_sites_have_started_it(tmp_path):
    store = Store(tmp_path)

    async def run():
        one = job(store, Controller())
        one.deployed("site-2", "")
        assert store.info.status is JobStatus.RUNNING
        assert store.info.deploy_detail == {"site-2": ""}
        one._pool.close()

    asyncio.run(run())


def test_a_site_downloads_its_own_app_and_no_other(tmp_path):
    store = Store(tmp_path)

    async def run():
        controller = Controller()
        one = job(store, controller)
        work = asyncio.create_task(one.run())
        await until(lambda: one._process)
        assert one.blob("site-1", "job:app")
        assert one.blob("site-2", "job:app") is None
        assert one.blob("site-2", "job:other")
        assert one.blob("site-1", "job:") is None
        await one.abort("")
        await work

    asyncio.run(run())


def test_sites_are_told_the_end_and_a_client_without_its_trainer_is_told_to_start_it(tmp_path):
    store = Store(tmp_path)

    async def run():
        registry = Registry()
        session = registry.register(name="site-1", address="::1", active_jobs=set())
        registry.opened(session)
        controller = Controller()
        work = asyncio.create_task(job(store, controller, registry=registry).run())
        start = await session.outbox.get()
        assert (start.start_job.app, start.start_job.blob) == ("app", "job:app")
        controller.inbox.put_nowait(COMPLETED)
        await work
        end = await session.outbox.get()
        assert end.abort_job.job_id == "job"
        assert session.jobs == set()

    asyncio.run(run())


def test_a_trainers_last_words_are_kept(tmp_path):
    store = Store(tmp_path)
    kept = []
    store.keep_error_log = lambda *words: kept.append(words)

    async def run():
        one = job(store, SimpleNamespace())
        one.site_ended("site-1", "site-1: it broke\nTraceback\nValueError")
        assert one._participants.failure_of("site-1") == "site-1: it broke"
        one._pool.close()

    asyncio.run(run())
    assert kept == [("job", "site-1", "Traceback\nValueError")]


def test_a_site_that_joins_while_the_end_is_recorded_is_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_RECORD_S", 0.01)
    store = Store(tmp_path)

    async def run():
        registry = Registry()
        session = registry.register(name="site-1", address="::1", active_jobs=set())
        one = job(store, Controller(COMPLETED, None))
        store.full = 1
        work = asyncio.create_task(one.run())
        await until(lambda: store.full == 0)
        one.joined(session)
        await work
        assert session.outbox.empty()

    asyncio.run(run())


def session_of(registry, name, *active_jobs):
    session = registry.register(name=name, address="::1", active_jobs=set(active_jobs))
    registry.opened(session)
    return session


def events_of(session):
    """Return the kinds of the events that a site has been sent, and take them."""
    kinds = []
    while not session.outbox.empty():
        kinds.append(session.outbox.get_nowait().WhichOneof("event"))
    return kinds


async def started(one, controller):
    work = asyncio.create_task(one.run())
    await until(lambda: one._process)
    return work


class Refused(Exception):
    pass


class Asked:
    """A call of a registered site for its job."""

    def __init__(self, session):
        self.session = session

    async def authorise(self, _context):
        return self.session, {rpc.JOB_KEY: "job"}

    async def abort(self, code, _details):
        raise Refused(code.name)


def test_a_job_that_is_not_packed_yet_has_nothing_for_its_sites_and_says_so(tmp_path):
    """A site that asks for it while its server comes back must not take it for gone."""

    async def run():
        one = job(Store(tmp_path), Controller())
        session = SimpleNamespace(name="site-1")
        calls = FederationCalls(Asked(session), Registry(), SimpleNamespace(find=lambda _: one))

        async def download():
            request = msgspec.json.encode({"blob": "job:app"})
            return b"".join([chunk async for chunk in calls.download(request, Asked(session))])

        with pytest.raises(Refused, match="UNAVAILABLE"):
            await download()
        work = await started(one, Controller())
        assert (await download())[:2] == b"PK"
        await one.abort("")
        await work
        with pytest.raises(Refused, match="UNAVAILABLE"):
            await download()

    asyncio.run(run())


def test_a_site_that_joins_with_a_trainer_while_the_end_is_recorded_is_told_it(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_RECORD_S", 0.01)
    store = Store(tmp_path)

    async def run():
        registry = Registry()
        one = job(store, Controller(COMPLETED, None), registry=registry)
        store.full = 1
        work = asyncio.create_task(one.run())
        await until(lambda: store.full == 0)
        session = session_of(registry, "site-1", "job")
        one.joined(session)
        await work
        assert events_of(session) == ["abort_job"]

    asyncio.run(run())


def test_a_trainer_that_is_to_end_is_told_so_again_when_its_site_comes_back(tmp_path):
    async def run():
        registry = Registry()
        controller = Controller()
        one = job(Store(tmp_path), controller, registry=registry)
        work = await started(one, controller)
        await one._stop_at("site-1", "site-1: too slow")  # it is away, and does not hear it
        session = session_of(registry, "site-1", "job")
        one.joined(session)
        assert events_of(session) == ["abort_job"]
        assert one._participants.failure_of("site-1") == "site-1: too slow"
        one.site_ended("site-1", "")
        assert events_of(session) == ["start_job"]
        assert one._participants.failure_of("site-1") == ""
        await one._stop_at("site-1", "site-1: too slow")
        session = session_of(registry, "site-1")  # its trainer has ended meanwhile
        one.joined(session)
        assert events_of(session) == ["start_job"]
        assert one._participants.failure_of("site-1") == ""
        await one.abort("")
        await work

    asyncio.run(run())


def test_a_site_that_starts_a_job_too_late_is_told_to_stop(tmp_path):
    async def run():
        registry = Registry()
        controller = Controller()
        sessions = [session_of(registry, name) for name in ("site-1", "site-2")]
        one = job(Store(tmp_path), controller, registry=registry)
        work = await started(one, controller)
        one.deployed("site-1", "")
        one._deploy_is_over()  # one is enough, and the other would be waited for in each round
        assert "no answer to the job's start" in one._participants.failure_of("site-2")
        one.deployed("site-2", "")
        assert [events_of(session)[1:] for session in sessions] == [[], ["abort_job"]]
        await one.abort("")
        await work

    asyncio.run(run())


def test_a_site_that_is_away_when_the_others_have_started_may_still_come(tmp_path):
    async def run():
        registry = Registry()
        controller = Controller()
        session_of(registry, "site-1")
        one = job(Store(tmp_path), controller, registry=registry)
        work = await started(one, controller)
        one.deployed("site-1", "")
        one._deploy_is_over()
        session = session_of(registry, "site-2")
        one.joined(session)
        assert events_of(session) == ["start_job"]
        assert one._participants.failure_of("site-2") == ""
        await one.abort("")
        await work

    asyncio.run(run())


def test_a_controller_that_reports_without_end_is_written_down_now_and_at_its_end(tmp_path):
    store = Store(tmp_path)
    writes = []
    update = store.update
    store.update = lambda job_id, **changes: writes.append(changes.get("rounds")) or update(job_id, **changes)

    async def run():
        rounds = [Progress(number, 500, {"loss": float(number)}) for number in range(1, 501)]
        await job(store, Controller(*rounds, COMPLETED, None)).run()

    asyncio.run(run())
    assert [number for number in writes if number] == [1, 500]
    assert (store.info.rounds, store.info.metrics) == (500, {"loss": 500.0, "auc": 1.0})


def test_metrics_are_bounded_and_what_json_can_hold(tmp_path):
    deep = {}
    for _ in range(500):
        deep = {"deeper": deep}
    metrics = {"deep": deep, "bytes": b"x", "text": "t" * 5000, "list": [1, b"x"], "loss": 0.5, "none": None}
    many = [Progress(n, 9, {f"metric {n} {m}": 1.0 for m in range(3000)}) for n in range(1, 10)]
    found = ended(tmp_path, *many, None).metrics
    assert "metric 9 2999" in found
    assert len(json.dumps(found)) < 2 * progress.MAX_BYTES
    some = ended(tmp_path / "another", Done("ok", "", metrics), None).metrics
    assert json.loads(json.dumps(some)) == {
        "deep": {"deeper": {"deeper": "<dict>"}},
        "bytes": "<bytes>",
        "text": "t" * 1000,
        "list": [1, "<bytes>"],
        "loss": 0.5,
        "none": None,
    }


def test_a_controller_that_ends_twice_is_complained_of(tmp_path):
    async def run():
        controller = Controller(COMPLETED, COMPLETED, None)
        await job(Store(tmp_path), controller).run()
        assert len(controller.complaints) == 1

    asyncio.run(run())


def test_every_step_of_the_end_is_done_whatever_becomes_of_another(tmp_path):
    async def run():
        controller = Controller(COMPLETED, None)
        one = job(Store(tmp_path), controller)

        def broken():
            raise RecursionError

        one._tasks.close = broken
        with pytest.raises(RecursionError):
            await one.run()
        assert controller.killed
        assert one._pool._is_closed

    asyncio.run(run())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (JobStatus.DISPATCHED, JobStatus.FAILED_TO_RUN),
        (JobStatus.RUNNING, JobStatus.EXECUTION_EXCEPTION),
    ],
)
def test_a_job_whose_tensors_go_to_files_ends_where_the_temporary_folder_is_in_memory(
    tmp_path, monkeypatch, before, after
):
    monkeypatch.delenv("TMPDIR", raising=False)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        store = Store(tmp_path, before)
        asyncio.run(job(store, Controller(COMPLETED, None), pool=BufferPool(0)).run())
    assert store.info.status is after
    assert store.info.reason == (
        f"server: tensors cannot be kept on disk: the temporary folder {folder} is in memory (tmpfs) and not on a disk"
    )


def test_a_job_ends_before_its_sites_work_for_answers_that_find_no_room(tmp_path, monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store(tmp_path)
    task = Task("job/0/train", "train", 0, 1, [], {}, 1 << 60)
    asyncio.run(job(store, Controller(task, COMPLETED, None), pool=BufferPool(0)).run())
    assert store.info.status is JobStatus.FAILED_TO_RUN
    assert f"the temporary folder {tmp_path} has " in store.info.reason
    assert f" MiB free, and {1 << 40} MiB are needed" in store.info.reason


def test_an_answer_that_finds_no_room_at_the_server_is_sent_again_later(tmp_path):
    async def run():
        def none(_size):
            raise NoBuffer("the temporary folder /x is full or cannot be used", why="12 bytes for tensors")

        one = job(Store(tmp_path), Controller(), pool=BufferPool(0))
        one._pool.obtain = none
        await one._tasks.open(Task("job/0/train", "train", 0, 1, [], {}, 0), None, sites=("site-1",))
        calls = FederationCalls(Asked(SimpleNamespace(name="site-1")), Registry(), SimpleNamespace(find=lambda _: one))
        header = msgspec.msgpack.encode(Delivery(Result("job/0/train", "site-1", "train", 0, {}, 12), "", ""))

        async def upload():
            yield header
            yield b"twelve bytes"

        with pytest.raises(Refused, match="INTERNAL"):
            await calls.upload(upload(), Asked(None))
        assert one.open_tasks == 1

    asyncio.run(run())
