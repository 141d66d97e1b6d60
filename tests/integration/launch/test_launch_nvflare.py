"""Kits that NVFLARE itself has provisioned, on machines of emulated clouds, run by NVFLARE."""

import os
import subprocess
import sys

import pytest
import yaml
from clouddeploy_rehearsal.addresses import public

from clouddeploy.errors import DeployError
from clouddeploy.kit_installation import NVFLARE
from clouddeploy.rehearse import collect_wheels
from clouddeploy.wheelhouse import default_cache

pytestmark = [
    pytest.mark.nightly,  # a hundred packages, twice; test_nvflare_kit.py is the sample
    pytest.mark.xdist_group("world"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts in network namespaces need root"),
]
SERVER = next(public("azure"))
BUILDERS = (
    "workspace.WorkspaceBuilder",
    "static_file.StaticFileBuilder",
    "cert.CertBuilder",
    "signature.SignatureBuilder",
)
PROJECT = {
    "api_version": 3,
    "name": "theirs",
    "description": "a project of the reference",
    "participants": [
        {"name": "fl-server", "type": "server", "org": "hub", "fed_learn_port": 8002, "default_host": SERVER},
        {"name": "site-1", "type": "client", "org": "org_a"},
        {"name": "admin@example.com", "type": "admin", "org": "hub", "role": "project_admin"},
    ],
    "builders": [
        {"path": f"nvflare.lighter.impl.{name}", "args": {"template_file": "master_template.yml"} if at == 0 else {}}
        for at, name in enumerate(BUILDERS)
    ],
}


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """What `nvflare provision` makes, in a Python environment of its own."""
    folder = tmp_path_factory.mktemp("theirs")
    venv, file = folder / "venv", folder / "project.yml"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", NVFLARE]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{NVFLARE} cannot be installed here: {done.stderr.strip()[-200:]}")
    try:
        collect_wheels(default_cache(), requirements=(NVFLARE,))  # the served world has no network
    except DeployError as error:
        pytest.skip(f"{NVFLARE} cannot be fetched here: {error}")
    file.write_text(yaml.safe_dump(PROJECT))
    made = subprocess.run(
        [str(venv / "bin/nvflare"), "provision", "-p", str(file), "-w", str(folder / "workspace")],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
    )
    result = folder / "workspace" / "theirs" / "prod_00"
    assert result.is_dir(), made.stdout + made.stderr
    return result


def test_their_server_and_client_register_with_each_other_and_leave_nothing(clouds, kits):
    server, client = kits / "fl-server", kits / "site-1"
    files = {kit: kits / f"{kit.name}.deploy.yml" for kit in (server, client)}
    done = clouds.run("clouddeploy", "launch", server, "--cloud", "azure", "--no-input")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"fl-server runs at {SERVER}" in done.stdout
    done = clouds.run("clouddeploy", "launch", client, "--cloud", "aws", "--no-input")
    assert done.returncode == 0, done.stdout + done.stderr
    for kit, state in ((server, "serving"), (client, "registered")):
        (site,) = clouds.json("status", files[kit])["sites"]
        assert (site["name"], site["state"]) == (kit.name, state)
    log = clouds.run("clouddeploy", "logs", "fl-server", "--file", files[server]).stdout
    assert "New client site-1" in log
    done = clouds.run("clouddeploy", "launch", client, "--cloud", "aws", "--no-input")
    assert done.returncode == 0, done.stdout + done.stderr
    assert clouds.json("plan", files[client])["pending"] == 0
    for kit in (client, server):
        assert clouds.json("destroy", files[kit], "--yes")["left"] == []
