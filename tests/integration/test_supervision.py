"""Real kits, started by their own start.sh: what the supervisor does with the real runtime, and what is logged."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Endpoint, provision
from clouddeploy_runtime.kit import Kind
from clouddeploy_runtime.lifecycle import RESTART_STATUS

PASSPHRASE = b"only for this test"
PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", host="127.0.0.1", port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=8002),
    ),
    root_valid_days=3650,
)


def until(condition, what: str, *, timeout_s: float = 20):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)
    return value


class Site:
    """One kit and the workspace that it runs in."""

    def __init__(self, kit: Path, *, port: int) -> None:
        self.kit = kit
        self.workspace = kit.parent / f"{kit.name}-workspace"
        self.env = {
            **os.environ,
            "CLOUDDEPLOY_PYTHON": sys.executable,
            "CLOUDDEPLOY_BIND": f"127.0.0.1:{port}",
            "NVFL_WORKSPACE": str(self.workspace),
        }

    def run(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        # Its output is a file: what it leaves running would keep a pipe open.
        with (self.kit.parent / "said").open("w+") as said:
            done = subprocess.run(
                [str(self.kit / "startup" / script), *words],
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=60,
                check=False,
            )
            said.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, said.read())

    def text(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.workspace / name).read_text()
        return ""

    def status(self) -> dict[str, object]:
        text = self.text("status.json")
        return json.loads(text) if text else {"state": "", "pid": 0}

    def wait_for(self, state: str, *, not_by: object = 0) -> int:
        """Return the number of the process, another one than `not_by`, that says that it is in this state."""

        def found():
            status = self.status()
            return status["pid"] if status["state"] == state and status["pid"] != not_by else None

        with contextlib.suppress(AssertionError):
            return until(found, state)
        raise AssertionError(f"not {state}: {self.status()}\n{self.text('start.log')}\n{self.text('log.txt')}")

    def pid_files(self) -> list[str]:
        return sorted(path.name for path in self.workspace.glob("*.fl"))


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def made(tmp_path, port):
    """The sites of a project, by name; they are stopped in the end."""
    kits = provision(PROJECT, tmp_path, passphrase=PASSPHRASE, endpoint=Endpoint("127.0.0.1", port)).kits
    sites = {name: Site(kit, port=port) for name, kit in kits.items()}
    yield sites
    for site in sites.values():
        site.run("stop_fl.sh", "--yes")


@pytest.fixture
def server(made):
    made["server1"].run("start.sh")
    made["server1"].wait_for("serving")
    return made["server1"]


@pytest.mark.fault("supervised server killed", "it is started again within seconds")
def test_a_server_is_supervised_from_start_to_stop(server):
    """One after the other, since each start takes a second: twice, killed, restarted, stopped."""
    for script in ("start.sh", "sub_start.sh"):
        again = server.run(script)
        assert again.returncode == 1
        assert "There seems to be one instance, pid=" in again.stdout
    pid = server.wait_for("serving")
    assert server.text("pid.fl") == f"{pid}\n"

    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    second = server.wait_for("serving", not_by=pid)
    assert time.monotonic() - begin < 10
    assert "ended with status 137; starting it again" in server.text("start.log")

    (server.workspace / "restart.fl").touch()
    server.wait_for("serving", not_by=second)

    (server.workspace / "shutdown.fl").touch()
    until(lambda: server.pid_files() == [], "the end of both")
    assert server.status()["state"] == "stopped"
    assert server.text("start.log").count("\n") < 20  # none of the lines of the log
    assert "listens on port" not in server.text("start.log")
    lines = [json.loads(line) for line in server.text("log.json").splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert sum("listens on port" in line["message"] for line in lines) == 3
    assert not server.text("log_error.txt")


@pytest.mark.fault("two servers on one workspace", "the second is refused, the first stays")
def test_a_second_process_beside_a_supervised_one_is_refused(server):
    done = server.run("start.sh", "--once")
    assert done.returncode == 1
    assert f"{server.workspace} is in use" in done.stdout
    assert server.status()["state"] == "serving"


def test_a_supervisor_that_waited_for_a_lock_does_not_take_one_of_a_file_that_is_gone(made):
    server = made["server1"]
    server.workspace.mkdir()
    path, said = server.workspace / "daemon_pid.fl", server.kit.parent / "said"
    with path.open("w") as held, said.open("w") as out:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [str(server.kit / "startup" / "sub_start.sh")]
        supervisor = subprocess.Popen(command, env=server.env, stdout=out, stderr=out)
        until(lambda: os.fstat(held.fileno()).st_ino in waiting_for(), "the supervisor waits")
        path.unlink()  # as one that ends does, while it still has the lock
    until(lambda: path.exists() and path.read_text().strip() == str(supervisor.pid), "it has a file of its own")
    with path.open() as own, pytest.raises(BlockingIOError):
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
    supervisor.terminate()
    assert supervisor.wait(30) == 0


def waiting_for() -> set[int]:
    """The inodes of files that somebody waits to lock: proc(5), /proc/locks."""
    lines = Path("/proc/locks").read_text().splitlines()
    return {int(line.split()[6].rpartition(":")[2]) for line in lines if "->" in line}


@pytest.mark.nightly  # it waits through all of a supervisor's pauses
@pytest.mark.fault("crash loop: the port is taken", "it gives up, says why, ends with a status")
def test_a_server_whose_port_is_taken_gives_up_and_says_why(made, port):
    server = made["server1"]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        done = server.run("start.sh", "--foreground", CLOUDDEPLOY_TICK_S="0.005")
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stdout
    assert "System is in trouble and unable to start the task!!!!!" in done.stdout
    assert server.text("log_error.txt").count(f"Cannot listen on 127.0.0.1:{port}") == 5
    assert server.pid_files() == []


@pytest.mark.fault("kit changed under a running server", "it is not started again and says why")
def test_a_kit_that_was_changed_under_a_running_site_is_not_started_again(server):
    file = server.kit / "startup/fed_server.json"
    file.write_bytes(file.read_bytes() + b" ")
    os.kill(server.wait_for("serving"), signal.SIGKILL)
    until(lambda: server.pid_files() == [], "the supervisor's end")
    assert "startup/fed_server.json" in server.text("start.log")
    assert "ended with status 4 and is not started again" in server.text("start.log")


RESTARTS = """
import sys
from clouddeploy_runtime import cli, lifecycle
from clouddeploy_runtime.client import agent

