"""The scripts of a kit: what is refused before anything starts, and how the supervisor behaves.

The supervisor's child is a stand-in interpreter, so that its endings can be chosen.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clouddeploy_provision
import pytest
from clouddeploy_provision import project
from clouddeploy_provision.builders.catalogue import Custom
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime.lifecycle import RESTART_STATUS

KIT_FILES = Path(clouddeploy_provision.__file__).parent / "kit_files"
DATA = Path(__file__).parent / "data" / "reference"
DEADLINE_S = 20


@pytest.fixture
def site(dummy, tmp_path) -> Path:
    return provision(dummy, tmp_path, passphrase=b"x").kits["site-1"]


def stand_in(path: Path, child: str) -> str:
    """Write an interpreter whose `verify` is content and whose client runs `child`."""
    path.write_text(f'#!/bin/sh\nif [ "$4" = verify ]; then exit 0; fi\necho "$@" >>"{path}.calls"\n{child}\n')
    path.chmod(0o755)
    return str(path)


def run(script: Path, *words: str, python: str = sys.executable, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *words],
        env={**os.environ, "CLOUDDEPLOY_PYTHON": python, **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


def scripts(folder: Path) -> list[Path]:
    """Return every script of a result."""
    return sorted(path for path in folder.rglob("*.sh") if path.is_file())


@pytest.fixture
def results(tmp_path) -> list[Path]:
    """Results whose kits have every script that there is, in every form."""
    found = [
        project.load(DATA / f"{name}.yml", custom=Custom(DATA)) for name in ("clouds", "docker", "relays", "hierarchy")
    ]
    options = Options(custom=Custom(DATA), start_script=True)
    return [provision(one, tmp_path, passphrase=b"x", options=options).result for one in found]


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_scripts_are_shellcheck_clean_before_and_after_they_are_filled(results):
    paths = [*sorted(KIT_FILES.glob("*.sh")), *(path for result in results for path in scripts(result))]
    by_content = {path.read_bytes(): path for path in paths}
    done = subprocess.run([SHELLCHECK, *map(str, by_content.values())], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_scripts_can_be_parsed_and_have_no_placeholder_left(results):
    by_content = {path.read_bytes(): path for result in results for path in scripts(result)}
    assert {path.name for path in by_content.values()} == {path.name for path in KIT_FILES.glob("*.sh")} - {
        "cloud_start.sh"
    } | {"aws_start.sh", "azure_start.sh"}
    for content, path in by_content.items():
        assert subprocess.run(["bash", "-n", str(path)], capture_output=True, check=False).stderr == b""
        assert re.search(rb"@[a-z]+@", content) is None, path


def test_every_site_of_every_project_can_deploy_itself(results, tmp_path):
    tool = cloud_tool(tmp_path)
    kits = {path.parents[1] for result in results for path in result.glob("*/startup/fed_[scr]*.json")}
    assert len(kits) == 3 + 3 + 6 + 5
    for kit in sorted(kits):
        done = run(kit / "startup/start.sh", "--cloud", "azure", PATH=tool)
        assert done.stdout == f"launch {kit} --cloud azure\n"


def test_the_scripts_of_the_cloud_builders_are_the_same_as_the_option(results, tmp_path):
    tool = cloud_tool(tmp_path)
    for cloud in ("aws", "azure"):
        kit = results[0] / "site-1"
        done = run(kit / f"startup/{cloud}_start.sh", "--config", "x.yml", PATH=tool)
        assert done.stdout == f"launch {kit} --cloud {cloud} --config x.yml\n"


def cloud_tool(folder: Path) -> str:
    """Write a stand-in of the operator's command that says what it was called with; return the PATH that finds it."""
    tool = folder / "bin" / "clouddeploy"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@"\n')
    tool.chmod(0o755)
    return f"{tool.parent}:{os.environ['PATH']}"


