"""Filters: what they take out does not leave, and everything else goes on."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.filters import BadFilter, Chain, ExcludeVars, Filter, FilteredChannel, Filters, ParentGone
from clouddeploy_runtime.job.messages import Done, Result, Task

PARAMS = {"layer.weight": np.ones(2), "layer.bias": np.full(1, 2.0), "head": np.zeros(3)}


class Doubled(Filter):
    def process(self, params, task):
        return {name: array * 2 for name, array in params.items()}


class Nothing(Filter):
    def process(self, params, task):
        return None


@pytest.mark.parametrize(
    ("exclude", "left"),
    [(["head"], ["layer.weight", "layer.bias"]), (r"^layer\.", ["head"]), ("bias|head", ["layer.weight"])],
)
def test_variables_are_excluded_by_whole_name_or_by_pattern(exclude, left):
    assert list(ExcludeVars(exclude).process(PARAMS, "train")) == left


@pytest.mark.parametrize("exclude", [None, "", [], 1, [1], "("])
def test_a_filter_that_could_do_nothing_is_refused(exclude):
    with pytest.raises(BadFilter, match="ExcludeVars"):
        ExcludeVars(exclude)


def test_filters_run_in_their_order_for_the_tasks_they_name():
    filters = Filters(
        data=[Chain(("train",), (Doubled(), ExcludeVars("bias"), Doubled())), Chain(("val*",), (Nothing(),))]
    )
    assert filters.on_data(PARAMS, "train")["layer.weight"].tolist() == [4, 4]
    assert filters.on_data(PARAMS, "other") is PARAMS
    assert filters.on_result(PARAMS, "train") is PARAMS
    with pytest.raises(BadFilter, match="Nothing returned no parameters"):
        filters.on_data(PARAMS, "validate")


@pytest.fixture
def ends():
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs:
        yield FilteredChannel(mine), Channel(theirs)


def sent(channel, message_of, params):
    size = tensors.size_of(params)
    buffer = channel.pool.acquire(size)
    tensors.write(params, buffer.view)
    channel.send(message_of(size), buffer)


def received(channel):
    message, buffer = channel.receive()
    params = {name: array.copy() for name, array in tensors.read(buffer.view[: message.size]).items()}
    buffer.release()
    return message, params


def test_a_controller_gets_back_whole_parameters_though_the_sites_saw_only_some(ends):
    server, site = ends
    server.use(Filters(data=[Chain(("*",), (ExcludeVars("head"),))], result=[Chain(("*",), (Doubled(),))]))
    sent(server, lambda size: Task("j/0/train", "train", 0, 1, ["a"], {}, size), PARAMS)
    task, params = received(site)
    assert list(params) == ["layer.weight", "layer.bias"]
    sent(site, lambda size: Result(task.task_id, "a", "train", 0, {}, size), {n: p + 1 for n, p in params.items()})
    _, answer = received(server)
    assert {name: array.tolist() for name, array in answer.items()} == {
        "head": [0, 0, 0],
        "layer.weight": [4, 4],
        "layer.bias": [6],
    }


def test_an_answer_without_parameters_stays_without(ends):
    server, site = ends
    server.use(Filters(data=[Chain(("*",), (ExcludeVars("head"),))]))
    sent(server, lambda size: Task("j/0/evaluate", "evaluate", 0, 1, ["a"], {}, size), PARAMS)
    received(site)
    sent(site, lambda size: Result("j/0/evaluate", "a", "evaluate", 0, {}, size), {})
    assert received(server)[1] == {}


def test_without_filters_the_very_buffer_goes_on(ends):
    server, site = ends
    sent(server, lambda size: Task("j/0/train", "train", 0, 1, ["a"], {}, size), PARAMS)
    assert list(received(site)[1]) == list(PARAMS)


def test_a_parent_that_has_ended_is_named(ends):
    server, site = ends
    site._socket.close()
    with pytest.raises(ParentGone, match="the parent of this job has ended"):
        server.send(Done("x", "", {}))
