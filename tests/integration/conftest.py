"""Real server and client processes of provisioned kits, on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Endpoint, provision
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.kit import Kind

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = b"only for this test"
PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", host="127.0.0.1", port=8002),
        Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=8002),
        Participant(Kind.CLIENT, "site-2", "org_b", host="127.0.0.1", port=8002),
        Participant(Kind.ADMIN, "root@example.com", "hub", role="project_admin", host="127.0.0.1", port=8002),
        Participant(Kind.ADMIN, "member@example.com", "org_a", role="member", host="127.0.0.1", port=8002),
    ),
)


class Provisioned:
    """A provisioned project whose participants can be started and stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "made" / PROJECT.name / "state"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kits = self.provision()

    def provision(self):
        """Make the kits of now; processes keep those that they were started with."""
        endpoint = Endpoint("127.0.0.1", self.port)
        self.kits = provision(PROJECT, self.folder / "made", passphrase=PASSPHRASE, endpoint=endpoint).kits
        return self.kits

    def start(self, *names: str) -> None:
        for name in names:
            kind = "server" if name == "server1" else "client"
            self.workspace(name).mkdir(exist_ok=True)
            words = ["-m", "clouddeploy_runtime", kind, str(self.kits[name]), "--workspace", str(self.workspace(name))]
            with (self.folder / f"{name}.out").open("ab") as out:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, *words],
                    env={**os.environ, "CLOUDDEPLOY_BIND": f"127.0.0.1:{self.port}"},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
        for name in names:
            if name == "server1":
                self.wait_for(name, "serving")

    def workspace(self, name: str) -> Path:
        return self.folder / f"workspace-{name}"

    def status(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.workspace(name) / "status.json").read_bytes())["state"]
        return ""

    def log(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.workspace(name) / "log.txt").read_text()
        return ""

    def wait_for(self, name: str, state: str, *, timeout_s: float = 20) -> None:
        self.until(lambda: self.status(name) == state, timeout_s=timeout_s, what=f"{name} {state}")

    def until(self, condition, *, timeout_s: float = 20, what: str = "the condition"):
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            logs = "\n".join(f"--- {name}\n{self.log(name)[-2000:]}" for name in self.processes)
            assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s\n{logs}"
            time.sleep(0.02)
        return value

    def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def admin(self, name: str = "root@example.com") -> AdminSession:
        return AdminSession(kits.load(self.kits[name]))

    def connected(self) -> set[str]:
        with self.admin() as session:
            return {client.name for client in session.system_status().clients}


@pytest.fixture
def provisioned(tmp_path):
    one = Provisioned(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)
