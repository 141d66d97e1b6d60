"""One startup kit, its own start.sh, an emulated cloud: for an org admin who has nothing else of the project."""

import json
import os
import socket

import pytest
import yaml
from clouddeploy_provision import project
from clouddeploy_provision.provisioner import provision
from clouddeploy_rehearsal.addresses import public
from clouddeploy_runtime.errors import ExitCode

pytestmark = [
    pytest.mark.xdist_group("world"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts in network namespaces need root"),
]
SERVER = next(public("azure"))
"""The first address that the emulated Azure gives out; there is no server before the kits, which name it."""


@pytest.fixture
def kits(write_trial, tmp_path):
    """Kits whose server is at the address that it will get, each where another organisation would have unpacked it."""

    def kits(host=SERVER):
        write_trial(tmp_path)
        file = tmp_path / "project.yml"
        document = yaml.safe_load(file.read_text())
        document["participants"][0]["default_host"] = host
        file.write_text(yaml.safe_dump(document))
        made = provision(project.load(file), tmp_path / "workspace", passphrase=b"x").kits
        for name, kit in made.items():
            (tmp_path / f"admin of {name}").mkdir()
            kit.rename(tmp_path / f"admin of {name}" / name)
        return {name: tmp_path / f"admin of {name}" / name for name in made}

    return kits


def deploy_file(kit):
    return kit.parent / f"{kit.name}.deploy.yml"


def machines(kit):
    state = json.loads((kit.parent / ".clouddeploy" / f"{kit.name}.deploy" / "state.json").read_text())
    return {node: record["ref"]["id"] for node, record in state["resources"].items()}


def test_server_and_client_start_themselves_in_two_clouds_and_leave_nothing(clouds, kits):
    found = kits()
    server, client = found["server1"], found["site-1"]
    done = clouds.run(server / "startup/start.sh", "--cloud", "azure", "--no-input")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"server1 runs at {SERVER}" in done.stdout
    assert "does not lead" not in done.stdout
    assert f"clouddeploy destroy '{deploy_file(server)}'" in done.stdout
    assert yaml.safe_load(deploy_file(server).read_text())["sites"] == {
        "server1": {"provider": "azure", "location": "westus2"}
    }

    done = clouds.run(client / "startup/start.sh", "--cloud", "aws")
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = clouds.json("status", deploy_file(client))["sites"]
    assert (site["name"], site["provider"], site["state"]) == ("site-1", "aws", "registered")

    before = machines(client)
    again = clouds.run(client / "startup/start.sh", "--cloud", "aws")
    assert again.returncode == 0, again.stdout + again.stderr
    assert machines(client) == before
    assert clouds.json("plan", deploy_file(client))["pending"] == 0
    said = clouds.run("clouddeploy", "exec", "site-1", "--file", deploy_file(client), "--output", "json", "hostname")
    assert said.returncode == 0, said.stdout + said.stderr

    for kit in (client, server):
        gone = clouds.json("destroy", deploy_file(kit), "--yes")
        assert gone["left"] == []
        assert gone["deleted"]


@pytest.mark.nightly
def test_at_a_terminal_it_asks_shows_the_price_and_then_does_it(clouds, kits):
    """No is no: neither a machine nor a file is left by it."""
    server = kits("fl.example.com")["server1"]
    questions = [("[us-west-2]:", ""), ("[t3.small]:", "t3.medium"), ("Ubuntu 24.04]:", "")]
    command = (server / "startup/start.sh", "--cloud", "aws")
    status, shown = clouds.talk(*command, answers=[*questions, ("Go on? [y/N]:", "n")])
    assert (status, deploy_file(server).exists()) == (ExitCode.BAD_INPUT, False), shown
    assert "USD per hour" in shown

    status, shown = clouds.talk(*command, answers=[*questions, ("Go on? [y/N]:", "y")])
    assert status == 0, shown
    assert "let the name fl.example.com lead to 198.51.100." in shown
    site = yaml.safe_load(deploy_file(server).read_text())["sites"]["server1"]
    assert site == {"provider": "aws", "region": "us-west-2", "size": "t3.medium"}
    address = clouds.json("status", deploy_file(server))["sites"][0]["address"]
    assert socket.inet_aton(address)
    assert clouds.json("destroy", deploy_file(server), "--yes")["left"] == []
