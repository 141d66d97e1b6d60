"""Kits that are deployed alone on this machine: real processes, no clouds, no root."""

import socket
from dataclasses import dataclass

import pytest
import yaml
from clouddeploy_provision import project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.deployment import Deployment
from clouddeploy.errors import ServerNotReached
from clouddeploy.kit_installation import KitInstallation

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Impatient(KitInstallation):
    """Long enough for a server that is there."""

    ready_timeout_s: float = 6.0


@pytest.fixture
def here(write_trial, tmp_path):
    """Returns a function that gives the deployment of one kit alone; everything is gone afterwards."""
    write_trial(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "project.yml"
    document = yaml.safe_load(file.read_text())
    document["participants"][0] |= {"fed_learn_port": port, "default_host": "127.0.0.1"}
    file.write_text(yaml.safe_dump(document))
    kits = provision(project.load(file), tmp_path / "workspace", passphrase=b"x").kits
    used = []

    def here(name):
        deploy = tmp_path / f"{name}.deploy.yml"
        site = {"provider": "local", "directory": str(tmp_path / "sites")}
        deploy.write_text(yaml.safe_dump({"version": 1, "kit": str(kits[name]), "sites": {name: site}}))
        used.append(Deployment(deploy, kit_installation=Impatient))
        return used[-1]

    here.port = port
    yield here
    for deployment in used:
        deployment.destroy()


@pytest.mark.nightly  # test_launch.py is the sample
def test_a_client_waits_for_its_server_says_which_and_goes_on_once_that_is_there(here, tmp_path):
    client = here("site-1")
    with pytest.raises(ServerNotReached) as caught:
        client.apply()
    error = caught.value
    assert f"127.0.0.1:{here.port}" in error.what
    assert (error.exit_code, bool(error.why), bool(error.hint)) == (ExitCode.CONNECTION, True, True)

    server = here("server1")
    assert all("does not lead" not in warning for warning in server.apply().warnings)
    client.apply()
    assert [(one.status()[0].name, one.status()[0].state) for one in (server, client)] == [
        ("server1", "serving"),
        ("site-1", "registered"),
    ]
    assert client.plan().pending == server.plan().pending == ()
    assert client.destroy().left == ()
    assert server.destroy().left == ()
    assert list((tmp_path / "sites").iterdir()) == []
