"""A federation on this machine by its commands: started, tried, stopped, killed, cleaned."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.poc import processes
from clouddeploy.poc import record as records

pytestmark = pytest.mark.xdist_group("poc")


class Poc:
    """Runs `clouddeploy poc …` in a home of its own."""

    def __init__(self, folder):
        self.workspace = folder / "poc"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        self.environment = {**kept, "HOME": str(folder), records.WORKSPACE_VARIABLE: str(self.workspace)}

    def begin(self, *words):
        return subprocess.Popen(
            [sys.executable, "-m", "clouddeploy.cli", *words, "--output", "json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words, expected=0):
        out, err = self.begin(*words).communicate(timeout=60)
        envelope = json.loads(out)
        assert envelope["exit_code"] == expected, (envelope, err)
        return envelope["data"] if expected == 0 else envelope

    def state(self, name):
        return processes.state(self.workspace, name)

    def pid(self, name, file="pid.fl"):
        return int((processes.site_folder(self.workspace, name) / file).read_text().split()[0])


@pytest.fixture
def poc(tmp_path):
    one = Poc(tmp_path)
    yield one
    if one.workspace.is_dir():
        processes.end_all(one.workspace, timeout_s=10)


def test_one_command_ends_with_a_finished_job_and_another_with_nothing(poc):
    began = time.monotonic()
    found = poc.run("poc", "start", "-n", "2", "--demo")
    assert time.monotonic() - began < 30
    assert (found["status"], found["ready"], found["port_conflict"]) == ("running", True, False)
    assert found["demo"]["passed"]
    assert found["demo"]["status"] == "FINISHED:COMPLETED"
    assert found["demo"]["metrics"]["accuracy"] > 0.9

    jobs = poc.run("job", "list")["jobs"]  # the admin's kit is the active one
    assert [one["id"] for one in jobs] == [found["demo"]["job_id"]]

    again = poc.run("poc", "start")
    assert again["warnings"] == ["server runs already", "site-1 runs already", "site-2 runs already"]
    assert poc.run("poc", "clean", "--force", expected=ExitCode.FAILED)["error_code"] == "POC_STATE"

    partly = poc.run("poc", "stop", "-p", "site-2")
    assert [one["state"] for one in partly["clients"]] == ["registered", "stopped"]
    assert partly["status"] == "partial"

    # Supervisor and process of one client are killed, and the process of the other's is left without a supervisor.
    os.kill(poc.pid("server", "daemon_pid.fl"), signal.SIGKILL)
    os.kill(poc.pid("site-1", "daemon_pid.fl"), signal.SIGKILL)
    os.kill(poc.pid("site-1"), signal.SIGKILL)
    stopped = poc.run("poc", "stop")
    assert stopped["status"] == "stopped"
    assert processes.running(poc.workspace) == {}
    assert poc.run("poc", "clean", "--force")["left"] == []
    assert not poc.workspace.exists()
    assert poc.run("config", "list")["kits"] == []


@pytest.mark.nightly
def test_a_start_that_is_killed_is_stopped_and_started_again_on_another_port(poc):
    started = poc.begin("poc", "start", "-n", "1")
    until(lambda: poc.state("server") == "serving", what="the server")
    started.kill()
    started.communicate()
    assert poc.run("poc", "stop")["status"] == "stopped"
    assert processes.running(poc.workspace) == {}

    port = records.prepared(poc.workspace).port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((records.LOCALHOST, port))
        taken.listen()
        found = poc.run("poc", "start")
    assert found["port_conflict"]
    assert found["ready"]
    assert found["server_address"] != f"127.0.0.1:{port}"
    assert [one["name"] for one in poc.run("system", "status")["clients"]] == ["site-1"]
    poc.run("poc", "stop")
