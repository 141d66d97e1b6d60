"""The client API as a script sees it, over a real socket to a parent that the test plays."""

from __future__ import annotations

import socket
import sys

import numpy as np
import pytest
from clouddeploy_runtime.job import client_api, frameworks, nvflare_alias, tensors
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.client_api import FLModel, ParamsType, Wishes
from clouddeploy_runtime.job.filters import BadFilter, Chain, ExcludeVars, Filter, Filters
from clouddeploy_runtime.job.messages import Abort, Task
from clouddeploy_runtime.job.percentile import PercentilePrivacy

PARAMS = {"w": np.full(2, 3.0), "head": np.full(1, 7.0)}


class Parent(Channel):
    """A parent gets its own buffers back, with the answer where the question was."""

    def __init__(self, connection):
        super().__init__(connection)
        real = self._mappings.buffer_of
        self._mappings.buffer_of = lambda frame, fds: self.pool.held(frame.key) if frame.is_yours else real(frame, fds)


@pytest.fixture
def parent():
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs:
        enter(mine)
        yield Parent(theirs)
    client_api._context.clear()


def enter(connection, **wishes):
    channel = Channel(connection) if isinstance(connection, socket.socket) else connection
    client_api.enter(channel, site="site-1", job_id="j", data_dir=None, wishes=Wishes(**wishes))


def wishing(**wishes):
    enter(client_api._context[0].channel, **wishes)


def ask(parent, name="train", number=0, params=PARAMS, **meta):
    size = tensors.size_of(params)
    buffer = parent.pool.acquire(size)
    tensors.write(params, buffer.view)
    parent.send(Task(f"j/{number}/{name}", name, number, 3, ["site-1"], meta, size), buffer)


def answer(parent):
    message, buffer = parent.receive()
    return message, {name: array.tolist() for name, array in tensors.read(buffer.view[: message.size]).items()}


def test_an_answer_carries_parameters_metrics_and_samples(parent):
    ask(parent, number=1)
    model = client_api.receive()
    assert (model.current_round, model.total_rounds, model.params["w"].tolist()) == (1, 3, [3, 3])
    assert (client_api.is_train(), client_api.is_evaluate(), client_api.get_task_name()) == (True, False, "train")
    client_api.send(FLModel(params={"w": model.params["w"] + 1}, metrics={"loss": 1}, samples=5))
    message, params = answer(parent)
    assert (message.task_id, message.meta) == ("j/1/train", {"samples": 5, "metrics": {"loss": 1.0}})
    assert params == {"w": [4, 4]}


def test_an_answer_takes_the_place_of_the_question_unless_it_is_still_read_there(parent):
    for params, is_same in (
        (lambda given: {"w": given["w"] * 2, "head": given["head"] + 1}, True),
        (lambda given: {"w": given["w"] * 2}, True),
        (lambda given: {"head": given["head"], "w": given["w"] * 2}, False),
        (lambda given: {"w": given["w"] * 2, "head": given["head"], "more": np.zeros(10_000)}, False),
        (lambda _: {"w": np.zeros(10_000)}, False),
    ):
        ask(parent)
        given = client_api.receive().params
        sent = {name: array.tolist() for name, array in params(given).items()}
        client_api.send(FLModel(params=params(given)))
        message, buffer = parent.receive()
        assert {name: array.tolist() for name, array in tensors.read(buffer.view[: message.size]).items()} == sent
        assert (not buffer.is_lent) == is_same
        buffer.release()


def test_the_references_weight_of_an_update_counts_as_samples(parent):
    ask(parent)
    client_api.receive()
    client_api.send(FLModel(params=PARAMS, meta={"NUM_STEPS_CURRENT_ROUND": 12}, params_type=ParamsType.FULL))
    assert answer(parent)[0].meta["samples"] == 12


def test_a_difference_is_added_to_what_was_received(parent):
    ask(parent)
    client_api.receive()
    client_api.send(FLModel(params={"w": np.full(2, 0.5)}, params_type="DIFF"))
    assert answer(parent)[1] == {"w": [3.5, 3.5]}
    ask(parent)
    client_api.receive()
    with pytest.raises(client_api.ClientApiMisuse, match="nothing of the name was received: other"):
        client_api.send(FLModel(params={"other": np.ones(1)}, params_type="DIFF"))


def test_what_a_filter_takes_out_goes_back_as_the_server_sent_it(parent):
    wishing(filters=Filters(result=[Chain(("*",), (ExcludeVars(["head"]),))]))
    ask(parent)
    client_api.receive()
    client_api.send(FLModel(params={"w": np.zeros(2), "head": np.full(1, 99.0)}))
    assert answer(parent)[1] == {"w": [0, 0], "head": [7]}


def test_a_filter_on_the_way_in_hides_parameters_from_the_script(parent):
    wishing(filters=Filters(data=[Chain(("train",), (ExcludeVars("head"),))]))
    ask(parent)
    assert list(client_api.receive().params) == ["w"]


def test_a_framework_gets_its_own_tensors(parent):
    wishing(to_framework=lambda array: ("tensor", array.tolist()))
    ask(parent)
    assert client_api.receive().params["w"] == ("tensor", [3, 3])


