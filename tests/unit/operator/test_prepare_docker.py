"""Kits that were prepared for docker: the script that starts them, under an engine that only notes what it is told."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.kit import Kind

from clouddeploy.prepare import preparing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(
            Kind.SERVER, "server1", "hub", hosts=("fl.example.com", "10.0.0.7"), host="fl.example.com", port=443
        ),
        Participant(Kind.CLIENT, "site-1", "org_a", host="fl.example.com", port=443),
    ),
)
IMAGE = "registry:5000/fl/site@sha256:" + "a" * 64
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
SCRIPT = Path(preparing.__file__).with_name("start_docker.sh")
GOLDEN = Path(__file__).parents[2] / "golden/prepare"
# What the scripts ask, answered from variables; what they do is noted, word by word, in one line each.
STUB = """#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
with open(os.environ["STUB_LOG"], "a") as file:
    file.write(json.dumps(words) + "\\n")
answers = json.loads(os.environ["STUB_ANSWERS"])
for start, (status, said) in answers.items():
    if " ".join(words).startswith(start):
        print(said)
        sys.exit(status)
"""
DOCKER = {
    "--version": (0, "Docker version 28.2.2"),
    "info --format {{.SecurityOptions}}": (0, "[name=seccomp,profile=builtin]"),
    "container inspect": (1, ""),
    "image inspect --format": (0, "sha256:f00d"),
}
PODMAN = {
    "--version": (0, "podman version 5.4.0"),
    "info --format {{.Host.Security.Rootless}}": (0, "true"),
    "info --format {{.Host.RemoteSocket.Path}}": (0, "/nowhere/podman.sock"),
    "container inspect": (1, ""),
    "image inspect --format": (0, "f00d"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return provision(PROJECT, tmp_path_factory.mktemp("made"), passphrase=b"x").result


@pytest.fixture(scope="module")
def prepare(made, tmp_path_factory) -> Callable[..., Path]:
    """Returns a function that prepares a participant's kit, once for each way."""
    folder = tmp_path_factory.mktemp("prepared")

    @functools.cache
    def prepare(name: str = "site-1", **parent: str) -> Path:
        document = {"runtime": "docker", "parent": {"docker_image": IMAGE, **parent}}
        (folder / "docker.yml").write_text(yaml.safe_dump(document))
        target = folder / "-".join([name, *parent])
        found = preparing.prepare(made / name, config=folder / "docker.yml", target=target)
        assert kits.verify(found.kit.output).participant == name
        return found.kit.output

    return prepare


@pytest.fixture
def api() -> Iterator[str]:
    """A socket that an engine could listen at; short, as paths of sockets are."""
    path = f"/tmp/clouddeploy-stub-{os.getpid()}.sock"
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        yield path
    Path(path).unlink()


class Run:
    """One run of a script."""

    def __init__(self, output: Path, folder: Path, answers: dict[str, Any], *options: str, **variables: str) -> None:
        stub, log = folder / "engine", folder / "stub.log"
        stub.write_text(STUB)
        stub.chmod(0o755)
        log.write_text("")
        environment = {
            "PATH": os.environ["PATH"],
            "DOCKER": str(stub),
            "STUB_LOG": str(log),
            "STUB_ANSWERS": json.dumps(answers),
            **variables,
        }
        self.done = subprocess.run(
            [output / "startup/start_docker.sh", *options], env=environment, capture_output=True, text=True, check=False
        )
        self.calls: list[list[str]] = [json.loads(line) for line in log.read_text().splitlines()]
        self.words = next((call for call in self.calls if call[0] == "run"), [])

    def values(self, option: str) -> list[str]:
        return [self.words[place + 1] for place, word in enumerate(self.words) if word == option]


