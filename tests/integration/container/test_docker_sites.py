"""Prepared kits in containers of a real engine: a server and two clients, whose jobs get containers of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest
import safetensors.numpy
import yaml
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.kit import Kind

from clouddeploy.prepare import preparing
from tests.integration import test_job_process_relay as relay
from tests.integration.container.test_docker_jobs import TRAIN, listening

pytest.importorskip("docker")
pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("containers")]
SITES = ("server1", "site-1", "site-2")
ADMIN = "lead@example.com"
NETWORK = "trial"


class Sites:
    """A server and two clients, started by the scripts of their prepared kits."""

    def __init__(self, folder, engine, image, api):
        self.folder = folder
        self.engine = engine
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        clients = [Participant(Kind.CLIENT, name, "org", host="server1", port=self.port) for name in SITES[1:]]
        project = Project(
            name="trial",
            description="",
            participants=(
                Participant(Kind.SERVER, "server1", "org", host="server1", port=self.port),
                *clients,
                Participant(Kind.ADMIN, ADMIN, "org", role="project_admin", host="127.0.0.1", port=self.port),
            ),
        )
        self.kits = provision(project, folder / "made", passphrase=b"x").kits
        self.config = folder / "docker.yml"
        launcher = {"default_python_path": "/usr/local/bin/python3", "default_job_env": {"GIVEN": "yes"}}
        parent = {"docker_image": image, "network": NETWORK}
        self.config.write_text(yaml.safe_dump({"runtime": "docker", "parent": parent, "job_launcher": launcher}))
        self.environment = {**os.environ, **engine.environment, "DOCKER": "podman", "NVFL_DOCKER_SOCK": str(api)}
        self.outputs = {}

    def prepare(self):
        for name in SITES:
            made = preparing.prepare(self.kits[name], config=self.config, target=self.folder / name)
            self.outputs[name] = made.kit.output

    def start(self, name, *options):
        return subprocess.run(
            [self.outputs[name] / "startup/start_docker.sh", *options],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout

    def state(self, name):
        try:
            return json.loads((self.outputs[name] / "status.json").read_text())["state"]
        except (OSError, ValueError):
            return ""

    def wait_for(self, name, state):
        try:
            until(lambda: self.state(name) == state, timeout_s=60)
        except AssertionError:
            pytest.fail(f"{name}: {self.state(name)!r} {self.engine('logs', name, check=False)}")

    def session(self):
        return AdminSession(kits.load(self.kits[ADMIN]))


@pytest.fixture(scope="module")
def sites(engine, launching, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    with listening(engine, folder) as api:
        made = Sites(folder, engine, launching, api)
        made.prepare()
        for name in SITES:
            made.start(name)
        made.wait_for("server1", "serving")
        for name in SITES[1:]:
            made.wait_for(name, "registered")
        yield made
        for name in SITES:
            made.start(name, "--stop")
        engine("network", "rm", NETWORK, check=False)
        assert engine.containers() == set()


def job(folder, *, rounds=2):
    relay.app(folder / "app", TRAIN, rounds=rounds)
    meta = {"name": "trial", "deploy_map": {"app": ["@ALL"]}, "min_clients": 2, "resource_spec": {}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_sites_in_containers_run_a_job_in_containers(sites, tmp_path):
    with sites.session() as session:
        job_id = session.submit(job(tmp_path / "job"))
        info = session.wait(job_id, 120)
        assert info.status is JobStatus.COMPLETED, info.reason
        session.download(job_id, tmp_path / "result")
    (model,) = (tmp_path / "result").rglob("*.safetensors")
    assert safetensors.numpy.load_file(model)["w"].tolist() == [2.0, 2.0, 2.0]
    until(lambda: sites.engine.containers() == set(SITES), timeout_s=20)


def test_a_site_that_runs_is_left_alone_and_its_container_may_do_little(sites):
    (before,) = json.loads(sites.engine("container", "inspect", "site-1"))
    assert "site-1 runs already" in sites.start("site-1")
    (one,) = json.loads(sites.engine("container", "inspect", "site-1"))
    assert one["Id"] == before["Id"]
    assert not one["EffectiveCaps"]
    assert one["HostConfig"]["ReadonlyRootfs"]
    assert one["HostConfig"]["RestartPolicy"]["Name"] == "on-failure"
    writable = {mount["Destination"] for mount in one["Mounts"] if mount["RW"]}
    assert writable == {"/var/tmp/nvflare/workspace", "/var/run/docker.sock"}
    secrets = (sites.outputs["site-1"] / "startup/client.key").read_text()
    assert secrets not in json.dumps(one)
