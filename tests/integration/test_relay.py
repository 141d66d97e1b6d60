"""A client behind a relay: two hops of TCP, one TLS from end to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
import yaml
from clouddeploy_provision import project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime import kit
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import tiny_job, until

TRAINER = """
import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    model.params = {name: value + 2 for name, value in model.params.items()}
    flare.send(model)
"""
KINDS = {"server1": "server", "relay-1": "relay", "site-1": "client"}


class Chain:
    """A server, a relay and a client that knows nothing but the relay."""

    def __init__(self, folder):
        with ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(2)]
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            self.port, self.relay_port = (probe.getsockname()[1] for probe in probes)
        here = {"default_host": "127.0.0.1"}
        people = {"type": "admin", "org": "hub", "role": "project_admin"}
        document = {
            "api_version": 3,
            "name": "trial",
            "participants": [
                {"name": "server1", "type": "server", "org": "hub", "fed_learn_port": self.port, **here},
                {"name": "relay-1", "type": "relay", "org": "hub", "listening_host": {"port": self.relay_port, **here}},
                {"name": "site-1", "type": "client", "org": "a", "connect_to": {"name": "relay-1"}},
                {"name": "admin@hub.example", **people},
            ],
            "builders": [
                {"path": f"nvflare.lighter.impl.{one}"} for one in ("cert.CertBuilder", "signature.SignatureBuilder")
            ],
        }
        file = folder / "project.yml"
        file.write_text(yaml.safe_dump(document))
        self.kits = provision(project.load(file), folder / "workspace", passphrase=b"x").kits
        self.folder = folder
        self.running = {}

    def start(self, name):
        command = [sys.executable, "-m", "clouddeploy_runtime", KINDS[name], str(self.kits[name])]
        with (self.folder / f"{name}.out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                [*command, "--workspace", str(self.folder / name)], stdout=out, stderr=out, env=dict(os.environ)
            )

    def stop(self, name, number=signal.SIGTERM):
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(20)

    def wait_for(self, name, state):
        file = self.folder / name / "status.json"
        until(lambda: file.exists() and json.loads(file.read_bytes())["state"] == state, what=f"{name} {state}")


@pytest.fixture
def chain(tmp_path):
    one = Chain(tmp_path)
    for name, state in (("server1", "serving"), ("relay-1", "registered"), ("site-1", "registered")):
        one.start(name)
        one.wait_for(name, state)
    yield one
    for name in list(one.running):
        one.stop(name)


def test_a_client_behind_a_relay_trains_and_comes_back_when_the_relay_does(chain, tmp_path):
    assert kit.load(chain.kits["site-1"]).port == chain.relay_port
    with AdminSession(kit.load(chain.kits["admin@hub.example"])) as session:
        assert [client.name for client in session.system_status().clients] == ["site-1"]
        info = session.wait(session.submit(tiny_job(tmp_path / "job", client=TRAINER)), 30)
        assert (info.status, info.sites) == (JobStatus.COMPLETED, ("site-1",))
        chain.stop("relay-1", signal.SIGKILL)
        chain.wait_for("site-1", "connecting")
        chain.start("relay-1")
        chain.wait_for("site-1", "registered")
    assert chain.stop("relay-1") == 0
    log = (tmp_path / "relay-1" / "log.txt").read_text()
    assert f"listens on port {chain.relay_port} and leads to 127.0.0.1:{chain.port}" in log


def test_a_relay_that_does_not_know_where_to_listen_is_refused(chain):
    chain.stop("relay-1")
    (chain.kits["relay-1"] / "local/comm_config.json").write_text("{}")
    chain.start("relay-1")
    assert chain.running.pop("relay-1").wait(20) == 4
    assert "does not say where the relay listens" in (chain.folder / "relay-1.out").read_text()
