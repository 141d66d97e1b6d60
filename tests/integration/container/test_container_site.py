"""Sites whose processes run in containers, through the engine of any cloud, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import yaml
from clouddeploy_runtime.jobs import JobStatus

from clouddeploy import upgrade as upgrades
from clouddeploy.deployment import Deployment
from clouddeploy.errors import RemoteCommandFailed
from clouddeploy.rehearse import run_job
from clouddeploy.remote import bootstrap
from clouddeploy.remote.container import Image
from clouddeploy.remote.local import LocalHost
from clouddeploy.secrets import Secret

EXAMPLES = Path(__file__).parents[3] / "examples"
SITES = ("server1", "site-1")
WELL = {"server1": "serving", "site-1": "registered"}

# podman 4.3, on a machine with more to do than it can, notes the end of a container 20 s late.
pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("containers")]


class Federation:
    """A server and a client in containers, each in a folder of this machine."""

    def __init__(self, folder, engine):
        self.folder = folder
        self.engine = engine
        self.file = folder / "deploy.yml"

    def write(self, image):
        sites = {
            name: {"provider": "local", "directory": str(self.folder / "sites"), "container": image} for name in SITES
        }
        self.file.write_text(yaml.safe_dump({"version": 1, "project": "project.yml", "sites": sites}))

    def deployment(self):
        return Deployment(self.file)

    def apply(self):
        return self.deployment().apply(Secret("x"))

    def states(self):
        return {one.name: one.state for one in self.deployment().status()}

    def root(self, site):
        state = json.loads((self.folder / ".clouddeploy/deploy/state.json").read_text())
        return Path(state["sites"][site]["root"])

    def release(self, site):
        state = json.loads((self.folder / ".clouddeploy/deploy/state.json").read_text())
        return bootstrap.Release(*(state["sites"][site][key] for key in ("release", "root", "python")))

    def name(self, site):
        """The name of a site's container."""
        return (self.root(site) / "venv/name").read_text().strip()

    def image(self, site):
        return (self.root(site) / "venv/image").read_text().strip()

    def containers(self):
        """By site, the id of the container in which it runs."""
        said = self.engine("ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}").splitlines()
        ids = dict(line.split() for line in said)
        return {site: ids[name] for site in SITES if (name := self.name(site)) in ids}

    def left(self):
        """What would be of us: containers, and names of images."""
        return {one for one in self.engine.containers() | self.engine.images() if "clouddeploy" in one}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def host(engine):
    """Everything that this process starts finds the engine of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine.environment.items():
            patch.setenv(name, value)
        yield engine


@pytest.fixture(scope="module")
def federation(host, image, tmp_path_factory, write_trial):
    folder = tmp_path_factory.mktemp("deployed")
    write_trial(folder)
    project = yaml.safe_load((folder / "project.yml").read_text())
    project["participants"][0]["fed_learn_port"] = free_port()
    (folder / "project.yml").write_text(yaml.safe_dump(project))
    made = Federation(folder, host)
    made.write(image)
    yield made
    made.deployment().destroy()
    assert made.left() == set()


@pytest.fixture
def deployed(federation, image):
    """The sites as they were deployed, whatever the test before did to them."""
    federation.write(image)
    federation.apply()
    return federation


def test_server_and_client_run_in_containers_and_a_second_apply_changes_nothing(deployed):
    assert deployed.states() == WELL
    before = deployed.containers()
    assert set(before) == set(SITES)
    assert deployed.deployment().plan().pending == ()
    deployed.apply()
    assert deployed.containers() == before
    for site in SITES:
        assert len(list(deployed.root(site).glob("venv-*"))) == 1


def test_a_container_may_do_little(deployed):
    (one,) = json.loads(deployed.engine("container", "inspect", deployed.name("site-1")))
    assert not one["EffectiveCaps"]
    root = deployed.root("site-1")
    assert {mount["Destination"]: mount["RW"] for mount in one["Mounts"]} == {
        str(root / "kits"): False,
        str((root / "venv").resolve()): False,
        str(root / "workspace"): True,
        str(root / "container/home"): True,
        "/tmp": True,
    }
    names = {line.partition("=")[0] for line in one["Config"]["Env"]}
    assert {"CLOUDDEPLOY_WORKSPACE", "TMPDIR", "HOME"} <= names
    assert not names & {"CONTAINERS_CONF", "SSH_AUTH_SOCK", "PYTEST_CURRENT_TEST"}


@pytest.mark.nightly
def test_a_killed_supervisor_leaves_a_container_that_ends_with_the_next_start(deployed):
    before = deployed.containers()
    kill_supervisor(deployed.root("site-1"))
    assert deployed.containers() == before
    deployed.apply()
    assert deployed.states() == WELL
    after = deployed.containers()
    assert {site for site in SITES if before[site] != after[site]} == {"site-1"}


@pytest.mark.nightly
@pytest.mark.parametrize("is_killed", [False, True], ids=["supervised", "its supervisor killed"])
def test_a_stopped_site_has_no_container(deployed, is_killed):
    if is_killed:
        kill_supervisor(deployed.root("site-1"))
    machine, release = LocalHost(deployed.folder / "sites"), deployed.release("site-1")
    bootstrap.stop(machine, release)
    assert deployed.name("site-1") not in deployed.engine.containers()
    # It was asked before it was ended: the runtime itself says so.
    assert bootstrap.status(machine, release)["state"] == ("registered" if is_killed else "stopped")


HOSTILE = """
import os, shutil, sys
workspace, victim = sys.argv[1:]
for name in ("tmp", "home", "start.log", "start.log.1", "daemon_pid.fl", "pid.fl", "status.json.new", "known_kits"):
    path = os.path.join(workspace, name)
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
    os.symlink(victim, path)
