"""A job's rounds by program: how its metrics went, not only what they are now."""

from dataclasses import replace

import pytest
from clouddeploy_runtime.jobs.rounds import Round

from clouddeploy.dashboard.live import MAX_JOBS, Line, look
from tests.unit.dashboard.test_live import JOB, Server


@pytest.fixture
def lea(world):
    world.configure(freeze=True)
    return world.person("lea", role="lead")


def see(world, *jobs, rounds=None):
    server = Server(jobs)
    if rounds is not None:
        server.job_rounds = lambda *_, **__: tuple(rounds)
    world.desk.live.put(line=Line.HERE, at=world.clock(), **look(server, world.desk.live.seen))


def test_every_round_is_told_with_its_metrics(world, lea):
    rounds = [
        Round(1, 5, 2.5, {"loss": 0.9, "odd": None}, 100, 50, 2, 0),
        Round(2, 5, 2.0, {"loss": 0.5}, 100, 25, 1, 1, ("site-2: no disk",)),
    ]
    see(world, JOB, rounds=rounds)
    found = lea.get("/live/jobs/j-1/rounds").json()
    assert found["round_list"] == [
        {"round": 1, "seconds": 2.5, "metrics": {"loss": 0.9, "odd": None}, "bytes_down": 100, "bytes_up": 50,
         "answered": 2, "failed": 0, "reasons": []},
        {"round": 2, "seconds": 2.0, "metrics": {"loss": 0.5}, "bytes_down": 100, "bytes_up": 25,
         "answered": 1, "failed": 1, "reasons": ["site-2: no disk"]},
    ]  # fmt: skip
    assert (found["job_id"], found["rounds"], found["total_rounds"]) == ("j-1", 3, 5)
    page = lea.get("/live/jobs/j-1/rounds", page=2, per_page=1).json()
    assert ([one["round"] for one in page["round_list"]], page["paging"]["total"]) == ([2], 2)
    assert world.desk.live.is_attended, "to ask by program keeps it looked at"


def test_a_search_finds_rounds_with_a_metric(world, lea):
    see(world, JOB, rounds=[Round(1, 5, 1, {"loss": 1.0}), Round(2, 5, 1, {"loss": 0.5, "accuracy": 0.7})])
    assert [one["round"] for one in lea.get("/live/jobs/j-1/rounds", q="accu").json()["round_list"]] == [2]


def test_each_job_that_the_list_has_has_its_rounds(world, lea):
    see(world, *(replace(JOB, job_id=f"j-{number}", submit_time=f"2030-01-{number:02}") for number in range(1, 26)))
    listed = [one["job_id"] for one in lea.get("/live/jobs").json()["job_list"]]
    assert len(listed) == MAX_JOBS
    assert {len(lea.get(f"/live/jobs/{one}/rounds").json()["round_list"]) for one in listed} == {3}
    assert world.browser("lea@org-a.example").get("/live").text.count("<polyline") == 6, "the page draws the newest few"


def test_a_job_that_was_not_seen_is_not_found(world, lea):
    answer = lea.get("/live/jobs/none/rounds")
    assert answer.status_code == 404
    assert "GET /live/jobs" in answer.json()["hint"]


def test_who_waits_for_approval_sees_none(world, lea):
    see(world, JOB)
    assert world.person("wim", approved=False).get("/live/jobs/j-1/rounds").status_code == 403
