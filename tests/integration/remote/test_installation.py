"""A whole installation of a site over OpenSSH's own server on 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime.kit import Kind

from clouddeploy import wheelhouse
from clouddeploy.errors import RemoteCommandFailed
from clouddeploy.remote import bootstrap

if TYPE_CHECKING:
    from clouddeploy.remote import ssh


pytestmark = pytest.mark.xdist_group("installation")
PORT = 1
"""Nobody listens there."""
PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", hosts=("127.0.0.1",), host="127.0.0.1", port=PORT),
        Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=PORT),
    ),
)


class Installed:
    """One site on one machine; each method is what `apply` calls."""

    release: bootstrap.Release

    def __init__(self, host: ssh.SshHost, folder: Path) -> None:
        self.host = host
        self.kit = provision(PROJECT, folder / "made", passphrase=b"x").result / "site-1"
        self.data = folder / "data"
        self.data.mkdir()
        (self.data / "rows.csv").write_text("1,2\n")
        self.cache = folder / "cache"
        self.root = folder / "home/clouddeploy/study/site-1"
        self.uploads: list[str] = []

    def install(self) -> bootstrap.Release:
        upload = self.host.upload

        def count(source, target, *, mode):
            self.uploads.append(Path(target).name.split("-")[0])
            return upload(source, target, mode=mode)

        self.host.upload = count
        try:
            self.release = bootstrap.install(
                self.host,
                project="study",
                site="site-1",
                kit=self.kit,
                data=self.data,
                wheelhouse_for=lambda target: wheelhouse.collect(
                    target, self.cache, extra=wheelhouse.asked_for(self.kit)
                ),
                timeout_s=120,
            )
            return self.release
        finally:
            self.host.upload = upload


@pytest.fixture(scope="module")
def installed(tmp_path_factory, machine_in):
    """Slow, some ten seconds: wheels are really built, fetched and installed, once for the tests below."""
    folder = tmp_path_factory.mktemp("machine")
    with machine_in(folder) as machine:
        machine.pins.pin(machine.target.name, machine.public)
        with contextlib.closing(machine.connect()) as host:
            yield Installed(host, folder)


@pytest.fixture
def site(installed):
    """The site as installed and not running, whatever the test before did to it."""
    installed.uploads.clear()
    installed.install()
    yield installed
    bootstrap.stop(installed.host, installed.release)
    for path in installed.root.glob("workspace/*"):
        path.unlink()


def test_kit_and_data_are_where_the_site_looks_and_the_key_is_private(site):
    key = site.root / "current/kit/startup/client.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(site.root.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (site.root / "uploads").iterdir()} == {0o600}
    assert (site.root / "data/rows.csv").read_text() == "1,2\n"


def test_second_installation_sends_and_changes_nothing(site):
    watched = [site.root / name for name in ("current/kit/startup/client.key", "venv/bin/python", "data/rows.csv")]
    born = [path.lstat().st_ino for path in watched]
    first = site.release
    site.uploads.clear()
    assert site.install() == first
    assert site.uploads == []
    assert born == [path.lstat().st_ino for path in watched]


def test_what_a_kit_asks_for_beside_the_runtime_is_in_its_environment_without_a_network_there(site):
    asked = site.kit / "startup/requirements.txt"
    before = (site.root / "venv").resolve()
    look = [f"{site.root}/venv/bin/python", "-c", "import tenacity, clouddeploy_runtime; print(tenacity.__name__)"]
    assert site.host.run(look, timeout_s=20, check=False).status != 0
    asked.write_text("# what the jobs here need\ntenacity>=9\n")
    try:
        site.install()
        assert site.host.run(look, timeout_s=20).output.strip() == "tenacity"
        site.uploads.clear()
        site.install()
        assert site.uploads == []
    finally:
        asked.unlink()
        site.install()
    assert (site.root / "venv").resolve() == before


def test_kit_in_which_one_byte_changed_does_not_start(site):
    settings = site.root / "current/kit/startup/fed_client.json"
    before = settings.read_bytes()
    settings.write_bytes(before.replace(b"study", b"studz", 1))
    try:
        with pytest.raises(RemoteCommandFailed) as refused:
            bootstrap.start(site.host, site.release)
    finally:
        settings.write_bytes(before)
    assert "fed_client.json" in refused.value.tail
    assert not bootstrap.is_running(site.host, site.release)
    assert bootstrap.status(site.host, site.release) is None


def test_started_site_runs_once_and_says_its_state(site, wait_for):
    bootstrap.start(site.host, site.release)
    pid = (site.root / "workspace/daemon_pid.fl").read_text()
    bootstrap.start(site.host, site.release)
    site.install()
    assert (site.root / "workspace/daemon_pid.fl").read_text() == pid
    wait_for(lambda: bootstrap.status(site.host, site.release) is not None)
    assert (bootstrap.status(site.host, site.release) or {})["state"] == "connecting"
    wait_for(lambda: bootstrap.logs(site.host, site.release, lines=5) != "")


def test_uninstalled_site_has_no_process_and_no_folder(site, wait_for):
    bootstrap.start(site.host, site.release)
    wait_for(lambda: bootstrap.status(site.host, site.release) is not None)
    pids = [
        int((site.root / "workspace/daemon_pid.fl").read_text()),
        (bootstrap.status(site.host, site.release) or {})["pid"],
    ]
    bootstrap.uninstall(site.host, site.release)
    assert not site.root.exists()
    assert not [pid for pid in pids if is_alive(pid)]
    bootstrap.uninstall(site.host, site.release)
    site.install()


def test_upgrade_stops_the_old_release_even_when_killed_before_the_stop(site, monkeypatch):
    bootstrap.start(site.host, site.release)
    before = site.release
    note = site.kit / "local/note.txt"
    note.write_text("edited")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(bootstrap, "stop", interrupt)
            with pytest.raises(KeyboardInterrupt):
                site.install()
        assert bootstrap.is_running(site.host, before)
        newer = site.install()
    finally:
        note.unlink()
    assert newer.digest != before.digest
    assert not bootstrap.is_running(site.host, newer)
    assert [path.name for path in (site.root / "uploads").glob("kit-*")] == [f"kit-{newer.digest}.tar"]


def test_pid_file_that_a_reboot_left_does_not_keep_the_site_from_starting(site):
    (site.root / "workspace/daemon_pid.fl").write_text(f"{os.getpid()}\n")
    assert not bootstrap.is_running(site.host, site.release)
    bootstrap.start(site.host, site.release)
    assert bootstrap.is_running(site.host, site.release)


def is_alive(pid: int) -> bool:
    """A process that has ended but was not reaped yet is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def interrupt(*_) -> None:
    raise KeyboardInterrupt
