"""A whole federation of processes on this machine, through the same engine as any cloud."""

import json
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from clouddeploy_runtime import kit
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.jobs import JobStatus
from safetensors.numpy import load_file

from clouddeploy.deployment import Deployment
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


def federated_average_without_a_network(*, rounds):
    """The example's rounds as plain loops over the sites' own data."""
    model = runpy.run_path(str(EXAMPLES / "jobs" / "breast-cancer" / "app" / "custom" / "model.py"))
    data = [model["load"](EXAMPLES / "hybrid" / "data" / site / "train.csv") for site in ("site-1", "site-2")]
    params = model["initial"]()
    total = sum(len(labels) for _, labels in data)
    for _ in range(rounds):
        fitted = [model["fit"](params, *one) for one in data]
        shares = [len(labels) / total for _, labels in data]
        params = {name: sum(share * one[name] for share, one in zip(shares, fitted, strict=True)) for name in params}
    return params


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


def at(file, *words):
    """Runs the command line on the deployment; returns exit status and what it printed."""
    command = [sys.executable, "-m", "clouddeploy.cli", words[0], "--file", str(file), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout or done.stderr


def test_apply_job_a_site_less_and_gone(file, tmp_path):
    deployment = Deployment(file)
    deployment.apply(Secret("correct horse"))
    assert {status.name: status.state for status in deployment.status()} == {
        "server1": "serving",
        "site-1": "registered",
        "site-2": "registered",
    }
    assert runtimes(file) == set(SITES)
    assert Deployment(file).plan().pending == ()
    status, said = at(file, "exec", "site-1", "--", "sh", "-c", "pwd; exit 7")
    assert (status, Path(said.strip()).parent) == (7, file.parent / "sites")
    assert "registered" in at(file, "logs", "site-1")[1]
    status, said = at(file, "exec", "site-1", "--output", "json", "--", "echo", "hello")
    assert (status, json.loads(said)["data"]["stdout"]) == (0, "hello\n")
    assert at(file, "exec", "site-9", "--", "true")[0] == ExitCode.BAD_INPUT
    assert "0.00 USD so far" in at(file, "cost")[1]
    info = run_job(deployment, EXAMPLES / "jobs" / "breast-cancer")
    assert info.status is JobStatus.COMPLETED
    assert info.metrics["test_accuracy"] > 0.93
    with AdminSession(kit.load(deployment.kit("admin@example.com"))) as session:
        (model,) = (session.download(info.job_id, tmp_path / "out") / "workspace").glob("*.safetensors")
    expected = federated_average_without_a_network(rounds=info.rounds)
    trained = load_file(model)
    assert set(trained) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(trained[name], array, rtol=0, atol=1e-6)

    write(file, ("server1", "site-1"))
    Deployment(file).apply(Secret("correct horse"))
    assert runtimes(file) == {"server1", "site-1"}

    assert Deployment(file).destroy().left == ()
    assert runtimes(file) == set()
    assert list((file.parent / "sites").iterdir()) == []
