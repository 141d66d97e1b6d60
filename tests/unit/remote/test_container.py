"""Environments made from container images: script, wrapper, and what the operator is told; with a stand-in engine."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tarfile
from importlib import resources
from itertools import pairwise
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
if [ -e "$STORE/has-${0##*/}" ]; then STORE="$STORE/has-${0##*/}"; fi
file="$STORE/images/$(printf '%s' "${3:-}" | tr '/:@' '___')"
case "$1 ${2:-}" in
"version "*) if [ -e "$STORE/late" ]; then rm "$STORE/late"; exit 1; fi ;;
"info "*) if [ -e "$STORE/broken-${0##*/}" ]; then echo "cannot connect"; exit 1; fi; cat "$STORE/says" ;;
"image inspect")
    case "$3" in --format) file="$STORE/images/$(printf '%s' "$5" | tr '/:@' '___')" ;; esac
    if [ "${3#id-}" != "$3" ]; then grep -rqx "$3" "$STORE/images"; else cat "$file"; fi ;;
"pull --quiet") if [ -e "$STORE/registry" ]; then cp "$STORE/registry" "$file"; else echo "no route"; exit 125; fi ;;
"tag "*)
    if [ -e "$STORE/cut" ]; then rm "$STORE/cut"; exit 137; fi
    source="$STORE/images/$(printf '%s' "$2" | tr '/:@' '___')"
    if [ "${2#id-}" = "$2" ]; then cp "$source" "$file"
    else grep -rqx "$2" "$STORE/images" && printf '%s\\n' "$2" >"$file"; fi ;;
"rmi "*) rm "$STORE/images/$(printf '%s' "$2" | tr '/:@' '___')" ;;
"ps --all") if [ -e "$STORE/silent" ]; then echo "cannot connect"; exit 125; fi; ls "$STORE/containers" ;;
"kill --signal") [ -e "$STORE/containers/$4" ] ;;
"rm --force")
    if [ -e "$STORE/removing" ]; then rm "$STORE/removing"; echo "removal is in progress"; exit 1; fi
    rm "$STORE/containers/$3" ;;
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
        self.pack()
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

    def pack(self):
        """Puts the tools there, as they are uploaded."""
        with tarfile.open(self.root / "uploads/container-t.tar", "w") as tar:
            tar.add(self.root.parent / "tools", ".")

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
    assert "the image train:1 is not here and cannot be pulled with podman: no route" in done.stdout
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


KILL = """
set -T
n=0
trap 'n=$((n + 1)); if [ "$n" = "$KILL_AT" ]; then kill -KILL $$; fi' DEBUG
"""


def killed(machine, at, *words):
    """Runs the script by bash, which ends at its command number `at`; returns whether it came so far."""
    (machine.folder / "kill").write_text(KILL)
    done = subprocess.run(
        ["bash", "-s", "--", *words],
        input=SCRIPT.read_text(),
        env={**machine.environment, "BASH_ENV": str(machine.folder / "kill"), "KILL_AT": str(at)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in {0, -9}, done.stdout + done.stderr
    return done.returncode == -9


FEW = range(25, 400, 95)
EACH = pytest.param(range(1, 5000), marks=[pytest.mark.nightly, pytest.mark.timeout(600)])


@pytest.mark.parametrize("steps", [FEW, EACH], ids=["a few", "each"])
def test_a_run_that_was_killed_is_finished_by_the_next_and_can_be_uninstalled(machine, steps):
    (machine.store / "registry").write_text("id-1\n")
    machine.contain()
    machine.run("uninstall", str(machine.root), "s.service")
    for step in steps:
        restored(machine)
        is_killed = killed(machine, step, "contain", str(machine.root), "train:1", "t", "kept", "json", "")
        if step % 2:
            assert (machine.made() / "bin/end").exists()
            assert len(machine.images()) == 1
            assert not (machine.root / "pulled").exists()
        done = machine.run("uninstall", str(machine.root), "s.service")
        assert (done.returncode, machine.images()) == (0, {}), f"killed at {step}: {done.stdout}"
        assert not machine.root.exists()
        if not is_killed:
            return


@pytest.mark.parametrize("steps", [FEW, EACH], ids=["a few", "each"])
def test_an_uninstallation_that_was_killed_is_finished_by_the_next(machine, steps):
    for step in steps:
        restored(machine)
        (machine.store / "registry").write_text("id-1\n")
        machine.run_release(machine.made())
        is_killed = killed(machine, step, "uninstall", str(machine.root), "s.service")
        done = machine.run("uninstall", str(machine.root), "s.service")
        assert (done.returncode, machine.images()) == (0, {}), f"killed at {step}: {done.stdout}"
        assert not machine.root.exists()
        if not is_killed:
            return


def restored(machine):
    """Makes the site's folder and its upload anew."""
    for path in (machine.root / "uploads", machine.root / "workspace"):
        path.mkdir(parents=True, exist_ok=True)
    machine.pack()


