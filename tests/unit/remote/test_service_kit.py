"""The supervisor of a service: real processes that listen, end, hang and are killed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clouddeploy.remote import service

DEADLINE_S = 30
LISTEN = """
import os, signal, socket, sys, time
port = int(sys.argv[1])
with socket.socket() as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", port))
    one.listen()
    print("listening", flush=True)
    time.sleep(1000)
"""
STUBBORN = LISTEN.replace("port =", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nport =")
FORKING = LISTEN.replace("    print", "    os.fork()\n    print")
TOLD = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}))
"""


class Machine:
    """A folder like that of an installed site."""

    def __init__(self, root):
        self.root = root
        self.workspace = root / "workspace"
        self.workspace.mkdir()
        (root / "bin").mkdir()
        (root / "bin" / "python").symlink_to(sys.executable)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {
            "PATH": os.environ["PATH"],
            "CLOUDDEPLOY_PYTHON": str(root / "bin" / "python"),
            "CLOUDDEPLOY_WORKSPACE": str(self.workspace),
            "CLOUDDEPLOY_TICK_S": "0.02",
        }

    def install(self, program, *words, environment=None):
        shutil.rmtree(self.root / "kit", ignore_errors=True)
        folder = self.root / "kit" / service.FOLDER
        folder.mkdir(parents=True)
        (folder / "program.py").write_text(program)
        command = ["python", "program.py", str(self.port), *words]
        service.supervise(self.root / "kit", command=command, environment=environment or {}, port=self.port)

    def start(self, *words):
        script = str(self.root / "kit" / "startup" / "start.sh")
        return subprocess.run([script, *words], env=self.environment, capture_output=True, text=True, check=False)

    def status(self):
        file = self.workspace / "status.json"
        return json.loads(file.read_text()) if file.exists() else {"state": "none", "detail": "", "pid": None}

    def pid(self):
        return int((self.workspace / "daemon_pid.fl").read_text())

    def until(self, condition, what):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            said = [file.read_text() for file in self.workspace.glob("*.*") if file.name.endswith(("log", "txt"))]
            assert time.monotonic() < deadline, f"{what}: {self.status()} {said}"
            time.sleep(0.01)

    def until_serving(self):
        self.until(lambda: self.status()["state"] == "serving", "it does not serve")
        return self.status()["pid"]

    def child(self):
        """Its service, which it has started last."""
        found = []

        def is_there():
            with contextlib.suppress(OSError, ValueError):  # it has not begun, or has ended
                said = Path(f"/proc/{self.pid()}/task/{self.pid()}/children").read_text().split()
                found[:] = [int(pid) for pid in said if "program.py" in Path(f"/proc/{pid}/cmdline").read_text()]
            return bool(found)

        self.until(is_there, "it has no service")
        return found[-1]

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
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_serves_once_it_listens_and_ends_when_asked(machine):
    machine.install(LISTEN)
    assert machine.start().returncode == 0
    pid = machine.until_serving()
    assert "listening" in (machine.workspace / "log.txt").read_text()
    machine.stop()
    assert (machine.status()["state"], machine.status()["pid"]) == ("stopped", None)
    assert not is_alive(pid)


def test_words_and_variables_arrive_as_they_were_written(machine):
    words = ["$(touch x)", "a b", "", "'\"\\", "new\nline", "-n", "*", "A=1"]
    machine.install(TOLD, *words, environment={"GREETING": "it's $HOME\n`x`", "EMPTY": ""})
    machine.start("--foreground")
    told = json.loads((machine.workspace / "log.txt").read_text().splitlines()[0])
    assert told["argv"] == [str(machine.port), *words]
    assert told["cwd"] == str(machine.root / "kit" / "service")
    environment = told["environment"]
    assert (environment["GREETING"], environment["EMPTY"]) == ("it's $HOME\n`x`", "")
    assert environment["CLOUDDEPLOY_WORKSPACE"] == str(machine.workspace)
    assert environment["PATH"].split(":")[0] == str(machine.root / "bin")


def test_what_ends_again_and_again_is_given_up_and_says_why(machine):
    machine.install("raise SystemExit(3)\n")
    done = machine.start("--foreground")
    assert done.returncode == 1
    said = machine.status()
    assert said["state"] == "stopped"
    assert said["detail"] == "it was started five times within 300 s, and it ended with status 3"
    assert not (machine.workspace / "daemon_pid.fl").exists()


