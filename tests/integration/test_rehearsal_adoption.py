"""A deploy file that uses what exists already, in both clouds: rehearsed like any other, and nothing of it is taken."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clouddeploy_providers.cloud_init import generate_host_key

EXAMPLES = Path(__file__).parents[2] / "examples"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
MACHINE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/labs/providers/Microsoft.Compute/virtualMachines/lab-1"
pytestmark = [pytest.mark.xdist_group("world"), pytest.mark.timeout(300)]


@pytest.fixture
def file(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    folder = tmp_path / "examples" / "hybrid"
    project = yaml.safe_load((folder / "project.yml").read_text())
    project["participants"].append({"name": "site-3", "type": "client", "org": "org_c"})
    (folder / "project.yml").write_text(yaml.safe_dump(project))
    (folder / "data" / "site-3").mkdir()
    reach = {"user": "fl", "identity_file": "~/.ssh/id_ed25519", "host_key": generate_host_key().public}
    azure = {"provider": "azure", "location": "westus2", "subscription_id": SUBSCRIPTION}
    sites = {
        "server1": {**azure, "resource_group": "hospital", "network": "hospital-net", "subnet": "research"},
        "site-1": {
            "provider": "aws",
            "region": "us-west-2",
            "vpc_id": "vpc-0123456789abcdef0",
            "subnet_id": "subnet-0123456789abcdef0",
            "data": "data/site-1",
        },
        "site-2": {
            "provider": "aws",
            "region": "us-west-2",
            "machine_id": "i-0123456789abcdef0",
            "data": "data/site-2",
            **reach,
        },
        "site-3": {
            **azure,
            "machine": MACHINE,
            **reach,
        },
    }
    deploy = {"version": 1, "project": "project.yml", "sites": sites}
    (folder / "deploy.yml").write_text(yaml.safe_dump(deploy))
    return folder / "deploy.yml"


@pytest.mark.skipif(os.geteuid() != 0, reason="hosts in network namespaces need root")
@pytest.mark.nightly
def test_networks_groups_and_machines_of_somebody_else(file):
    done = subprocess.run(
        [sys.executable, "-m", "clouddeploy.cli", "rehearse", str(file), "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout)["data"]
    assert {site["name"] for site in data["sites"]} == {"server1", "site-1", "site-2", "site-3"}
    assert data["resources"]["left"] == []
    released = [line.split()[0] for line in done.stderr.splitlines() if " release machine " in line]
    assert sorted(released) == ["site-2", "site-3"]
    assert " release group " in done.stderr
    assert " release network " in done.stderr
