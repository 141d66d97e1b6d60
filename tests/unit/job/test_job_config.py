"""The reference's components on ours: what a configuration becomes, and what is refused with a reason."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.job import config, initial_model
from clouddeploy_runtime.job.controller import BadWorkflow, Controller
from clouddeploy_runtime.job.cross_site import CrossSiteEval
from clouddeploy_runtime.job.cyclic import Cyclic
from clouddeploy_runtime.job.fedavg import FedAvg
from clouddeploy_runtime.job.filters import BadFilter, ExcludeVars
from clouddeploy_runtime.job.initial_model import BadModel
from clouddeploy_runtime.jobs import app_config
from clouddeploy_runtime.jobs.known import ComponentRefused

COMMON = "nvflare.app_common"
GATHER = f"{COMMON}.workflows.scatter_and_gather.ScatterAndGather"
FEDAVG = f"{COMMON}.workflows.fedavg.FedAvg"
CYCLIC = f"{COMMON}.workflows.cyclic_ctl.CyclicController"
CROSS = f"{COMMON}.workflows.cross_site_model_eval.CrossSiteModelEval"
LOCATOR = {"id": "locator", "path": f"{COMMON}.np.np_model_locator.NPModelLocator"}
NUMPY = {"id": "persistor", "path": f"{COMMON}.np.np_model_persistor.NPModelPersistor"}
PYTORCH = {"id": "persistor", "path": "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"}
IN_PROCESS = f"{COMMON}.executors.in_process_client_api_executor.InProcessClientAPIExecutor"
LAUNCHED = f"{COMMON}.executors.client_api_launcher_executor.ClientAPILauncherExecutor"
SUBPROCESS = f"{COMMON}.launchers.subprocess_launcher.SubprocessLauncher"
OWN = """
from clouddeploy_runtime.job.controller import Controller
from clouddeploy_runtime.job.filters import Filter


class Flow(Controller):
    def configure(self, *, speed):
        self.speed = speed


class Keep(Filter):
    def __init__(self, share=1):
        self.share = share


class Net:
    def __init__(self, size=1):
        self.size = size

    def state_dict(self):
        return {"w": [0.5] * self.size}


