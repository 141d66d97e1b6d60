"""The example's own files, from nothing to nothing, as a user would run them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clouddeploy_providers.cloud_init import generate_host_key
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.rehearse import collect_wheels
from clouddeploy.wheelhouse import default_cache

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CLI = [sys.executable, "-m", "clouddeploy.cli"]

pytestmark = [pytest.mark.xdist_group("world"), pytest.mark.timeout(300)]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="hosts in network namespaces need root")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The clouds in a process of their own, so that apply can be killed and they live on."""
    collect_wheels(default_cache())  # while there is a network; the served world has none
    directory = tmp_path_factory.mktemp("served")
    log = (directory / "log").open("w")
    command = [
        sys.executable,
        "-m",
        "clouddeploy_rehearsal",
        "serve",
        "--directory",
        str(directory),
        "--host",
        "192.0.2.20=site-2",
    ]
    process = subprocess.Popen(["unshare", "--net", *command], stdout=log, stderr=log)
    endpoints = directory / "endpoints.json"
    deadline = time.monotonic() + 60
    while not endpoints.exists():
        assert process.poll() is None, (directory / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process.pid, endpoints
    process.terminate()
    process.wait(timeout=30)
    log.close()


@pytest.fixture
def run(served, tmp_path):
    pid, endpoints = served
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    file = tmp_path / "examples" / "hybrid" / "deploy.yml"
    environment = {**os.environ, "CLOUDDEPLOY_CA_PASSPHRASE": "correct horse", "HOME": str(Path.home())}

    def run(command, *words, wait=True):
        cloud = () if command == "audit" else ("--endpoints", str(endpoints))
        argv = ["nsenter", f"--net=/proc/{pid}/ns/net", *CLI, command]
        argv += [*(words if command == "audit" else ()), str(file), *cloud, *(() if command == "audit" else words)]
        if not wait:
            return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.run(
            argv, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )

    def clouds(*verbs):
        deployment = json.loads((run.state / "state.json").read_text())["deployment"]
        seen = Path(__file__).with_name("clouds_seen.py")
        argv = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, str(seen), str(endpoints), deployment, *verbs]
        return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    run.clouds = clouds
    run.state = file.parent / ".clouddeploy" / "deploy"
    run.file = file
    yield run
    run("destroy", "--yes")


