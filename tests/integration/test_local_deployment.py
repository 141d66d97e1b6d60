"""A whole federation of processes on this machine, through the same engine as any cloud."""

import shutil
import socket
from pathlib import Path

import pytest
import yaml
from clouddeploy_runtime.jobs import JobStatus

from clouddeploy.deployment import Deployment, pending
from clouddeploy.rehearse import run_job
from clouddeploy.secrets import Secret

EXAMPLES = Path(__file__).parents[2] / "examples"
SITES = ("server1", "site-1", "site-2")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def file(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    folder = tmp_path / "examples" / "hybrid"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project = yaml.safe_load((folder / "project.yml").read_text())
    project["participants"][0]["fed_learn_port"] = port
    project["participants"][0].pop("admin_port", None)
    (folder / "project.yml").write_text(yaml.safe_dump(project))
    path = folder / "local.yml"
    write(path, SITES)
    yield path
    write(path, SITES)
    Deployment(path).destroy()


def write(path, names):
    sites = {name: {"provider": "local", "directory": str(path.parent / "sites")} for name in names}
    for name in set(names) - {"server1"}:
        sites[name]["data"] = f"data/{name}"
    path.write_text(yaml.safe_dump({"version": 1, "project": "project.yml", "sites": sites}))


def runtimes(path):
    """Returns the participants whose runtime is a running process below the deployment's folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "clouddeploy_runtime" in words and str(path.parent) in " ".join(words):
            found |= {name for name in SITES if any(f"-{name}-" in word for word in words)}
    return found


def test_apply_job_a_site_less_and_gone(file):
    deployment = Deployment(file)
    deployment.apply(Secret("correct horse"))
    assert {status.name: status.state for status in deployment.status()} == {
        "server1": "serving",
        "site-1": "registered",
        "site-2": "registered",
    }
    assert runtimes(file) == set(SITES)
    assert pending(Deployment(file).plan()) == []
    info = run_job(deployment, EXAMPLES / "jobs" / "breast-cancer")
    assert info.status is JobStatus.COMPLETED
    assert info.metrics["test_accuracy"] > 0.93

    write(file, ("server1", "site-1"))
    Deployment(file).apply(Secret("correct horse"))
    assert runtimes(file) == {"server1", "site-1"}

    assert Deployment(file).destroy().left == ()
    assert runtimes(file) == set()
    assert list((file.parent / "sites").iterdir()) == []
