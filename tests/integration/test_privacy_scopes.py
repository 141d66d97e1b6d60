"""What a site's privacy policy does to jobs that really run there: the server's model shows what left the site."""

from __future__ import annotations

import contextlib
import json
import subprocess

import pytest
from clouddeploy_runtime import audit
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import Federation, tiny_job

TRAIN = """
import json, os
import numpy as np
from clouddeploy_runtime.job import client_api as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    params = {name: one + np.array([0.001, -5.0, 5.0]) for name, one in model.params.items()}
    scope = json.loads(os.environ.get("CLOUDDEPLOY_PRIVACY_SCOPE", "{}"))
    print("properties:", scope.get("properties"))
    try:
        flare.send(flare.FLModel(params=params, samples=1))
    except Exception as error:
        print("caught:", error)
"""
SITE_FILTERS = """
from clouddeploy_runtime.job.filters import Filter


class Broken(Filter):
    def process(self, params, task):
        raise ValueError("no salt left")
"""
JOB_FILTERS = """
from clouddeploy_runtime.job.filters import Filter


class Tenfold(Filter):
    def process(self, params, task):
        return {name: one * 10 for name, one in params.items()}
"""
PERCENTILE = "nvflare.app_common.filters.percentile_privacy.PercentilePrivacy"
POLICY = {
    "scopes": [
        {"name": "public"},
        {
            "name": "private",
            "properties": {"train_dataset": "/data/private"},
            "task_result_filters": [{"path": PERCENTILE, "args": {"percentile": 50, "gamma": 0.5}}],
        },
        {"name": "broken", "task_result_filters": [{"path": "site_filters.Broken"}]},
    ],
    "default_scope": "private",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server and a site that has a policy."""
    one = Federation(tmp_path_factory.mktemp("federation"))
    local = one.client_kit("site-1") / "local"
    (local / "privacy.json").write_text(json.dumps(POLICY))
    code = one.folder / "site_code"
    code.mkdir()
    (code / "site_filters.py").write_text(SITE_FILTERS)
    one.environment["CLOUDDEPLOY_CUSTOM_PATH"] = str(code)
    for name in ("server", "site-1"):
        one.start(name)
    for name, state in (("server", "serving"), ("site-1", "registered")):
        one.wait_for(name, state)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


def made(folder, *, scope=None, filters=None):
    job = tiny_job(folder, client=TRAIN)
    meta = json.loads((job / "meta.json").read_text())
    (job / "meta.json").write_text(json.dumps(meta if scope is None else {**meta, "scope": scope}))
    if filters is not None:
        (job / "app" / "custom" / "job_filters.py").write_text(JOB_FILTERS)
        path = job / "app" / "config" / "config_fed_client.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "task_result_filters": filters}))
    return job


def ended(federation, folder):
    with federation.admin() as session:
        return session.wait(session.submit(folder), 30)


def model(federation, info, folder):
    with federation.admin() as session:
        result = session.download(info.job_id, folder) / "workspace" / "global_model.safetensors"
    return tensors.read(memoryview(result.read_bytes()))["weights"].tolist()


def printed(federation, info):
    return (federation.workspace("site-1") / "jobs" / info.job_id / "run" / "log.txt").read_text()


def recorded(federation, info):
    path = federation.workspace("site-1") / "audit.jsonl"
    assert audit.first_broken_line(path) is None
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    wanted = f"privacy_scope {info.job_id}"
    return [(one["user"], one["result"], one["detail"]) for one in entries if one["action"] == wanted]


def test_what_leaves_a_site_has_passed_the_filters_of_the_scope(running, tmp_path):
    info = ended(running, made(tmp_path / "job"))
    assert (info.status, info.reason) == (JobStatus.COMPLETED, "")
    assert model(running, info, tmp_path / "results") == [0, -0.5, 0.5]
    assert info.deploy_detail == {"site-1": "privacy scope: private"}
    assert recorded(running, info) == [("lead@org.example", "allowed", "scope private")]
    assert (
        "Privacy scope private: received parameters pass no filter; what is sent passes PercentilePrivacy"
        in printed(running, info)
    )
    assert "properties: {'train_dataset': '/data/private'}" in printed(running, info)


def test_a_job_chooses_among_the_scopes_of_the_site(running, tmp_path):
    info = ended(running, made(tmp_path / "job", scope="public"))
    assert model(running, info, tmp_path / "results") == [0.001, -5, 5]
    assert info.deploy_detail == {"site-1": "privacy scope: public"}


def test_a_jobs_own_filters_come_after_those_of_the_scope(running, tmp_path):
    filters = [{"tasks": ["*"], "filters": [{"path": "job_filters.Tenfold"}]}]
    info = ended(running, made(tmp_path / "job", scope="private", filters=filters))
    assert model(running, info, tmp_path / "results") == [0, -5, 5]


def test_a_scope_that_the_site_does_not_have_keeps_the_job_from_starting_there(running, tmp_path):
    info = ended(running, made(tmp_path / "job", scope="secret"))
    assert info.status is JobStatus.FAILED_TO_RUN
    cause = "privacy scope 'secret' is not allowed: local/privacy.json has broken, private, public"
    assert info.deploy_detail["site-1"].startswith(f"site-1: {cause}")
    assert [entry[:2] for entry in recorded(running, info)] == [("lead@org.example", "refused")]


def test_a_filter_that_fails_ends_the_job_at_the_site_though_the_script_goes_on(running, tmp_path):
    info = ended(running, made(tmp_path / "job", scope="broken"))
    assert info.status is JobStatus.EXECUTION_EXCEPTION
    assert "site-1: the filter Broken failed: ValueError: no salt left" in info.reason
    assert "caught: the filter Broken failed" in printed(running, info)


def test_a_policy_that_breaks_while_the_site_runs_lets_no_job_run_until_it_is_mended(running, tmp_path):
    file = running.kits["site-1"] / "local" / "privacy.json"
    file.write_text("{")
    try:
        info = ended(running, made(tmp_path / "job"))
    finally:
        file.write_text(json.dumps(POLICY))
    assert info.status is JobStatus.FAILED_TO_RUN
    assert "no job may run: local/privacy.json cannot be used" in info.deploy_detail["site-1"]