def initial():
    return {"w": [1.0]}
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Return an app's folder with own code that can be imported."""
    for name in ("config", "custom"):
        (tmp_path / "app" / name).mkdir(parents=True)
    (tmp_path / "app" / "custom" / "own_code.py").write_text(OWN)
    (tmp_path / "app" / "custom" / "train.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "app" / "custom"))
    yield tmp_path / "app"
    sys.modules.pop("own_code", None)


@pytest.fixture
def controller(app, tmp_path):
    def make(path, components=(), **args):
        document = {
            "format_version": 2,
            "workflows": [{"id": "w", "path": path, "args": args}],
            "components": components,
        }
        (app / "config" / "config_fed_server.json").write_text(json.dumps(document))
        read = app_config.read(app, "server")
        (tmp_path / "run").mkdir(exist_ok=True)
        return config.controller(
            read, app, channel=SimpleNamespace(), sites=("a", "b", "c"), run_dir=tmp_path / "run", job_id="j"
        )

    return make


@pytest.fixture
def script(app):
    def find(args, *, path=IN_PROCESS, search=(), executors=1, **document):
        executor = {"tasks": ["train"], "executor": {"path": path, "args": args}}
        document = {"format_version": 2, "executors": [executor] * executors, **document}
        (app / "config" / "config_fed_client.json").write_text(json.dumps(document))
        return config.script(app_config.read(app, "client"), app, search=search)

    return find


def test_scatter_and_gather_is_our_fedavg_with_its_arguments(controller):
    made = controller(
        GATHER,
        [NUMPY],
        min_clients=2,
        num_rounds=4,
        wait_time_after_min_received=3,
        train_task_name="fit",
        start_round=0,
    )
    assert isinstance(made, FedAvg)
    assert (made._rounds, made._min_sites, made._wait_s, made._train_task) == (4, 2, 3.0, "fit")
    assert made._evaluate is False
    assert made._model["numpy_key"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert made._model["numpy_key"].dtype == np.float32


def test_what_scatter_and_gather_does_not_say_has_the_references_value(controller):
    made = controller(GATHER, [NUMPY])
    assert (made._rounds, made._min_sites, made._wait_s) == (5, 1, 10.0)


def test_fedavg_without_a_number_of_clients_asks_all(controller):
    made = controller(FEDAVG, [{**NUMPY, "args": {"initial_model": [[1, 2]]}}], save_filename="x.pt")
    assert made._min_sites == 3
    assert made._model["numpy_key"].tolist() == [[1, 2]]


@pytest.mark.parametrize("path", [FEDAVG, "clouddeploy_runtime.job.fedavg.FedAvg"])
def test_where_the_server_keeps_the_answers_is_its_parents_business(controller, path):
    for value in (True, False):
        made = controller(path, initial_model="own_code:initial", num_rounds=1, enable_tensor_disk_offload=value)
        assert isinstance(made, FedAvg)


def test_a_wish_for_the_disk_that_is_neither_true_nor_false_is_refused(controller):
    with pytest.raises(BadWorkflow, match='"enable_tensor_disk_offload" is not supported'):
        controller(FEDAVG, initial_model="own_code:initial", enable_tensor_disk_offload="yes")


def test_our_own_fedavg_takes_its_own_arguments(controller):
    made = controller("clouddeploy_runtime.job.fedavg.FedAvg", initial_model="own_code:initial", num_rounds=1)
    assert (made._evaluate, made._model["w"].tolist()) == (True, [1.0])


@pytest.mark.parametrize(
    ("components", "args"),
    [
        ([{**PYTORCH, "args": {"model": {"path": "own_code.Net", "args": {"size": 2}}}}], {}),
        (
            [
                {**PYTORCH, "args": {"model": "net"}},
                {"id": "net", "path": "own_code.Net", "args": {"size": 2}},
            ],
            {},
        ),
        ([], {"model": {"w": [0.5, 0.5]}, "persistor_id": ""}),
        ([], {"model": {"class_path": "own_code.Net", "args": {"size": 2}}}),
    ],
)
def test_a_model_is_made_of_a_class_a_component_or_numbers(controller, components, args):
    assert controller(FEDAVG, components, **args)._model["w"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", ["start.npz", "start.npy", "start.safetensors"])
def test_a_model_is_read_from_a_file_of_the_app(controller, app, name):
    array, file = np.arange(3, dtype=np.float32), app / "custom" / name
    if name.endswith(".npy"):
        np.save(file, array)
    elif name.endswith(".npz"):
        np.savez(file, numpy_key=array)
    else:
        content = bytearray(initial_model.tensors.size_of({"numpy_key": array}))
        initial_model.tensors.write({"numpy_key": array}, memoryview(content))
        file.write_bytes(content)
    made = controller(FEDAVG, [{**PYTORCH, "args": {"source_ckpt_file_full_name": name}}])
    assert made._model["numpy_key"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pt", "can hold code"),
        ("../../meta.npz", "outside of the job's app"),
        ("none.npz", "cannot be read"),
    ],
)
def test_a_model_file_that_is_not_read_says_why(controller, name, message):
    with pytest.raises(BadModel) as refused:
        controller(FEDAVG, [{**PYTORCH, "args": {"source_ckpt_file_full_name": name}}])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("path", "components", "args", "kind", "message"),
    [
        (FEDAVG, [], {}, BadModel, "there is no component 'persistor'"),
        (FEDAVG, [{"id": "persistor", "path": "own_code.Net"}], {}, ComponentRefused, "own_code.Net cannot be run"),
        (FEDAVG, [NUMPY], {"stop_cond": "accuracy"}, BadWorkflow, '"stop_cond" cannot be read'),
        (FEDAVG, [NUMPY], {"start_round": -2}, BadWorkflow, '"start_round" must be a whole number'),
        (FEDAVG, [NUMPY], {"aggregation_weights": {"a": -2}}, BadWorkflow, "numbers above 0"),
        (FEDAVG, [NUMPY], {"aggregator": "own"}, BadWorkflow, '"aggregator" is not supported'),
        (FEDAVG, [NUMPY], {"fedprox_mu": 1}, BadWorkflow, '"fedprox_mu" is not supported'),
        (FEDAVG, [NUMPY], {"momentum": 1}, BadWorkflow, 'the argument "momentum" is not known'),
        (FEDAVG, [NUMPY], {"num_clients": -1}, BadWorkflow, '"num_clients" must be a whole number from 0'),
        (FEDAVG, [], {"persistor_id": "p"}, BadModel, "there is no component 'p'"),
        (FEDAVG, [NUMPY], {"aggregator_id": "sum"}, BadWorkflow, "there is no component 'sum'"),
        (GATHER, [NUMPY], {"shareable_generator_id": "g"}, BadWorkflow, "there is no component 'g'"),
        *(
            (FEDAVG, [{**persistor, "args": {"model": {"w": [1.0]}, **args}}], {}, BadWorkflow, message)
            for persistor, args, message in (
                (PYTORCH, {"exclude_vars": "head"}, '"exclude_vars" is not supported'),
                (PYTORCH, {"filter_id": "f"}, '"filter_id" is not supported'),
                (PYTORCH, {"other": 1}, 'the argument "other" is not known'),
                (NUMPY, {"other": 1}, 'the argument "other" is not known'),
            )
        ),
        (FEDAVG, [NUMPY], {"num_rounds": 0}, BadWorkflow, '"num_rounds" must be a whole number from 1'),
        (FEDAVG, [NUMPY], {"num_rounds": "5"}, BadWorkflow, '"num_rounds" must be'),
        (FEDAVG, [], {"initial_model": "no_such:thing"}, BadModel, "cannot be made"),
        (GATHER, [NUMPY], {"wait_time_after_min_received": -1}, BadWorkflow, "seconds from 0"),
        (f"{COMMON}.workflows.swarm.Swarm", [], {}, ComponentRefused, "Swarm cannot be run"),
        (CYCLIC, [], {}, BadModel, "there is no component 'persistor'"),
        (CYCLIC, [NUMPY], {"order": "ANY"}, BadWorkflow, '"order" cannot be'),
        (CYCLIC, [NUMPY], {"allow_early_termination": True}, BadWorkflow, "would change the result"),
        (CYCLIC, [NUMPY], {"momentum": 1}, BadWorkflow, 'the argument "momentum" is not known'),
        (CROSS, [NUMPY], {"model_locator_id": "l"}, BadWorkflow, "there is no component 'l'"),
        (CROSS, [{"id": "l", "path": "own_code.Net"}], {"model_locator_id": "l"}, ComponentRefused, "cannot be run"),
        (CROSS, [LOCATOR], {"model_locator_id": "locator"}, BadModel, "there is no component 'persistor'"),
        (CROSS, [], {"cross_val_dir": "elsewhere"}, BadWorkflow, '"cross_val_dir" is not supported'),
        (f"{COMMON}.workflows.cross_site_eval.CrossSiteEval", [], {"server_models": "x"}, BadWorkflow, "list of names"),
        (
            "own_code.Net",
            [],
            {},
            ComponentRefused,
            "does not derive from clouddeploy_runtime.job.controller.Controller",
        ),
        ("own_code.Flow", [], {"slow": 1}, BadWorkflow, "the arguments do not fit"),
    ],
)
def test_a_workflow_that_cannot_run_is_refused_by_name(controller, path, components, args, kind, message):  # noqa: PLR0917 - a table
    with pytest.raises(kind) as refused:
        controller(path, components, **args)
    assert message in str(refused.value)


def test_an_aggregator_of_another_kind_is_refused_and_the_weights_of_ours_are_taken(controller):
    other = {"id": "sum", "path": f"{COMMON}.aggregators.assembler.X"}
    with pytest.raises(ComponentRefused, match=r"assembler\.X cannot be run"):
        controller(GATHER, [NUMPY, other], aggregator_id="sum")
    path = f"{COMMON}.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
    weighted = {"id": "sum", "path": path, "args": {"aggregation_weights": {"a": 2}, "exclude_vars": "^h"}}
    made = controller(GATHER, [NUMPY, weighted], aggregator_id="sum")
    assert (made._factors, made._excluded.pattern) == ({"a": 2}, "^h")


AGGREGATOR = f"{COMMON}.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"


@pytest.mark.parametrize("name", ["aggregator", "shareable_generator"])
def test_a_part_that_the_reference_takes_without_being_told_is_looked_at(controller, name):
    with pytest.raises(ComponentRefused, match="Own cannot be run"):
        controller(GATHER, [NUMPY, {"id": name, "path": "own_code.Own"}])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"weigh_by_local_iter": False}, '"weigh_by_local_iter" is not supported'),
        ({"weigh_by_local_iter": 1}, '"weigh_by_local_iter" is not supported'),
        ({"exclude_vars": {"a": "head"}}, '"exclude_vars" cannot be'),
        ({"expected_data_kind": {"a": "WEIGHTS"}}, '"expected_data_kind" is not supported'),
        ({"accumulator": "median"}, 'the argument "accumulator" is not known'),
    ],
)
def test_an_argument_of_the_aggregator_that_changes_the_result_is_refused(controller, args, message):
    with pytest.raises(BadWorkflow) as refused:
        controller(GATHER, [NUMPY, {"id": "aggregator", "path": AGGREGATOR, "args": args}])
    assert message in str(refused.value)


