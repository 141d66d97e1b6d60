"""The bootstrap script itself, on this machine, with stand-ins for what it finds there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from importlib import resources
from pathlib import Path

import pytest

from clouddeploy.remote import bootstrap

SCRIPT = resources.files("clouddeploy.remote").joinpath("bootstrap.sh")
CRONTAB = resources.files("clouddeploy_rehearsal.hosts").joinpath("crontab.sh")
START = """#!/bin/sh
mkdir -p "$CLOUDDEPLOY_WORKSPACE"
cd "$(dirname "$0")" || exit 1
here="$(pwd -P)"
own="${CLOUDDEPLOY_SUPERVISOR:-$CLOUDDEPLOY_WORKSPACE}"
setsid "$here/sub_start.sh" </dev/null >>"$own/start.log" 2>&1 &
"""
SUPERVISOR = """#!/usr/bin/env bash
own="${CLOUDDEPLOY_SUPERVISOR:-$CLOUDDEPLOY_WORKSPACE}"
exec 9>>"$own/daemon_pid.fl"
flock --nonblock 9 || exit 1
echo "$$" >"$own/daemon_pid.fl"
trap 'exit 0' TERM
while true; do sleep 0.1 9>&-; done
"""


class Machine:
    """A folder with a machine's programs and files; `calls` are those of the stand-ins that change it."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "bin"
        self.root = folder / "opt/study/site-1"
        self.calls = folder / "calls"
        self.calls.touch()
        (folder / "tables").mkdir()
        (folder / "home").mkdir()
        (folder / "etc").mkdir()
        (folder / "etc/os-release").write_text("NAME=Ubuntu\nID=ubuntu\n")
        self.bin.mkdir()
        self.logged("dpkg")
        self.program("sudo", 'while [ "$1" = -n ] || [ "$1" = -- ]; do shift; done; exec "$@"')
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder / "home"),
            "MACHINE_CRONTABS": str(folder / "tables"),
            "CLOUDDEPLOY_MACHINE_ROOT": str(folder),
        }

    def program(self, name, body):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def logged(self, name, body="true"):
        self.program(name, f'echo "{name} $*" >>"{self.calls}"; {body}')

    def run(self, *words):
        return subprocess.run(
            ["sh", "-s", "--", *words],
            input=SCRIPT.read_text(),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def card(self, *, vendor="0x10de", kind="0x030200", slot="0000:00:1e.0"):
        device = self.folder / "sys/bus/pci/devices" / slot
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")

    def upload(self, kit):
        """Puts there what an installation of a kit with a tiny supervisor needs."""
        for folder in ("uploads", "workspace", "venv-w/bin", f"made/{kit}/kit/startup"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "venv-w/.complete").touch()
        for name, text in (("start.sh", START), ("sub_start.sh", SUPERVISOR)):
            path = self.root / f"made/{kit}/kit/startup" / name
            path.write_text(text)
            path.chmod(0o755)
        upload = self.root / "uploads" / f"kit-{kit}.tar"
        subprocess.run(["tar", "-cf", str(upload), "-C", str(self.root / "made" / kit), "kit"], check=True)
        (self.root / "uploads/unit-u").write_text("[Unit]\n")

    def install(self, kit):
        self.upload(kit)
        return self.run("install", str(self.root), kit, "w", "u", "")

    def is_alive(self):
        return self.run("alive", str(self.root), "s.service").stdout.split()[-1] == "yes"

    def releases(self):
        said = dict(line.split("=", 1) for line in self.run("releases", str(self.root)).stdout.splitlines())
        return bootstrap.Releases(**said)


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    if (made.root / "current").exists():
        made.run("stop", str(made.root), "s.service")


def test_releases_older_than_the_one_before_are_removed_with_all_that_they_are_made_of(machine):
    root = machine.root
    for kit in ("k1", "k2", "k3"):
        for _ in range(2):
            assert machine.install(kit).returncode == 0
            assert machine.run("confirm", str(root)).returncode == 0
    assert {path.name for path in (root / "kits").iterdir()} == {"k2", "k3"}
    assert {path.name for path in (root / "releases").iterdir()} == {"k2-w-u", "k3-w-u"}
    assert (root / "venv-w").is_dir()
    assert machine.releases() == bootstrap.Releases(
        current="releases/k3-w-u", good="releases/k3-w-u", previous="releases/k2-w-u", rolling_back="", started=""
    )


def test_a_rollback_brings_kit_and_environment_back_and_what_was_known_of_kits_then(machine):
    root = machine.root
    machine.install("k1")
    (root / "workspace/known_kits").mkdir()
    (root / "workspace/known_kits/one").write_text("old")
    machine.run("confirm", str(root))
    machine.install("k2")
    (root / "workspace/known_kits/one").write_text("new")
    for _ in range(2):
        assert machine.run("rollback", str(root), "s.service", "releases/k1-w-u").returncode == 0
        assert machine.releases().rolling_back == machine.releases().current == "releases/k1-w-u"
    assert (root / "workspace/known_kits/one").read_text() == "old"
    assert (root / "current/kit").samefile(root / "kits/k1/kit")
    assert (root / "venv").samefile(root / "venv-w")
    machine.run("confirm", str(root))
    assert machine.releases().rolling_back == ""
    assert machine.run("rollback", str(root), "s.service", "releases/gone").returncode == 1


def test_a_start_without_systemd_is_repeated_by_the_crontab_at_each_boot_until_the_site_is_stopped(machine):
    if Path("/run/systemd/system").is_dir():
        pytest.skip("this machine has systemd")
    shutil.copy(str(CRONTAB), machine.bin / "crontab")
    (machine.bin / "crontab").chmod(0o755)
    for line in ("5 4 * * * true", "@reboot true"):
        table = subprocess.run(
            ["crontab", "-l"], env=machine.environment, capture_output=True, text=True, check=False
        ).stdout
        subprocess.run(["crontab", "-"], env=machine.environment, input=f"{table}{line}\n", text=True, check=True)
    machine.install("k1")
    for _ in range(2):
        done = machine.run("start", str(machine.root), "s.service")
        assert done.returncode == 0, done.stdout + done.stderr
    (table,) = (machine.folder / "tables").iterdir()
    lines = table.read_text().splitlines()
    assert (lines[:2], len(lines)) == (["5 4 * * * true", "@reboot true"], 3)
    assert lines[2].endswith("# s.service")

    pid_file = machine.root / "workspace/daemon_pid.fl"
    killed = int(pid_file.read_text())
    os.kill(killed, signal.SIGKILL)
    until(lambda: not machine.is_alive())
    command = lines[2].removeprefix("@reboot ")
    subprocess.run(["sh", "-c", command], env={"PATH": "/usr/bin:/bin", "HOME": "/"}, check=True)
    until(machine.is_alive)
    assert int(pid_file.read_text()) != killed
    for _ in range(2):
        assert machine.run("stop", str(machine.root), "s.service").returncode == 0
    assert table.read_text() == "5 4 * * * true\n@reboot true\n"


def test_a_site_that_runs_and_nobody_knows_what_is_stopped_for_another_release(machine):
    machine.install("k1")
    machine.run("start", str(machine.root), "s.service")
    assert machine.install("k1").stdout.split()[-1] == "same"
    (machine.root / "started").unlink()
    assert machine.install("k2").stdout.split()[-1] == "changed"


def test_a_supervisor_in_a_container_site_is_known_by_files_that_the_container_cannot_write(machine):
    """A link or a number in the workspace is nothing to the script, which starts, finds and ends its own supervisor."""
    machine.upload("k1")
    (machine.root / "venv-w/engine").write_text("/usr/bin/true\n")
    victim = machine.folder / "victim"
    victim.write_text("as it was")
    machine.run("install", str(machine.root), "k1", "w", "u", "")
    own = machine.root / "supervisor"
    assert f"CLOUDDEPLOY_SUPERVISOR={own}" in (machine.root / "site.env").read_text().splitlines()
    fake = machine.root / "kits/k1/kit/startup/sub_start.sh"
    with subprocess.Popen(["sh", "-c", "read -r x", str(fake)], stdin=subprocess.PIPE) as other:
        (machine.root / "workspace/daemon_pid.fl").write_text(f"{other.pid}\n")
        (machine.root / "workspace/start.log").symlink_to(victim)
        done = machine.run("start", str(machine.root), "s.service")
        assert done.returncode == 0, done.stdout + done.stderr
        assert machine.is_alive()
        assert int((own / "daemon_pid.fl").read_text()) != other.pid
        assert machine.run("stop", str(machine.root), "s.service").returncode == 0
        assert not machine.is_alive()
        assert other.poll() is None
        other.communicate(b"\n")
    assert victim.read_text() == "as it was"


@pytest.mark.parametrize("number", ["-1", "0", "1", "07", "x"])
def test_what_is_no_number_of_a_supervisor_is_nobody(machine, number):
    machine.install("k1")
    (machine.root / "workspace/daemon_pid.fl").write_text(number)
    assert not machine.is_alive()


def test_what_was_known_of_kits_is_copied_without_following_links(machine):
    root = machine.root
    machine.install("k1")
    secret = machine.folder / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    known = root / "workspace/known_kits"
    known.mkdir()
    (known / "one").write_text("mine")
    (known / "two").symlink_to(secret / "key")
    os.mkfifo(known / "three")
    machine.run("confirm", str(root))
    copied = root / "releases/k1-w-u/known_kits"
    assert (copied / "one").read_text() == "mine"
    assert "secret" not in [path.read_text() for path in copied.iterdir()]
    assert not (copied / "two").exists()
    machine.install("k2")
    shutil.rmtree(known)
    known.symlink_to(secret)
    machine.run("confirm", str(root))
    assert list((root / "releases/k2-w-u/known_kits").iterdir()) == []


def test_a_step_waits_for_the_one_that_a_killed_run_has_left_at_work(machine):
    machine.install("k1")
    other = subprocess.Popen(["flock", str(machine.root), "sh", "-c", "echo at work; sleep 1"], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"at work\n"
    assert machine.run("confirm", str(machine.root)).returncode == 0
    assert other.poll() == 0
    other.stdout.close()


def test_a_machine_with_a_crontab_for_us_says_that_sites_come_back(machine):
    machine.environment["CLOUDDEPLOY_NO_SUDO"] = "1"
    machine.program("crontab", 'echo "no crontab for fl" >&2; exit 1')
    assert "boots=yes\ngpu=none" in machine.run("probe", "study", "site-1").stdout
    machine.program("crontab", 'echo "You (fl) are not allowed to use this program (crontab)" >&2; exit 1')
    assert "boots=no" in machine.run("probe", "study", "site-1").stdout


@pytest.mark.parametrize("says", ['echo "cannot read the spool" >&2; exit 1', "exit 1"])
def test_a_crontab_that_cannot_be_read_is_never_replaced(machine, says):
    if Path("/run/systemd/system").is_dir():
        pytest.skip("this machine has systemd")
    machine.program("crontab", f'if [ "$1" = - ]; then echo written >>"{machine.calls}"; exit 0; fi; {says}')
    machine.install("k1")
    done = machine.run("start", str(machine.root), "s.service")
    assert (done.returncode, "warning: the crontab" in done.stdout) == (0, True), done.stdout + done.stderr
    assert machine.calls.read_text() == ""


def test_a_site_stays_in_the_folder_where_it_is_though_sudo_comes_or_goes(machine):
    def root():
        return machine.run("probe", "study", "site-1").stdout.splitlines()[0]

    home, system = machine.folder / "home/clouddeploy/study/site-1", machine.folder / "opt/clouddeploy/study/site-1"
    machine.program("sudo", "exit 1")
    assert root() == f"root={home}"
    (system / "enrolment").mkdir(parents=True)
    assert root() == f"root={system}"
    machine.environment["CLOUDDEPLOY_NO_SUDO"] = "1"
    assert root() == f"root={home}"
    del machine.environment["CLOUDDEPLOY_NO_SUDO"]
    (home / "current").symlink_to("releases/gone")
    assert root() == f"root={home}"


def test_a_folder_with_a_site_where_we_may_not_write_is_named(machine):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    system = machine.folder / "opt/clouddeploy/study/site-1"
    system.mkdir(parents=True)
    (system / "started").touch()
    system.chmod(0o500)
    machine.program("sudo", "exit 1")
    done = machine.run("probe", "study", "site-1")
    assert (done.returncode, str(system) in done.stdout) == (1, True)


def test_the_service_can_write_to_its_workspace_alone():
    unit = resources.files("clouddeploy.remote").joinpath("site.service").read_text().splitlines()
    assert [line for line in unit if line.startswith("ReadWritePaths")] == ["ReadWritePaths=@ROOT@/workspace"]


def test_a_gpu_without_a_driver_gets_ubuntus_and_one_with_a_driver_is_left_alone(machine):
    works = machine.folder / "works"
    machine.card()
    machine.logged("apt-get", f'case "$*" in *nvidia-utils-570-server*) touch "{works}" ;; esac')
    machine.logged("ubuntu-drivers")
    machine.logged("modprobe")
    machine.program("dpkg-query", "printf 'ii nvidia-headless-no-dkms-570-server\\nun nvidia-driver-390-server\\n'")
    machine.program("nvidia-smi", f'[ -e "{works}" ]')
    done = machine.run("driver")
    assert (done.returncode, done.stdout.split()[-1]) == (0, "ready"), done.stderr
    called = machine.calls.read_text()
    assert "ubuntu-drivers install --gpgpu" in called
    assert "modprobe nvidia" in called
    assert "xserver" not in called
    done = machine.run("driver")
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert machine.calls.read_text() == called


@pytest.mark.parametrize(
    "card", [{"vendor": "0x1002"}, {"kind": "0x040300"}], ids=["another maker's", "NVIDIA's sound"]
)
def test_what_is_no_gpu_of_nvidia_needs_no_driver(machine, card):
    machine.card(**card)
    machine.logged("apt-get")
    assert machine.run("driver").stdout == "ready\n"
    assert machine.calls.read_text() == ""


def test_a_driver_that_needs_a_restart_is_an_error_and_one_that_we_may_not_install_a_reason(machine):
    machine.card()
    for name in ("apt-get", "ubuntu-drivers", "modprobe"):
        machine.logged(name)
    machine.program("nvidia-smi", "exit 9")
    machine.program("dpkg-query", "printf 'ii nvidia-utils-570-server\\n'")
    done = machine.run("driver")
    assert (done.returncode, "has to be restarted" in done.stdout) == (1, True)
    machine.calls.write_text("")
    (machine.folder / "etc/os-release").write_text("ID=fedora\n")
    assert "another distribution" in machine.run("driver").stdout
    machine.environment["CLOUDDEPLOY_NO_SUDO"] = "1"
    assert "sudo is not allowed" in machine.run("driver").stdout
    assert machine.calls.read_text() == ""


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_driver_that_is_installed_and_does_not_answer_is_not_installed_again(machine):
    machine.card()
    for name in ("apt-get", "ubuntu-drivers"):
        machine.logged(name)
    machine.program("nvidia-smi", "exit 9")
    machine.program("modinfo", '[ "$1" = nvidia ]')
    done = machine.run("driver")
    assert (done.returncode, "has to be restarted" in done.stdout) == (0, True)
    assert machine.calls.read_text() == "dpkg --configure -a\n"


def test_a_driver_that_was_cut_off_after_its_module_gets_the_rest(machine):
    machine.card()
    works = machine.folder / "works"
    machine.program("modinfo", '[ "$1" = nvidia ]')
    for name in ("ubuntu-drivers", "modprobe"):
        machine.logged(name)
    installed = (
        f'printf "#!/bin/sh\\n[ -e {works} ]\\n" >"{machine.bin}/nvidia-smi"; chmod +x "{machine.bin}/nvidia-smi"'
    )
    machine.logged("apt-get", f'case "$*" in *nvidia-utils-570-server*) touch "{works}"; {installed} ;; esac')
    machine.program("dpkg-query", "printf 'ii nvidia-headless-no-dkms-570-server\\n'")
    done = machine.run("driver")
    assert (done.returncode, done.stdout.split()[-1]) == (0, "ready"), done.stdout + done.stderr
    assert machine.calls.read_text().startswith("dpkg --configure -a\n")


def test_two_sites_of_a_machine_do_not_install_its_driver_at_once(machine):
    machine.card()
    machine.program("nvidia-smi", f'[ -e "{machine.folder}/works" ]')
    machine.logged("apt-get")
    machine.program("flock", f'touch "{machine.folder}/waits"; exec /usr/bin/flock "$@"')
    work = f"echo at work; cd '{machine.folder}'; while [ ! -e waits ]; do sleep 0.01; done; touch works"
    other = subprocess.Popen(["flock", str(machine.folder / "etc"), "sh", "-c", work], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"at work\n"
    assert machine.run("driver").stdout == "ready\n"
    assert "apt-get" not in machine.calls.read_text()
    assert other.wait() == 0
    other.stdout.close()


def test_a_first_boot_that_updates_the_lists_is_waited_for(machine):
    machine.card()
    busy = machine.folder / "busy"
    busy.touch()
    lock = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"
    machine.logged("apt-get", f'if [ -e "{busy}" ]; then echo "{lock}" >&2; exit 100; fi')
    machine.program("sleep", f'rm -f "{busy}"')
    machine.program("modinfo", "exit 1")
    machine.logged("ubuntu-drivers", "exit 1")
    machine.program("nvidia-smi", "exit 9")
    machine.run("driver")
    assert "ubuntu-drivers install" in machine.calls.read_text()
