"""Running sites brought to another release, and back, on this machine through the engine of any cloud."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import clouddeploy_runtime
import pytest
import yaml
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import upgrade as upgrades
from clouddeploy import wheelhouse
from clouddeploy.audit import verify
from clouddeploy.deployment import Deployment
from clouddeploy.errors import ConfigError, PartialFailure, UpgradeFailed
from clouddeploy.installation import Installation
from clouddeploy.secrets import Secret

SITES = ("server1", "site-1", "site-2")
CLIENTS = ("site-1", "site-2")
PROJECT = {
    "api_version": 3,
    "name": "study",
    "builders": [
        {"path": f"nvflare.lighter.impl.{name}"}
        for name in (
            "workspace.WorkspaceBuilder",
            "static_file.StaticFileBuilder",
            "cert.CertBuilder",
            "signature.SignatureBuilder",
        )
    ],
    "participants": [
        {"name": "server1", "type": "server", "org": "hub"},
        {"name": "site-1", "type": "client", "org": "org_a"},
        {"name": "site-2", "type": "client", "org": "org_b"},
        {"name": "admin@example.com", "type": "admin", "org": "hub", "role": "project_admin"},
    ],
}
KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_upgrade
from clouddeploy import upgrade
upgrade.upgrade(test_upgrade.at(Path(sys.argv[2]), Path(sys.argv[3])), sites=frozenset({"site-1"}))
"""

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("upgrade")]


