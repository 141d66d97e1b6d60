"""Trainings and evaluations over several sites, held against the same computation without sites."""

from __future__ import annotations

import itertools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from clouddeploy_runtime.job import frameworks, tensors
from clouddeploy_runtime.job.controller import BadWorkflow, Controller, JobAborted, TooFewSites
from clouddeploy_runtime.job.cross_site import CrossSiteEval
from clouddeploy_runtime.job.cyclic import Cyclic
from clouddeploy_runtime.job.fedavg import FedAvg
from clouddeploy_runtime.job.sequence import InOrder
from sklearn.linear_model import SGDClassifier

from tests.unit.job.sites import NAMES, Sites, adding
from tests.unit.job.test_frameworks import TORCH, Tensor

STEPS = {"site-1": 1.0, "site-2": 2.0, "site-3": 4.0}
MEAN = (1 * 1.0 + 2 * 2.0 + 3 * 4.0) / 6
"""What a round adds: site n weighs n."""


@pytest.fixture
def sites():
    made = []

    def begin(answer=None):
        made.append(Sites(answer or adding(STEPS)))
        return made[-1]

    yield begin
    for one in made:
        one.close()


def model(folder, name="global_model"):
    return safetensors.numpy.load_file(folder / f"{name}.safetensors")


def names(one):
    return [f"{task.round} {task.name} {','.join(task.targets)}" for task in one.tasks]


def copied(params):
    """Return copies: a mean takes the first model's own memory."""
    return {name: one.copy() for name, one in params.items()}


# FedAvg.


def test_numpy_arrays_become_the_weighted_mean_of_every_round(sites, tmp_path):
    start = {"w": np.array([1.0, -1.0]), "b": np.zeros(1, np.float32), "n": np.array([3], np.int64)}
    metrics = sites().make(FedAvg, tmp_path, initial_model=copied(start), num_rounds=3, evaluate=False).run()
    found = model(tmp_path)
    np.testing.assert_allclose(found["w"], start["w"] + 3 * MEAN, rtol=1e-15)
    np.testing.assert_allclose(found["b"], 3 * MEAN, rtol=1e-6)
    assert {name: one.dtype for name, one in found.items()} == {name: one.dtype for name, one in start.items()}
    assert metrics == {"accuracy": pytest.approx(MEAN / 10)}


def test_the_estimators_of_scikit_learn_become_their_weighted_mean(sites, tmp_path):
    data = {}
    for number, site in enumerate(NAMES, 1):
        x = np.random.default_rng(number).normal(size=(20 * number, 4))
        data[site] = (x, (x[:, 0] > 0).astype(int))

    def trained(site, params):
        estimator = SGDClassifier(random_state=1)
        estimator.classes_ = np.array([0, 1])
        frameworks.load(estimator, params)
        estimator.partial_fit(*data[site], classes=[0, 1])
        return frameworks.params_of(estimator)

    one = sites(lambda site, _, params: (trained(site, params), {"samples": len(data[site][0])}))
    start = {"coef_": np.zeros((1, 4)), "intercept_": np.zeros(1)}
    one.make(FedAvg, tmp_path, initial_model=copied(start), num_rounds=2, evaluate=False).run()
    expected = start
    for _ in range(2):
        updates = {site: trained(site, expected) for site in NAMES}
        expected = {name: sum(len(data[site][0]) * updates[site][name] for site in NAMES) / 120 for name in expected}
    for name, array in expected.items():
        np.testing.assert_allclose(model(tmp_path)[name], array, rtol=1e-12)