def test_arguments_that_change_nothing_are_taken(controller):
    args = {"weigh_by_local_iter": True, "expected_data_kind": "WEIGHTS", "aggregation_weights": {}}
    persistor = {**PYTORCH, "args": {"model": {"w": [1.0]}, "global_model_file_name": "x.pt", "exclude_vars": None}}
    made = controller(GATHER, [persistor, {"id": "aggregator", "path": AGGREGATOR, "args": args}], min_clients=2)
    assert made._model["w"].tolist() == [1.0]


def test_the_references_number_of_clients_draws_them_anew_in_each_round(controller):
    made = controller(FEDAVG, [NUMPY], num_clients=2)
    rounds = [made._drawn(number) for number in range(20)]
    assert {len(set(drawn)) for drawn in rounds} == {2}
    assert {site for drawn in rounds for site in drawn} == {"a", "b", "c"}
    assert rounds == [controller(FEDAVG, [NUMPY], num_clients=2)._drawn(number) for number in range(20)]
    made.failures["b"] = "b: no line"
    assert {site for number in range(20) for site in made._drawn(number)} == {"a", "c"}


def test_more_clients_than_there_are_means_all(controller):
    assert len(controller(FEDAVG, [NUMPY], num_clients=9)._drawn(0)) == 3


def test_a_controller_of_the_job_itself_is_taken(controller):
    made = controller("own_code.Flow", speed=3)
    assert isinstance(made, Controller)
    assert (made.speed, made.job_id) == (3, "j")


