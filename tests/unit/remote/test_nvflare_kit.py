"""Our supervisor of a kit of NVFLARE; a stand-in does what the reference's scripts do, as far as it sees."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from clouddeploy.remote import nvflare

DEADLINE_S = 30
THEIRS = """#!/usr/bin/env bash
workspace="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
echo "$BASHPID" >"$workspace/daemon_pid.fl"
echo "$(command -v python3) ${NVFL_WORKSPACE:-none} $workspace" >>"$workspace/told"
@body@
"""
CHILD = """sleep 1000 &
echo "$!" >"$workspace/pid.fl"
echo "10:00 INFO - Successfully registered client:site-1 for project trial." >>"$workspace/log.txt"
wait
"""


class Machine:
    """A folder like that of an installed site."""

    def __init__(self, root):
        self.root = root
        self.workspace = root / "workspace"
        self.workspace.mkdir()
        (root / "bin").mkdir()
        (root / "bin" / "python3").symlink_to(sys.executable)
        self.environment = {
            "PATH": os.environ["PATH"],
            "CLOUDDEPLOY_PYTHON": str(root / "bin" / "python"),
            "CLOUDDEPLOY_WORKSPACE": str(self.workspace),
            "CLOUDDEPLOY_TICK_S": "0.05",
            "NVFL_WORKSPACE": "elsewhere",
        }

    def install(self, body):
        kit = self.root / "given"
        shutil.rmtree(kit, ignore_errors=True)
        (kit / "startup").mkdir(parents=True)
        (kit / "local").mkdir()
        (kit / "local" / "resources.json.default").write_text("{}")
        script = kit / "startup" / "sub_start.sh"
        script.write_text(THEIRS.replace("@body@", body))
        shutil.rmtree(self.root / "kit", ignore_errors=True)
        shutil.copytree(kit, self.root / "kit" / nvflare.KIT)
        nvflare.supervise(self.root / "kit")

    def start(self, *words):
        script = str(self.root / "kit" / "startup" / "start.sh")
        return subprocess.run([script, *words], env=self.environment, capture_output=True, text=True, check=False)

    def status(self):
        file = self.workspace / "status.json"
        return json.loads(file.read_text()) if file.exists() else {"state": "none"}

    def pid(self, name="daemon_pid.fl"):
        return int((self.workspace / name).read_text())

    def until(self, condition, what):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            log = self.workspace / "start.log"
            assert time.monotonic() < deadline, f"{what}: {log.read_text() if log.exists() else ''}"
            time.sleep(0.02)

    def stop(self):
        file = self.workspace / "daemon_pid.fl"
        if file.exists():
            os.kill(self.pid(), signal.SIGTERM)
            self.until(lambda: not file.exists(), "it did not stop")


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    machine.stop()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_runs_with_our_python_says_how_it_is_and_ends_with_all_its_processes(machine):
    machine.install(CHILD)
    assert machine.start().returncode == 0
    machine.until(lambda: machine.status()["state"] == "registered", "it did not register")
    told = (machine.workspace / "nvflare" / "told").read_text().split()
    assert told == [str(machine.root / "bin/python3"), "none", str(machine.workspace / "nvflare")]
    assert "registered" in (machine.workspace / "log.txt").read_text()
    theirs, child = machine.pid("nvflare/daemon_pid.fl"), machine.pid("nvflare/pid.fl")
    machine.stop()
    assert machine.status()["state"] == "stopped"
    machine.until(lambda: not is_alive(theirs) and not is_alive(child), "a process is left")


def test_what_a_container_can_write_steers_nothing_outside(machine):
    """What is run and killed out here is not in the workspace; links there are neither followed nor written through."""
    own, kept = machine.root / "supervisor", machine.root / "container/nvflare"
    machine.environment["CLOUDDEPLOY_SUPERVISOR"] = str(own)
    outside = machine.root / "outside"
    outside.mkdir()
    (outside / "kept").write_text("as it was")
    for name in ("nvflare", "status.json.new", "daemon_pid.fl", "nvflare.pid", "start.log"):
        (machine.workspace / name).symlink_to(outside if name == "nvflare" else outside / "kept")
    machine.install(CHILD.replace("$workspace/log.txt", str(kept / "log.txt")))
    assert machine.start().returncode == 0
    machine.until(lambda: machine.status()["state"] == "registered", "it did not register")
    assert (own / "nvflare/startup/sub_start.sh").exists()
    assert "registered" in (machine.workspace / "log.txt").read_text()
    os.kill(int((own / "daemon_pid.fl").read_text()), signal.SIGTERM)
    machine.until(lambda: machine.status()["state"] == "stopped", "it did not stop")
    machine.until(lambda: not (own / "daemon_pid.fl").exists(), "it did not stop")
    (machine.workspace / "daemon_pid.fl").unlink()
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("kept", "as it was")]


def test_it_runs_once(machine):
    machine.install(CHILD)
    machine.start()
    machine.until(lambda: machine.status()["state"] == "registered", "it did not register")
    again = machine.start("--foreground")
    assert again.returncode == 1
    assert f"There seems to be one instance, pid={machine.pid()}" in again.stdout


def test_a_killed_one_leaves_neither_news_nor_a_second_site(machine):
    machine.install(CHILD)
    machine.start()
    machine.until(lambda: machine.status()["state"] == "registered", "it did not register")
    os.kill(machine.pid(), signal.SIGKILL)  # nobody was asked, so its child and their files are left behind
    left = machine.pid("nvflare/pid.fl")
    machine.until(lambda: not is_alive(machine.pid()), "it was not killed")
    assert is_alive(left)
    machine.install('echo "INFO - re-challenge after 2.0 seconds" >>"$workspace/log.txt"; exec sleep 1000')
    machine.start()
    machine.until(lambda: machine.status()["state"] == "connecting", "it did not look at the log")
    assert "does not answer" in machine.status()["detail"]
    machine.until(lambda: not is_alive(left), "what the killed one had started runs on")


def test_its_end_is_told(machine):
    machine.install("exit 3")
    done = machine.start("--foreground")
    assert done.returncode == 3
    said = machine.status()
    assert (said["state"], said["detail"]) == ("stopped", "NVFLARE ended with status 3")
    assert not (machine.workspace / "daemon_pid.fl").exists()


def test_what_was_edited_in_local_stays_and_the_kit_stays_as_it_was(machine):
    machine.install("exit 0")
    own = machine.workspace / "nvflare" / "local" / "resources.json"
    machine.start("--foreground")
    own.write_text("{}")
    machine.start("--foreground")
    assert own.exists()
    assert (machine.root / "kit" / "nvflare" / "startup").is_dir()
    assert sorted(path.name for path in (machine.root / "kit").iterdir()) == ["nvflare", "startup"]


def test_an_unknown_option(machine):
    machine.install("exit 0")
    done = machine.start("--once")
    assert (done.returncode, "unknown option --once" in done.stderr) == (4, True)
