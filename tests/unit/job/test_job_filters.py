"""Filters: what they take out does not leave, and everything else goes on."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.filters import (
    Answer,
    BadFilter,
    Chain,
    ChangeFilter,
    ExcludeVars,
    Filter,
    FilteredChannel,
    Filters,
    ParentGone,
)
from clouddeploy_runtime.job.frameworks import BFLOAT16, narrowed
from clouddeploy_runtime.job.messages import Done, Result, Task

PARAMS = {"layer.weight": np.ones(2), "layer.bias": np.full(1, 2.0), "head": np.zeros(3)}


class Doubled(Filter):
    def process(self, params, task):
        return {name: array * 2 for name, array in params.items()}


class Nothing(Filter):
    def process(self, params, task):
        return None


class Broken(Filter):
    def process(self, params, task):
        raise KeyError("salt")


class Halved(ChangeFilter):
    """Notes the steps that it is told."""

    def change(self, changes, steps):
        self.steps = steps
        self.seen = {name: (one.dtype.name, one.tolist()) for name, one in changes.items()}
        return {name: one / 2 for name, one in changes.items()}


def through(one, params, **answer):
    return Filters(result=[Chain(("*",), (one,))]).on_result(params, "train", Answer(**answer))


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


def test_a_filter_that_fails_lets_nothing_through_and_is_named():
    for side in ("data", "result"):
        filters = Filters(**{side: [Chain(("*",), (Broken(),))]})
        with pytest.raises(BadFilter, match="the filter Broken failed: KeyError: 'salt'"):
            getattr(filters, f"on_{side}")(PARAMS, "train")


def test_the_filters_of_others_come_first_both_ways():
    own = Filters(data=[Chain(("*",), (Doubled(),))], result=[Chain(("*",), (Doubled(),))])
    first = Filters(data=[Chain(("*",), (ExcludeVars("head"),))], result=[Chain(("*",), (Nothing(),))])
    both = own.after(first)
    assert [type(chain.filters[0]) for chain in both.data] == [ExcludeVars, Doubled]
    with pytest.raises(BadFilter, match="Nothing"):
        both.on_result(PARAMS, "train")


def test_a_change_is_the_same_whether_it_is_sent_as_such_or_as_a_whole():
    received = {"w": np.array([1, 2], np.float32)}
    one = Halved()
    whole = through(one, {"w": np.array([2, 6], np.float32)}, received=received, steps=4)
    assert (one.seen, one.steps) == ({"w": ("float32", [1, 4])}, 4.0)
    difference = through(one, {"w": np.array([1, 4], np.float32)}, received=received, is_difference=True)
    assert (one.seen, one.steps) == ({"w": ("float32", [1, 4])}, 1.0)
    assert (whole["w"].tolist(), whole["w"].dtype, difference["w"].tolist()) == ([1.5, 4], np.float32, [0.5, 2])


@pytest.mark.parametrize(
    ("dtype", "received", "sent", "left"),
    [
        (np.int64, [10], [13], [12]),
        (np.uint8, [200], [50], [125]),
        (np.bool_, [False], [True], [True]),
        (np.float16, [1], [2], [1.5]),
        (np.float64, [1], [2], [1.5]),
    ],
)
def test_changes_of_any_type_are_computed_as_floats_and_go_on_as_what_they_were(dtype, received, sent, left):
    answer = through(Halved(), {"w": np.array(sent, dtype)}, received={"w": np.array(received, dtype)})
    assert (answer["w"].tolist(), answer["w"].dtype) == (left, dtype)


def test_a_bfloat16_is_widened_for_a_filter_of_changes():
    received, sent = (narrowed(np.array([value], np.float32), BFLOAT16) for value in (1, 2))
    answer = through(Halved(), {"w": sent}, received={"w": received})
    assert answer["w"] == narrowed(np.array([1.5], np.float32), BFLOAT16)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"new": np.ones(2)}, "'new' was not received"),
        ({"w": np.ones(1)}, r"'w' has the shape \(1,\), and had \(2,\)"),
        ({"w": np.array([1, np.nan])}, "'w' holds no finite numbers"),
        ({"w": np.array([1, np.inf])}, "'w' holds no finite numbers"),
    ],
)
@pytest.mark.parametrize("is_difference", [False, True])
def test_what_a_filter_cannot_compare_does_not_leave(params, why, is_difference):
    with pytest.raises(BadFilter, match=f"the filter Halved .*{why}"):
        through(Halved(), params, received={"w": np.zeros(2)}, is_difference=is_difference)


@pytest.mark.parametrize("steps", [0, -1, float("nan"), float("inf"), "many", None, True])
def test_steps_that_would_undo_a_limit_are_refused(steps):
    with pytest.raises(BadFilter, match='"steps" cannot be'):
        through(Halved(), {"w": np.ones(2)}, received={"w": np.zeros(2)}, steps=steps)


def test_an_evaluation_has_no_changes_to_filter():
    assert through(Halved(), {}, received=PARAMS) == {}


def test_a_filter_of_changes_is_refused_where_nothing_says_what_has_changed(ends):
    with pytest.raises(BadFilter, match="Halved cannot stand in task_data_filters"):
        Filters(data=[Chain(("*",), (Halved(),))])
    with pytest.raises(BadFilter, match=r"Halved cannot stand in config_fed_server\.json"):
        ends[0].use(Filters(result=[Chain(("*",), (Halved(),))]))
    with pytest.raises(BadFilter, match="Halved cannot be used"):
        Filters(result=[Chain(("*",), (Halved(),))]).on_result(PARAMS, "train")


@pytest.mark.parametrize("kinds", ["WEIGHTS", ["ANALYTIC"], [1], [[]], 1])
def test_kinds_of_data_that_are_not_filtered_are_refused(kinds):
    with pytest.raises(BadFilter, match="data_kinds"):
        Halved(kinds)
    assert Halved(["WEIGHTS"])
    assert Halved(None)


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