def envelope(done):
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@needs_root
@pytest.mark.nightly
def test_apply_killed_once_the_servers_machine_exists_then_applied_again_makes_no_second_one(run):
    process = run("apply", "--yes", wait=False)
    journal = run.state / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (
        journal.exists() and '"event": "done", "operation": "create", "node": "server1/machine"' in journal.read_text()
    ):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = json.loads((run.state / "state.json").read_text())

    done = run("apply", "--yes", "--output", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    after = json.loads((run.state / "state.json").read_text())
    machine = "server1/machine"
    assert after["deployment"] == before["deployment"]
    assert after["resources"][machine]["ref"]["id"] == before["resources"][machine]["ref"]["id"]

    again = run("apply", "--yes", "--output", "json")
    assert again.returncode == 0, again.stdout + again.stderr
    assert envelope(run("plan", "--output", "json"))["data"]["pending"] == 0
    states = {site["name"]: site["state"] for site in envelope(run("status", "--output", "json"))["data"]["sites"]}
    assert states == {"server1": "serving", "site-1": "registered", "site-2": "registered"}

    gone = envelope(run("destroy", "--yes", "--output", "json"))
    assert gone["data"]["left"] == []
    assert run("destroy", "--yes").returncode == 0


@needs_root
def test_what_is_made_is_closed_to_strangers_and_what_strangers_do_is_mended(run):
    """Asked of the clouds themselves: rules, metadata service, disks, passwords, tags; a key stays on its machine."""
    text = run.file.read_text().replace("sites:\n", "federation_sources: sites\nttl: 8h\nsites:\n", 1)
    run.file.write_text(text.replace("    address: 192.0.2.20", "    keys: on-site\n    address: 192.0.2.20"))
    done = run("apply", "--yes", "--output", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads((run.state / "state.json").read_text())
    seen = run.clouds()
    caller = seen["aws"]["rules"][0][1]
    assert caller.endswith("/32")
    assert seen["aws"]["rules"] == [[22, caller]]
    client = state["resources"]["site-1/machine"]["ref"]["outputs"]["address"]
    sources = {caller, f"{client}/32", "192.0.2.20/32"}
    assert seen["azure"]["rules"] == sorted([[22, caller], *([8002, source] for source in sources)])
    assert (seen["aws"]["metadata"], seen["aws"]["encrypted"], seen["aws"]["identities"]) == (["required"], [True], [])
    assert "passwd" not in "".join(seen["aws"]["user_data"]).replace("lock_passwd", "")
    assert seen["azure"]["address_skus"] == ["Standard"]
    assert (seen["azure"]["untagged"], seen["azure"]["passwords"], seen["azure"]["identities"]) == ([], [], [])
    assert state["expires_at"]
    keys = [path for path in run.file.parent.rglob("client.key") if "site-2" in path.parts]
    assert keys == []

    run.clouds("meddle")
    drift = {
        site["name"]: site["drift"]
        for site in envelope(run("status", "--refresh", "--output", "json"))["data"]["sites"]
    }
    assert (len(drift["site-1"]), drift["server1"], drift["site-2"]) == (2, [], [])
    plan = run("plan", "--detailed-exitcode", "--output", "json")
    assert plan.returncode == ExitCode.CHANGES_PENDING, plan.stderr
    changes = {one["node"]: one["action"] for one in envelope(plan)["data"]["changes"] if one["action"] != "keep"}
    assert changes == {"site-1/firewall": "update", "site-1/machine": "update"}
    assert envelope(plan)["data"]["usd_per_hour"] > 0
    done = run("apply", "--yes", "--site", "site-1", "--output", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert run.clouds()["aws"]["rules"] == [[22, caller]]

    kept = envelope(run("destroy", "--yes", "--keep-address", "--output", "json"))["data"]
    assert (len(kept["kept"]), kept["left"], len(kept["released"])) == (2, [], 1)
    assert envelope(run("destroy", "--yes", "--output", "json"))["data"]["left"] == []
    assert run("audit", "verify").returncode == 0


@pytest.mark.nightly
@needs_root
def test_machines_of_another_size_replace_the_old_ones_under_keys_of_their_own(run):
    """Azure gives the new machine the id of the old one; its host key is another all the same."""
    assert run("apply", "--yes").returncode == 0
    before = json.loads((run.state / "state.json").read_text())["resources"]
    text = run.file.read_text().replace("Standard_B2ms", "Standard_B4ms").replace("t3.small", "t3.medium")
    run.file.write_text(text)
    done = run("apply", "--yes", "--output", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    after = json.loads((run.state / "state.json").read_text())["resources"]
    assert after["site-1/machine"]["ref"]["id"] != before["site-1/machine"]["ref"]["id"]
    assert after["server1/machine"]["ref"]["outputs"]["size"] == "Standard_B4ms"
    assert after["server1/address"] == before["server1/address"]


@needs_root
def test_wrong_credentials_are_refused_before_anything_is_created(run, served, tmp_path):
    _, endpoints = served
    wrong = tmp_path / "endpoints.json"
    wrong.write_text(
        endpoints.read_text().replace(json.loads(endpoints.read_text())["azure"]["client_secret"], "wrong")
    )
    wrong.chmod(0o600)
    done = run("apply", "--yes", "--output", "json", "--endpoints", str(wrong))
    assert done.returncode == ExitCode.CONNECTION, done.stdout + done.stderr
    assert envelope(done)["hint"]
    assert not (run.state / "state.json").exists()


@pytest.mark.nightly  # that wrong credentials do is the sample
@needs_root
def test_an_unreachable_on_premises_host_stops_before_anything_is_created(run):
    key = run.file.parent / "identity"
    key.touch(mode=0o600)
    key.write_text(generate_host_key().private)
    text = run.file.read_text().replace("192.0.2.20", "192.0.2.99").replace("~/.ssh/id_ed25519", str(key))
    run.file.write_text(text)
    done = run("apply", "--yes", "--output", "json")
    assert done.returncode == ExitCode.CONNECTION, done.stdout + done.stderr
    assert "192.0.2.99" in envelope(done)["message"]
    assert not (run.state / "state.json").exists()


@pytest.mark.parametrize(
    "words",
    [pytest.param([], marks=[needs_root, pytest.mark.nightly]), ["--unprivileged"]],
    ids=["root", "unprivileged"],
)
def test_rehearse_prints_one_envelope_and_leaves_nothing(words):
    done = subprocess.run(
        [*CLI, "rehearse", str(EXAMPLES / "hybrid" / "deploy.yml"), "--output", "json", *words],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = envelope(done)["data"]
    assert [(site["name"], site["role"], site["provider"]) for site in data["sites"]] == [
        ("server1", "server", "azure"),
        ("site-1", "client", "aws"),
        ("site-2", "client", "onprem"),
    ]
    assert data["job"]["status"] == "FINISHED:COMPLETED"
    assert data["job"]["rounds"] == 5
    assert data["resources"]["created"] > 0
    assert data["resources"]["left"] == []


@pytest.mark.nightly
def test_a_rehearsal_whose_job_fails_is_a_failed_rehearsal(tmp_path):
    job = tmp_path / "job"
    shutil.copytree(EXAMPLES / "jobs" / "breast-cancer", job)
    (job / "app" / "custom" / "train.py").write_text("raise RuntimeError('no data today')\n")
    done = subprocess.run(
        [*CLI, "rehearse", str(EXAMPLES / "hybrid" / "deploy.yml"), "--job", str(job), "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == ExitCode.FAILED, done.stdout + done.stderr
    assert "no data today" in envelope(done)["message"]