def test_docker_script_runs_the_image_with_the_kit_and_the_servers_port(results, tmp_path):
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/sh\necho "$@"\n')
    engine.chmod(0o755)
    server, site = results[1] / "mylocalhost", results[1] / "site-1"
    done = run(server / "startup/docker.sh", "-d", DOCKER=str(engine))
    assert done.stdout == (
        f"run --rm --init --name clouddeploy-mylocalhost --volume {server}:/kit --detach --publish 8002:8002"
        " registry.example.com/fl:1.0 /kit/startup/start.sh --once\n"
    )
    done = run(site / "startup/docker.sh", DOCKER=str(engine), MY_DATA_DIR="/data set")
    assert "--publish" not in done.stdout
    assert "--volume /data set:/data:ro --env CLOUDDEPLOY_DATA_DIR=/data" in done.stdout
    assert run(site / "startup/docker.sh", "--rm", DOCKER=str(engine)).returncode == 4


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("--once", "--help")])
def test_start_explains_itself(site, words):
    done = run(site / "startup/start.sh", *words)
    assert done.returncode == 0
    options = ["start.sh  ", "start.sh --foreground", "start.sh --once", "start.sh --cloud azure|aws [--config FILE]"]
    *lines, more = done.stdout.splitlines()
    assert [line.startswith(option) for line, option in zip(lines, options, strict=True)] == [True] * 4
    assert "--vpc-id ID, --subnet-id ID, --no-input" in more


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cloud", "gcp"), "--cloud must be azure or aws, not gcp"),
        (("--cloud",), "--cloud needs a value"),
        (("--cloud", ""), "--cloud needs a value"),
        (("--cloud", "aws", "--config"), "--config needs a value"),
        (("--config", "x.yml"), "--config is for --cloud"),
        (("--image", "ami-1"), "--image is for --cloud"),
        (("--no-input",), "--no-input is for --cloud"),
        (("--cloud", "aws", "--subnet-id"), "--subnet-id needs a value"),
        (("--unknown",), "unknown option --unknown"),
        (("site-1",), "unknown option site-1"),
    ],
)
def test_start_with_wrong_options(site, words, message):
    done = run(site / "startup/start.sh", *words)
    assert done.returncode == 4
    assert message in done.stderr
    assert not (site / "start.log").exists()


