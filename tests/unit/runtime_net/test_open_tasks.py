"""A site's answer reaches the controller once, whatever the line does to it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from clouddeploy_runtime.errors import BlobCorrupt
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.messages import Delivery, MessageTooLarge, Receipt, Result, SiteFailed, Task
from clouddeploy_runtime.server.open_tasks import OpenTasks
from clouddeploy_runtime.server.uploads import Superseded
from clouddeploy_runtime.wire import blobs

SITES = ("site-1", "site-2")
UPDATE = b"twelve bytes"


class Job:
    """The tasks of a job, and what its controller and its sites were told."""

    def __init__(self, *, task_s=0.0):
        self.told = []
        self.pushed = []
        self.overdue = []
        self.pool = BufferPool(1 << 20)
        self.tasks = OpenTasks(
            "job",
            pool=self.pool,
            task_s=task_s,
            push=lambda site, event: self.pushed.append((site, event.run_task.blob)),
            tell=self._tell,
            overdue=lambda site, reason: self.overdue.append((site, reason)),
        )

    async def _tell(self, message, buffer):
        if isinstance(message, Result) and message.meta.get("metrics") == "too large":
            raise MessageTooLarge("too large")
        self.told.append((type(message).__name__, message.site, bytes(buffer.view[: message.size]) if buffer else b""))

    async def open(self, task_id="job/0/train", *, model=b"model", targets=()):
        buffer = self.pool.acquire(len(model))
        buffer.view[: len(model)] = model
        task = Task(task_id, "train", 0, 1, list(targets), {}, len(model))
        await self.tasks.open(task, buffer, sites=SITES)
        for site in SITES:
            self.tasks.send(site)

    def accept(self, *, site="site-1", update=UPDATE, stream=None, offset=0, **more):
        delivery = delivery_of(update=update, offset=offset, **more)
        return self.tasks.accept(site, delivery, stream or blobs.send(update, offset=offset))

    async def cut(self, **more):
        """Have an upload end in its middle."""
        silent = Silent()
        upload = asyncio.create_task(self.accept(stream=silent, **more))
        await silent.has_begun.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        return await self.tasks.received("site-1", delivery_of(**more))


def delivery_of(*, task_id="job/0/train", update=UPDATE, model=b"model", meta=None, offset=0):
    result = Result(task_id, "whoever", "train", 0, meta or {}, len(update))
    return Delivery(result, blobs.checksum(update), blobs.checksum(model), offset)


async def until(condition):
    deadline = asyncio.get_running_loop().time() + 1
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)


def scenario(test):
    """Run an asynchronous test."""

    def run():
        asyncio.run(test(Job()))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class Silent:
    """A stream that brings a part and then nothing: its other end is gone and has not said so."""

    def __init__(self):
        self.has_begun = asyncio.Event()

    async def __aiter__(self):
        yield UPDATE[:5]
        self.has_begun.set()
        await asyncio.Event().wait()


@scenario
async def test_a_repeated_upload_is_acknowledged_and_not_handed_on_again(job):
    await job.open()
    assert await job.accept() is Receipt.TAKEN
    assert await job.accept() is Receipt.TAKEN
    assert job.told == [("Result", "site-1", UPDATE)]
    assert await job.accept(site="site-2") is Receipt.TAKEN
    assert await job.accept() is Receipt.TAKEN  # the task is closed now
    assert len(job.told) == 2


@scenario
async def test_the_newest_upload_replaces_one_that_hangs_and_the_older_is_not_acknowledged(job):
    await job.open()
    silent = Silent()
    older = asyncio.create_task(job.accept(stream=silent))
    await silent.has_begun.wait()
    assert await job.accept() is Receipt.TAKEN
    with pytest.raises(Superseded):
        await older
    assert job.told == [("Result", "site-1", UPDATE)]


@scenario
async def test_an_upload_that_breaks_leaves_the_task_open_for_the_next(job):
    await job.open()
    silent = Silent()
    broken = asyncio.create_task(job.accept(stream=silent))
    await silent.has_begun.wait()
    broken.cancel()
    with pytest.raises(asyncio.CancelledError):
        await broken
    with pytest.raises(BlobCorrupt):
        await job.accept(stream=blobs.send(b"other bytes!"))
    assert job.told == []
    assert await job.accept() is Receipt.TAKEN
    assert job.told == [("Result", "site-1", UPDATE)]


@scenario
async def test_an_upload_that_was_cut_goes_on_where_it_stopped(job):
    await job.open()
    assert await job.cut() == 5
    assert job.pool.in_use  # the part is kept
    assert await job.accept(offset=5) is Receipt.TAKEN
    assert job.told == [("Result", "site-1", UPDATE)]


@scenario
async def test_a_site_that_asks_how_far_it_came_ends_the_call_that_hangs(job):
    await job.open()
    silent = Silent()
    older = asyncio.create_task(job.accept(stream=silent))
    await silent.has_begun.wait()
    assert await job.tasks.received("site-1", delivery_of()) == 5
    with pytest.raises(Superseded):
        await older
    assert await job.accept(offset=5) is Receipt.TAKEN
    assert job.told == [("Result", "site-1", UPDATE)]


@scenario
async def test_what_came_of_another_answer_is_not_gone_on_with(job):
    """A trainer that was started again may answer something else."""
    await job.open()
    await job.cut()
    other = b"twelve Bytes"
    assert await job.tasks.received("site-1", delivery_of(update=other)) == 0
    with pytest.raises(Superseded):
        await job.accept(update=other, offset=5)
    assert await job.accept(update=other) is Receipt.TAKEN
    assert job.told == [("Result", "site-1", other)]


@pytest.mark.parametrize("ending", ["its site failed", "its task is closed", "another is here", "it was damaged"])
def test_the_part_of_an_upload_gives_its_memory_back_when(ending):
    async def run():
        job = Job()
        await job.open()
        before = job.pool.in_use
        await job.cut()
        if ending == "its site failed":
            await job.tasks.fail("site-1", "gone")
        elif ending == "its task is closed":
            job.tasks.close()
        elif ending == "another is here":
            await job.accept(update=b"twelve Bytes", stream=None)
        else:
            with pytest.raises(BlobCorrupt):
                await job.accept(offset=5, stream=blobs.send(b"other"))
            assert await job.tasks.received("site-1", delivery_of()) == 0
        taken = {"another is here": job.pool.held(2).capacity, "its task is closed": -before}.get(ending, 0)
        assert job.pool.in_use == before + taken

    asyncio.run(run())


@scenario
async def test_a_result_is_handed_on_although_its_site_hangs_up_meanwhile(job):
    await job.open()
    goes_on = asyncio.Event()
    tell = job._tell

    async def slow(message, buffer):
        await goes_on.wait()
        await tell(message, buffer)

    job.tasks._tell = slow
    upload = asyncio.create_task(job.accept())
    await until(lambda: not job.tasks.is_owed_by("site-1"))
    upload.cancel()
    goes_on.set()
    await until(lambda: job.told)
    assert job.told == [("Result", "site-1", UPDATE)]


@scenario
async def test_a_result_that_comes_before_its_task_is_asked_for_is_left_with_the_site(job):
    """A server that was killed asks again a moment after the site has come back."""
    assert await job.accept() is Receipt.NOT_OPEN
    await job.open()
    assert await job.accept() is Receipt.TAKEN
    assert len(job.told) == 1


@scenario
async def test_a_result_of_other_parameters_is_stale(job):
    await job.open(model=b"the same task, from the beginning")
    assert await job.accept() is Receipt.STALE
    assert job.told == []


@scenario
async def test_the_next_task_ends_the_one_before_and_late_answers_are_dropped(job):
    await job.open()
    silent = Silent()
    late = asyncio.create_task(job.accept(site="site-2", stream=silent))
    await silent.has_begun.wait()
    await job.open("job/1/train")
    with pytest.raises(Superseded):
        await late
    assert await job.accept(site="site-2") is Receipt.TAKEN
    assert job.told == []
    assert job.tasks.is_owed_by("site-2")


@scenario
async def test_a_result_without_parameters_counts(job):
    await job.open()
    assert await job.accept(update=b"") is Receipt.TAKEN
    assert job.told == [("Result", "site-1", b"")]


@scenario
async def test_a_result_that_fits_into_no_message_fails_the_task_at_its_site(job):
    await job.open()
    assert await job.accept(meta={"metrics": "too large"}) is Receipt.TAKEN
    assert job.told == [("SiteFailed", "site-1", b"")]


@scenario
async def test_a_failure_is_told_once_and_a_later_answer_is_dropped(job):
    await job.open()
    await job.tasks.fail("site-1", "site-1: no")
    await job.tasks.fail("site-1", "site-1: no")
    assert await job.accept() is Receipt.TAKEN
    assert job.told == [(SiteFailed.__name__, "site-1", b"")]


@scenario
async def test_a_failure_with_other_parameters_is_no_news(job):
    await job.open(model=b"the same task, from the beginning")
    await job.tasks.fail("site-1", "site-1: no", task_id="job/0/train", task_checksum=blobs.checksum(b"model"))
    assert job.told == []
    asked = blobs.checksum(b"the same task, from the beginning")
    await job.tasks.fail("site-1", "site-1: no", task_id="job/0/train", task_checksum=asked)
    assert job.told == [(SiteFailed.__name__, "site-1", b"")]


@scenario
async def test_a_site_gets_the_tasks_that_were_meant_for_it_only(job):
    await job.open(targets=["site-1"])
    assert job.pushed == [("site-1", "task:job/0/train")]
    assert bytes(job.tasks.blob("site-1", "job/0/train")) == b"model"
    assert job.tasks.blob("site-2", "job/0/train") is None
    assert job.tasks.blob("site-1", "another") is None


def test_a_task_that_takes_too_long_is_named_with_site_round_and_limit():
    async def run():
        job = Job(task_s=0.01)
        await job.open()
        await job.accept(site="site-2")
        await until(lambda: job.overdue)
        assert job.overdue == [("site-1", "site-1: task 'train' of round 0 took longer than 0.01 s")]

    asyncio.run(run())


def test_a_size_below_zero_is_no_result():
    content = msgspec.msgpack.encode(Delivery(Result("t", "s", "train", 0, {}, -1), "", ""))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(content, type=Delivery)


@scenario
async def test_an_answer_waits_for_memory_before_it_becomes_a_file(job):
    """One that the controller has not folded in yet holds all that the model has left of the job's budget."""
    job.pool.budget_bytes = 2 * 4096
    await job.open()
    held = job.pool.acquire(4096)
    coming = asyncio.create_task(job.accept())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (job.told, coming.done()) == ([], False)
    held.release()
    assert await coming is Receipt.TAKEN
    assert job.told == [("Result", "site-1", UPDATE)]
