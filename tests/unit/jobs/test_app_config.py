"""The configurations of an app: their form, and the variables in them."""

from __future__ import annotations

import json

import pytest
from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.jobs import app_config

SYSTEM = {"SITE_NAME": "site-1", "JOB_ID": "7"}


@pytest.fixture
def read(tmp_path):
    def read(document, side="server", **values):
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config" / f"config_fed_{side}.json").write_text(json.dumps(document))
        return app_config.read(tmp_path, side, **values)

    return read


def workflow(**args):
    return {"format_version": 2, "workflows": [{"id": "w", "path": "a.B", "args": args}]}


def test_a_text_that_is_one_variable_takes_its_value_with_its_type(read):
    document = workflow(rounds="{rounds}", deep=[{"x": "{table}"}], text="r{rounds}: {name}", other="{unknown}")
    found = read({**document, "rounds": 3, "table": {"k": [1]}, "name": "{SITE_NAME}!"}, system=SYSTEM)
    assert found.workflows[0].args == {
        "rounds": 3,
        "deep": [{"x": {"k": [1]}}],
        "text": "r3: site-1!",
        "other": "{unknown}",
    }


def test_system_variables_win_and_stay_text_before_the_run(read):
    document = {**workflow(site="{SITE_NAME}", env="{$HOME}"), "SITE_NAME": "forged"}
    assert read(document, system=SYSTEM, environment={"HOME": "/h"}).workflows[0].args == {
        "site": "site-1",
        "env": "/h",
    }
    assert read(workflow(site="{SITE_NAME}", env="{$HOME}")).workflows[0].args == {
        "site": "{SITE_NAME}",
        "env": "{$HOME}",
    }


def test_an_environment_variable_that_jobs_do_not_get_is_named(read):
    with pytest.raises(InvalidJob, match="the environment variable SECRET is not passed on"):
        read(workflow(x="{$SECRET}"), environment={})


def test_variables_in_a_circle_are_refused(read):
    with pytest.raises(InvalidJob, match="in a circle"):
        read({**workflow(x="{a}"), "a": "{b}-", "b": "{a}-"})


def test_a_few_lines_that_would_fill_the_memory_are_refused(read):
    document = workflow(x="{v0}")
    for number in range(8):
        document[f"v{number}"] = f"{{v{number + 1}}}" * 40
    with pytest.raises(InvalidJob, match="names variables more than 10000 times"):
        read({**document, "v8": "x"})


def test_class_path_is_another_name_for_path_and_both_may_hold_variables(read):
    document = {"format_version": 2, "cls": "a.B", "workflows": [{"id": "w", "class_path": "{cls}"}]}
    assert read(document).workflows[0].path == "a.B"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"format_version": 1}, "config_fed_server.json: format_version must be 2, and is 1"),
        ({"format_version": 2}, '"workflows" needs at least one entry'),
        ({"format_version": 2, "workflows": {}}, "workflows must be a list"),
        ({"format_version": 2, "workflows": ["a.B"]}, r"workflows[0] must be an object"),
        ({"format_version": 2, "workflows": [{"name": "FedAvg"}]}, 'workflows[0] must name its class by "path"'),
        ({"format_version": 2, "workflows": [{"path": "FedAvg"}]}, "must be package.module.Class, and is 'FedAvg'"),
        ({"format_version": 2, "workflows": [{"path": "os;x.y"}]}, "must be package.module.Class"),
        ({"format_version": 2, "workflows": [{"path": "{SITE_NAME}.X"}]}, "must be package.module.Class"),
        ({"format_version": 2, "workflows": [{"path": "a.B", "args": []}]}, '"args" must be an object'),
        ({**workflow(), "components": [{"path": "a.B"}]}, 'components[0] needs an "id"'),
        ({**workflow(), "components": [{"id": "x", "path": "a.B"}] * 2}, 'components[1] needs an "id" of its own'),
        ({**workflow(), "task_data_filters": [{"filters": []}]}, 'task_data_filters[0] "tasks" must be a list'),
        (
            {**workflow(), "task_result_filters": [{"tasks": ["*"], "filters": [{"name": "X"}]}]},
            "task_result_filters[0].filters[0] must name its class",
        ),
    ],
)
def test_each_wrong_part_is_named(read, document, message):
    with pytest.raises(InvalidJob) as refused:
        read(document)
    assert message in refused.value.why


def test_executors_name_their_tasks(read):
    executor = {"tasks": ["train", "validate"], "executor": {"path": "a.B", "args": {"x": 1}}}
    found = read({"format_version": 2, "executors": [executor]}, side="client")
    assert found.executors[0].tasks == ("train", "validate")
    with pytest.raises(InvalidJob, match=r'executors\[0\] "tasks" must be'):
        read({"format_version": 2, "executors": [{**executor, "tasks": "*"}]}, side="client")


def test_every_component_is_listed_with_the_part_it_stands_in(read):
    chain = [{"tasks": ["*"], "filters": [{"path": "f.F"}]}]
    document = {**workflow(), "components": [{"id": "c", "path": "c.C"}], "task_result_filters": chain}
    assert [(part, one.path) for part, one in read(document).all()] == [
        ("workflows", "a.B"),
        ("components", "c.C"),
        ("filters", "f.F"),
    ]