for name in ("../supervisor", "../container/tmp", "../kits/x", "../current"):
    try:
        os.rename(os.path.join(workspace, name), os.path.join(workspace, name + ".moved"))
    except OSError:
        continue
    raise SystemExit(f"{name} could be moved")
open("/tmp/left", "w").close()
"""


@pytest.mark.nightly
def test_a_job_that_swaps_its_folders_for_links_changes_nothing_outside(deployed, tmp_path):
    root, before = deployed.root("site-1"), deployed.containers()["site-1"]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("as it was")
    engine, name = deployed.engine, deployed.name("site-1")
    engine("exec", name, "python3", "-c", HOSTILE, str(root / "workspace"), str(outside))
    machine, release = LocalHost(deployed.folder / "sites"), deployed.release("site-1")
    bootstrap.stop(machine, release)
    bootstrap.start(machine, release)
    deployed.apply()
    assert deployed.states() == WELL
    assert deployed.containers()["site-1"] != before
    engine("exec", name, "python3", "-c", "import os; assert 'left' not in os.listdir('/tmp'); open('/tmp/mine', 'w')")
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("kept", "as it was")]
    assert (root / "container/tmp/mine").exists()


def kill_supervisor(root):
    """Kills what keeps a site alive, and the client of the container engine, as systemd does in the end."""
    pid = (root / "supervisor/daemon_pid.fl").read_text().strip()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (pid, *children):
        os.kill(int(one), signal.SIGKILL)


@pytest.mark.nightly
def test_a_moved_tag_changes_a_site_by_upgrade_alone_and_a_rollback_brings_the_image_back(
    deployed, engine, image, tmp_path
):
    before, first = deployed.containers(), deployed.image("site-1")
    engine("tag", image, "localhost/kept:1")
    another(engine, image, tmp_path / "another")
    try:
        deployed.apply()
        assert deployed.containers() == before
        done = upgrades.upgrade(deployed.deployment(), sites=frozenset({"site-1"}))
        assert done["site-1"].is_changed
        second = deployed.image("site-1")
        assert second != first
        assert deployed.states() == WELL
        upgrades.rollback(deployed.deployment(), "site-1")
        assert deployed.image("site-1") == first
        assert deployed.states() == WELL
    finally:
        engine("tag", "localhost/kept:1", image)
        engine("rmi", "localhost/kept:1")


@pytest.mark.nightly
def test_a_job_is_trained_in_containers_on_the_sites_own_data(host, image, tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    folder = tmp_path / "examples/hybrid"
    project = yaml.safe_load((folder / "project.yml").read_text())
    project["participants"][0]["fed_learn_port"] = free_port()
    project["participants"][0].pop("admin_port", None)
    (folder / "project.yml").write_text(yaml.safe_dump(project))
    one = {"provider": "local", "directory": str(folder / "sites"), "container": image}
    sites = {name: {**one, "data": f"data/{name}"} for name in ("site-1", "site-2")}
    file = folder / "local.yml"
    file.write_text(yaml.safe_dump({"version": 1, "project": "project.yml", "sites": {"server1": one, **sites}}))
    deployment = Deployment(file)
    try:
        deployment.apply(Secret("x"))
        assert len({name for name in host.containers() if name.startswith("clouddeploy")}) >= 3
        info = run_job(deployment, EXAMPLES / "jobs/breast-cancer")
        assert info.status is JobStatus.COMPLETED
        assert info.metrics["test_accuracy"] > 0.93
    finally:
        Deployment(file).destroy()


@pytest.mark.nightly
def test_a_site_makes_its_key_in_a_container(host, image, tmp_path, write_trial):
    write_trial(tmp_path)
    project = yaml.safe_load((tmp_path / "project.yml").read_text())
    project["participants"][0]["fed_learn_port"] = free_port()
    (tmp_path / "project.yml").write_text(yaml.safe_dump(project))
    made = Federation(tmp_path, host)
    made.write(image)
    made.file.write_text(f"{made.file.read_text()}keys: on-site\n")
    try:
        made.apply()
        assert made.states() == WELL
        for site in SITES:
            (key,) = made.root(site).glob("enrolment/**/*.key")
            assert key.stat().st_mode & 0o777 == 0o600
    finally:
        made.deployment().destroy()


@pytest.mark.nightly
def test_another_image_in_the_deploy_file_is_another_release_of_the_same_machine(deployed, engine, image, tmp_path):
    engine("tag", image, "localhost/other:1")
    before = deployed.containers()
    deployed.write("localhost/other:1")
    assert deployed.deployment().plan().pending == ()
    deployed.apply()
    assert deployed.states() == WELL
    assert not before.items() & deployed.containers().items()
    deployed.write(image)
    deployed.apply()
    engine("rmi", "localhost/other:1")


def another(engine, image, folder):
    """Moves an image's name to a new one with a file more."""
    folder.mkdir()
    (folder / "another").write_text("one file more")
    (folder / "Containerfile").write_text(f"FROM {image}\nCOPY another /another\n")
    engine("build", "--quiet", "--network", "none", "--tag", image, str(folder))


