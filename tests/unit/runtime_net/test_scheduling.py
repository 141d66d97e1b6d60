"""When jobs start, why they wait, and how each way to end is reached; the sites and the running jobs are fakes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from clouddeploy_runtime.jobs import TRANSITIONS, JobStatus
from clouddeploy_runtime.server import scheduler as scheduling
from clouddeploy_runtime.wire import federation_pb2 as pb

from tests.unit.runtime_net.scheduling_world import World, play

GPU = {"@default": {"num_of_gpus": 1}}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_job_without_needs_starts_in_the_same_look_at_every_connected_site(world):
    async def scenario():
        world.join("site-2", "site-1")
        job_id = world.submit()
        world.scheduler.look()
        assert world.status(job_id) is JobStatus.DISPATCHED
        assert world.store.get(job_id).sites == ("site-1", "site-2")
        assert not world.asked("site-1")
        await world.look()
        assert world.status(job_id) is JobStatus.RUNNING

    play(scenario)


def test_a_job_waits_until_enough_sites_and_the_mandatory_one_are_there(world):
    async def scenario():
        job_id = world.submit(sites=("a", "b", "c"), min_clients=2, mandatory_clients=["c"])
        await world.look()
        assert world.why(job_id) == "c must take part and cannot now"
        world.join("a", "b")
        await world.look()
        assert world.status(job_id) is JobStatus.SUBMITTED
        world.join("stranger", "c")
        await world.look()
        assert world.status(job_id) is JobStatus.RUNNING
        assert world.jobs[job_id].sites == ("a", "b", "c")

    play(scenario)


def test_a_job_that_cannot_run_does_not_hold_up_the_next_one(world):
    async def scenario():
        stuck = world.submit(min_clients=9)
        world.join("a")
        free = world.submit()
        await world.look()
        assert (world.status(stuck), world.status(free)) == (JobStatus.SUBMITTED, JobStatus.RUNNING)
        assert world.why(stuck) == "1 of at least 9 sites can take part now: a"

    play(scenario)


def test_the_oldest_jobs_start_first_and_no_more_at_a_time_than_the_settings_say(tmp_path):
    world = World(tmp_path, max_jobs=2)

    async def scenario():
        world.join("a")
        first, second, third = (world.submit() for _ in range(3))
        await world.look()
        assert set(world.jobs) == {first, second}
        assert world.why(third).startswith("2 jobs run")
        await world.scheduler.abort(first, reason="enough")
        await world.look()
        await world.look()
        assert world.status(first) is JobStatus.ABORTED
        assert world.status(third) is JobStatus.RUNNING

    play(scenario)


def test_sites_are_asked_for_what_the_job_needs_and_their_reservations_go_with_it(world):
    async def scenario():
        world.join("a", "b")
        job_id = world.submit(resource_spec=GPU)
        await world.look()
        (question,) = world.asked("a")
        assert json.loads(question.need)["num_of_gpus"] == 1
        assert world.status(job_id) is JobStatus.SUBMITTED
        for name in ("a", "b"):
            world.answer(name, job_id, reservation=f"of {name}")
        await world.look()
        assert world.jobs[job_id].reservations == {"a": "of a", "b": "of b"}
        assert world.store.get(job_id).reservations == {"a": "of a", "b": "of b"}

    play(scenario)


def test_what_enough_sites_do_not_hold_is_given_back_and_asked_for_again_when_something_happens(world):
    async def scenario():
        world.join("a", "b")
        job_id = world.submit(resource_spec=GPU, min_clients=2)
        await world.look()
        world.answer("a", job_id, reservation="of a")
        world.answer("b", job_id, reason="2 GPUs, and it has 1")
        await world.look()
        assert [one.reservation for one in world.asked("a", "release_resources")] == ["of a"]
        assert world.why(job_id).endswith("can take part now: a (b: 2 GPUs, and it has 1)")
        await world.look()
        assert len(world.asked("a")) == 1, "its own failure is no event"
        world.scheduler.wake()
        await world.look()
        assert len(world.asked("a")) == 2
        assert world.store.get(job_id).schedule_count == 1, "only a try that was due counts"

    play(scenario)


def test_a_site_that_holds_nothing_is_left_out_when_the_others_are_enough(world):
    async def scenario():
        world.join("a", "b")
        job_id = world.submit(resource_spec=GPU)
        await world.look()
        world.answer("a", job_id, reservation="of a")
        world.leave("b")
        await world.look()
        assert world.jobs[job_id].sites == ("a",)

    play(scenario)


def test_an_answer_that_nobody_waits_for_any_more_is_given_back(world):
    async def scenario():
        world.join("a")
        job_id = world.submit(resource_spec=GPU)
        await world.look()
        await world.scheduler.abort(job_id, reason="enough")
        await world.look()
        world.answer("a", job_id, reservation="late")
        assert [one.reservation for one in world.asked("a", "release_resources")] == ["late"]
        assert world.status(job_id) is JobStatus.ABORTED
        assert not world.jobs

    play(scenario)


def test_ten_tries_in_vain_end_a_job_with_the_last_cause(world):
    async def scenario():
        job_id = world.submit(min_clients=2)
        await world.look()
        assert world.store.get(job_id).schedule_count == 0, "nobody was there"
        world.join("a")
        pauses = []
        while world.status(job_id) is JobStatus.SUBMITTED:
            pause = await world.look()
            pauses.append(pause)
            world.scheduler.wake()
            await world.look()  # events between the tries do not count
            world.now += pause or 0
        info = world.store.get(job_id)
        assert pauses[:-1] == [10, 20, 40, 80, 160, 320, 600, 600, 600]
        assert info.status is JobStatus.CAN_NOT_SCHEDULE
        assert info.reason == "after 10 tries: 1 of at least 2 sites can take part now: a"
        assert info.schedule_count == 10

    play(scenario)


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (JobStatus.COMPLETED, JobStatus.COMPLETED, "said so"),
        (JobStatus.EXECUTION_EXCEPTION, JobStatus.EXECUTION_EXCEPTION, "said so"),
        (JobStatus.ABANDONED, JobStatus.ABANDONED, "said so"),
        (JobStatus.FAILED_TO_RUN, JobStatus.FAILED_TO_RUN, "site-1: no"),
        (ZeroDivisionError("oops"), JobStatus.ABNORMAL, "server: ZeroDivisionError: oops"),
    ],
)
def test_the_end_of_a_running_job_is_its_status(world, end, status, reason):
    async def scenario():
        world.end = end
        world.join("a")
        job_id = world.submit()
        await world.look()
        await world.look()
        info = world.store.get(job_id)
        assert (info.status, info.reason) == (status, reason)
        assert world.scheduler.find(job_id) is None

    play(scenario)


def test_the_tests_here_reach_every_final_state():
    """Each is reached above, or below by an abort; a new one has to be added."""
    reached = {
        JobStatus.COMPLETED,
        JobStatus.EXECUTION_EXCEPTION,
        JobStatus.ABANDONED,
        JobStatus.FAILED_TO_RUN,
        JobStatus.ABNORMAL,
        JobStatus.CAN_NOT_SCHEDULE,
        JobStatus.ABORTED,
    }
    assert {status for status in JobStatus if status.is_final} == reached
    assert all(any(status in after for after in TRANSITIONS.values()) for status in reached)


@pytest.mark.parametrize("is_running", [False, True])
def test_an_abort_ends_a_job_that_waits_or_runs(world, is_running):
    async def scenario():
        job_id = world.submit()
        if is_running:
            world.join("a")
        await world.look()
        await world.scheduler.abort(job_id, reason="aborted by ann")
        await world.look()
        info = world.store.get(job_id)
        assert (info.status, info.reason) == (JobStatus.ABORTED, "aborted by ann")
        await world.scheduler.abort(job_id, reason="again")
        assert world.store.get(job_id).reason == "aborted by ann"

    play(scenario)


@pytest.mark.fault("disk full while a job is aborted", "it is aborted")
def test_a_running_job_can_be_aborted_while_the_disk_is_full(world, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    async def scenario():
        world.join("a")
        job_id = world.submit()
        await world.look()
        with monkeypatch.context() as patch:
            patch.setattr(world.store, "update", full)
            await world.scheduler.abort(job_id, reason="enough")
        await world.look()
        assert world.status(job_id) is JobStatus.ABORTED

    play(scenario)


def test_what_a_job_did_not_claim_is_given_back_at_its_end(world):
    async def scenario():
        world.join("a")
        world.end = JobStatus.FAILED_TO_RUN
        job_id = world.submit(resource_spec=GPU)
        await world.look()
        world.answer("a", job_id, reservation="of a")
        await world.look()
        await world.look()
        assert [one.reservation for one in world.asked("a", "release_resources")] == ["of a"]

    play(scenario)


def test_a_job_whose_folder_is_broken_ends_alone(world):
    async def scenario():
        world.join("a")
        broken, sound = world.submit(), world.submit()
        (world.store.job_folder(broken) / "meta.json").write_text("{")
        await world.look()
        assert world.status(broken) is JobStatus.ABNORMAL
        assert "meta.json" in world.store.get(broken).reason
        assert world.status(sound) is JobStatus.RUNNING

    play(scenario)


@pytest.mark.fault("disk full when a job is to start", "tried again")
def test_a_full_disk_is_tried_again(world, monkeypatch):
    async def scenario():
        world.join("a")
        job_id = world.submit()
        with monkeypatch.context() as patch:
            patch.setattr(world.store, "update", full)
            pause = await world.look()
        assert world.status(job_id) is JobStatus.SUBMITTED
        assert pause == 10
        world.now += pause
        await world.look()
        assert world.status(job_id) is JobStatus.RUNNING

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    play(scenario)


def test_a_stopped_server_goes_on_with_its_jobs_at_the_sites_they_had(world, tmp_path):
    async def scenario():
        world.join("a", "b")
        runs, aborted = world.submit(resource_spec=GPU), world.submit()
        await world.look()
        world.answer("a", runs, reservation="of a")
        world.answer("b", runs, reservation="of b")
        await world.look()
        world.store.update(aborted, reason="aborted by ann")  # and killed before the job had ended
        await world.scheduler.stop()
        assert world.status(runs) is JobStatus.RUNNING
        again = World(tmp_path)
        again.scheduler.resume()
        await asyncio.sleep(0)
        job = again.jobs[runs]
        assert (job.is_resumed, job.sites, job.reservations) == (True, ("a", "b"), {"a": "of a", "b": "of b"})
        assert again.store.get(aborted).status is JobStatus.ABORTED
        again.join("a")
        assert job.came == ["a"]
        again.leave("a")
        assert job.went == ["a"]
        await again.scheduler.stop()

    play(scenario)


def test_a_shutdown_by_an_admin_ends_the_running_jobs(world):
    async def scenario():
        world.join("a")
        job_id = world.submit()
        await world.look()
        world.scheduler.end_all("the server was shut down by root")
        await world.scheduler.stop()
        info = world.store.get(job_id)
        assert (info.status, info.reason) == (JobStatus.ABORTED, "the server was shut down by root")

    play(scenario)


def test_after_a_restart_a_job_gives_the_sites_that_were_there_ten_seconds(world, tmp_path):
    async def scenario():
        world.join("a", "b")
        await world.scheduler.stop()
        world.leave("a")
        again = World(tmp_path)
        job_id = again.submit()
        again.join("a")
        pause = await again.look()
        assert (again.why(job_id), pause) == ("b may come back after the server's restart", scheduling.RETURN_S)
        assert again.store.get(job_id).schedule_count == 0
        again.now += scheduling.RETURN_S
        await again.look()
        assert again.jobs[job_id].sites == ("a",)
        await again.scheduler.stop()

    play(scenario)


def test_the_loop_starts_a_job_as_soon_as_a_site_joins(world):
    async def scenario():
        job_id = world.submit()
        loop = asyncio.create_task(world.scheduler.run())
        await asyncio.sleep(0)
        world.join("a")
        since = world.store.get(job_id).revision
        info = await world.store.changed(job_id, since=since, wait_s=2)
        assert info.status in {JobStatus.DISPATCHED, JobStatus.RUNNING}
        loop.cancel()

    play(scenario)


def test_what_the_sites_have_is_asked_when_they_join_and_on_request(world):
    async def scenario():
        world.join("a", "b")
        questions = Counter(world.sessions[name].outbox.get_nowait().WhichOneof("event") for name in ("a", "b"))
        assert questions == {"check_resources": 2}
        report = asyncio.create_task(world.scheduler.reservations.report())
        await asyncio.sleep(0)
        offer = json.dumps({"total": {"gpus": 1}}).encode()
        world.scheduler.resources("a", pb.Resources(offer=offer))
        world.leave("b")
        assert await report == {"a": {"total": {"gpus": 1}}}
        assert world.scheduler.reservations.offers == {"a": {"total": {"gpus": 1}}}

    play(scenario)


def test_a_job_that_cannot_go_on_while_the_disk_is_full_goes_on_later(world, tmp_path, monkeypatch):
    async def scenario():
        world.join("a")
        job_id = world.submit()
        await world.look()
        await world.scheduler.stop()
        again = World(tmp_path)
        again.join("a")
        with monkeypatch.context() as patch:
            patch.setattr(again.scheduler, "_start", full)
            again.scheduler.resume()
            assert await again.look() == 10
        assert (again.scheduler.running, again.status(job_id)) == ((), JobStatus.RUNNING)
        again.now += 10
        assert await again.look() is None
        assert again.scheduler.running == (job_id,)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    play(scenario)


def test_many_jobs_that_wait_are_neither_read_nor_written_at_each_event(world, monkeypatch):
    reads, writes = [], []

    async def scenario():
        ids = [world.submit(min_clients=3) for _ in range(20)]
        world.join("a")
        await world.look()
        monkeypatch.setattr(world.store, "spec", reads.append)
        monkeypatch.setattr(world.store, "update", lambda job_id, **_: writes.append(job_id))
        world.join("b")
        await world.look()
        assert [world.why(job_id) for job_id in ids] == ["2 of at least 3 sites can take part now: a, b"] * 20

    play(scenario)
    assert (reads, writes) == ([], [])


def test_a_job_is_not_read_while_as_many_run_as_may(tmp_path, monkeypatch):
    world = World(tmp_path, max_jobs=1)

    async def scenario():
        world.join("a")
        world.submit()
        await world.look()
        second = world.submit()
        monkeypatch.setattr(world.store, "spec", None)
        await world.look()
        assert world.why(second) == "1 jobs run, as many as the server's resources.json allows"

    play(scenario)


def test_a_disk_that_stays_full_does_not_hold_up_a_shutdown(world, monkeypatch):
    async def scenario():
        world.join("a")
        job_id = world.submit()
        await world.look()
        monkeypatch.setattr(world.jobs[job_id], "abort", no_end)
        world.scheduler.end_all("the server was shut down by root")
        await world.scheduler.stop()
        assert world.status(job_id) is JobStatus.RUNNING

    async def no_end(*_, **__):
        pass

    monkeypatch.setattr("clouddeploy_runtime.server.scheduler._END_S", 0.05)
    play(scenario)


@pytest.mark.parametrize("argument", [True, False])
def test_a_job_that_asks_for_it_gets_a_pool_of_files(tmp_path, argument):
    world = World(tmp_path)
    path = "nvflare.app_common.workflows.fedavg.FedAvg"
    workflow = {"path": path, "args": {"enable_tensor_disk_offload": argument}}

    async def scenario():
        world.join("a")
        job_id = world.submit(workflows=[workflow])
        await world.look()
        assert world.jobs[job_id].pool.is_on_disk is argument

    play(scenario)
