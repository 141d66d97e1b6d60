"""Workflows over real processes on loopback, held against the same computation without a network."""

from __future__ import annotations

import contextlib
import json
import runpy
import signal
import subprocess

import numpy as np
import pytest
from clouddeploy_runtime.job import frameworks, tensors
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import TINY_CONFIGS, Federation
from tests.integration.rounds import Jobs
from tests.integration.rounds import job as job_of_numbers
from tests.packaging.pages import documented_job

NUMBERS = {"site-1": [1.0, 2.0, 3.0], "site-2": [6.0], "site-3": [4.0, 5.0]}
SAMPLES = sum(map(len, NUMBERS.values()))
COMMON = "nvflare.app_common"
PERSISTOR = {
    "id": "persistor",
    "path": f"{COMMON}.np.np_model_persistor.NPModelPersistor",
    "args": {"initial_model": [[0, 0]]},
}
LOCATOR = {"id": "locator", "path": f"{COMMON}.np.np_model_locator.NPModelLocator"}
CYCLIC = f"{COMMON}.workflows.cyclic_ctl.CyclicController"
FEDAVG = f"{COMMON}.workflows.fedavg.FedAvg"
NUMPY = """
import numpy as np
import nvflare.client as flare
from clouddeploy_runtime.job.client_api import data_dir

numbers = np.loadtxt(data_dir() / "numbers.txt", ndmin=1)


def trained(params, mean):
    return {name: one * np.float32(0.5) + np.float32(mean) for name, one in params.items()}


flare.init()
best = {"numpy_key": np.full((1, 2), numbers.mean(), np.float32)}
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    if flare.is_train():
        best = trained(model.params, numbers.mean())
        flare.send(flare.FLModel(params=best, samples=len(numbers), metrics={"mean": numbers.mean()}))
    elif flare.is_evaluate():
        distance = float(abs(model.params["numpy_key"][0, 0] - numbers.mean()))
        flare.send(flare.FLModel(params={}, metrics={"distance": distance}))
    elif flare.is_submit_model():
        assert model.meta["submit_model_name"] == "best_model"
        flare.send(flare.FLModel(params=best))
"""
LEARNER = """
import numpy as np
from clouddeploy_runtime.job.frameworks import load, params_of
from sklearn.linear_model import SGDClassifier


def fit(numbers, params):
    x = np.random.default_rng(len(numbers)).normal(size=(10 * len(numbers), 3))
    estimator = SGDClassifier(random_state=1)
    estimator.classes_ = np.array([0, 1])
    load(estimator, params)
    estimator.partial_fit(x, (x[:, 0] > 0).astype(int), classes=[0, 1])
    return params_of(estimator)


def zeros():
    return {"coef_": np.zeros((1, 3)), "intercept_": np.zeros(1)}
"""
SKLEARN = """
import numpy as np
import nvflare.client as flare
from clouddeploy_runtime.job.client_api import data_dir
from learner import fit

numbers = np.loadtxt(data_dir() / "numbers.txt", ndmin=1)
flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    flare.send(flare.FLModel(params=fit(numbers, model.params), samples=len(numbers)))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Return a federation of three sites, each with its numbers."""
    one = Federation(tmp_path_factory.mktemp("federation"))
    for name in ("server", *NUMBERS):
        one.start(name)
    for name, numbers in NUMBERS.items():
        (one.workspace(name) / "data").mkdir(exist_ok=True)
        (one.workspace(name) / "data" / "numbers.txt").write_text("".join(f"{number}\n" for number in numbers))
    for name in ("server", *NUMBERS):
        one.wait_for(name, "serving" if name == "server" else "registered")
    with one.admin() as session:
        one.session = session
        yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


@pytest.fixture
def run(running, tmp_path):
    """Return what runs a job to its end and gives its record and its results' folder."""

    def to_end(folder):
        info = running.session.wait(running.session.submit(folder), 40)
        assert (info.status, info.reason) == (JobStatus.COMPLETED, "")
        return info, running.session.download(info.job_id, tmp_path / "results") / "workspace"

    return to_end


