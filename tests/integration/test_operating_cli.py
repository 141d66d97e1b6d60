"""The commands of operators against a real federation of a server and two clients, which poc supervises."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import admin_kits
from clouddeploy.cli.auth import auth
from clouddeploy.cli.job import job
from clouddeploy.cli.study import study
from clouddeploy.cli.system import system
from clouddeploy.poc import preparing, processes, running, trial
from tests.integration.federation import tiny_job
from tests.unit.cli.admin_sessions import invoke

pytestmark = pytest.mark.xdist_group("operating_cli")
CLIENTS = {"site-1", "site-2"}
LOOPS = "import time\nimport nvflare.client as flare\nflare.init()\nwhile flare.is_running():\n    time.sleep(0.1)\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operating")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        for name in ("XDG_CONFIG_HOME", *admin_kits.VARIABLES):
            patch.delenv(name, raising=False)
        preparing.prepare(folder / "poc", clients=sorted(CLIENTS), file=None, is_forced=False)
        try:
            yield folder / "poc"
        finally:
            processes.end_all(folder / "poc", timeout_s=20)


@pytest.fixture
def workspace(prepared):
    """Everything runs, whatever the test before has shut down."""
    assert running.start(prepared).ready
    return prepared


def connected():
    return {one["name"] for one in invoke(system, "status")["data"]["clients"]}


def test_the_system_is_seen(workspace):
    assert connected() == CLIENTS
    found = invoke(system, "status", "client")["data"]["sites"]
    assert {site: one["status"] for site, one in found.items()} == dict.fromkeys(CLIENTS, "ok")
    assert set(invoke(system, "resources")["data"]["resources"]) == CLIENTS
    versions = invoke(system, "version")["data"]["sites"]
    assert set(versions) == {"server", *CLIENTS}
    assert all(one["data"]["version"] for one in versions.values())
    assert set(invoke(system, "info", "server")["data"]["sites"]) == {"server"}
    invoke(system, "version", "site-9", expected=ExitCode.BAD_INPUT)
    invoke(system, "log-config", "DEBUG", "--site", "site-1")
    invoke(system, "log-config", "reload", "--site", "site-1")
    assert [one["user"] for one in invoke(system, "sessions")["data"]["sessions"]] == [preparing.ADMIN]


def test_a_job_is_run_and_watched_and_read(workspace, tmp_path):
    job_id = invoke(job, "submit", "-j", trial.JOB)["data"]["job_id"]
    lines = [json.loads(line) for line in invoke(job, "monitor", job_id, form="jsonl").splitlines()]
    assert [one["round"] for one in lines[:-1]] == [1, 2, 3]
    assert lines[-1]["data"]["job"]["status"] == "FINISHED:COMPLETED"
    invoke(job, "wait", job_id)
    assert [one["id"] for one in invoke(job, "list", "-i", job_id[:8], "-u")["data"]["jobs"]] == [job_id]
    assert invoke(job, "list", "-i", "zzz")["data"]["jobs"] == []
    assert invoke(job, "logs", job_id)["data"]["text"]
    logs = invoke(job, "logs", job_id, "--site", "all", "--tail", "5")["data"]["sites"]
    assert {site: one["status"] for site, one in logs.items()} == dict.fromkeys(("server", *CLIENTS), "ok")
    stats = invoke(job, "stats", job_id, "--site", "client")["data"]["sites"]
    assert set(stats) == CLIENTS
    path = invoke(job, "download", job_id, "-o", tmp_path)["data"]["path"]
    assert path == str(tmp_path / job_id)
    invoke(job, "logs", "no-such-job", expected=ExitCode.BAD_INPUT)


def test_nobody_is_stopped_under_a_running_job(workspace, tmp_path):
    job_id = invoke(job, "submit", "-j", tiny_job(tmp_path / "job", client=LOOPS))["data"]["job_id"]
    until(lambda: invoke(job, "meta", job_id)["data"]["job"]["status"] == "RUNNING", what="the job")
    for words in (("restart", "server"), ("shutdown", "client"), ("shutdown", "all")):
        refused = invoke(system, *words, "--yes", expected=ExitCode.FAILED)
        assert refused["error_code"] == "JOB_RUNNING"
    invoke(job, "wait", job_id, "--timeout", "0.1", expected=ExitCode.TIMEOUT)
    until(lambda: invoke(system, "status", "client")["data"]["sites"]["site-1"]["data"]["jobs"], what="the site's word")
    invoke(job, "log-config", job_id, "DEBUG")
    invoke(job, "abort", job_id)
    assert invoke(job, "wait", job_id, expected=ExitCode.FAILED)["error_code"] == "JOB_FAILED"
    invoke(job, "delete", job_id, "--force")


@pytest.mark.parametrize("command", ["wait", "monitor"])
def test_ctrl_c_ends_the_watching_and_not_the_job(workspace, tmp_path, command):
    folder = tiny_job(tmp_path / "job", client=LOOPS)
    job_id = invoke(job, "submit", "-j", folder)["data"]["job_id"]
    words = [sys.executable, "-m", "clouddeploy.cli", "job", command, job_id]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        try:
            for line in watching.stdout:
                if "RUNNING" in line:
                    break
            watching.send_signal(signal.SIGINT)
            _, said = watching.communicate(timeout=10)
        finally:
            watching.kill()
    assert watching.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in said
    assert invoke(job, "meta", job_id)["data"]["job"]["status"] == "RUNNING"
    invoke(job, "abort", job_id)


def test_studies_come_and_go(workspace):
    made = invoke(study, "register", "trial", "--sites", "site-1", "--user", preparing.ADMIN)["data"]["study"]
    assert made["site_orgs"] == {"poc": ["site-1"]}
    invoke(study, "register", "trial", expected=ExitCode.BAD_INPUT)
    invoke(study, "add-site", "trial", "--site-org", "poc:site-2")
    invoke(study, "remove-site", "trial", "--sites", "site-1")
    invoke(study, "add-user", "trial", "lead@poc.example", "--role", "lead")
    shown = invoke(study, "show", "trial")["data"]["study"]
    assert (shown["site_orgs"], set(shown["users"])) == ({"poc": ["site-2"]}, {preparing.ADMIN, "lead@poc.example"})
    job_id = invoke(job, "submit", "-j", trial.JOB, "--study", "trial")["data"]["job_id"]
    info = invoke(job, "wait", job_id, "--study", "trial")["data"]["job"]
    assert (info["study"], info["sites"]) == ("trial", ["site-2"])
    invoke(job, "meta", job_id, expected=ExitCode.BAD_INPUT)
    invoke(study, "remove-user", "trial", "lead@poc.example")
    assert invoke(study, "remove", "trial", "--yes", expected=ExitCode.BAD_INPUT)["error_code"] == "STUDY_HAS_JOBS"
    invoke(job, "delete", job_id, "--study", "trial", "--yes")
    invoke(study, "remove", "trial", "--yes")
    assert invoke(study, "list")["data"]["studies"] == []
    refused = invoke(system, "status", "--study", "trial", expected=ExitCode.CONNECTION)
    assert refused["error_code"].startswith("AUTH_")


def test_the_policy_of_the_server_is_asked_before_it_is_tried(workspace):
    asked = invoke(auth, "can-i", "shutdown", "--site", "all")["data"]
    assert asked["allowed"]
    assert {site: one["data"]["allowed"] for site, one in asked["sites"].items()} == dict.fromkeys(
        ("server", *CLIENTS), True
    )
    kit = workspace / running.records.prepared(workspace).kits["server"]
    assert invoke(auth, "can-i", "shutdown", "--kit", kit)["data"]["allowed"]
    words = ("can-i", "shutdown", "--kit", kit, "--as", "a@x.org", "--role", "member")
    assert not invoke(auth, *words, expected=ExitCode.FAILED)["data"]["allowed"]


def test_participants_are_kept_out_restarted_and_shut_down(workspace):
    refused = invoke(system, "shutdown", "server", "--yes", expected=ExitCode.FAILED)
    assert refused["error_code"] == "CLIENTS_RUNNING"
    invoke(system, "disable-client", "site-2", "--yes")
    until(lambda: connected() == {"site-1"}, what="the leaving of site-2")
    invoke(system, "enable-client", "site-2")
    until(lambda: connected() == CLIENTS, what="the return of site-2")
    invoke(system, "restart", "client", "site-1", "--yes")
    assert connected() == CLIENTS
    invoke(system, "restart", "server", "--yes")
    until(lambda: connected() == CLIENTS, what="their return")
    invoke(system, "shutdown", "client", "site-2", "--yes")
    assert connected() == {"site-1"}
    invoke(system, "shutdown", "all", "--yes")
    until(lambda: running.status(workspace).status == "stopped", what="the end of all")
    invoke(system, "status", "--connect-timeout", "1", expected=ExitCode.CONNECTION)
