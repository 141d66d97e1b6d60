"""What a job may name and bring at a site, before anything of it runs."""

from __future__ import annotations

import logging

import pytest
from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.jobs import components, known, normalised
from clouddeploy_runtime.jobs.known import ComponentRefused
from clouddeploy_runtime.settings import Settings

META = {"name": "j", "deploy_map": {"app": ["@ALL"]}}
LISTED = Settings(allowed_classes=frozenset({"lab.models.", "clouddeploy_runtime.job.fedavg.FedAvg"}))


def server(path="clouddeploy_runtime.job.fedavg.FedAvg", **args):
    return {"format_version": 2, "workflows": [{"id": "w", "path": path, "args": args}]}


def refusal(app, settings=LISTED, **options):
    with pytest.raises(ComponentRefused) as refused:
        components.check(app, "server", settings, **{"may_bring_code": False, **options})
    return str(refused.value)


def test_own_code_needs_the_right_even_when_nothing_names_it(make_job):
    app = make_job(META, server=server(), code=["x.py"]) / "app"
    assert 'does not have the right "byoc"' in refusal(app)
    components.check(app, "server", LISTED, may_bring_code=True)


def test_a_class_of_the_list_is_allowed_wholly_or_by_its_prefix(make_job):
    components.check(make_job(META, server=server("lab.models.a.Fast")) / "app", "server", LISTED, may_bring_code=False)


@pytest.mark.parametrize("path", ["lab.models", "lab.modelsX.Y", "clouddeploy_runtime.job.fedavg.FedAvgX", "os.system"])
def test_a_class_beside_the_list_is_refused_by_name(make_job, path):
    message = refusal(make_job(META, server=server(path)) / "app")
    assert f"workflows[0] names {path} (here there is FedAvg, Cyclic and CrossSiteEval, or" in message
    assert "class_allow_list of local/resources.json" in message


def test_a_class_of_the_jobs_own_code_is_allowed_with_the_right(make_job):
    app = make_job(META, server=server("own.Flow"), code=["own.py", "deep/er/x.py"]) / "app"
    components.check(app, "server", LISTED, may_bring_code=True)
    assert "os.system" in refusal(make_app_name(app, "os.system"), may_bring_code=True)


def make_app_name(app, path):
    file = app / "config" / "config_fed_server.json"
    file.write_text(file.read_text().replace("own.Flow", path))
    return app


@pytest.mark.parametrize(
    "args",
    [
        {"initial_model": "os:getcwd"},
        {"model": {"path": "os.system", "args": {}}},
        {"deep": [{"x": {"class_path": "os.system"}}]},
    ],
)
def test_classes_and_functions_in_arguments_count_too(make_job, args):
    assert "names os." in refusal(make_job(META, server=server(**args)) / "app")


def test_a_function_by_a_variable_that_is_put_in_later_is_refused(make_job):
    assert "{SITE_NAME}.abort" in refusal(make_job(META, server=server(initial_model="{SITE_NAME}:abort")) / "app")


def test_an_empty_folder_in_custom_is_no_code_of_the_job(make_job):
    folder = make_job(META, server=server("os.system"), code=["own.py"])
    (folder / "app" / "custom" / "os").mkdir()
    assert "os.system" in refusal(folder / "app", may_bring_code=True)


def test_a_site_that_only_notes_lets_the_job_run(make_job, caplog):
    app = make_job(META, server=server("os.system")) / "app"
    with caplog.at_level(logging.WARNING):
        components.check(app, "server", Settings(is_list_enforced=False), may_bring_code=False)
        components.check(app, "server", Settings(allowed_classes=frozenset({"*"})), may_bring_code=False)
    assert caplog.text.count("os.system") == 2


def test_a_component_by_name_only_is_refused(make_job):
    config = {"format_version": 2, "workflows": [{"id": "w", "name": "FedAvg"}]}
    with pytest.raises(InvalidJob, match="must name its class"):
        components.check(make_job(META, server=config) / "app", "server", LISTED, may_bring_code=False)


def test_a_site_without_a_list_has_what_the_runtime_builds_itself(data):
    with normalised(data / "gather") as folder:
        for side in ("server", "client"):
            components.check(folder / "gather", side, Settings(), may_bring_code=True)


@pytest.mark.parametrize(
    ("part", "config"),
    [
        ("Swarm", server("nvflare.app_common.ccwf.swarm_server_ctl.SwarmServerController")),
        (
            "SVTPrivacy",
            {**server(), "task_result_filters": [{"tasks": ["*"], "filters": [{"path": "nvflare.x.SVTPrivacy"}]}]},
        ),
    ],
)
def test_what_the_reference_has_and_we_do_not_is_refused_with_what_there_is(make_job, part, config):
    message = refusal(make_job(META, server=config) / "app", Settings())
    assert part in message
    assert "here there is" in message


def test_every_class_we_stand_in_for_is_a_whole_path():
    assert all(path.count(".") >= 2 for path in known.ALL)


def test_a_chosen_image_needs_the_same_right(make_job):
    app = make_job(META, server=server()) / "app"
    assert "launcher_spec of its meta.json chooses an image or a program" in refusal(app, chooses_code=True)
    components.check(app, "server", LISTED, may_bring_code=True, chooses_code=True)