@pytest.fixture
def job(tmp_path):
    def make(*workflows, script=NUMPY, components=(PERSISTOR, LOCATOR), name="job", **code):
        app = tmp_path / name / "app"
        for folder in ("config", "custom"):
            (app / folder).mkdir(parents=True)
        server = {
            "format_version": 2,
            "workflows": [{"path": path, "args": args} for path, args in workflows],
            "components": components,
        }
        for side, content in (("server", server), ("client", TINY_CONFIGS["client"])):
            (app / "config" / f"config_fed_{side}.json").write_text(json.dumps(content))
        for module, content in {"train": script, **code}.items():
            (app / "custom" / f"{module}.py").write_text(content)
        meta = {"name": "workflow", "deploy_map": {"app": ["@ALL"]}, "min_clients": len(NUMBERS)}
        (app.parent / "meta.json").write_text(json.dumps(meta))
        return app.parent

    return make


def model(folder, name="global_model"):
    return tensors.read(memoryview((folder / f"{name}.safetensors").read_bytes()))


def means():
    return {site: np.float32(np.mean(numbers)) for site, numbers in NUMBERS.items()}


def after(rounds):
    """The weighted mean of what the sites make of zero, so often."""
    value = 0.0
    for _ in range(rounds):
        value = sum(len(NUMBERS[site]) * (value / 2 + mean) for site, mean in means().items()) / SAMPLES
    return value


def test_a_training_and_the_evaluation_after_it_give_the_mean_and_the_whole_matrix(run, job):
    gather = (f"{COMMON}.workflows.scatter_and_gather.ScatterAndGather", {"num_rounds": 2, "min_clients": 3})
    cross = (f"{COMMON}.workflows.cross_site_model_eval.CrossSiteModelEval", {"model_locator_id": "locator"})
    info, results = run(job(gather, cross))
    np.testing.assert_allclose(model(results)["numpy_key"], after(2), rtol=1e-6)
    matrix = json.loads((results / "cross_site_val" / "cross_val_results.json").read_text())
    own = {site: after(1) / 2 + mean for site, mean in means().items()}
    for site, mean in means().items():
        found = {owner: one["distance"] for owner, one in matrix[site].items()}
        assert found == pytest.approx({name: abs(one - mean) for name, one in {"SRV_server": after(2), **own}.items()})
    assert info.rounds == 2
    assert set(info.metrics) == {"mean", "cross_site_distance"}


def test_a_model_makes_its_way_from_site_to_site(run, job):
    info, results = run(job((CYCLIC, {"num_rounds": 2, "order": ["site-2", "site-3", "site-1"]})))
    value = np.float32(0)
    for site in ["site-2", "site-3", "site-1"] * 2:
        value = value * np.float32(0.5) + means()[site]
    assert np.array_equal(model(results)["numpy_key"], [[value, value]])
    assert (info.rounds, info.total_rounds) == (2, 2)


def test_the_mean_of_estimators_is_that_of_the_same_computation_without_a_network(run, job):
    arguments = {"num_rounds": 2, "initial_model": "learner:zeros"}
    folder = job((FEDAVG, arguments), script=SKLEARN, learner=LEARNER)
    learner = runpy.run_path(str(folder / "app" / "custom" / "learner.py"))
    expected = learner["zeros"]()
    for _ in range(2):
        updates = {site: learner["fit"](numbers, expected) for site, numbers in NUMBERS.items()}
        expected = {
            name: sum(len(NUMBERS[site]) * one[name] for site, one in updates.items()) / SAMPLES for name in expected
        }
    _, results = run(folder)
    for name, array in expected.items():
        np.testing.assert_allclose(model(results)[name], array, rtol=1e-12)