def test_tensors_of_pytorch_in_bfloat16_become_the_mean_rounded_once(sites, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", TORCH)
    half = frameworks.narrowed(np.array([1.0, 0.5], np.float32), frameworks.BFLOAT16)
    state = {"w": Tensor(half.view(np.int16), "torch.bfloat16"), "b": Tensor(np.ones(2, np.float32), "torch.float32")}

    def answer(site, _, params):
        wide = {name: frameworks.widened(one) + np.float32(STEPS[site]) for name, one in params.items()}
        return {**wide, "w": frameworks.narrowed(wide["w"], frameworks.BFLOAT16)}, {"samples": int(site[-1])}

    one = sites(answer)
    made = one.make(FedAvg, tmp_path, initial_model=SimpleNamespace(**state).__dict__, num_rounds=1, evaluate=False)
    made.run()
    found = tensors.read(memoryview((tmp_path / "global_model.safetensors").read_bytes()))
    assert (found["w"].dtype, found["b"].dtype) == (frameworks.BFLOAT16, np.float32)
    expected = frameworks.narrowed(np.array([1 + MEAN, 0.5 + MEAN], np.float32), frameworks.BFLOAT16)
    assert found["w"].tobytes() == expected.tobytes()
    np.testing.assert_allclose(found["b"], 1 + MEAN, rtol=1e-6)


@pytest.mark.parametrize("wire", sorted(frameworks.WIRE))
def test_parameters_travel_in_the_type_that_was_asked_for_and_the_mean_is_computed_in_the_models_own(
    sites, tmp_path, wire
):
    sent = []

    def answer(site, task, params):
        sent.append((params["w"].dtype, task.meta["wire_dtype"]))
        wide = frameworks.widened(params["w"], frameworks.WIRE[wire])
        return dict(frameworks.for_wire({"w": wide + np.float32(STEPS[site])}, wire)), {"samples": int(site[-1])}

    one = sites(answer)
    start = {"w": np.array([1.0, 2.0], np.float32)}
    one.make(FedAvg, tmp_path, initial_model=copied(start), num_rounds=1, evaluate=False, wire_dtype=wire).run()
    assert set(sent) == {(frameworks.WIRE[wire], wire)}
    assert model(tmp_path)["w"].dtype == np.float32
    np.testing.assert_allclose(model(tmp_path)["w"], start["w"] + MEAN, rtol=1e-7)


def test_a_factor_of_a_site_counts_like_more_samples_in_parameters_and_metrics(sites, tmp_path):
    made = sites().make(
        FedAvg,
        tmp_path,
        initial_model={"w": np.zeros(1)},
        num_rounds=1,
        evaluate=False,
        aggregation_weights={"site-1": 6},
    )
    metrics = made.run()
    expected = (6 * 1 + 2 * 2 + 3 * 4) / 11
    assert model(tmp_path)["w"][0] == pytest.approx(expected, rel=1e-12)
    assert metrics["accuracy"] == pytest.approx(expected / 10)


def test_what_exclude_vars_finds_keeps_the_servers_value(sites, tmp_path):
    start = {"head.w": np.array([5.0]), "body.w": np.zeros(1), "deep.head.b": np.array([7.0])}
    sites().make(FedAvg, tmp_path, initial_model=start, num_rounds=2, evaluate=False, exclude_vars="head").run()
    found = {name: one.tolist() for name, one in model(tmp_path).items()}
    assert found == {"head.w": [5.0], "body.w": [pytest.approx(2 * MEAN)], "deep.head.b": [7.0]}


def test_rounds_are_numbered_from_the_one_that_was_asked_for(sites, tmp_path):
    one = sites()
    one.make(FedAvg, tmp_path, initial_model={"w": np.zeros(1)}, num_rounds=2, start_round=5, evaluate=False).run()
    assert [(task.round, task.total_rounds) for task in one.tasks] == [(5, 2), (6, 2)]
    assert [entry[:2] for entry in one.rounds] == [(1, 2), (2, 2)]


def improving(values):
    """Return an answer whose metric is the round's value."""
    return lambda site, task, params: (
        {name: array + 1 for name, array in params.items()},
        {"samples": 1, "metrics": {"accuracy": values[task.round]}},
    )


def test_a_training_ends_with_the_round_that_is_good_enough_and_keeps_the_best_model(sites, tmp_path):
    one = sites(improving([0.5, 0.7, 0.6, 0.9, 0.95]))
    arguments = {"initial_model": {"w": np.zeros(1)}, "evaluate": False}
    made = one.make(FedAvg, tmp_path, num_rounds=5, stop_cond="accuracy >= 0.9", **arguments)
    assert made.run() == {"accuracy": 0.9}
    assert len(one.tasks) == 4
    assert model(tmp_path)["w"].tolist() == model(tmp_path, "best_global_model")["w"].tolist() == [4]


def test_the_best_model_is_kept_when_later_ones_are_worse(sites, tmp_path):
    one = sites(improving([0.5, 0.7, 0.6, 0.65]))
    arguments = {"initial_model": {"w": np.zeros(1)}, "evaluate": False, "num_rounds": 4}
    one.make(FedAvg, tmp_path, stop_cond="accuracy >= 2", patience=2, **arguments).run()
    assert (model(tmp_path)["w"][0], model(tmp_path, "best_global_model")["w"][0]) == (4, 2)


def test_a_training_that_was_over_is_not_gone_on_with_in_another_process(sites, tmp_path):
    arguments = {"initial_model": {"w": np.zeros(1)}, "evaluate": False, "num_rounds": 9, "stop_cond": "accuracy > 0"}
    sites(improving([0.5])).make(FedAvg, tmp_path, **arguments).run()
    again = sites(improving([0.5]))
    assert again.make(FedAvg, tmp_path, **arguments).run() == {"accuracy": 0.5}
    assert again.tasks == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop_cond": "accuracy"}, "stop_cond"),
        ({"patience": -1}, '"patience" must be a whole number'),
        ({"start_round": 1.5}, '"start_round" must be a whole number'),
        ({"aggregation_weights": {"site-1": 0}}, "numbers above 0"),
        ({"aggregation_weights": [1]}, "numbers above 0"),
        ({"exclude_vars": "("}, "no regular expression"),
        ({"exclude_vars": {"a": "b"}}, "no regular expression"),
        ({"wire_dtype": "int8"}, "one of float16, bfloat16"),
        ({"key_metric": 3}, "name of a metric"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused_by_name(sites, tmp_path, arguments, message):
    with pytest.raises(BadWorkflow, match=message):
        sites().make(FedAvg, tmp_path, initial_model={"w": np.zeros(1)}, **arguments)


# Cyclic.


def test_each_site_goes_on_with_what_the_one_before_it_made(sites, tmp_path):
    def answer(site, _, params):
        return {"w": params["w"] * 2 + STEPS[site]}, {"samples": int(site[-1]), "metrics": {"loss": STEPS[site]}}

    one = sites(answer)
    metrics = one.make(Cyclic, tmp_path, initial_model={"w": np.zeros(1)}, num_rounds=2).run()
    expected = 0.0
    for step in [*STEPS.values()] * 2:
        expected = expected * 2 + step
    assert model(tmp_path)["w"].tolist() == [expected]
    assert names(one) == [f"{number} train {site}" for number in (0, 1) for site in NAMES]
    assert (metrics, [entry[0] for entry in one.rounds]) == ({"loss": pytest.approx(MEAN)}, [1, 2])


def test_a_site_that_fails_is_passed_over_and_one_round_without_any_ends_the_job(sites, tmp_path):
    good = adding(STEPS)
    one = sites(lambda site, task, params: "no data" if site == "site-2" else good(site, task, params))
    made = one.make(Cyclic, tmp_path, initial_model={"w": np.zeros(1)}, num_rounds=1)
    made.run()
    assert (model(tmp_path)["w"].tolist(), made.failures) == ([5], {"site-2": "no data"})
    (tmp_path / "other").mkdir()
    with pytest.raises(TooFewSites, match="no data"):
        sites(lambda *_: "no data").make(Cyclic, tmp_path / "other", initial_model={"w": np.zeros(1)}).run()


def test_a_site_whose_parameters_do_not_fit_is_passed_over(sites, tmp_path):
    good = adding(STEPS)
    one = sites(lambda site, task, params: ({}, {}) if site == "site-2" else good(site, task, params))
    made = one.make(Cyclic, tmp_path, initial_model={"w": np.zeros(1)}, num_rounds=1)
    made.run()
    assert model(tmp_path)["w"].tolist() == [5]
    assert "site-2 sent 'w' in another shape" in made.failures["site-2"]


def test_another_process_goes_on_at_the_site_at_which_it_was(sites, tmp_path):
    arguments = {"initial_model": {"w": np.zeros(1)}, "num_rounds": 3}
    first = sites()
    first.stop_at = 4
    with pytest.raises(JobAborted):
        first.make(Cyclic, tmp_path, **arguments).run()
    second = sites()
    second.make(Cyclic, tmp_path, **arguments).run()
    assert names(second)[:2] == ["1 train site-2", "1 train site-3"]
    assert second.tasks[0].task_id == first.tasks[-1].task_id == "job/1/train/site-2"
    assert model(tmp_path)["w"].tolist() == [3 * sum(STEPS.values())]
    assert json.loads((tmp_path / "metrics.json").read_text())["rounds"] == [{"accuracy": pytest.approx(MEAN / 10)}] * 3


def ways(sites, folder, **arguments):
    made = sites().make(Cyclic, folder, initial_model={"w": np.zeros(1)}, **arguments)
    return [made.way(number) for number in range(30)]


def test_the_order_is_fixed_drawn_or_named(sites, tmp_path):
    assert set(ways(sites, tmp_path)) == {NAMES}
    drawn = ways(sites, tmp_path, order="RANDOM")
    assert len(set(drawn)) > 3
    assert {tuple(sorted(way)) for way in drawn} == {NAMES}
    assert drawn == ways(sites, tmp_path, order="RANDOM")
    calm = ways(sites, tmp_path, order="RANDOM_WITHOUT_SAME_IN_A_ROW")
    assert all(before[-1] != after[0] for before, after in itertools.pairwise(calm))
    assert set(ways(sites, tmp_path, order=["site-3", "site-1"])) == {("site-3", "site-1")}
    assert {len(way) for way in ways(sites, tmp_path, sampled_sites=2)} == {2}


@pytest.mark.parametrize("order", ["random", ["site-1", "site-1"], ["site-9"], [], 3, [["site-1"]]])
def test_an_order_that_is_none_is_refused(sites, tmp_path, order):
    with pytest.raises(BadWorkflow, match='"order"'):
        sites().make(Cyclic, tmp_path, initial_model={"w": np.zeros(1)}, order=order)


# Cross-site evaluation.

OWN = {"site-1": 10.0, "site-2": 20.0, "site-3": 30.0}


def evaluating(site, task, params):
    """A site's metric is the model's parameter plus its own number: the matrix shows who evaluated what."""
    if task.name == "submit_model":
        return {"w": np.array([OWN[site]])}, {"samples": 1}
    if task.name == "validate":
        return {}, {"samples": 1, "metrics": {"score": float(params["w"][0]) + int(site[-1])}}
    return adding(STEPS)(site, task, params)


def matrix(folder):
    return json.loads((folder / "cross_site_val" / "cross_val_results.json").read_text())


def test_every_model_is_evaluated_at_every_site(sites, tmp_path):
    one = sites(evaluating)
    metrics = one.make(CrossSiteEval, tmp_path, initial_model={"w": np.array([100.0])}).run()
    owners = {"SRV_server": 100.0, **OWN}
    assert matrix(tmp_path) == {
        site: {owner: {"score": value + int(site[-1])} for owner, value in owners.items()} for site in NAMES
    }
    assert metrics == {"cross_site_score": pytest.approx(102.0)}
    assert [task.meta for task in one.tasks[:2]] == [{"submit_model_name": "best_model"}, {"model_owner": "SRV_server"}]
    kept = tmp_path / "cross_site_val" / "model_shareables" / "site-2.safetensors"
    assert safetensors.numpy.load_file(kept)["w"].tolist() == [20]
    assert not (tmp_path / "cross_site_val" / "state.json").exists()


def test_a_site_that_cannot_evaluate_or_submit_is_missing_and_nothing_else(sites, tmp_path):
    def answer(site, task, params):
        if (site, task.name) in {("site-1", "submit_model"), ("site-2", "validate")}:
            return f"{site}: it cannot"
        return evaluating(site, task, params)

    one = sites(answer)
    one.make(CrossSiteEval, tmp_path, initial_model={"w": np.zeros(1)}, keep_models=False).run()
    found = matrix(tmp_path)
    assert {site: sorted(row) for site, row in found.items()} == {
        site: ["SRV_server", "site-2", "site-3"] for site in ("site-1", "site-3")
    }
    assert not (tmp_path / "cross_site_val" / "model_shareables").exists()


def test_a_site_that_says_nothing_is_waited_for_so_long(sites, tmp_path):
    one = sites(lambda site, task, params: None if site == "site-3" else evaluating(site, task, params))
    one.make(CrossSiteEval, tmp_path, server_model=None, submit_s=0.1, evaluate_s=0.1).run()
    assert {site: sorted(row) for site, row in matrix(tmp_path).items()} == {
        site: ["site-1", "site-2"] for site in ("site-1", "site-2")
    }


def test_what_is_infinite_or_no_number_is_null_in_the_matrix(sites, tmp_path):
    one = sites(lambda *_: ({}, {"metrics": {"a": float("inf"), "b": float("nan"), "c": "high", "d": 1}}))
    one.make(CrossSiteEval, tmp_path, initial_model={"w": np.zeros(1)}, submit_task="").run()
    assert matrix(tmp_path)["site-1"]["SRV_server"] == {"a": None, "b": None, "c": None, "d": 1}


def test_an_evaluation_after_a_training_takes_its_last_and_its_best_model(sites, tmp_path):
    one = sites(evaluating)
    training = {"initial_model": {"w": np.zeros(1)}, "num_rounds": 2, "evaluate": False, "key_metric": "accuracy"}
    first = one.make(FedAvg, tmp_path, **training)
    second = one.make(CrossSiteEval, tmp_path, participants=["site-1"])
    second.is_alone = False
    metrics = InOrder([first, second]).run()
    assert set(matrix(tmp_path)["site-1"]) == {"SRV_server", "SRV_best", "site-1"}
    assert matrix(tmp_path)["site-1"]["SRV_server"]["score"] == pytest.approx(2 * MEAN + 1)
    assert matrix(tmp_path)["site-1"]["SRV_best"]["score"] == pytest.approx(MEAN + 1)
    assert metrics == {"accuracy": pytest.approx(MEAN / 10), "cross_site_score": pytest.approx(2 * MEAN + 1)}
    assert [entry[0] for entry in one.rounds] == [1, 2]


def test_another_process_evaluates_what_is_left_and_trains_nothing_again(sites, tmp_path):
    def parts(one):
        training = {"initial_model": {"w": np.zeros(1)}, "num_rounds": 2, "evaluate": False}
        return InOrder([one.make(FedAvg, tmp_path, **training), one.make(CrossSiteEval, tmp_path)])

    first = sites(evaluating)
    first.stop_at = 2 + 1 + 2  # two rounds, the models, and two evaluations
    with pytest.raises(JobAborted):
        parts(first).run()
    second = sites(evaluating)
    parts(second).run()
    assert names(second) == [f"{number} validate {','.join(NAMES)}" for number in (2, 3)]
    assert second.tasks[0].task_id == first.tasks[-1].task_id
    assert {len(row) for row in matrix(tmp_path).values()} == {4}


def test_an_evaluation_that_nobody_can_do_ends_the_job_with_the_causes(sites, tmp_path):
    with pytest.raises(TooFewSites, match="it cannot"):
        sites(lambda *_: "it cannot").make(CrossSiteEval, tmp_path, initial_model={"w": np.zeros(1)}).run()
    (tmp_path / "other").mkdir()
    with pytest.raises(TooFewSites, match="no model to evaluate"):
        sites(lambda *_: "it cannot").make(CrossSiteEval, tmp_path / "other").run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"submit_s": -1}, "seconds from 0"),
        ({"participants": ["site-9"]}, '"participating_clients"'),
        ({"participants": []}, '"participating_clients"'),
        ({"evaluate_task": ""}, "names of the tasks"),
    ],
)
def test_an_evaluation_with_arguments_that_cannot_be_meant_is_refused(sites, tmp_path, arguments, message):
    with pytest.raises(BadWorkflow, match=message):
        sites().make(CrossSiteEval, tmp_path, **arguments)


# What every workflow has.


@pytest.mark.parametrize("wire", [None, *frameworks.WIRE])
def test_a_workflow_of_its_own_gets_numbers_that_it_can_compute_with_whatever_travelled(sites, tmp_path, wire):
    sent = {"half": frameworks.narrowed(np.array([1.5], np.float32), frameworks.BFLOAT16), "w": np.array([2.5])}
    one = sites(lambda *_: (dict(frameworks.for_wire(sent, wire)), {"samples": 1}))
    made = Controller(one.channel, sites=("site-1",), run_dir=tmp_path, job_id="job")
    made.wire = wire
    (found,) = [
        {name: (array + 1).tolist() for name, array in answer.params.items()}
        for answer in made.ask("train", {}, round=0, total_rounds=1, min_sites=1)
    ]
    assert found == {"half": [2.5], "w": [3.5]}
