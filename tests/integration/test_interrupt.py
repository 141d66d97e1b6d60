"""Ctrl-C on the command line: once finishes and records what is in flight, twice leaves at once; both resume."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from clouddeploy_providers.fake_cloud import FakeCloud
from clouddeploy_runtime.errors import ExitCode

CLI = [sys.executable, "-m", "clouddeploy.cli"]
SLOW_S = 3


@pytest.fixture
def folder(tmp_path, write_trial):
    write_trial(tmp_path)
    own = {"provider": "fake", "file": str(tmp_path / "cloud.json"), "latency_s": str(SLOW_S)}
    deploy = {"version": 1, "project": "project.yml", "ssh_sources": ["192.0.2.1/32"]}
    (tmp_path / "deploy.yml").write_text(yaml.safe_dump({**deploy, "sites": {"server1": own, "site-1": dict(own)}}))
    return tmp_path


@pytest.fixture
def applying(folder):
    """An apply whose first calls are in flight."""
    environment = {**os.environ, "CLOUDDEPLOY_CA_PASSPHRASE": "correct horse"}
    command = [*CLI, "apply", str(folder / "deploy.yml"), "--yes", "--output", "json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = folder / ".clouddeploy" / "deploy" / "journal.jsonl"
    deadline = time.monotonic() + 30
    while not (journal.exists() and '"intend"' in journal.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    process.kill()
    process.communicate()


def state_of(folder):
    return json.loads((folder / ".clouddeploy" / "deploy" / "state.json").read_text())


def destroyed(folder):
    done = subprocess.run(
        [*CLI, "destroy", str(folder / "deploy.yml"), "--yes", "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    return json.loads(done.stdout)["data"]


def test_once_it_ends_with_what_was_in_flight_recorded(applying, folder):
    applying.send_signal(signal.SIGINT)
    out, err = applying.communicate(timeout=30)
    assert applying.returncode == ExitCode.INTERRUPTED
    assert "Ctrl-C once more leaves at once" in err
    answer = json.loads(out)
    assert (answer["error_code"], answer["exit_code"]) == ("INTERRUPTED", ExitCode.INTERRUPTED)
    assert "run apply again" in answer["hint"]
    recorded = {record["ref"]["name"] for record in state_of(folder)["resources"].values()}
    assert recorded == set(FakeCloud(folder / "cloud.json").names)
    assert recorded
    assert destroyed(folder)["left"] == []
    assert FakeCloud(folder / "cloud.json").names == []


def test_twice_it_leaves_at_once_and_destroy_finds_everything(applying, folder):
    applying.send_signal(signal.SIGINT)
    assert "Ctrl-C once more" in applying.stderr.readline() + applying.stderr.readline()
    left = time.monotonic()
    applying.send_signal(signal.SIGINT)
    applying.wait(timeout=30)
    assert applying.returncode == ExitCode.INTERRUPTED
    assert time.monotonic() - left < SLOW_S - 1
    assert destroyed(folder)["left"] == []
    assert FakeCloud(folder / "cloud.json").names == []