def test_a_killed_service_comes_back_as_another_process(machine):
    machine.install(LISTEN)
    machine.start()
    before = machine.until_serving()
    os.kill(before, signal.SIGKILL)
    machine.until(lambda: machine.status()["pid"] not in {before, None}, "it was not started again")
    assert machine.until_serving() != before


def test_what_a_service_has_started_ends_with_it(machine):
    machine.install(FORKING)
    machine.start()
    pid = machine.until_serving()
    machine.until(lambda: (machine.workspace / "log.txt").read_text().count("listening") == 2, "it did not fork")
    [child] = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    machine.stop()
    assert not is_alive(pid)
    assert not is_alive(child)


@pytest.mark.nightly  # ten seconds
def test_one_that_does_not_hear_is_killed(machine):
    machine.install(STUBBORN)
    machine.start()
    pid = machine.until_serving()
    machine.stop()
    assert not is_alive(pid)


def test_another_ones_port_is_no_service(machine):
    machine.install("import time\ntime.sleep(1000)\n")
    with socket.socket() as other:
        other.bind(("127.0.0.1", machine.port))
        other.listen()
        machine.start()
        machine.until(lambda: "does not listen" in machine.status()["detail"], "it did not look")
        assert machine.status()["detail"] == f"it does not listen on port {machine.port}"
        assert machine.status()["state"] == "starting"


def test_a_killed_supervisor_leaves_no_second_service(machine):
    machine.install(LISTEN)
    machine.start()
    left, supervisor = machine.until_serving(), machine.pid()
    os.kill(supervisor, signal.SIGKILL)
    machine.until(lambda: not is_alive(supervisor), "it was not killed")
    assert is_alive(left)
    machine.start()
    machine.until(lambda: machine.status()["pid"] not in {left, None}, "it did not start another")
    machine.until_serving()
    assert not is_alive(left)


def test_it_runs_once(machine):
    machine.install(LISTEN)
    machine.start()
    machine.until_serving()
    again = machine.start("--foreground")
    assert again.returncode == 1
    assert f"There seems to be one instance, pid={machine.pid()}" in again.stdout


def test_a_long_log_begins_anew(machine):
    machine.environment["CLOUDDEPLOY_LOG_BYTES"] = "4096"
    machine.install(LISTEN.replace("    print(", "    print('x' * 5000, flush=True)\n    print("))
    machine.start()
    machine.until_serving()
    machine.until((machine.workspace / "log.txt.1").exists, "it was not rotated")
    machine.until(lambda: (machine.workspace / "log.txt").stat().st_size < 4096, "it was not emptied")


def test_an_unknown_option(machine):
    machine.install(LISTEN)
    done = machine.start("--once")
    assert (done.returncode, "unknown option --once" in done.stderr) == (4, True)


def test_a_full_disk_does_not_end_the_supervisor(machine):
    """What it says and notes cannot be written; the service is started again all the same, and told of once it can."""
    machine.install(LISTEN)
    for name in ("service.pid", "status.json.new"):
        (machine.workspace / name).symlink_to("/dev/full")
    with Path("/dev/full").open("wb") as full:
        shell = subprocess.Popen(
            [str(machine.root / "kit/startup/sub_start.sh")], env=machine.environment, stdout=full, stderr=full
        )
    before = machine.child()
    os.kill(before, signal.SIGKILL)
    machine.until(lambda: machine.child() != before, "it was not started again")
    assert shell.poll() is None
    (machine.workspace / "status.json.new").unlink()
    machine.until_serving()
    machine.stop()
    shell.wait(timeout=DEADLINE_S)


def test_a_supervisor_that_fails_leaves_no_service(machine):
    machine.environment["CLOUDDEPLOY_TICK_S"] = "never"  # which its own sleep does not take
    machine.install(LISTEN)
    assert machine.start("--foreground").returncode != 0
    assert (machine.status()["state"], machine.status()["detail"]) == ("stopped", "its supervisor failed")
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            assert path.readlink() != machine.root / "kit" / "service"
        except OSError:
            continue  # it has ended meanwhile


def test_a_log_that_was_deleted_is_no_reason_to_complain(machine):
    machine.install(LISTEN)
    machine.start()
    machine.until_serving()
    (machine.workspace / "log.txt").unlink()
    said = (machine.workspace / "start.log").read_text()
    os.kill(machine.until_serving(), signal.SIGKILL)
    machine.until((machine.workspace / "log.txt").exists, "it was not started again")
    machine.until_serving()
    more = (machine.workspace / "start.log").read_text().removeprefix(said)
    assert more.endswith("The service ended with status 137; starting it again\n")
    assert "stat" not in more.replace("status", "").replace("starting", "")
