"""What a site owes the server: each task once, its result until it counts, and an end to every job."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
import zipfile

import msgspec
import pytest
from clouddeploy_runtime.client.jobs import Ending, Place, SiteJob
from clouddeploy_runtime.client.site_tasks import SiteTasks
from clouddeploy_runtime.client.transfer import Gone, Transfer
from clouddeploy_runtime.errors import ConnectionFailed, InvalidJob
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.messages import Done, Receipt, Result, Task
from clouddeploy_runtime.wire import federation_pb2 as pb

META = {"name": "j", "deploy_map": {"app": ["@ALL"]}}


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 1
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)


class Line:
    """In the place of `Transfer`: what the server says to each upload, and how often there was one."""

    def __init__(self, *replies):
        self.connections = 1
        self.replies = list(replies)
        self.sent = []
        self.fetched = []

    async def fetch(self, _job, blob, *, into, checksum):
        self.fetched.append(blob)
        await asyncio.sleep(0)

    async def send(self, _job, result, view, *, task_checksum):
        self.sent.append((result.task_id, task_checksum))
        await asyncio.sleep(0)
        reply = self.replies.pop(0) if self.replies else Receipt.TAKEN
        if isinstance(reply, Exception):
            raise reply
        return reply


class Trainer:
    """Notes its tasks; the test answers them."""

    def __init__(self):
        self.tasks = []
        self.complaints = []

    async def send(self, message, buffer=None):
        self.tasks.append(message.task_id)

    def complain(self, what):
        self.complaints.append(what)


class Site:
    def __init__(self, *replies):
        self.line = Line(*replies)
        self.trainer = Trainer()
        self.reports = []
        self.gone = []
        self.tasks = SiteTasks(
            "job",
            site="site-1",
            transfer=self.line,
            pool=BufferPool(1 << 20),
            report=self.reports.append,
            gone=lambda: self.gone.append(True),
        )
        self.tasks.begin(self.trainer)

    def ask(self, task_id, *, checksum="model"):
        task = Task(task_id, "train", 0, 1, [], {}, 5)
        event = pb.RunTask(job_id="job", task=msgspec.msgpack.encode(task), blob=f"task:{task_id}", size=5)
        event.checksum = checksum
        self.tasks.add(event)

    def answer(self, task_id):
        self.tasks.answered(Result(task_id, "site-1", "train", 0, {}, 0), None)

    async def until(self, condition):
        await until(lambda: condition(self))

    async def train(self, task_id):
        count = len(self.trainer.tasks)
        self.ask(task_id)
        await self.until(lambda site: len(site.trainer.tasks) > count)
        self.answer(task_id)


def scenario(*replies):
    def wrap(test):
        def run():
            async def all_of_it():
                await test(Site(*replies))

            asyncio.run(all_of_it())

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return wrap


@scenario()
async def test_a_repeated_task_is_trained_for_once(site):
    site.ask("0")
    site.ask("0")
    await site.until(lambda one: one.trainer.tasks)
    site.ask("0")
    site.answer("0")
    await site.until(lambda one: one.line.sent)
    await site.tasks.delivered()
    assert (site.trainer.tasks, site.line.sent) == (["0"], [("0", "model")])


@scenario(Receipt.NOT_OPEN)
async def test_a_result_is_kept_until_the_server_asks_for_it_again(site):
    await site.train("0")
    await site.until(lambda one: one.line.sent and not one.line.replies)
    site.ask("0")
    await site.until(lambda one: len(one.line.sent) == 2)
    assert site.trainer.tasks == ["0"]


@scenario()
async def test_a_server_that_lost_a_result_gets_a_new_one_over_its_new_connection(site):
    await site.train("0")
    await site.until(lambda one: one.line.sent and not one.tasks._works)
    site.ask("0")  # was on its way when the result was taken
    assert len(site.trainer.tasks) == 1
    site.line.connections += 1
    await site.train("0")
    assert site.trainer.tasks == ["0", "0"]


@scenario(Receipt.NOT_OPEN)
async def test_the_same_task_with_other_parameters_is_a_new_one(site):
    """A workflow without a checkpoint begins anew."""
    await site.train("0")
    await site.until(lambda one: one.line.sent and not one.line.replies)
    site.ask("0", checksum="another model")
    await site.until(lambda one: len(one.trainer.tasks) == 2)
    site.answer("0")
    await site.tasks.delivered()
    assert site.line.sent[-1] == ("0", "another model")


@scenario()
async def test_a_trainer_that_is_behind_gets_the_newest_task_and_none_in_between(site):
    for task_id in ("0", "1", "2"):
        site.ask(task_id)
        await site.until(lambda one: one.trainer.tasks)
    site.answer("0")
    await site.until(lambda one: len(one.trainer.tasks) == 2)
    site.answer("2")
    await site.tasks.delivered()
    assert (site.trainer.tasks, site.line.sent) == (["0", "2"], [("2", "model")])


@scenario(Gone("Cannot upload"))
async def test_a_job_that_the_server_does_not_run_any_more_ends_at_the_site(site):
    await site.train("0")
    await site.until(lambda one: one.gone)
    assert site.reports == []


@scenario(ConnectionFailed("Cannot upload", why="refused"))
async def test_a_result_that_is_refused_fails_the_task(site):
    await site.train("0")
    await site.until(lambda one: one.reports)
    assert site.reports[0].task_failed.reason == "site-1: Cannot upload: refused"


@scenario()
async def test_an_answer_to_nothing_is_ignored_and_held_against_the_trainer(site):
    site.answer("0")
    assert site.line.sent == []
    assert site.trainer.complaints == ["it answered what it was not asked over and over"]


async def ends(work):
    await asyncio.wait_for(work, 1)


@scenario(Receipt.NOT_OPEN)
async def test_a_task_that_comes_when_the_trainer_has_ended_does_not_keep_its_job(site):
    await site.train("0")
    await site.until(lambda one: not one.line.replies)
    delivered = asyncio.create_task(site.tasks.delivered())
    await asyncio.sleep(0)
    site.ask("0")  # the result of this one is still delivered
    await site.until(lambda one: len(one.line.sent) == 2)
    site.ask("1")
    await ends(delivered)
    assert site.trainer.tasks == ["0"]


@scenario(Receipt.NOT_OPEN)
async def test_a_result_that_the_server_went_on_without_does_not_keep_its_job(site):
    await site.train("0")
    await site.until(lambda one: not one.line.replies)
    delivered = asyncio.create_task(site.tasks.delivered())
    await asyncio.sleep(0)
    site.ask("1")
    await ends(delivered)


@scenario()
async def test_a_trainer_that_ends_over_a_task_that_was_taken_back_does_not_keep_its_job(site):
    site.ask("0")
    await site.until(lambda one: one.trainer.tasks)
    site.ask("1")  # waits for the trainer, which is at the one before
    await asyncio.sleep(0)
    await ends(site.tasks.delivered())


@scenario()
async def test_a_job_that_was_stopped_takes_no_task(site):
    site.tasks.cancel()
    site.ask("0")
    await ends(site.tasks.closed())
    assert (site.trainer.tasks, site.line.fetched) == ([], [])


class Launched:
    """A launcher and its trainer, which says what it is told to."""

    def __init__(self, *messages, code=0):
        self.messages = asyncio.Queue()
        for message in (*messages, *([] if code is None else [None])):
            self.messages.put_nowait(message)
        self.code = code
        self.last_words = ""
        self.complaints = []
        self.stopped = asyncio.Event()
        self.is_started = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.job = None

    async def launch(self, job, _pool):
        self.job = job
        self.is_started.set()
        await self.goes_on.wait()
        return self

    async def send(self, task, buffer=None):
        self.messages.put_nowait(Result(task.task_id, "site-1", "train", 0, {}, 0))

    async def receive(self):
        message = await self.messages.get()
        return None if message is None else (message, None)

    async def wait(self):
        return self.code or 0

    def ending(self):
        return "site-1: the trainer was killed by signal 11"

    def printed(self):
        return self.last_words

    def complain(self, what):
        self.complaints.append(what)

    def kill(self):
        self.stopped.set()
        self.messages.put_nowait(None)

    async def stop(self, reason, *, grace_s):
        self.kill()


def site_job(folder, launcher, *, transfer=None, check=lambda _: None, pool=None):
    reports = []
    job = SiteJob(
        pb.StartJob(job_id="job", app="app", blob="job:app", size=22),
        place=Place("site-1", folder, None),
        launcher=launcher,
        transfer=transfer or Archive(),
        pool=pool or BufferPool(1 << 20),
        check=check,
        report=reports.append,
    )
    return job, reports


def pack(meta):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("meta.json", json.dumps(meta))
    return packed.getvalue()


class Archive(Line):
    def __init__(self, meta=META):
        super().__init__()
        self.meta = meta

    async def fetch_bytes(self, _job, _blob, *, size, checksum):
        return pack(self.meta)


def test_a_job_without_a_connection_can_be_stopped(tmp_path):
    async def run():
        job, reports = site_job(tmp_path, Launched(), transfer=Transfer())
        work = asyncio.create_task(job.run())
        await asyncio.sleep(0)
        await job.stop("enough")
        assert await asyncio.wait_for(work, 1) == Ending()
        assert reports == []

    asyncio.run(run())


def test_a_result_that_cannot_be_delivered_does_not_keep_a_job_from_stopping(tmp_path):
    async def run():
        job, _ = site_job(tmp_path, Launched(code=None))
        work = asyncio.create_task(job.run())
        task = msgspec.msgpack.encode(Task("0", "train", 0, 1, [], {}, 0))
        job._tasks._transfer = Transfer()  # the line is lost from here on
        job.add(pb.RunTask(job_id="job", task=task))
        await until(lambda: any(one.result for one in job._tasks._works.values()))
        await job.stop("enough")
        assert await asyncio.wait_for(work, 1) == Ending()

    asyncio.run(run())


def test_a_job_that_is_stopped_while_its_trainer_starts_ends(tmp_path):
    async def run():
        launcher = Launched(code=None)
        launcher.goes_on.clear()
        job, _ = site_job(tmp_path, launcher)
        work = asyncio.create_task(job.run())
        await launcher.is_started.wait()
        await job.stop("enough")
        launcher.goes_on.set()
        assert await asyncio.wait_for(work, 1) == Ending()
        assert launcher.stopped.is_set()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("messages", "code", "ending"),
    [
        ([Done("FINISHED:COMPLETED", "", {})], 0, Ending()),
        ([], 0, Ending()),
        ([Done("FINISHED:EXECUTION_EXCEPTION", "site-1: no", {})], 101, Ending("site-1: no")),
        ([Done("FINISHED:EXECUTION_EXCEPTION", "no", {})], 101, Ending("site-1: no")),
        ([], -11, Ending("site-1: the trainer was killed by signal 11", is_crash=True)),
    ],
)
def test_how_a_trainer_ends_is_told(tmp_path, messages, code, ending):
    async def run():
        job, reports = site_job(tmp_path, Launched(*messages, code=code))
        assert await job.run() == ending
        assert [one.WhichOneof("event") for one in reports] == ["job_deployed"]
        assert not (tmp_path / "job").exists()

    asyncio.run(run())


def test_the_last_words_of_a_failed_trainer_are_told_and_no_file_of_its_folder(tmp_path):
    (tmp_path / "client.key").write_text("secret")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").symlink_to(tmp_path / "client.key")

    async def run():
        launcher = Launched(code=-11)
        launcher.last_words = "Traceback\nValueError\n"
        job, _ = site_job(tmp_path, launcher)
        assert (await job.run()).reason == "site-1: the trainer was killed by signal 11\nTraceback\nValueError\n"

    asyncio.run(run())


def test_a_trainer_that_ends_twice_is_complained_of(tmp_path):
    async def run():
        launcher = Launched(*[Done("FINISHED:COMPLETED", "", {})] * 2)
        job, _ = site_job(tmp_path, launcher)
        assert await job.run() == Ending()
        assert len(launcher.complaints) == 1

    asyncio.run(run())


def test_every_step_of_a_jobs_end_is_done_whatever_becomes_of_another(tmp_path):
    async def run():
        job, _ = site_job(tmp_path, Launched())

        async def broken():
            raise RecursionError

        job._tasks.closed = broken
        with pytest.raises(RecursionError):
            await job.run()
        assert job._pool._is_closed
        assert not (tmp_path / "job").exists()

    asyncio.run(run())


def test_what_a_site_does_not_allow_is_not_started_and_the_server_hears_why(tmp_path):
    def refuse(_):
        raise InvalidJob("it brings code", why="not here")

    async def run():
        launcher = Launched()
        job, reports = site_job(tmp_path, launcher, check=refuse)
        assert await job.run() == Ending("site-1: it brings code: not here")
        assert reports[0].job_deployed.reason == "site-1: it brings code: not here"
        assert not launcher.is_started.is_set()

    asyncio.run(run())


def test_a_job_is_refused_where_tensors_go_to_files_and_the_temporary_folder_is_in_memory(monkeypatch, tmp_path):
    monkeypatch.delenv("TMPDIR", raising=False)

    async def run(folder):
        monkeypatch.setattr(tempfile, "tempdir", folder)
        job, reports = site_job(tmp_path, Launched(), pool=BufferPool(0))
        assert (await job.run()).reason == reports[0].job_deployed.reason
        return reports[0].job_deployed.reason

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        reason = asyncio.run(run(folder))
        assert reason == (
            f"site-1: tensors cannot be kept on disk: the temporary folder {folder} is in memory (tmpfs) "
            "and not on a disk"
        )


def test_a_launcher_learns_what_the_job_wishes_and_takes_here_and_of_which_study_it_is(tmp_path):
    wishes = {"default": {"docker": {"image": "a", "shm_size": "1g"}}, "site-1": {"docker": {"image": "b"}}}
    needs = {"@default": {"num_of_gpus": 1}, "site-1": {"memory": "2Gi"}}
    launcher = Launched()
    transfer = Archive({**META, "launcher_spec": wishes, "resource_spec": needs})
    job, _ = site_job(tmp_path, launcher, transfer=transfer)
    asyncio.run(job.run())
    assert launcher.job.study == "default"
    assert launcher.job.wishes == {"docker": {"image": "b", "shm_size": "1g"}}
    assert (launcher.job.need.gpus, launcher.job.need.memory_gib) == (1, 2)
