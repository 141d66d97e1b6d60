"""Environments made from container images: script, wrapper, and what the operator is told; with a stand-in engine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tarfile
from importlib import resources
from pathlib import Path

import pytest

from clouddeploy.errors import RemoteCommandFailed
from clouddeploy.remote import bootstrap, container
from clouddeploy.remote.container import Image
from clouddeploy.remote.host import Completed
from clouddeploy.remote.local import LocalHost

SCRIPT = resources.files("clouddeploy.remote").joinpath("bootstrap.sh")
# Names of images are files with an id; what runs in one is this machine's python.
ENGINE = """
echo "${0##*/} $*" >>"$STORE/calls"
file="$STORE/images/$(printf '%s' "${3:-}" | tr '/:@' '___')"
case "$1 ${2:-}" in
"info "*) if [ -e "$STORE/broken-${0##*/}" ]; then echo "cannot connect"; exit 1; fi; cat "$STORE/says" ;;
"image inspect")
    case "$3" in --format) file="$STORE/images/$(printf '%s' "$5" | tr '/:@' '___')" ;; esac
    if [ "${3#id-}" != "$3" ]; then grep -rqx "$3" "$STORE/images"; else cat "$file"; fi ;;
"pull --quiet") if [ -e "$STORE/registry" ]; then cp "$STORE/registry" "$file"; else echo "no route"; exit 125; fi ;;
"tag "*) if [ -e "$STORE/cut" ]; then rm "$STORE/cut"; exit 137; fi; printf '%s\\n' "$2" >"$file" ;;
"rmi "*) rm "$STORE/images/$(printf '%s' "$2" | tr '/:@' '___')" ;;
"container inspect") [ -e "$STORE/containers/$3" ] ;;
"kill --signal") [ -e "$STORE/containers/$4" ] ;;
"rm --force") rm "$STORE/containers/$3" ;;
"run "*)
    case "$*" in *gpu*) if [ ! -e "$STORE/toolkit" ]; then exit 125; fi ;; esac
    env >"$STORE/environment"
    while [ "${1#id-}" = "$1" ]; do shift; done
    shift
    exec "$PYTHON" "$@" ;;