def test_half_an_environment_stops_nobody(machine):
    machine.load("train:1")
    venv = machine.made()
    (machine.root / "venv-half/bin").mkdir(parents=True)
    shutil.copy(venv / "bin/end", machine.root / "venv-half/bin/end")
    done = machine.run("stop", str(machine.root), "s.service")
    assert done.returncode == 0, done.stdout


def test_an_image_that_was_taken_away_is_pulled_once(machine):
    (machine.store / "registry").write_text("id-1\n")
    venv = machine.made()
    machine.run_release(venv)
    (before,) = machine.images()
    (machine.store / "images" / before).unlink()
    machine.calls()
    assert machine.made() == venv
    assert set(machine.images()) == {before}
    assert machine.calls("pull --quiet")
    assert machine.made() == venv
    assert not machine.calls("pull --quiet")


def test_the_newest_of_a_registry_that_is_down_is_what_the_site_has(machine):
    (machine.store / "registry").write_text("id-1\n")
    venv = machine.made()
    machine.run_release(venv)
    (machine.store / "registry").unlink()
    done = machine.contain("train:1", "newest")
    assert "warning: train:1 was not pulled, so the one that the site has is used: no route" in done.stdout
    assert done.stdout.split()[-1] == venv.name.removeprefix("venv-")
    assert machine.contain("train:2", "newest").returncode == 1


def test_sites_of_one_account_do_not_give_and_take_names_of_images_at_once(machine):
    """Another one takes the name away that it has pulled, as it does at its end, while this one waits."""
    (machine.store / "registry").write_text("id-1\n")
    machine.load("train:1")
    machine.program("flock", f'touch "{machine.folder}/waits"; exec /usr/bin/flock "$@"')
    work = f"echo at work; cd '{machine.folder}'; while [ ! -e waits ]; do sleep 0.01; done; rm store/images/train_1"
    other = subprocess.Popen(["flock", str(machine.bin / "podman"), "sh", "-c", work], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"at work\n"
    machine.made()
    assert other.wait() == 0
    other.stdout.close()
    assert len(machine.calls("pull --quiet train:1")) == 1
    assert len(machine.images()) == 1


def test_the_engine_that_has_the_image_is_used_and_a_site_stays_with_its_own(machine):
    machine.engine("docker")
    for name in ("podman", "docker"):
        (machine.store / f"has-{name}/images").mkdir(parents=True)
        (machine.store / f"has-{name}/says").touch()
    image = machine.store / "has-docker/images/train_1"
    image.write_text("id-1\n")
    venv = machine.made()
    assert (venv / "engine").read_text() == f"{machine.bin}/docker\n"
    machine.run_release(venv)
    (machine.store / "has-podman/images/train_1").write_text("id-1\n")
    assert machine.made() == venv
    assert machine.contain("train:2").stdout.startswith(
        "the image train:2 is not here and cannot be pulled with podman"
    )


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
    (machine.store / "says").write_text("[name=seccomp name=userns]")
    assert "--userns=host" in (machine.made() / "options").read_text().split()


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
    for tool in ("timeout", "head", "touch", "grep", "flock", "tr", "cp", "awk", "sed", "dirname", "true", "chmod"):
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
        f"--volume {venv}:{venv}:ro",
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
        "--tmpfs /tmp",
        "--env HOME=/tmp",
        f"--workdir {root}/workspace",
    ):
        assert words in call
    for name in ("PYTHONHOME", "SECRET", "STORE", "--name", "HTTPS_PROXY=p", f"--volume {root}:"):
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


@pytest.mark.parametrize(
    ("command", "writes", "reads"),
    [("request", {"enrolment"}, set()), ("package", {"enrolment", "packaged"}, {"uploads"})],
)
def test_what_makes_the_sites_key_and_kit_sees_those_alone_and_no_network(machine, command, writes, reads):
    machine.load("train:1")
    for name in ("enrolment", "packaged", "kits"):
        (machine.root / name).mkdir()
    venv = machine.made()
    _, (call,) = python(machine, venv, "-P", "-m", "clouddeploy_runtime", command, "--help")
    words = call.split()
    mounts = {there for word, there in pairwise(words) if word == "--volume"}
    both = {f"{machine.root / name}:{machine.root / name}" for name in writes}
    assert mounts == both | {f"{machine.root / name}:{machine.root / name}:ro" for name in {*reads, venv.name}}
    assert "--network none" in call