async def serve(kit, workspace):
    stop = lifecycle.StopSignal(workspace)
    stop.restart()
    await lifecycle.until(stop)

agent.serve = serve
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_site_that_is_asked_to_restart_ends_with_the_status_that_says_so(made):
    site = made["site-1"]
    words = ["client", str(site.kit), "--workspace", str(site.workspace)]
    done = subprocess.run([sys.executable, "-c", RESTARTS, *words], env=site.env, capture_output=True, check=False)
    assert done.returncode == RESTART_STATUS
    assert "an admin asked for it" in site.text("log.txt")
    assert site.pid_files() == []


def handshake(port: int, kit: Path) -> None:
    """Do what a client does whose certificate ends while it runs: one that starts with it refuses itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(kit / "startup/client.crt", kit / "startup/client.key")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
        raw.settimeout(5)
        with contextlib.suppress(OSError), context.wrap_socket(raw) as connection:
            connection.recv(1)


@pytest.mark.fault("client's certificate expired or foreign", "one line each in the server's log")
def test_a_refused_certificate_is_one_line_in_the_servers_log(tmp_path, port):
    endpoint = Endpoint("127.0.0.1", port)
    before = datetime.now(UTC) - timedelta(days=400)
    expired = provision(PROJECT, tmp_path / "a", passphrase=PASSPHRASE, endpoint=endpoint, now=before).kits
    kits = provision(PROJECT, tmp_path / "a", passphrase=PASSPHRASE, endpoint=endpoint).kits
    foreign = provision(PROJECT, tmp_path / "b", passphrase=PASSPHRASE, endpoint=endpoint).kits
    server, stranger = Site(kits["server1"], port=port), Site(foreign["site-1"], port=port)
    try:
        server.run("start.sh")
        server.wait_for("serving")
        refused = "A connection was refused in its TLS handshake: the other side's certificate "
        handshake(port, expired["site-1"])
        until(lambda: refused + "has expired" in server.text("log.txt"), "the expired one", timeout_s=5)
        stranger.run("start.sh")
        until(lambda: refused + "is of another" in server.text("log.txt"), "the foreign one", timeout_s=5)
        assert server.text("log.txt").count(refused) == 2
        assert "ssl_transport_security" not in server.text("log.txt") + server.text("start.log")
    finally:
        for site in (stranger, server):
            site.run("stop_fl.sh", "--yes")