@pytest.fixture
def prepare(host, tmp_path):
    """Returns a function that makes the environment of a site in an image, on this machine."""
    machine = LocalHost(tmp_path)

    def prepare(image):
        return bootstrap.prepare(
            machine, project="trial", site="site-9", data=None, wheelhouse_for=lambda _: image, timeout_s=60
        )

    before = host.images()
    yield prepare
    bootstrap.uninstall(machine, bootstrap.unfinished(machine, "trial", "site-9"))
    assert host.images() == before


@pytest.mark.nightly
def test_an_image_without_the_runtime_is_refused(prepare, base):
    with pytest.raises(RemoteCommandFailed) as refused:
        prepare(Image(base, "clouddeploy_runtime"))
    assert refused.value.what.startswith(f"{base} cannot run a site on this machine")
    assert "cannot import clouddeploy_runtime" in refused.value.why


@pytest.mark.nightly
def test_an_image_that_is_neither_here_nor_to_be_pulled_is_refused(prepare):
    with pytest.raises(RemoteCommandFailed) as refused:
        prepare(Image("localhost:9/no/such:1", "clouddeploy_runtime"))
    assert "the image localhost:9/no/such:1 is not here and cannot be pulled" in refused.value.why


@pytest.mark.nightly
def test_what_the_kit_asks_for_and_the_image_lacks_is_named(prepare, image, caplog):
    with pytest.raises(RemoteCommandFailed) as refused:
        prepare(Image(image, "clouddeploy_runtime", packages=("numpy", "no-such-thing")))
    assert "it lacks what the startup kit asks for: no-such-thing" in refused.value.why
    prepare(Image(image, "clouddeploy_runtime", version="0.0.1", packages=("numpy",)))
    assert "and this is 0.0.1" in caplog.text