def test_a_sites_home_and_tmp_are_beside_its_workspace_and_empty_at_each_start(machine):
    machine.load("train:1")
    venv = machine.made()
    area = machine.root / "container"
    outside = machine.folder / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (machine.root / "workspace/tmp").symlink_to(outside)
    for name in ("home", "tmp"):
        (area / name / "closed").mkdir(parents=True)
        (area / name / "closed/left").touch()
        (area / name / "link").symlink_to(outside)
        (area / name / "closed").chmod(0o500)
    _, calls = python(machine, venv, "-m", "clouddeploy_runtime", "client", "kit")
    assert [list((area / name).iterdir()) for name in ("home", "tmp")] == [[], []]
    assert (outside / "kept").exists()
    for words in (f"--volume {area}/tmp:/tmp", f"--volume {area}/home:{area}/home", f"--env HOME={area}/home"):
        assert words in calls[-1]


def test_what_runs_nvflares_kit_outside_is_out_of_its_reach(machine):
    machine.load("train:1")
    own = machine.root / "supervisor/nvflare"
    own.mkdir(parents=True)
    words = ("-u", "-m", "nvflare.private.fed.app.client.client_train", "-m", f"{own}/startup/..")
    _, calls = python(machine, machine.made(), *words)
    for mount in (f"{machine.root}/container/nvflare:{own}", f"{own}/startup:{own}/startup:ro"):
        assert f"--volume {mount}" in calls[-1]
    assert f"--volume {own}:" not in calls[-1]


def test_a_site_behind_a_link_finds_its_folder_under_both_names(machine):
    machine.load("train:1")
    (machine.folder / "link").symlink_to(machine.folder / "opt")
    machine.root = machine.folder / "link/trial/site-1"
    _, (call,) = python(machine, machine.made(), "--version")
    there = machine.root.resolve()
    for place in (there, machine.root):
        assert f"--volume {there}/workspace:{place}/workspace" in call


def test_a_stop_ends_the_container_whichever_release_it_is_of(machine):
    machine.load("train:1")
    venv = machine.made()
    name = (venv / "name").read_text().strip()
    (machine.store / "containers" / name).touch()
    assert machine.run("stop", str(machine.root), "s.service").returncode == 0
    assert not (machine.store / "containers" / name).exists()
    machine.calls()
    assert machine.run("stop", str(machine.root), "s.service").returncode == 0
    assert machine.calls() == ["podman ps --all --format {{.Names}}"]


def test_an_engine_that_does_not_answer_may_still_run_the_container(machine):
    machine.load("train:1")
    name = (machine.made() / "name").read_text().strip()
    (machine.store / "silent").touch()
    done = machine.run("stop", str(machine.root), "s.service")
    assert done.returncode == 1
    assert f"the container {name} may still run: {machine.bin}/podman does not say which there are" in done.stdout
    assert "cannot connect" in done.stdout


def test_a_container_that_is_just_being_removed_is_waited_for(machine):
    machine.load("train:1")
    name = (machine.made() / "name").read_text().strip()
    (machine.store / "containers" / name).touch()
    (machine.store / "removing").touch()
    done = machine.run("stop", str(machine.root), "s.service")
    assert (done.returncode, (machine.store / "containers" / name).exists()) == (0, False), done.stdout


def test_an_engine_that_is_gone_has_left_nothing_unless_something_has_the_containers_name(machine):
    machine.load("train:1")
    name = (machine.made() / "name").read_text().strip()
    (machine.bin / "podman").unlink()
    assert machine.run("stop", str(machine.root), "s.service").returncode == 0
    left = subprocess.Popen([sys.executable, "-c", "input()", name], stdin=subprocess.PIPE)
    done = machine.run("stop", str(machine.root), "s.service")
    assert (done.returncode, f"the container {name} may still run" in done.stdout) == (1, True)
    left.communicate(b"\n")


def test_docker_that_comes_up_after_the_site_is_waited_for(machine):
    machine.engine("docker")
    (machine.store / "broken-podman").touch()
    machine.load("train:1")
    venv = machine.made()
    (machine.store / "late").touch()
    machine.calls()
    _, calls = python(machine, venv, "--version")
    assert [call.split()[1] for call in calls] == ["version", "version", "run"]


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