def at(file, source):
    """The deployment of a file whose sites run the runtime of a folder."""

    class Other(Installation):
        def wheels(self, extra=()):
            return partial(wheelhouse.collect, cache=self.cache, extra=extra, source=source)

    return Deployment(file, installation=Other)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Returns, by name, checkouts of the runtime: a newer one, and one that ends at its start."""
    found = {"now": Path(clouddeploy_runtime.__file__).parent}
    for name, words in (
        ("newer", '"""A newer release."""\n'),
        ("broken", 'raise SystemExit("this release is broken")\n'),
    ):
        project = tmp_path_factory.mktemp(name) / "runtime"
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "dist")
        shutil.copytree(found["now"].parent, project, ignore=ignored)
        found[name] = project / "clouddeploy_runtime"
        if name == "newer":
            (found[name] / "newer.py").write_text(words)
        else:  # `verify` still works, so the site is started
            for parent in ("client/agent.py", "server/parent.py"):
                path = found[name] / parent
                path.write_text(path.read_text().replace("from __future__ import annotations\n", words, 1))
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory, sources):
    folder = tmp_path_factory.mktemp("deployed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        PROJECT["participants"][0]["fed_learn_port"] = probe.getsockname()[1]
    (folder / "project.yml").write_text(yaml.safe_dump(PROJECT))
    path = folder / "deploy.yml"
    sites = {name: {"provider": "local", "directory": str(folder / "sites")} for name in SITES}
    path.write_text(yaml.safe_dump({"version": 1, "project": "project.yml", "sites": sites}))
    at(path, sources["now"]).apply(Secret("x"))
    yield path
    Deployment(path).destroy()


@pytest.fixture
def deployed(file, sources):
    """The sites as they were deployed, whatever the test before did to them."""
    upgrades.upgrade(at(file, sources["now"]))
    return file


def root(file, site):
    return Path(json.loads((file.parent / ".clouddeploy/deploy/state.json").read_text())["sites"][site]["root"])


def pids(file):
    return {site: json.loads((root(file, site) / "workspace/status.json").read_text())["pid"] for site in SITES}


def states(file):
    return {one.name: one.state for one in Deployment(file).status()}


WELL = {"server1": "serving", "site-1": "registered", "site-2": "registered"}


@pytest.mark.nightly
def test_upgraded_twice_every_site_runs_the_new_release_and_nothing_is_restarted(deployed, sources):
    before = pids(deployed)
    events = []
    done = upgrades.upgrade(at(deployed, sources["newer"]), on_event=events.append)
    assert {site: one.is_changed for site, one in done.items()} == dict.fromkeys(SITES, True)
    assert [e.site for e in events if e.phase == "done"] == ["site-1", "site-2", "server1"]
    assert states(deployed) == WELL
    after = pids(deployed)
    assert not before.items() & after.items()
    for site in SITES:
        assert list(root(deployed, site).glob("venv/lib/*/site-packages/clouddeploy_runtime/newer.py"))
        assert len(list(root(deployed, site).glob("venv-*"))) == 2

    again = upgrades.upgrade(at(deployed, sources["newer"]))
    assert {site: one.is_changed for site, one in again.items()} == dict.fromkeys(SITES, False)
    assert pids(deployed) == after
    assert verify(deployed.parent / ".clouddeploy/deploy/audit.jsonl").entries > 0


def test_a_broken_release_rolls_back_by_itself_and_no_other_site_is_touched(deployed, sources):
    before, current = pids(deployed), (root(deployed, "site-1") / "current").readlink()
    with pytest.raises(PartialFailure) as failed:
        upgrades.upgrade(at(deployed, sources["broken"]))
    assert failed.value.what == "the new release of site-1 failed and was rolled back"
    assert "this release is broken" in failed.value.why
    assert "server1, site-2 were not touched" in failed.value.hint
    assert states(deployed) == WELL
    after = pids(deployed)
    assert {site for site in SITES if before[site] != after[site]} == {"site-1"}
    assert (root(deployed, "site-1") / "current").readlink() == current
    assert Deployment(deployed).plan().pending == ()
    with pytest.raises(UpgradeFailed):
        upgrades.upgrade(at(deployed, sources["broken"]), sites=frozenset({"site-1"}))
    assert states(deployed) == WELL


@pytest.mark.nightly
def test_a_broken_server_release_is_rolled_back_after_clients_were_not(deployed, sources):
    with pytest.raises(UpgradeFailed, match="server1 failed and was rolled back"):
        upgrades.upgrade(at(deployed, sources["broken"]), sites=frozenset({"server1"}), canary="server1")
    assert Path(root(deployed, "server1") / "current").exists()
    until(lambda: states(deployed) == WELL)


@pytest.mark.nightly
@pytest.mark.parametrize("release", ["newer", "broken"])
def test_killed_before_the_health_check_the_next_run_finishes_or_rolls_back(deployed, sources, release):
    words = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(deployed), str(sources[release])]
    there = root(deployed, "site-1")
    current = (there / "current").readlink()
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until(lambda: (there / "current").readlink() != current or run.poll() is not None)
        os.kill(run.pid, signal.SIGKILL)
    finally:
        run.communicate()
    assert (there / "current").readlink() != current
    deployment = at(deployed, sources[release])
    if release == "newer":
        upgrades.upgrade(deployment, sites=frozenset({"site-1"}))
        assert (there / "good").readlink() == (there / "current").readlink() != current
    else:
        with pytest.raises(UpgradeFailed, match="rolled back"):
            upgrades.upgrade(deployment, sites=frozenset({"site-1"}))
        assert (there / "current").readlink() == current
    until(lambda: states(deployed) == WELL)


@pytest.mark.nightly
def test_rolled_back_by_hand_kit_and_environment_are_those_before(deployed, sources):
    there = root(deployed, "site-1")
    first = (there / "current").readlink()
    upgrades.upgrade(at(deployed, sources["newer"]), sites=frozenset({"site-1"}))
    second = (there / "current").readlink()
    for expected in (first, second):
        words = ["rollback", str(deployed), "--site", "site-1", "--output", "json"]
        done = subprocess.run(
            [sys.executable, "-m", "clouddeploy.cli", *words], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (there / "current").readlink() == expected
        assert json.loads(done.stdout)["data"]["site"] == "site-1"
    until(lambda: states(deployed) == WELL)


def test_what_cannot_be_upgraded_is_refused(deployed, sources):
    with pytest.raises(ConfigError, match="site-9 is not deployed"):
        upgrades.upgrade(at(deployed, sources["now"]), sites=frozenset({"site-9"}))
    with pytest.raises(ConfigError, match="site-2 cannot go first"):
        upgrades.upgrade(at(deployed, sources["now"]), sites=frozenset({"site-1"}), canary="site-2")
    done = subprocess.run(
        [sys.executable, "-m", "clouddeploy.cli", "upgrade", str(deployed), "--site", "site-9"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.BAD_INPUT


def test_where_there_is_nothing_to_do_the_command_says_so(deployed):
    before = pids(deployed)
    words = [sys.executable, "-m", "clouddeploy.cli", "upgrade", str(deployed)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, "Nothing to do" in done.stdout) == (0, True), done.stderr
    assert pids(deployed) == before


def until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