def test_a_tensor_with_a_gradient_is_sent_as_its_numbers(parent):
    class Tensor:
        def detach(self):
            return self

        def cpu(self):
            return self

        def numpy(self):
            return np.full(2, 8.0)

    ask(parent)
    client_api.receive()
    client_api.send(FLModel(params={"w": Tensor()}))
    assert answer(parent)[1] == {"w": [8, 8]}


@pytest.mark.parametrize("tasks", [("*",), ("train", "validate"), ("eval*",)])
def test_an_evaluation_may_be_called_either_way(parent, tasks):
    wishing(tasks=tasks)
    ask(parent, "evaluate")
    client_api.receive()
    assert client_api.is_evaluate()


def test_a_task_that_no_executor_does_is_refused_by_name(parent):
    wishing(tasks=("train",))
    ask(parent, "evaluate")
    with pytest.raises(client_api.ClientApiMisuse, match="no executor does the task 'evaluate'"):
        client_api.receive()


@pytest.mark.parametrize("weight", [1.9, 0.5, 3, np.float32(2.5), np.int64(7)])
def test_a_weight_is_any_number_above_zero(parent, weight):
    ask(parent)
    client_api.receive()
    client_api.send(FLModel(params=PARAMS, samples=weight))
    assert answer(parent)[0].meta["samples"] == float(weight)


@pytest.mark.parametrize("weight", [0, -1, 0.0, float("nan"), float("inf"), "many", [1]])
def test_an_answer_that_weighs_nothing_is_refused_where_it_is_sent(parent, weight):
    ask(parent)
    client_api.receive()
    with pytest.raises(client_api.ClientApiMisuse, match="cannot weigh"):
        client_api.send(FLModel(params=PARAMS, meta={"NUM_STEPS_CURRENT_ROUND": weight}))


def test_nothing_within_the_timeout_is_no_end(parent):
    assert client_api.receive(timeout=0.01) is None
    ask(parent)
    assert client_api.is_running()


def test_a_model_that_was_not_answered_is_received_again(parent):
    ask(parent)
    ask(parent, number=1)
    assert client_api.is_running()
    first = client_api.receive()
    assert client_api.receive() is first
    assert client_api.is_running()
    client_api.send(FLModel(params=PARAMS))
    assert client_api.receive().current_round == 1


def test_a_script_that_has_not_answered_hears_that_it_can_stop(parent):
    ask(parent)
    assert client_api.is_running()
    assert client_api.is_running()
    parent.send(Abort("by lead"))
    assert not client_api.is_running()
    assert client_api.receive() is None
    assert client_api.aborted() == "by lead"


def test_a_loop_over_is_running_gets_a_model_each_time_and_ends(parent):
    for number in range(3):
        ask(parent, number=number)
    parent.send(Abort(""))
    rounds = []
    while client_api.is_running():
        rounds.append(client_api.receive().current_round)
        client_api.send(FLModel(params=PARAMS))
    assert rounds == [0, 1, 2]
    assert client_api.receive() is None
    assert client_api.aborted() is None


def test_a_task_that_was_dropped_is_not_received_again(parent):
    ask(parent)
    client_api.receive()
    client_api.clear()
    ask(parent, number=1)
    assert client_api.receive().current_round == 1


def test_a_script_that_has_shut_down_has_nothing_to_do(parent):
    ask(parent)
    assert client_api.is_running()
    client_api.shutdown()
    assert not client_api.is_running()
    assert client_api.receive() is None


def test_an_abort_ends_the_script_and_is_remembered(parent):
    parent.send(Abort("by lead"))
    assert client_api.receive() is None
    assert (client_api.is_running(), client_api.aborted()) == (False, "by lead")


def test_an_answer_without_a_task_is_refused(parent):
    with pytest.raises(client_api.ClientApiMisuse, match="without a task"):
        client_api.send(FLModel())


def test_the_names_of_site_job_and_configuration(parent):
    wishing(config={"task_script_path": "train.py"})
    assert client_api.system_info() == {"site_name": "site-1", "job_id": "j"}
    assert client_api.get_config() == {"task_script_path": "train.py"}
    with pytest.raises(client_api.ClientApiMisuse, match="no data folder"):
        client_api.data_dir()


@pytest.fixture
def alias():
    before = set(sys.modules)
    nvflare_alias.install()
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "nvflare":
            del sys.modules[name]


def test_the_references_imports_give_our_client_api(parent, alias, caplog):
    import nvflare.client as flare  # noqa: PLC0415 - only there inside a job
    from nvflare.apis.fl_constant import FLMetaKey  # noqa: PLC0415
    from nvflare.app_common.abstract.fl_model import FLModel as Model  # noqa: PLC0415
    from nvflare.client.tracking import SummaryWriter  # noqa: PLC0415

    flare.init()
    ask(parent)
    assert isinstance(flare.receive(), Model)
    flare.send(
        flare.FLModel(params=PARAMS, params_type=flare.ParamsType.FULL, meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: 2})
    )
    assert answer(parent)[0].meta["samples"] == 2
    with caplog.at_level("INFO"):
        SummaryWriter().add_scalar("loss", 0.5, global_step=3)
        flare.log("acc", 1.0, "SCALAR")
    assert "loss: 0.5" in caplog.text
    assert "acc: 1.0" in caplog.text


