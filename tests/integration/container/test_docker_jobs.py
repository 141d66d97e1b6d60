"""Jobs in containers of a real engine: podman, by the API that docker has too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time

import pytest
import safetensors.numpy
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.jobs.spec import Need
from clouddeploy_runtime.launchers import JobLaunch
from clouddeploy_runtime.launchers.outpost import OutpostLauncher

from tests.integration import test_job_process_relay as relay

pytest.importorskip("docker")
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("containers")]
TRAIN = """
import json, os, socket
from clouddeploy_runtime.job import client_api as flare

def can(path):
    try:
        return os.listdir(path) is not None
    except OSError:
        return False

status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
seen = {
    "user": os.getuid(),
    "host": socket.gethostname(),
    "given": os.environ.get("GIVEN"),
    "image": os.environ.get("OF_THE_IMAGE"),
    "engine": any(os.path.exists(one) for one in ("/var/run/docker.sock", "/run/podman/podman.sock")),
    "tree": can("/work") or can("/root"),
    "line": can("/clouddeploy/line"),
    "capabilities": int(status["CapEff"].strip(), 16),
    "privileges": status["NoNewPrivs"].strip(),
}
for name in ("/usr/mine", "/clouddeploy/app/mine"):
    try:
        open(name, "w")
        seen[name] = "written"
    except OSError:
        seen[name] = "refused"
with open("seen.json", "w") as file:
    json.dump(seen, file)
flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    flare.send(flare.FLModel(params={"w": model.params["w"] + 1}, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""


BUSY = "import time\nprint('busy', flush=True)\ntime.sleep(600)\n"
GREEDY = "print('busy', flush=True)\nheld = [bytearray(b'x' * 10_000_000) for _ in range(200)]\n"


@pytest.fixture(scope="module")
def host(engine, tmp_path_factory):
    """The engine of the tests, listening; everything that this process starts finds it."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine.environment.items():
            patch.setenv(name, value)
        patch.setenv("DOCKER_HOST", f"unix://{folder}/podman.sock")
        with listening(engine, folder):
            yield engine


@contextlib.contextmanager
def listening(engine, folder):
    """Has an engine listen at a socket in a folder."""
    socket = folder / "podman.sock"
    with (folder / "service.log").open("wb") as log:
        words = ["podman", "system", "service", "--time=0", f"unix://{socket}"]
        service = subprocess.Popen(words, env={**os.environ, **engine.environment}, stdout=log, stderr=log)
    try:
        until(socket.exists, timeout_s=20)
        yield socket
    finally:
        service.terminate()
        service.wait(20)


@pytest.fixture(scope="module")
def launchers(host, launching, tmp_path_factory):
    """The launchers of three sites, by name."""
    arguments = {
        "image": launching,
        "default_python_path": "/usr/local/bin/python3",
        "default_job_env": {"GIVEN": "yes"},
    }
    local = tmp_path_factory.mktemp("local")
    return {
        site: OutpostLauncher.of("docker", arguments, local, project="trial", participant=site)
        for site in ("server", "site-1", "site-2")
    }


def test_a_job_runs_in_containers_and_nothing_is_left(host, launchers, tmp_path):
    app = relay.app(tmp_path / "app", TRAIN, rounds=2)
    token = relay.LAUNCH.set(lambda job, pool: launchers[job.site].launch(job, pool))
    try:
        done, _, _, codes = asyncio.run(relay.federate(app, tmp_path))
    finally:
        relay.LAUNCH.reset(token)
    log = (tmp_path / "1" / "log.txt").read_text()
    assert (done.reason, codes) == ("", [0, 0, 0]), log
    model = safetensors.numpy.load_file(next((tmp_path / "server").rglob("*.safetensors")))
    assert model["w"].tolist() == [2.0, 2.0, 2.0]
    seen = json.loads((tmp_path / "1" / "seen.json").read_text())
    assert seen.pop("host") != socket.gethostname()
    assert seen == {
        "user": os.getuid(),
        "given": "yes",
        "image": None,
        "engine": False,
        "tree": False,
        "line": False,
        "capabilities": 0,
        "privileges": "1",
        "/usr/mine": "refused",
        "/clouddeploy/app/mine": "refused",
    }
    assert "The job runs in the container site-1-job of the image localhost/launching" in log
    assert host.containers() == set()


async def interrupted(launcher, folder, act, *, script=BUSY, need=None):
    """Start a trainer in a container, do something to it; returns its status, how it ended and its log."""
    pool = BufferPool(64 << 20)
    job = JobLaunch(
        job_id="job",
        role="trainer",
        site="site-1",
        app_dir=relay.app(folder / "app", script),
        run_dir=folder / "run",
        sites=("site-1",),
        data_dir=None,
        need=need,
    )
    process = await launcher.launch(job, pool)
    log = folder / "run" / "log.txt"
    deadline = time.monotonic() + 60
    while "busy" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        await asyncio.sleep(0.05)
    act(process)
    while await process.receive() is not None:
        pass
    code = await process.wait()
    pool.close()
    return code, process.ending(), log.read_text()


@pytest.mark.fault("a job in a container takes more memory than it said", "named in the job's log")
def test_a_job_that_takes_more_memory_than_it_said_is_ended_and_that_is_named(host, launchers, tmp_path):
    need = Need(memory_gib=0.25)
    launcher = launchers["site-1"]
    code, _, log = asyncio.run(interrupted(launcher, tmp_path, lambda _: None, script=GREEDY, need=need))
    assert code in {-signal.SIGKILL, 104}  # whom the kernel takes is its own choice
    assert "out of memory" in log, log


@pytest.mark.fault("the container of a job killed", "named in the job's log")
def test_a_container_that_was_killed_is_named(host, launchers, tmp_path):
    launcher = launchers["site-1"]
    code, _, log = asyncio.run(interrupted(launcher, tmp_path, lambda _: host("kill", "site-1-job")))
    assert code == 104
    assert "The process of the job is lost" in log
    assert "its container site-1-job ended with 137" in log
    assert host.containers() == set()


def busy(image):
    return ("--entrypoint", "python3", image, "-c", "import time; time.sleep(600)")


@pytest.mark.fault("a parent and its job's process killed", "the next start removes the container")
@pytest.mark.nightly
def test_what_a_killed_parent_has_left_is_removed_at_its_next_start(host, launchers, launching, tmp_path):
    def kill(process):
        host("pause", "site-1-job")  # it cannot end by itself, as when the engine is slow
        os.kill(process.pid, signal.SIGKILL)

    host("run", "--detach", "--name", "another", "--label", "clouddeploy.participant=site-1", *busy(launching))
    code, _, _ = asyncio.run(interrupted(launchers["site-1"], tmp_path, kill))
    assert code == -signal.SIGKILL
    assert host.containers() == {"site-1-job", "another"}
    launchers["site-2"].sweep("site-2")
    assert host.containers() == {"site-1-job", "another"}
    launchers["site-1"].sweep("site-1")
    assert host.containers() == {"another"}
    host("rm", "--force", "--time", "0", "another")


def test_a_job_that_is_asked_to_end_ends_and_so_does_its_container(host, launchers, tmp_path):
    code, _, _ = asyncio.run(interrupted(launchers["site-1"], tmp_path, lambda process: process.terminate()))
    assert code == -signal.SIGTERM
    assert host.containers() == set()
