"""What a workflow hears of its sites, and when it goes on without them."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.controller import Controller, JobAborted, TooFewSites
from clouddeploy_runtime.job.messages import Abort, MessageTooLarge, Progress, Result, SiteFailed, Task

SITES = ("site-1", "site-2", "site-3")


class Parent:
    """The other end of a controller's socket; what it says waits there."""

    def __init__(self, folder):
        self.sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = Channel(self.sockets[0])
        self.controller = Controller(Channel(self.sockets[1]), sites=SITES, run_dir=folder, job_id="job")
        self.pool = BufferPool(1 << 20)

    def answers(self, site, *, value=1.0, task_id="job/0/train", meta=None):
        model = {"w": np.full(2, value)}
        buffer = self.pool.acquire(tensors.size_of(model))
        tensors.write(model, buffer.view)
        self.channel.send(Result(task_id, site, "train", 0, meta or {"samples": 1}, buffer.size), buffer)

    def fails(self, site, reason, *, task_id="job/0/train"):
        self.channel.send(SiteFailed(task_id, site, reason))

    def ask(self, **values):
        options = {"round": 0, "total_rounds": 2, "min_sites": 3, **values}
        answers = self.controller.ask("train", {"w": np.zeros(2)}, **options)
        return [(answer.site, float(answer.params["w"][0])) for answer in answers]

    def close(self):
        for one in self.sockets:
            one.close()
        for pool in (self.pool, self.controller._channel.pool):
            pool.close()


@pytest.fixture
def start(tmp_path):
    parents = []

    def make():
        parents.append(Parent(tmp_path))
        return parents[-1]

    yield make
    for one in parents:
        one.close()


@pytest.fixture
def parent(start):
    return start()


def test_each_site_is_heard_once(parent):
    for site in ("site-1", "site-2", "site-1", "site-3"):
        parent.answers(site)
    assert parent.ask() == [("site-1", 1.0), ("site-2", 1.0), ("site-3", 1.0)]


def test_a_tasks_id_is_the_same_in_the_process_that_goes_on(start):
    ids = []
    for one in (start(), start()):
        for site in SITES:
            one.answers(site)
        one.ask()
        message, _ = one.channel.receive()
        assert isinstance(message, Task)
        ids.append(message.task_id)
    assert ids == ["job/0/train"] * 2


def test_the_same_question_twice_in_a_round_has_two_ids(parent):
    for task_id in ("job/0/train", "job/0/train.2"):
        for site in SITES:
            parent.answers(site, task_id=task_id)
        assert len(parent.ask()) == 3


def test_tasks_of_one_name_in_a_round_are_told_apart_by_their_part(parent):
    for site in ("site-2", "site-1"):
        parent.answers(site, task_id=f"job/0/train/{site}")
        assert parent.ask(min_sites=1, targets=(site,), part=site, meta={"turn": site}) == [(site, 1.0)]
        task, _ = parent.channel.receive()
        assert (task.task_id, task.meta) == (f"job/0/train/{site}", {"turn": site})


def test_a_site_that_fails_once_is_asked_again(parent):
    parent.fails("site-1", "site-1: no line")
    for site in ("site-2", "site-3"):
        parent.answers(site)
    assert len(parent.ask(min_sites=2)) == 2
    for site in SITES:
        parent.answers(site, task_id="job/1/train")
    assert len(parent.ask(round=1)) == 3
    assert parent.controller.failures == {"site-1": "site-1: no line"}


def test_too_few_answers_end_the_round_with_the_causes_and_without_waiting_for_the_rest(parent):
    parent.fails("site-1", "site-1: ValueError")
    parent.answers("site-2")
    with pytest.raises(TooFewSites, match="site-1: ValueError"):
        parent.ask()


def test_enough_answers_end_the_round_and_late_ones_are_ignored(parent):
    parent.answers("site-1")
    parent.answers("site-2")
    assert parent.ask(min_sites=2, enough=2) == [("site-1", 1.0), ("site-2", 1.0)]
    parent.answers("site-3", value=9.0)  # to round 0
    for site in SITES:
        parent.answers(site, task_id="job/1/train")
    assert parent.ask(round=1) == [(site, 1.0) for site in SITES]


def test_others_are_waited_for_a_little_once_enough_have_answered(parent):
    for site in SITES:
        parent.answers(site)
    assert len(parent.ask(min_sites=1, enough=1, wait_s=1.0)) == 3
    parent.answers("site-1", task_id="job/1/train")
    assert len(parent.ask(round=1, min_sites=1, enough=1, wait_s=0.02)) == 1


def test_sites_that_are_not_asked_are_not_waited_for(parent):
    parent.answers("site-1")
    parent.answers("site-3")
    asked = {"min_sites": 2, "targets": ("site-1", "site-3")}
    assert parent.ask(**asked) == [("site-1", 1.0), ("site-3", 1.0)]
    task, _ = parent.channel.receive()
    assert task.targets == ["site-1", "site-3"]


@pytest.mark.parametrize("samples", [0, -1, True, float("nan"), float("inf")])
def test_an_answer_that_weighs_nothing_is_a_failure_of_its_site(parent, samples):
    parent.answers("site-1", meta={"samples": samples})
    parent.answers("site-2", meta={"samples": 0.5})
    parent.answers("site-3")
    assert len(parent.ask(min_sites=2)) == 2
    assert "a weight is a number above 0" in parent.controller.failures["site-1"]


def test_an_answer_without_parameters_is_one(parent):
    parent.channel.send(Result("job/0/train", "site-1", "train", 0, {"samples": 3, "metrics": {"auc": 0.5}}, 0))
    (answer,) = parent.controller.ask("train", {}, round=0, total_rounds=1, min_sites=1, enough=1)
    assert (dict(answer.params), answer.samples, answer.metrics) == ({}, 3, {"auc": 0.5})


def test_an_answer_that_cannot_be_read_is_a_failure_of_its_site(parent):
    parent.answers("site-1", meta={"samples": "many"})
    parent.answers("site-2")
    parent.answers("site-3")
    assert len(parent.ask(min_sites=2)) == 2
    assert "site-1: its answer cannot be read" in parent.controller.failures["site-1"]


def test_an_abort_ends_the_round(parent):
    parent.channel.send(Abort("enough"))
    with pytest.raises(JobAborted, match="enough"):
        parent.ask()


def test_a_controller_finds_what_the_one_before_it_kept(start, parent, tmp_path):
    parent.controller.failures["site-1"] = "it broke"
    parent.controller.checkpoint(1, {"w": np.ones(2)}, {"rounds": [1]})
    resumed = start().controller
    assert (resumed.resumed.round, resumed.resumed.state) == (1, {"rounds": [1]})
    assert resumed.failures == {"site-1": "it broke"}
    assert (tmp_path / "global_model.safetensors").exists()


def test_what_is_too_large_for_a_message_is_refused_where_it_is_sent_and_names_the_limit(parent):
    metrics = {f"metric number {number}": 1.0 for number in range(10_000)}
    with pytest.raises(MessageTooLarge, match="163840 bytes"):
        parent.controller.report(1, 2, metrics)
    parent.controller.report(1, 2, {"loss": 1.0})
    assert parent.channel.receive() == (Progress(1, 2, {"loss": 1.0}), None)