def test_the_arguments_of_a_training_are_those_of_ours(controller):
    made = controller(FEDAVG, [NUMPY], stop_cond="loss < 0.1", patience=2, start_round=3, wire_dtype="bfloat16")
    assert (made._condition.key, made._patience, made._first, made.wire) == ("loss", 2, 3, "bfloat16")


def test_the_references_cyclic_controllers_are_ours(controller):
    made = controller(CYCLIC, [NUMPY], num_rounds=2, task_assignment_timeout=3, order=["c", "a"], task_name="fit")
    assert isinstance(made, Cyclic)
    assert (made._rounds, made.way(0), made._train_task) == (2, ("c", "a"), "fit")
    other = controller(f"{COMMON}.workflows.cyclic.Cyclic", [NUMPY], num_clients=2)
    assert len(other.way(0)) == 2


@pytest.mark.parametrize(
    ("path", "components", "args", "expected"),
    [
        (CROSS, [LOCATOR, NUMPY], {"model_locator_id": "locator"}, {"SRV_server": True}),
        (
            CROSS,
            [
                {**PYTORCH, "id": "p", "args": {"model": {"w": [1.0]}, "global_model_file_name": "x.pt"}},
                {
                    "id": "l",
                    "path": "nvflare.app_opt.pt.file_model_locator.PTFileModelLocator",
                    "args": {"pt_persistor_id": "p"},
                },
            ],
            {"model_locator_id": "l"},
            {"SRV_x.pt": True, "SRV_best_FL_global_model.pt": False},
        ),
        (CROSS, [], {}, {}),
        (
            f"{COMMON}.workflows.cross_site_eval.CrossSiteEval",
            [NUMPY],
            {"server_models": ["best_model.pt", "last.pt"]},
            {"last.pt": True, "best_model.pt": False},
        ),
        (
            f"{COMMON}.workflows.global_model_eval.GlobalModelEval",
            [NUMPY, LOCATOR],
            {"model_locator_id": "locator"},
            {"SRV_server": True},
        ),
    ],
)
def test_an_evaluation_knows_the_servers_models_by_the_references_names(controller, path, components, args, expected):
    made = controller(path, components, **args)
    assert isinstance(made, CrossSiteEval)
    assert {name: (made.run_dir / file).exists() for name, file in made._server_models.items()} == expected
    assert (made._submit_task == "") == path.endswith("GlobalModelEval")