def test_half_the_bytes_travel_and_the_mean_is_that_of_the_rounded_parameters(run, job):
    start = "import numpy as np\n\ndef zeros():\n    return {'w': np.zeros(100_000, np.float32)}\n"
    moved = []
    for wire in (None, "bfloat16"):
        arguments = {"initial_model": "start:zeros", "num_rounds": 2, "wire_dtype": wire}
        _, results = run(job((FEDAVG, arguments), name=f"wire-{wire}", start=start))
        last = json.loads((results / "rounds.jsonl").read_text().splitlines()[-1])
        moved.append((last["bytes_down"], last["bytes_up"]))
    (whole_down, whole_up), (down, up) = moved
    assert 0.5 <= down / whole_down < 0.51
    assert 0.5 <= up / whole_up < 0.51
    value = 0.0
    for _ in range(2):
        updates = {site: float(rounded(rounded(value) / 2 + mean)) for site, mean in means().items()}
        value = sum(len(NUMBERS[site]) * one for site, one in updates.items()) / SAMPLES
    np.testing.assert_allclose(model(results)["w"], value, rtol=1e-6)


def rounded(value):
    return frameworks.widened(frameworks.narrowed(np.array(value, np.float32), frameworks.BFLOAT16))


def test_the_workflow_on_the_page_runs_as_it_stands_there(run, tmp_path):
    info, results = run(documented_job(tmp_path, "workflows.md"))
    assert info.rounds == 3
    assert model(results)["w"].tolist() == [4.5, 4.5]


ALL_TASKS = """
import time
from clouddeploy_runtime.job import client_api as flare

flare.init()
data = flare.data_dir()
step = int((data / "step").read_text())
own = {}
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    task = flare.get_task_name()
    with open("trained.txt", "a") as file:
        file.write(f"{task} {model.meta.get('model_owner', model.current_round)}\\n")
    while (data / f"hold-{task}").exists():
        time.sleep(0.01)
    if flare.is_train():
        own = {name: 2 * value + step for name, value in model.params.items()}
    value = float(model.params["w"][0])
    flare.send(flare.FLModel(params={} if flare.is_evaluate() else own, metrics={"value": value}))
"""


@pytest.fixture
def killed(tmp_path):
    one = Jobs(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(Exception):
            one.stop(name, signal.SIGKILL)


def test_a_server_that_is_killed_goes_on_at_its_site_and_at_its_model(killed, tmp_path):
    """Nobody trains twice; of the model that was being evaluated the answers that were there are asked for again."""
    folder = job_of_numbers(tmp_path / "job", script=ALL_TASKS)
    config = folder / "app" / "config" / "config_fed_server.json"
    document = json.loads(config.read_text())
    document["workflows"] = [
        {"path": "clouddeploy_runtime.job.cyclic.Cyclic", "args": {"num_rounds": 1, "initial_model": "first:make"}},
        {"path": "clouddeploy_runtime.job.cross_site.CrossSiteEval", "args": {}},
    ]
    config.write_text(json.dumps(document))
    for task in ("train", "validate"):
        killed.hold("site-2", task)
    killed.begin("site-1", "site-2")
    job_id = killed.submit(folder)
    for task, noted in (("train", "train 0"), ("validate", "validate SRV_server")):
        killed.wait_until_noted("site-2", noted)
        killed.stop("server", signal.SIGKILL)
        killed.start("server")
        killed.release("site-2", task)
    info = killed.ended(job_id)
    assert (info.status, info.reason) == (JobStatus.COMPLETED, ""), killed.all_logs()
    assert set(killed.model(job_id)) == {5.0}  # 2 · (2 · 0 + 1) + 3
    results = killed.workspace("server") / "jobs" / job_id / "result" / "cross_site_val" / "cross_val_results.json"
    row = {"SRV_server": {"value": 5.0}, "site-1": {"value": 1.0}, "site-2": {"value": 5.0}}
    assert json.loads(results.read_text()) == {"site-1": row, "site-2": row}
    first = ["train 0", "submit_model 0", "validate SRV_server"]
    rest = ["validate site-1", "validate site-2"]
    # Who had answered the dead server evaluates that one model again; nobody trains or submits twice.
    assert list(dict.fromkeys(killed.noted("site-1"))) == [*first, *rest]
    assert killed.noted("site-1").count("validate SRV_server") <= 2
    assert killed.noted("site-2") == [*first, *rest]
