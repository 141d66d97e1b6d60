"""Machines that lose their power: what ran is gone, and the sites come back by themselves."""

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest
import yaml
from clouddeploy_rehearsal.isolation import isolated
from clouddeploy_rehearsal.probe import connect, run, until
from clouddeploy_rehearsal.world import World

from clouddeploy import wheelhouse
from clouddeploy.deployment import Deployment
from clouddeploy.rehearse import collect_wheels
from clouddeploy.secrets import Secret

BUILDERS = (
    "workspace.WorkspaceBuilder",
    "static_file.StaticFileBuilder",
    "cert.CertBuilder",
    "signature.SignatureBuilder",
)
ADDRESSES = {"server1": "192.0.2.41", "site-1": "192.0.2.42"}
WELL = {"server1": "serving", "site-1": "registered"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="hosts in network namespaces need root")
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("world")]


@pytest.fixture(
    params=[
        pytest.param(True, marks=[needs_root, pytest.mark.nightly], id="root"),
        pytest.param(False, id="unprivileged"),
    ]
)
def world(request, tmp_path):
    collect_wheels(wheelhouse.default_cache())  # there is no network inside
    with (
        isolated() if request.param else contextlib.nullcontext(),
        World(tmp_path / "world", as_root=request.param) as made,
    ):
        yield made


@pytest.fixture
def deployment(world, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project = {
        "api_version": 3,
        "name": "study",
        "builders": [{"path": f"nvflare.lighter.impl.{name}"} for name in BUILDERS],
        "participants": [
            {"name": "server1", "type": "server", "org": "hub", "fed_learn_port": port},
            {"name": "site-1", "type": "client", "org": "org_a"},
            {"name": "admin@example.com", "type": "admin", "org": "hub", "role": "project_admin"},
        ],
    }
    (tmp_path / "project.yml").write_text(yaml.safe_dump(project))
    sites = {}
    for name, address in ADDRESSES.items():
        there = world.add_host(address, name=name)
        given = {"address": address, "user": there.user, "host_key": there.host_key}
        sites[name] = {"provider": "onprem", "identity_file": str(there.identity_file), **given}
    file = tmp_path / "deploy.yml"
    file.write_text(yaml.safe_dump({"version": 1, "project": "project.yml", "sites": sites}))
    return Deployment(file, endpoints=world.endpoints)


def at(world, site, command):
    there = world.endpoints.hosts[ADDRESSES[site]]
    with contextlib.closing(
        connect(
            there.address,
            port=there.port,
            user=there.user,
            private=Path(there.identity_file).read_text(),
            host_key=there.host_key,
        )
    ) as ssh:
        return run(ssh, command)[1]


def pids(world, deployment):
    roots = {site: one["root"] for site, one in deployment.recorded().sites.items()}
    return {
        site: json.loads(at(world, site, f"cat {root}/workspace/status.json"))["pid"] for site, root in roots.items()
    }


def test_rebooted_machines_bring_their_sites_back_and_what_else_ran_is_gone(world, deployment):
    deployment.apply(Secret("x"))
    at(world, "site-1", "setsid nohup sleep 4711 >/dev/null 2>&1 &")
    sleeps = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 471[1]'"
    assert at(world, "site-1", sleeps) == "1"
    before = pids(world, deployment)
    for _ in range(2):
        world.reboot()
        assert at(world, "site-1", sleeps) == "0"
        until(lambda: {one.name: one.state for one in deployment.status()} == WELL, timeout_s=60)
        assert at(world, "site-1", "crontab -l").count("@reboot") == 1
    assert pids(world, deployment).keys() == before.keys()
    assert deployment.plan().pending == ()

    deployment.destroy()
    assert at(world, "site-1", "crontab -l").strip() == ""