def test_an_evaluations_other_arguments_are_taken(controller):
    made = controller(
        CROSS,
        [],
        submit_model_timeout=3,
        validation_timeout=4,
        validation_task_name="try",
        participating_clients=["a"],
        cleanup_models=True,
    )
    assert (made._submit_s, made._evaluate_s, made._evaluate_task) == (3, 4, "try")
    assert (made._participants, made._keep_models) == (("a",), False)


@pytest.fixture
def workflows(app, tmp_path):
    def make(*entries):
        document = {"format_version": 2, "workflows": entries, "components": [NUMPY, LOCATOR]}
        (app / "config" / "config_fed_server.json").write_text(json.dumps(document))
        (tmp_path / "run").mkdir(exist_ok=True)
        return config.controller(
            app_config.read(app, "server"),
            app,
            channel=SimpleNamespace(),
            sites=("a",),
            run_dir=tmp_path / "run",
            job_id="j",
        )

    return make


def test_an_evaluation_may_come_after_a_training(workflows, tmp_path):
    cross = {"path": CROSS, "args": {"model_locator_id": "locator"}}
    training, evaluation = workflows({"path": GATHER}, cross).parts
    assert (type(training), type(evaluation), evaluation.is_alone) == (FedAvg, CrossSiteEval, False)
    assert not (tmp_path / "run" / "global_model.safetensors").exists()  # the training's will be there


@pytest.mark.parametrize("paths", [(FEDAVG, CYCLIC), (CROSS, FEDAVG), (FEDAVG, CROSS, CROSS)])
def test_other_workflows_together_are_refused(workflows, paths):
    with pytest.raises(BadWorkflow, match="a job runs one, and after it a cross-site evaluation at most"):
        workflows(*({"path": path} for path in paths))


def test_a_script_gets_the_words_of_its_arguments(script, app):
    found = script({"task_script_path": "custom/train.py", "task_script_args": "--lr 0.1 --note 'two words'"})
    assert (found.file, found.arguments) == (app / "custom" / "train.py", ("--lr", "0.1", "--note", "two words"))
    assert found.wishes.tasks == ("train",)


def test_the_script_of_a_subprocess_launcher_is_run_the_same_way(script, app):
    launcher = {"id": "l", "path": SUBPROCESS, "args": {"script": "python3 -u custom/train.py --batch 4 "}}
    found = script({"launcher_id": "l"}, path=LAUNCHED, components=[launcher])
    assert (found.file, found.arguments) == (app / "custom" / "train.py", ("--batch", "4"))