esac
"""


class Machine:
    """A folder with a stand-in of an engine, a site's folder, and nothing of this machine's engines."""

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "opt/trial/site-1"
        self.store = folder / "store"
        self.bin = folder / "bin"
        for path in (self.root / "uploads", self.root / "workspace", self.bin):
            path.mkdir(parents=True)
        for path in ("images", "containers"):
            (self.store / path).mkdir(parents=True)
        (self.store / "calls").touch()
        (self.store / "says").touch()
        (self.root.parent / "tools").mkdir()
        container.write_tools(self.root.parent / "tools")
        with tarfile.open(self.root / "uploads/container-t.tar", "w") as tar:
            tar.add(self.root.parent / "tools", ".")
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "STORE": str(self.store),
            "PYTHON": sys.executable,
            "CLOUDDEPLOY_MACHINE_ROOT": str(folder),
            "CLOUDDEPLOY_NO_SUDO": "1",
            "CLOUDDEPLOY_NO_CRON": "1",
        }
        for tool in ("apt-get", "docker", "podman"):  # this machine's are not to be found
            self.program(tool, "exit 127")
        self.engine("podman")

    def program(self, name, body):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def engine(self, name):
        self.program(name, ENGINE)

    def load(self, reference, identity="id-1"):
        (self.store / "images" / reference.replace("/", "_").replace(":", "_")).write_text(f"{identity}\n")

    def images(self):
        return {path.name: path.read_text().strip() for path in (self.store / "images").iterdir()}

    def run(self, *words):
        return subprocess.run(
            ["sh", "-s", "--", *words],
            input=SCRIPT.read_text(),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )

    def contain(self, image="train:1", when="kept", module="json", version="", *names):
        return self.run("contain", str(self.root), image, "t", when, module, version, *names)

    def made(self, *words):
        """Makes an environment; returns its folder."""
        done = self.contain(*words)
        assert done.returncode == 0, done.stdout
        return self.root / f"venv-{done.stdout.split()[-1]}"

    def run_release(self, venv):
        """Makes a release with an environment the current one."""
        release = self.root / "releases/r"
        release.mkdir(parents=True, exist_ok=True)
        for link, target in ((release / "venv", f"../../{venv.name}"), (self.root / "current", "releases/r")):
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def calls(self, word=""):
        found = [line for line in (self.store / "calls").read_text().splitlines() if word in line]
        (self.store / "calls").write_text("")
        return found


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_an_image_that_is_there_is_not_pulled_and_the_same_image_is_the_same_environment(machine):
    machine.load("train:1")
    venv = machine.made()
    assert not machine.calls("pull --quiet")
    assert (venv / "reference").read_text() == "train:1\n"
    assert (venv / "image").read_text() == "id-1\n"
    tag = (venv / "tag").read_text().strip()
    assert machine.images() == {"train_1": "id-1", tag.replace("/", "_").replace(":", "_"): "id-1"}
    assert machine.made() == venv
    assert not machine.calls(" run ")
    assert [path.name for path in machine.root.glob("venv-*")] == [venv.name]


def test_an_image_that_we_pulled_has_our_name_alone_and_goes_with_its_environment(machine):
    (machine.store / "registry").write_text("id-1\n")
    venv = machine.made()
    assert machine.calls("pull --quiet train:1")
    (name,) = machine.images()
    assert name.startswith("localhost_clouddeploy-")
    assert not (machine.root / "pulled").exists()
    done = machine.run("uninstall", str(machine.root), "s.service")
    assert (done.returncode, machine.images(), venv.exists()) == (0, {}, False), done.stdout


def test_an_image_that_nobody_can_give_is_refused_and_may_be_loaded_then(machine):
    done = machine.contain()
    assert done.returncode == 1
    assert "the image train:1 is not here and cannot be pulled: no route" in done.stdout
    machine.load("train:1")
    machine.calls()
    machine.made()
    assert not machine.calls("pull --quiet")


def test_a_moved_tag_changes_nothing_until_the_newest_is_asked_for(machine):
    machine.load("train:1", "id-1")
    first = machine.made()
    machine.run_release(first)
    machine.load("train:1", "id-2")
    assert machine.made() == first
    (machine.store / "registry").write_text("id-3\n")
    second = machine.made("train:1", "newest")
    assert second != first
    assert (second / "image").read_text() == "id-3\n"


def test_where_the_newest_cannot_be_pulled_the_loaded_one_is_taken_and_that_is_said(machine):
    machine.load("train:1", "id-1")
    machine.run_release(machine.made())
    machine.load("train:1", "id-2")
    done = machine.contain("train:1", "newest")
    assert "warning: train:1 was not pulled, so the one that was loaded there is used: no route" in done.stdout
    assert (machine.root / f"venv-{done.stdout.split()[-1]}/image").read_text() == "id-2\n"


def test_another_reference_is_another_environment_though_the_image_is_the_same(machine):
    machine.load("train:1")
    machine.load("train:2")
    first = machine.made("train:1")
    machine.run_release(first)
    assert machine.made("train:2") != first


def test_an_image_that_cannot_run_the_site_makes_no_environment_and_is_pulled_again(machine):
    (machine.store / "registry").write_text("id-1\n")
    done = machine.contain("train:1", "kept", "no_such_module")
    assert done.returncode == 1
    assert "its python3 cannot import no_such_module" in done.stdout
    assert done.stdout.splitlines()[-1] == "the image train:1 cannot run this site"
    assert not list(machine.root.glob("venv-*/.complete"))
    machine.calls()
    machine.made()
    assert machine.calls("pull --quiet train:1")
    machine.contain("train:2", "kept", "no_such_module")
    machine.load("train:3")
    machine.made("train:3")
    assert not [name for name in machine.images() if name in {"train_1", "train_2"}]


def test_what_was_cut_off_is_done_by_the_next_run(machine):
    (machine.store / "registry").write_text("id-1\n")
    (machine.store / "cut").touch()
    assert machine.contain().returncode != 0
    assert not list(machine.root.glob("venv-*/.complete"))
    venv = machine.made()
    assert (venv / ".complete").exists()
    assert len(machine.images()) == 1
    assert not (machine.root / "pulled").exists()


def test_another_version_of_the_runtime_is_worth_a_warning_and_a_missing_package_an_error(machine):
    machine.load("train:1")
    done = machine.contain("train:1", "kept", "clouddeploy_runtime", "99.1", "no-such-package", "numpy")
    assert (done.returncode, "it lacks what the startup kit asks for: no-such-package" in done.stdout) == (1, True)
    done = machine.contain("train:1", "kept", "clouddeploy_runtime", "99.1", "numpy")
    assert done.returncode == 0
    assert "warning: the image has clouddeploy_runtime 0.1.0, and this is 99.1" in done.stdout


def test_docker_is_used_where_podman_does_not_work(machine):
    machine.load("train:1")
    machine.engine("docker")
    (machine.store / "broken-podman").touch()
    venv = machine.made()
    assert (venv / "engine").read_text() == f"{machine.bin}/docker\n"
    assert (venv / "options").read_text() == f"--user={os.getuid()}:{os.getgid()}\n--init\n"
    (machine.store / "says").write_text("[name=seccomp name=rootless]")
    assert (machine.made() / "options").read_text() == "--user=0:0\n--init\n"


def test_without_an_engine_the_refusal_says_why_and_what_to_do(machine):
    (machine.store / "broken-podman").touch()
    done = machine.contain()
    assert done.returncode == 1
    assert "podman does not work for" in done.stdout
    assert "cannot connect" in done.stdout
    assert "install podman" in done.stdout
    assert "use docker" in done.stdout


def test_a_machine_that_is_ours_to_change_gets_podman(machine):
    del machine.environment["CLOUDDEPLOY_NO_SUDO"]
    for name in ("podman", "docker"):
        (machine.bin / name).unlink()
    machine.environment["PATH"] = str(machine.bin)
    for tool in ("sh", "id", "cut", "getent", "tail", "cat", "env", "tar", "sha256sum", "mv", "rm", "ln", "mkdir"):
        machine.program(tool, f'exec /usr/bin/{tool} "$@"')
    for tool in ("touch", "grep", "flock", "tr", "cp", "awk", "sed", "dirname", "true", "chmod"):
        machine.program(tool, f'exec /usr/bin/{tool} "$@"')
    machine.program("sudo", 'while [ "$1" = -n ] || [ "$1" = -- ]; do shift; done; exec "$@"')
    (machine.folder / "engine").write_text(f"#!/bin/sh\n{ENGINE}")
    (machine.folder / "engine").chmod(0o755)
    installs = f'echo "apt-get $*" >>"$STORE/calls"; cp "{machine.folder}/engine" "{machine.bin}/podman"'
    machine.program("apt-get", f'case "$*" in *install*podman*) {installs} ;; esac')
    machine.load("train:1")
    machine.made()
    (install,) = machine.calls("apt-get")
    assert "DPkg::Lock::Timeout" in install


def test_an_account_without_root_keeps_its_number_in_podmans_namespace(machine):
    machine.load("train:1")
    machine.program("id", 'case "$1" in -un) echo fl ;; *) echo 1000 ;; esac')
    assert (machine.made() / "options").read_text() == "--user=1000:1000\n--userns=keep-id\n--init\n"


def test_a_gpu_is_passed_on_and_without_its_toolkit_that_is_a_warning(machine):
    machine.load("train:1")
    (machine.folder / "dev").mkdir()
    (machine.folder / "dev/nvidiactl").touch()
    done = machine.contain()
    assert "warning: containers do not get the GPU" in done.stdout
    (machine.store / "toolkit").touch()
    done = machine.contain()
    assert "warning" not in done.stdout
    venv = machine.root / f"venv-{done.stdout.split()[-1]}"
    assert "--device=nvidia.com/gpu=all" in (venv / "options").read_text().split()


def python(machine, venv, *words, **environment):
    """Runs an environment's python; returns how the engine was called."""
    machine.calls()
    done = subprocess.run(
        [venv / "bin/python3", *words],
        env={**machine.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done, machine.calls()


def test_python_runs_in_the_image_with_what_a_site_needs_and_no_more(machine):
    machine.load("train:1")
    venv = machine.made()
    given = {"CLOUDDEPLOY_WORKSPACE": "w", "NVFL_X": "n", "HTTPS_PROXY": "p", "PYTHONHOME": "/", "SECRET": "s"}
    done, (call,) = python(machine, venv, "-c", "import sys; print(sys.argv[1]); sys.exit(7)", "two words", **given)
    assert (done.returncode, done.stdout) == (7, "two words\n")
    root = machine.root
    for words in (
        f"--volume {root}:{root}:ro",
        f"--volume {root}/workspace:{root}/workspace",
        "--cap-drop all",
        "--security-opt no-new-privileges",
        "--network host",
        "--pids-limit -1",
        "--rm",
        "--init",
        "--env CLOUDDEPLOY_WORKSPACE",
        "--env NVFL_X",
        "--env HTTPS_PROXY",
        f"--env HOME={root}/workspace/home",
        f"--workdir {root}/workspace",
    ):
        assert words in call
    for name in ("PYTHONHOME", "SECRET", "STORE", "--name", "HTTPS_PROXY=p"):
        assert name not in call


@pytest.mark.parametrize(
    ("words", "is_named"),
    [
        (("-m", "clouddeploy_runtime", "client", "kit"), True),
        (("-P", "-m", "clouddeploy_runtime", "server", "kit"), True),
        (("-u", "-m", "nvflare.private.fed.app.client.client_train", "-m", "kit"), True),
        (("-P", "-m", "clouddeploy_runtime", "verify", "kit"), False),
    ],
)
def test_the_site_itself_ends_what_an_earlier_start_has_left_and_a_short_run_does_not(machine, words, is_named):
    machine.load("train:1")
    venv = machine.made()
    name = (venv / "name").read_text().strip()
    (machine.store / "containers" / name).touch()
    _, calls = python(machine, venv, *words)
    assert (f"--name {name}" in calls[-1]) is is_named
    assert (machine.store / "containers" / name).exists() is not is_named


def test_the_sites_key_is_made_beside_the_workspace(machine):
    machine.load("train:1")
    _, (call,) = python(machine, machine.made(), "-P", "-m", "clouddeploy_runtime", "request", "--help")
    assert f"--volume {machine.root}:{machine.root}:rw" in call


def test_a_site_behind_a_link_finds_its_folder_under_both_names(machine):
    machine.load("train:1")
    (machine.folder / "link").symlink_to(machine.folder / "opt")
    machine.root = machine.folder / "link/trial/site-1"
    _, (call,) = python(machine, machine.made(), "--version")
    there = machine.root.resolve()
    assert f"--volume {there}:{there}:ro" in call
    assert f"--volume {there}:{machine.root}:ro" in call


def test_a_stop_ends_the_container_whichever_release_it_is_of(machine):
    machine.load("train:1")
    venv = machine.made()
    name = (venv / "name").read_text().strip()
    (machine.store / "containers" / name).touch()
    assert machine.run("stop", str(machine.root), "s.service").returncode == 0
    assert not (machine.store / "containers" / name).exists()
    machine.calls()
    assert machine.run("stop", str(machine.root), "s.service").returncode == 0
    assert machine.calls() == [f"podman container inspect {name}"]


class SayingHost(LocalHost):
    """Answers each action of the bootstrap with a given text, or raises it."""

    def __init__(self, folder, **answers):
        super().__init__(folder)
        self.answers = answers
        self.words = {}
        self.uploads = []

    def run(self, argv, **_):
        self.words[argv[3]] = argv[4:]
        answer = self.answers.get(argv[3], "")
        if isinstance(answer, Exception):
            raise answer
        return Completed(status=0, output=answer)

    def upload(self, _source, target, *, mode):
        self.uploads.append(Path(target).name)
        return f"{mode:o}"


def prepare(host, image):
    return bootstrap.prepare(
        host, project="trial", site="site-1", data=None, wheelhouse_for=lambda _: image, timeout_s=5
    )


FACTS = "root=/opt/s\npython=/usr/bin/python3\nversion=3.11\nmachine=x86_64\nboots=yes\nhave=*\n"
IMAGE = Image("train:1", "clouddeploy_runtime", "0.1", ("numpy",), is_newest=True)


def test_the_operator_sends_tools_instead_of_wheels_and_hears_warnings(tmp_path, caplog):
    host = SayingHost(tmp_path, probe=FACTS, contain="Copying blob\nwarning: something\nabc123\n")
    with caplog.at_level(logging.WARNING):
        prepared = prepare(host, IMAGE)
    assert prepared.wheels == "abc123"
    assert "something" in caplog.text
    assert [name.split("-")[0] for name in host.uploads] == ["container", "unit"]
    tools = host.uploads[0].removeprefix("container-").removesuffix(".tar")
    assert host.words["contain"] == ["/opt/s", "train:1", tools, "newest", "clouddeploy_runtime", "0.1", "numpy"]
    assert "prepare" not in host.words
    assert prepare(SayingHost(tmp_path, probe=FACTS, contain="d"), IMAGE).unit == prepared.unit


def test_a_refusal_names_image_and_machine(tmp_path):
    failed = RemoteCommandFailed("x", status=1, tail="no engine")
    with pytest.raises(RemoteCommandFailed, match="train:1 cannot run a site on this machine") as refused:
        prepare(SayingHost(tmp_path, probe=FACTS, contain=failed), IMAGE)
    assert "no engine" in refused.value.why
    assert "docs/deploy-file.md" in refused.value.hint


def test_the_service_of_a_container_leaves_the_engine_what_it_needs_and_ends_what_is_left():
    unit = resources.files("clouddeploy.remote").joinpath(container.UNIT).read_text()
    assert not [word for word in ("NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp") if word in unit]
    assert "ExecStopPost=-@ROOT@/venv/bin/end" in unit.splitlines()