def test_a_client_starts_in_a_container_that_may_do_little(prepare, tmp_path, api):
    output = prepare()
    run = Run(output, tmp_path, DOCKER, NVFL_DOCKER_SOCK=api)
    assert run.done.returncode == 0, run.done.stderr
    assert ["network", "create", "nvflare-network"] not in run.calls  # it is there
    own = f"{os.getuid()}:{os.getgid()}"
    group = ["--group-add", str(Path(api).stat().st_gid)] if Path(api).stat().st_gid != os.getgid() else []
    mount = "/var/tmp/nvflare/workspace"
    assert run.words == [
        *("run", "--name", "site-1", "--hostname", "site-1", "--label", f"clouddeploy.kit={output}"),
        *("--user", own, "--network", "nvflare-network"),
        *("--volume", f"{output}:{mount}", "--volume", f"{output}/startup:{mount}/startup:ro"),
        *("--volume", f"{output}/local:{mount}/local:ro", "--volume", f"{api}:/var/run/docker.sock"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", "label=disable"),
        *("--read-only", "--tmpfs", "/tmp", "--pids-limit", "-1", "--env", "HOME=/tmp"),
        *("--env", f"TMPDIR={mount}/tmp", "--env", "CLOUDDEPLOY_SUPERVISED=1"),
        *("--env", "CLOUDDEPLOY_DOCKER_NAME=site-1", "--env", f"CLOUDDEPLOY_DOCKER_WORKSPACE={output}"),
        *group,
        *("--detach", "--restart", "on-failure", "--entrypoint", "python3", "sha256:f00d"),
        *("-u", "-P", "-m", "clouddeploy_runtime", "client", mount, "--workspace", mount),
    ]


def test_a_server_has_its_ports_and_its_names_in_the_network(prepare, tmp_path, api):
    run = Run(prepare("server1"), tmp_path, {**DOCKER, "network inspect": (1, "")}, NVFL_DOCKER_SOCK=api)
    assert run.values("--publish") == ["443:443"]
    assert run.values("--sysctl") == ["net.ipv4.ip_unprivileged_port_start=0"]
    assert run.values("--network-alias") == ["fl.example.com", "server1"]
    assert ["network", "create", "nvflare-network"] in run.calls


def test_in_the_machines_own_network_nothing_is_published(prepare, tmp_path, api):
    run = Run(prepare("server1", network="host"), tmp_path, DOCKER, NVFL_DOCKER_SOCK=api)
    assert run.values("--network") == ["host"]
    assert not {"--publish", "--network-alias", "--sysctl"} & set(run.words)


def test_podman_without_root_keeps_the_accounts_number(prepare, tmp_path, api):
    run = Run(prepare(), tmp_path, PODMAN, NVFL_DOCKER_SOCK=api)
    assert run.values("--userns") == ["keep-id"]
    assert run.values("--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert "--group-add" not in run.words


def test_dockers_root_without_root_is_the_account(prepare, tmp_path, api):
    answers = {**DOCKER, "info --format {{.SecurityOptions}}": (0, "[name=seccomp name=rootless]")}
    assert Run(prepare(), tmp_path, answers, NVFL_DOCKER_SOCK=api).values("--user") == ["0:0"]


@pytest.mark.parametrize("name", ["CLOUDDEPLOY_IMAGE", "NVFL_P_IMAGE"])
def test_another_image_can_be_named_and_is_run_by_its_id(prepare, tmp_path, api, name):
    missing = {**DOCKER, "image inspect other:2": (1, "")}
    run = Run(prepare(), tmp_path, missing, NVFL_DOCKER_SOCK=api, **{name: "other:2"})
    assert ["pull", "other:2"] in run.calls
    assert "sha256:f00d" in run.words
    assert "other:2" not in run.words


def test_a_value_of_a_variable_is_in_no_list_of_processes(prepare, tmp_path, api):
    run = Run(
        prepare(),
        tmp_path,
        DOCKER,
        NVFL_DOCKER_SOCK=api,
        CLOUDDEPLOY_DOCKER_ENV="TOKEN",
        TOKEN="s3cret",
        HTTPS_PROXY="p",
    )
    assert {"TOKEN", "HTTPS_PROXY"} <= set(run.values("--env"))
    assert "s3cret" not in json.dumps(run.calls)


def test_in_front_it_is_gone_when_it_ends(prepare, tmp_path, api):
    run = Run(prepare(), tmp_path, DOCKER, "--foreground", NVFL_DOCKER_SOCK=api)
    assert "--rm" in run.words
    assert not {"--detach", "--restart"} & set(run.words)


def test_another_machines_engine_needs_the_socket_and_its_group_there(prepare, tmp_path):
    output = prepare()
    refused = Run(output, tmp_path, DOCKER, DOCKER_HOST="tcp://10.0.0.1:2376")
    assert refused.done.returncode == 4
    assert "NVFL_DOCKER_SOCK" in refused.done.stderr
    run = Run(
        output, tmp_path, DOCKER, DOCKER_HOST="tcp://x", NVFL_DOCKER_SOCK="/run/docker.sock", NVFL_DOCKER_SOCK_GID="998"
    )
    assert run.values("--group-add") == ["998"]


def test_podman_that_does_not_listen_is_told_how_to(prepare, tmp_path):
    run = Run(prepare(), tmp_path, PODMAN)
    assert run.done.returncode == 1
    assert "/nowhere/podman.sock is no socket; start it: systemctl --user start podman.socket" in run.done.stderr
    assert run.words == []


def test_a_container_of_the_kit_that_runs_is_left_alone(prepare, tmp_path, api):
    output = prepare()
    run = Run(output, tmp_path, {**DOCKER, "container inspect": (0, f"{output} running")}, NVFL_DOCKER_SOCK=api)
    assert run.done.returncode == 0
    assert "runs already" in run.done.stdout
    assert run.words == []


def test_one_that_has_ended_gives_way(prepare, tmp_path, api):
    output = prepare()
    run = Run(output, tmp_path, {**DOCKER, "container inspect": (0, f"{output} exited")}, NVFL_DOCKER_SOCK=api)
    assert run.calls.index(["rm", "--force", "site-1"]) < run.calls.index(run.words)


@pytest.mark.parametrize("option", [(), ("--stop",)], ids=["start", "stop"])
def test_somebody_elses_container_of_the_same_name_stays(prepare, tmp_path, api, option):
    answers = {**DOCKER, "container inspect": (0, "/elsewhere running")}
    run = Run(prepare(), tmp_path, answers, *option, NVFL_DOCKER_SOCK=api)
    assert run.done.returncode == 1
    assert "not of this kit" in run.done.stderr
    assert not {"run", "rm", "stop"} & {call[0] for call in run.calls}


def test_it_can_be_stopped_and_stopping_twice_is_no_error(prepare, tmp_path):
    output = prepare()
    run = Run(output, tmp_path, {**DOCKER, "container inspect": (0, f"{output} running")}, "--stop")
    assert run.calls[-2:] == [["stop", "--time", "30", "site-1"], ["rm", "--force", "site-1"]]
    again = Run(output, tmp_path, DOCKER, "--stop")
    assert (again.done.returncode, again.done.stdout) == (0, "site-1 does not run here\n")


def test_an_unknown_option_is_refused(prepare, tmp_path):
    assert Run(prepare(), tmp_path, DOCKER, "--restart").done.returncode == 4


def test_the_result_names_the_script_and_what_to_mind(made, tmp_path):
    document = {"runtime": "docker", "parent": {"docker_image": "site:1", "network": "host"}}
    (tmp_path / "docker.yml").write_text(yaml.safe_dump(document))
    found = preparing.prepare(made / "site-1", config=tmp_path / "docker.yml", target=tmp_path / "with space")
    script = tmp_path / "with space/startup/start_docker.sh"
    assert found.more["start_script"] == str(script)
    assert shlex.split(str(found.more["start_command"])) == [str(script)]
    assert script.stat().st_mode & 0o777 == 0o755
    assert any("no digest" in one for one in found.warnings)
    assert any("network host" in one for one in found.warnings)


def test_the_launcher_of_the_prepared_kit_is_the_one_for_docker(prepare):
    document = json.loads((prepare() / "local/resources.json").read_text())
    (launcher,) = [one for one in document["components"] if one["id"].endswith("_launcher")]
    assert launcher["id"] == "docker_launcher"
    assert launcher["args"] == {
        "network": "nvflare-network",
        "default_python_path": "/usr/local/bin/python",
        "default_job_env": {},
        "default_job_container_kwargs": {},
    }


def test_the_script_is_what_it_was(prepare):
    golden = GOLDEN / "start_docker.sh"
    assert (prepare("server1") / "startup/start_docker.sh").read_text() == golden.read_text()


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_the_script_is_shellcheck_clean_before_and_after_it_is_filled(prepare):
    for path in (SCRIPT, prepare("server1") / "startup/start_docker.sh"):
        done = subprocess.run([str(SHELLCHECK), str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
