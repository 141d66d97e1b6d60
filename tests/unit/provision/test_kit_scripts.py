"""The scripts of a kit: what is refused before anything starts, and how the supervisor behaves.

The supervisor's child is a stand-in interpreter, so that its endings can be chosen.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clouddeploy_provision
import pytest
from clouddeploy_provision.provisioner import provision

KIT_FILES = Path(clouddeploy_provision.__file__).parent / "kit_files"
DEADLINE_S = 20


@pytest.fixture
def site(dummy, tmp_path) -> Path:
    return provision(dummy, tmp_path, passphrase=b"x").kits["site-1"]


def stand_in(path: Path, child: str) -> str:
    """Write an interpreter whose `verify` is content and whose client runs `child`."""
    path.write_text(f'#!/bin/sh\nif [ "$3" = verify ]; then exit 0; fi\necho "$@" >>"{path}.calls"\n{child}\n')
    path.chmod(0o755)
    return str(path)


def run(script: Path, *words: str, python: str = sys.executable, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *words],
        env={**os.environ, "CLOUDDEPLOY_PYTHON": python, **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not on the path")
def test_scripts_are_shellcheck_clean():
    done = subprocess.run(["shellcheck", *map(str, sorted(KIT_FILES.glob("*.sh")))], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_start_refuses_one_flipped_byte(site):
    file = site / "startup/fed_client.json"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    done = run(site / "startup/start.sh")
    assert done.returncode == 4
    assert "startup/fed_client.json" in done.stdout + done.stderr
    assert not (site / "start.log").exists()


def test_a_flipped_byte_that_breaks_the_syntax_is_named_as_tampering(site):
    """What nobody signed is not parsed either."""
    file = site / "startup/fed_client.json"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    done = run(site / "startup/start.sh")
    assert done.returncode == 4
    assert "startup/fed_client.json" in done.stderr
    assert "JSON" not in done.stderr


def test_start_refuses_a_kit_without_manifest(site):
    (site / "startup/manifest.json").unlink()
    done = run(site / "startup/start.sh", "--foreground")
    assert done.returncode == 4
    assert "startup/manifest.json" in done.stdout + done.stderr


@pytest.mark.parametrize("words", [("--cloud", "gcp"), ("--cloud",), ("--unknown",)])
def test_start_with_wrong_options(site, words):
    assert run(site / "startup/start.sh", *words).returncode == 4


def test_start_in_a_cloud_calls_launch(site, tmp_path):
    tool = tmp_path / "bin" / "clouddeploy"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@"\n')
    tool.chmod(0o755)
    path = f"{tool.parent}:{os.environ['PATH']}"
    done = run(site / "startup/start.sh", "--cloud", "aws", "--config", "my file.yml", PATH=path)
    assert done.stdout == f"launch {site} --cloud aws --config my file.yml\n"


def test_start_returns_and_stop_stops(site, tmp_path):
    python = stand_in(tmp_path / "python", "exec sleep 60")
    try:
        assert run(site / "startup/start.sh", python=python).returncode == 0
        wait_for(lambda: lines(tmp_path / "python.calls"), "the client did not start")
        assert lines(tmp_path / "python.calls") == [
            f"-m clouddeploy_runtime client {site} --workspace {site}",
        ]
        pid = int((site / "daemon_pid.fl").read_text())
        again = run(site / "startup/sub_start.sh", python=python)
        assert again.returncode == 1
        assert f"There seems to be one instance, pid={pid}" in again.stdout
    finally:
        run(site / "startup/stop_fl.sh", "--yes")
    wait_for(lambda: not (site / "daemon_pid.fl").exists(), "the supervisor did not stop")
    assert not (site / "shutdown.fl").exists()


def test_crashing_client_is_started_five_times(site, tmp_path):
    python = stand_in(tmp_path / "python", "exit 3")
    done = run(site / "startup/start.sh", "--foreground", python=python)
    assert done.returncode == 1
    assert "System is in trouble and unable to start the task!!!!!" in done.stdout
    assert len(lines(tmp_path / "python.calls")) == 5


def test_restart_and_termination_of_the_supervisor(site, tmp_path):
    python = stand_in(tmp_path / "python", "exec sleep 60")
    workspace = tmp_path / "work space"
    env = {**os.environ, "CLOUDDEPLOY_PYTHON": python, "CLOUDDEPLOY_WORKSPACE": str(workspace)}
    with subprocess.Popen(
        [str(site / "startup/start.sh"), "--foreground"], env=env, stdout=subprocess.DEVNULL
    ) as shell:
        wait_for(lambda: len(lines(tmp_path / "python.calls")) == 1, "the client did not start")
        (workspace / "restart.fl").touch()
        wait_for(lambda: len(lines(tmp_path / "python.calls")) == 2, "the client was not restarted")
        shell.send_signal(signal.SIGTERM)
        assert shell.wait(timeout=DEADLINE_S) == 0
    assert not (workspace / "daemon_pid.fl").exists()


def test_a_client_that_was_asked_to_stop_and_did_is_not_started_again(site, tmp_path):
    """The runtime takes `shutdown.fl` away and ends with 0, often before the supervisor has looked."""
    child = f'touch "{site}/shutdown.fl"; rm "{site}/shutdown.fl"; exit 0'
    done = run(site / "startup/start.sh", "--foreground", python=stand_in(tmp_path / "python", child))
    assert done.returncode == 0
    assert len(lines(tmp_path / "python.calls")) == 1
    assert not (site / "daemon_pid.fl").exists()