def test_a_script_of_the_site_itself_is_found_after_the_jobs_own(script, app, tmp_path):
    (tmp_path / "site").mkdir()
    for name in ("train.py", "installed.py"):
        (tmp_path / "site" / name).write_text("")
    search = ["", str(tmp_path / "site")]
    assert script({"task_script_path": "installed.py"}, search=search).file == tmp_path / "site" / "installed.py"
    assert script({"task_script_path": "train.py"}, search=search).file == app / "custom" / "train.py"


def test_one_script_may_do_the_tasks_of_several_executors(script):
    assert script({"task_script_path": "train.py"}, executors=2).wishes.tasks == ("train", "train")


@pytest.mark.parametrize(
    ("args", "document", "kind", "message"),
    [
        ({}, {}, BadWorkflow, "names no script"),
        ({"task_script_path": "none.py"}, {}, BadWorkflow, "there is no script 'none.py'"),
        ({"task_script_path": "../train.py"}, {}, BadWorkflow, "no script below custom/"),
        ({"task_script_path": "/etc/x.py"}, {}, BadWorkflow, "no script below custom/"),
        ({"task_script_path": "train.sh"}, {}, BadWorkflow, "no script below custom/"),
        ({"task_script_path": "train.py", "task_script_args": "'"}, {}, BadWorkflow, "is no list of words"),
        (
            {"task_script_path": "train.py"},
            {"path": "nvflare.x.PTLearner"},
            ComponentRefused,
            "PTLearner cannot be run",
        ),
        (
            {"launcher_id": "l"},
            {"components": [{"id": "l", "path": SUBPROCESS, "args": {"script": "bash custom/run.sh"}}]},
            BadWorkflow,
            "'bash custom/run.sh' is not run",
        ),
        (
            {"task_script_path": "train.py", "params_exchange_format": "pytorch"},
            {},
            BadWorkflow,
            "torch cannot be imported at this site",
        ),
    ],
)
def test_a_script_that_cannot_run_is_refused_by_name(script, monkeypatch, args, document, kind, message):  # noqa: PLR0917 - a table
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(kind) as refused:
        script(args, **document)
    assert message in str(refused.value)


def test_a_script_that_wants_pytorch_gets_its_tensors(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_numpy=lambda array: ("tensor", array)))
    found = script({"task_script_path": "train.py", "params_exchange_format": "pytorch"})
    kind, array = found.wishes.to_framework(np.ones(1))
    assert (kind, array.tolist()) == ("tensor", [1.0])


def chain(path, **args):
    return {"task_result_filters": [{"tasks": ["*"], "filters": [{"path": path, "args": args}]}]}


def test_filters_are_ours_or_the_jobs_own(script):
    ours = script({"task_script_path": "train.py"}, **chain(f"{COMMON}.filters.ExcludeVars", exclude_vars="^head"))
    assert isinstance(ours.wishes.filters.result[0].filters[0], ExcludeVars)
    own = script({"task_script_path": "train.py"}, **chain("own_code.Keep", share=2))
    assert own.wishes.filters.result[0].filters[0].share == 2


@pytest.mark.parametrize(
    ("path", "args", "kind"),
    [
        (f"{COMMON}.filters.dxo_blocker.DXOBlocker", {}, ComponentRefused),
        ("own_code.Net", {}, ComponentRefused),
        ("own_code.Keep", {"part": 1}, BadWorkflow),
        (f"{COMMON}.filters.ExcludeVars", {"exclude_vars": []}, BadFilter),
    ],
)
def test_a_filter_that_is_not_there_keeps_the_job_from_running(script, path, args, kind):
    with pytest.raises(kind):
        script({"task_script_path": "train.py"}, **chain(path, **args))


def test_an_environment_variable_is_put_in_at_the_run(app):
    document = {"format_version": 2, "workflows": [{"path": FEDAVG, "args": {"num_rounds": "{$ROUNDS}"}}]}
    (app / "config" / "config_fed_server.json").write_text(json.dumps(document))
    assert app_config.read(app, "server", environment={"ROUNDS": "3"}).workflows[0].args == {"num_rounds": "3"}
    with pytest.raises(InvalidJob):
        app_config.read(app, "server", environment={})