def test_start_in_a_cloud_without_the_operators_command_says_how_to_get_it(site, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname", "env"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    done = run(site / "startup/start.sh", "--cloud", "aws", PATH=str(tmp_path / "bin"))
    assert done.returncode == 4
    assert "pip install 'clouddeploy[aws]'" in done.stderr


def test_admin_console_is_opened_with_this_kit(dummy, tmp_path):
    kit = provision(dummy, tmp_path, passphrase=b"x").kits["lead@nvidia.com"]
    done = run(kit / "startup/fl_admin.sh", "--verbose", PATH=cloud_tool(tmp_path))
    assert done.stdout == f"console --startup-kit {kit} --verbose\n"


def test_start_refuses_one_flipped_byte(site):
    file = site / "startup/fed_client.json"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    done = run(site / "startup/start.sh")
    assert done.returncode == 4
    assert "startup/fed_client.json" in done.stdout + done.stderr
    assert not (site / "start.log").exists()


def test_a_flipped_byte_that_breaks_the_syntax_is_named_as_tampering(site):
    """What nobody signed is not parsed either."""
    file = site / "startup/fed_client.json"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    done = run(site / "startup/start.sh")
    assert done.returncode == 4
    assert "startup/fed_client.json" in done.stderr
    assert "JSON" not in done.stderr


def test_start_refuses_a_kit_without_manifest(site):
    (site / "startup/manifest.json").unlink()
    done = run(site / "startup/start.sh", "--foreground")
    assert done.returncode == 4
    assert "startup/manifest.json" in done.stdout + done.stderr


def test_start_in_a_cloud_calls_launch(site, tmp_path):
    done = run(site / "startup/start.sh", "--cloud", "aws", "--config", "my file.yml", PATH=cloud_tool(tmp_path))
    assert done.stdout == f"launch {site} --cloud aws --config my file.yml\n"


def test_start_in_a_cloud_passes_on_what_is_for_the_cloud(site, tmp_path):
    words = ["--image", "ami 1", "--cloud", "aws", "--no-input", "--vpc-id", "vpc-1", "--subnet-id", "subnet-1"]
    done = run(site / "startup/start.sh", *words, "--config", "x", PATH=cloud_tool(tmp_path))
    rest = "--config x --image ami 1 --no-input --vpc-id vpc-1 --subnet-id subnet-1"
    assert done.stdout == f"launch {site} --cloud aws {rest}\n"


# Holds what a real one holds, the lock of its workspace.
HELD = 'exec 8>>"$7/pid.fl"; flock 8; touch "$7/held"; exec sleep 60'


@contextlib.contextmanager
def supervised(site: Path, python: str, **env: str):
    """Run the supervisor in front, with what it says in `said`; end it, if it still runs."""
    with (site.parent / "said").open("wb") as said:
        shell = subprocess.Popen(
            [str(site / "startup/start.sh"), "--foreground"],
            env={**os.environ, "CLOUDDEPLOY_PYTHON": python, **env},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        yield shell
    finally:
        shell.terminate()
        shell.wait(timeout=DEADLINE_S)


def is_alive(pid: int) -> bool:
    """A zombie has ended; who has to take note of it is not the test's business."""
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def started(site: Path) -> int:
    """Return the number of the process that the supervisor has started."""
    wait_for(lambda: lines(site / "pid.fl"), "the client did not start")
    return int((site / "pid.fl").read_text())


def test_start_returns_and_stop_stops_and_waits_for_the_end(site, tmp_path):
    python = stand_in(tmp_path / "python", HELD)
    try:
        assert run(site / "startup/start.sh", python=python).returncode == 0
        child = started(site)
        wait_for(lambda: lines(tmp_path / "python.calls"), "the client did not start")
        assert lines(tmp_path / "python.calls") == [
            f"-P -m clouddeploy_runtime client {site} --workspace {site}",
        ]
        pid = int((site / "daemon_pid.fl").read_text())
        wait_for(lambda: "new pid" in (site / "start.log").read_text(), "nothing was said of it")
        assert f"start fl because of no pid.fl\nnew pid {child}\n" in (site / "start.log").read_text()
        again = run(site / "startup/sub_start.sh", python=python)
        assert again.returncode == 1
        assert f"There seems to be one instance, pid={pid}" in again.stdout
    finally:
        done = run(site / "startup/stop_fl.sh", "--yes")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Stopped.")
    assert not is_alive(child)
    assert sorted(path.name for path in site.glob("*.fl")) == []
    assert (site / "start.log").read_text().endswith("About to shutdown.\nGracefully shutdown.\n")


def test_stopping_what_does_not_run_says_so_and_leaves_no_request(site):
    (site / "daemon_pid.fl").write_text("1")  # of one that was killed
    done = run(site / "startup/stop_fl.sh", "--yes")
    assert (done.returncode, done.stdout) == (0, f"Nothing runs in {site}.\n")
    assert not (site / "shutdown.fl").exists()


def test_a_crashing_client_is_started_five_times(site, tmp_path):
    python = stand_in(tmp_path / "python", "exit 3")
    done = run(site / "startup/start.sh", "--foreground", python=python, CLOUDDEPLOY_TICK_S="0.001")
    assert done.returncode == 1
    assert "System is in trouble and unable to start the task!!!!!" in done.stdout
    assert len(lines(tmp_path / "python.calls")) == 5
    assert not list(site.glob("*.fl"))


@pytest.mark.parametrize("status", [4, 127])
def test_what_another_start_would_not_change_is_not_started_again(site, tmp_path, status):
    python = stand_in(tmp_path / "python", f"exit {status}")
    done = run(site / "startup/start.sh", "--foreground", python=python)
    assert done.returncode == status
    assert f"ended with status {status} and is not started again" in done.stdout
    assert len(lines(tmp_path / "python.calls")) == 1


def test_a_client_that_asks_for_it_is_started_again_however_often(site, tmp_path):
    calls = tmp_path / "python.calls"
    child = f'if [ "$(wc -l <"{calls}")" -le 6 ]; then exit {RESTART_STATUS}; fi; exit 0'
    python = stand_in(tmp_path / "python", child)
    done = run(site / "startup/start.sh", "--foreground", python=python, CLOUDDEPLOY_TICK_S="0.001")
    assert done.returncode == 0
    assert len(lines(calls)) == 7


def test_a_shutdown_file_counts_in_the_pause_before_the_next_start_too(site, tmp_path):
    python = stand_in(tmp_path / "python", "exit 3")
    with supervised(site, python, CLOUDDEPLOY_TICK_S="0.1") as shell:
        wait_for(lambda: len(lines(tmp_path / "python.calls")) == 3, "the client was not started again")
        begin = time.monotonic()
        (site / "shutdown.fl").touch()
        assert shell.wait(timeout=DEADLINE_S) == 0
        assert time.monotonic() - begin < 2  # the pause has more than 3 s
    assert len(lines(tmp_path / "python.calls")) == 3


def test_restart_and_termination_of_the_supervisor_in_another_workspace(site, tmp_path):
    python = stand_in(tmp_path / "python", "exec sleep 60")
    workspace = tmp_path / "work space"
    with supervised(site, python, NVFL_WORKSPACE=str(workspace)) as shell:
        wait_for(lambda: len(lines(tmp_path / "python.calls")) == 1, "the client did not start")
        (workspace / "restart.fl").touch()
        wait_for(lambda: len(lines(tmp_path / "python.calls")) == 2, "the client was not restarted")
        shell.send_signal(signal.SIGTERM)
        assert shell.wait(timeout=DEADLINE_S) == 0
    assert not list(workspace.glob("*.fl"))
    assert f"WORKSPACE set to {workspace}\n" in (site.parent / "said").read_text()
    assert not (site / "start.log").exists()


@pytest.mark.parametrize("script", ["start.sh", "sub_start.sh"])
def test_the_root_folder_is_no_workspace(site, tmp_path, script):
    done = run(site / "startup" / script, python=stand_in(tmp_path / "python", "exit 0"), NVFL_WORKSPACE="/")
    assert done.returncode == 4
    assert "the workspace must not be /" in done.stderr
    assert not lines(tmp_path / "python.calls")


def test_the_supervisor_verifies_the_kit_when_it_is_told_to(site):
    (site / "startup/fed_client.json").write_text("{}")
    done = run(site / "startup/sub_start.sh", "--verify")
    assert done.returncode == 4
    assert "startup/fed_client.json" in done.stderr


def test_a_child_that_a_killed_supervisor_has_left_is_ended_by_the_next_one(site, tmp_path):
    python = stand_in(tmp_path / "python", HELD)
    with supervised(site, python, CLOUDDEPLOY_TICK_S="0.1") as shell:
        child = started(site)
        wait_for((site / "held").exists, "it has not got its lock")
        shell.kill()
    with supervised(site, python, CLOUDDEPLOY_TICK_S="0.1"):
        wait_for(lambda: len(lines(tmp_path / "python.calls")) == 2, "it was not taken over")
        assert not is_alive(child)


def test_what_a_container_puts_into_the_workspace_does_not_steer_the_supervisor(site, tmp_path):
    """Links, and the numbers of others, in the place of each file of its own; one folder in the place of a request."""
    python = stand_in(tmp_path / "python", "exec sleep 60")
    workspace, own, victim = tmp_path / "workspace", tmp_path / "own", tmp_path / "victim"
    workspace.mkdir()
    victim.write_text("as it was")
    for name in ("start.log", "start.log.1", "status.json.new"):
        (workspace / name).symlink_to(victim)
    (workspace / "restart.fl").mkdir()
    with subprocess.Popen(["sleep", "60"]) as other:
        for name in ("daemon_pid.fl", "pid.fl"):
            (workspace / name).write_text(f"{other.pid}\n")
        where = {"CLOUDDEPLOY_WORKSPACE": str(workspace), "CLOUDDEPLOY_SUPERVISOR": str(own)}
        with subprocess.Popen(["flock", str(workspace / "pid.fl"), "sleep", "60"], start_new_session=True) as holder:
            assert run(site / "startup/start.sh", python=python, **where).returncode == 0
            wait_for(lambda: lines(own / "pid.fl"), "the client did not start")
            wait_for(lambda: "new pid" in (own / "start.log").read_text(), "nothing was said of it")
            child = int((own / "pid.fl").read_text())
            os.kill(int((own / "daemon_pid.fl").read_text()), signal.SIGTERM)
            wait_for(lambda: not (own / "daemon_pid.fl").exists(), "it did not stop")
            os.killpg(holder.pid, signal.SIGKILL)
        assert not is_alive(child)
        assert other.poll() is None
        other.kill()
    assert victim.read_text() == "as it was"


@pytest.mark.parametrize("number", ["-1", "0", "1", "1x", "$(touch x)", ""])
def test_a_child_that_has_no_number_is_not_ended(site, tmp_path, number):
    (site / "pid.fl").write_text(f"{number}\n")
    with subprocess.Popen(["flock", str(site / "pid.fl"), "sleep", "60"], start_new_session=True) as holder:
        wait_for(lambda: is_held(site / "pid.fl"), "it was not locked")
        done = run(site / "startup/start.sh", "--foreground", python=stand_in(tmp_path / "python", "exit 0"))
        assert (done.returncode, "There seems to be one instance" in done.stdout) == (1, True)
        assert holder.poll() is None
        os.killpg(holder.pid, signal.SIGKILL)


def is_held(file: Path) -> bool:
    return subprocess.run(["flock", "--shared", "--nonblock", str(file), "true"], check=False).returncode != 0


def test_a_client_that_somebody_runs_by_hand_is_left_alone(site, tmp_path):
    python = stand_in(tmp_path / "python", 'exec 8>>"$7/pid.fl"; flock 8; printf "$$\\nby hand\\n" >&8; exec sleep 60')
    with subprocess.Popen(
        [str(site / "startup/start.sh"), "--once"], env={**os.environ, "CLOUDDEPLOY_PYTHON": python}
    ) as by_hand:
        wait_for(lambda: lines(site / "pid.fl"), "the client did not start")
        done = run(site / "startup/start.sh", "--foreground", python=python)
        assert (done.returncode, by_hand.poll()) == (1, None)
        assert f"There seems to be one instance, pid={by_hand.pid}, running." in done.stdout
        by_hand.kill()


def test_what_a_jobs_code_has_started_ends_with_a_client_that_is_killed(site, tmp_path):
    (site / "jobs").mkdir()
    stray = f'cd "{site}/jobs"; CLOUDDEPLOY_JOB_FOLDER=1 setsid sleep 60 & echo "$!" >"{tmp_path}/stray"; exec sleep 60'
    with supervised(site, stand_in(tmp_path / "python", stray)):
        wait_for(lambda: lines(tmp_path / "stray"), "the client did not start")
        pid = int((tmp_path / "stray").read_text())
        os.kill(started(site), signal.SIGKILL)
        wait_for(lambda: not is_alive(pid), "the stray lives on")


def test_a_full_disk_does_not_end_the_supervisor(site, tmp_path):
    """What it says cannot be written, nor can the numbers; its client is started again all the same."""
    python = stand_in(tmp_path / "python", "exit 3")
    (site / "pid.fl").symlink_to("/dev/full")
    with Path("/dev/full").open("wb") as full:
        shell = subprocess.Popen(
            [str(site / "startup/sub_start.sh")],
            env={**os.environ, "CLOUDDEPLOY_PYTHON": python, "CLOUDDEPLOY_TICK_S": "0.001"},
            stdout=full,
            stderr=full,
        )
    assert shell.wait(timeout=DEADLINE_S) == 1
    assert len(lines(tmp_path / "python.calls")) == 5


@pytest.mark.nightly
def test_a_client_that_does_not_stop_is_killed_after_twenty_seconds(site, tmp_path):
    python = stand_in(tmp_path / "python", "trap '' TERM; while true; do sleep 1; done")
    with supervised(site, python) as shell:
        child = started(site)
        begin = time.monotonic()
        shell.send_signal(signal.SIGTERM)
        assert shell.wait(timeout=40) == 0
        assert 18 < time.monotonic() - begin < 30
    assert not is_alive(child)


def test_a_client_that_was_asked_to_stop_and_did_is_not_started_again(site, tmp_path):
    """The runtime takes `shutdown.fl` away and ends with 0, often before the supervisor has looked."""
    child = f'touch "{site}/shutdown.fl"; rm "{site}/shutdown.fl"; exit 0'
    done = run(site / "startup/start.sh", "--foreground", python=stand_in(tmp_path / "python", child))
    assert done.returncode == 0
    assert len(lines(tmp_path / "python.calls")) == 1
    assert not (site / "daemon_pid.fl").exists()