class Broken(Filter):
    def process(self, params, task):
        raise ValueError("no salt left")


@pytest.mark.parametrize("side", ["data", "result"])
def test_after_a_filter_has_failed_nothing_is_sent_whatever_the_script_does(parent, side):
    wishing(filters=Filters(**{side: [Chain(("*",), (Broken(),))]}))
    ask(parent)
    with pytest.raises(BadFilter, match="the filter Broken failed: ValueError: no salt left"):
        client_api.send(FLModel(params=client_api.receive().params))
    for _ in range(2):
        with pytest.raises(BadFilter, match="Broken"):
            client_api.send(FLModel(params=PARAMS))
    assert client_api.receive() is None
    assert isinstance(client_api.failed(), BadFilter)
    with pytest.raises(TimeoutError):
        parent.receive(until=0)


@pytest.mark.parametrize("form", [ParamsType.FULL, ParamsType.DIFF])
def test_a_filter_of_changes_compares_an_answer_with_what_was_received(parent, form):
    wishing(filters=Filters(result=[Chain(("*",), (PercentilePrivacy(percentile=50, gamma=0.25),))]))
    ask(parent)
    client_api.receive()
    changes = {"w": np.array([0.001, 1.0]), "head": np.array([-2.0])}
    sent = changes if form is ParamsType.DIFF else {name: PARAMS[name] + one for name, one in changes.items()}
    client_api.send(FLModel(params=sent, params_type=form, meta={"NUM_STEPS_CURRENT_ROUND": 2}))
    assert answer(parent)[1] == {"w": [3.0, 3.5], "head": [6.5]}


def answered(parent):
    message, buffer = parent.receive()
    return {name: array.copy() for name, array in tensors.read(buffer.view[: message.size]).items()}


@pytest.mark.parametrize("wire", sorted(frameworks.WIRE))
def test_what_is_narrow_on_the_wire_alone_is_float32_to_the_script_and_goes_back_narrow(parent, wire):
    ask(parent, params=frameworks.for_wire(PARAMS, wire), wire_dtype=wire)
    model = client_api.receive()
    assert {name: (one.dtype, one.tolist()) for name, one in model.params.items()} == {
        "w": (np.float32, [3, 3]),
        "head": (np.float32, [7]),
    }
    client_api.send(FLModel(params={"w": np.full(2, 1 + 1 / 1024), "head": model.params["head"]}))
    sent = answered(parent)
    assert {one.dtype for one in sent.values()} == {frameworks.WIRE[wire]}
    near = 1 + 1 / 1024 if wire == "float16" else 1.0
    assert frameworks.widened(sent["w"], frameworks.WIRE[wire]).tolist() == [near, near]


def test_a_difference_is_added_before_anything_is_rounded(parent):
    third = np.full(1, 1 / 3)
    ask(parent, params=frameworks.for_wire({"w": third}, "float16"), wire_dtype="float16")
    client_api.receive()
    client_api.send(FLModel(params={"w": third}, params_type=ParamsType.DIFF))
    assert answered(parent)["w"].tolist() == [np.float16(np.float32(np.float16(1 / 3)) + 1 / 3)]


def test_a_model_of_bfloat16_is_float32_to_numpy_and_itself_to_pytorch(parent):
    half = frameworks.narrowed(np.array([1.5], np.float32), frameworks.BFLOAT16)
    for to_framework, kind in ((None, np.float32), (lambda one: one.copy(), frameworks.BFLOAT16)):
        wishing(to_framework=to_framework)
        ask(parent, params={"w": half, "b": np.ones(1)})
        model = client_api.receive()
        assert (model.params["w"].dtype, model.params["b"].dtype) == (kind, np.float64)
        client_api.send(FLModel(params=model.params))
        assert answered(parent)["w"].tobytes() == half.tobytes()


def test_a_model_of_another_type_stays_as_it_is(parent):
    params = {"w": np.full(1, 1 / 3), "h": np.ones(1, np.float16), "n": np.ones(1, np.int16)}
    ask(parent, params=params)
    client_api.send(FLModel(params=client_api.receive().params))
    assert {name: (one.dtype, one.tolist()) for name, one in answered(parent).items()} == {
        name: (one.dtype, one.tolist()) for name, one in params.items()
    }


def test_what_a_workflow_says_beside_its_parameters_is_in_meta(parent):
    ask(parent, name="validate", model_owner="site-2")
    assert client_api.receive().meta == {"model_owner": "site-2"}


def test_a_script_is_asked_for_its_own_model(parent):
    ask(parent, name="submit_model", submit_model_name="best_model")
    model = client_api.receive()
    assert (client_api.is_submit_model(), model.meta["submit_model_name"]) == (True, nvflare_alias.ModelName.BEST_MODEL)
