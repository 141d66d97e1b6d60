"""The SSH side against OpenSSH's own server on 127.0.0.1, and a whole installation on it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import provision
from clouddeploy_runtime.kit import Kind

from clouddeploy import wheelhouse
from clouddeploy.errors import (
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    Interrupted,
    RemoteCommandFailed,
    RemoteTimeout,
    UploadFailed,
)
from clouddeploy.remote import bootstrap, host_keys, ssh
from clouddeploy.remote.host import TAIL_BYTES
from clouddeploy.remote.known_hosts import HostKeys, fingerprint

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
NAME = "site-1/machine"
pytestmark = pytest.mark.skipif(SSHD is None, reason="needs OpenSSH's sshd")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def keygen(path: Path, kind: str = "ed25519") -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


class Machine:
    """One sshd with its own keys, home and log."""

    def __init__(self, folder: Path, *, prefix: tuple[str, ...] = (), keys_in: Path | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        keys = folder / "etc"
        keys.mkdir()
        self.public = keygen(keys / "ssh_host_ed25519_key")
        self.public_ecdsa = keygen(keys / "ssh_host_ecdsa_key", "ecdsa")
        keygen(folder / "operator")
        shutil.copy(folder / "operator.pub", folder / "authorized_keys")
        self.log = folder / "sshd.log"
        shown_in = keys_in or keys
        port = free_port()
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {shown_in}/ssh_host_ed25519_key\n"
            f"HostKey {shown_in}/ssh_host_ecdsa_key\nPidFile none\nStrictModes no\nUsePAM no\nLogLevel DEBUG1\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv HOME={self.home} CLOUDDEPLOY_NO_SUDO=1\nSubsystem sftp internal-sftp\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [*prefix, str(SSHD), "-D", "-f", str(folder / "sshd_config"), "-E", str(self.log)]
        # unshare does not listen to TERM; what it holds in its namespace ends with it.
        self._last = signal.SIGKILL if prefix else signal.SIGTERM
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.target = ssh.Target(NAME, "127.0.0.1", port, getpass.getuser(), folder / "operator")
        self.pins = HostKeys(folder / "pins.json")

    def connect(self, *, timeout_s: float = 10.0) -> ssh.SshHost:
        return ssh.connect(self.target, self.pins, timeout_s=timeout_s, cancel=Event())

    def end(self) -> None:
        self.process.send_signal(self._last)
        self.process.wait(10)


@contextlib.contextmanager
def machine_in(folder: Path, **options):
    made = Machine(folder, **options)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def machine(tmp_path):
    with machine_in(tmp_path) as made:
        yield made


@pytest.fixture
def host(machine):
    machine.pins.pin(NAME, machine.public)
    with contextlib.closing(machine.connect()) as connected:
        yield connected


class Link:
    """A TCP connection in between that can go silent without closing."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._to = port
        self._sockets = [self._server]
        self.silent = Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        near, _ = self._server.accept()
        far = socket.create_connection(("127.0.0.1", self._to))
        self._sockets += [near, far]
        for source, sink in ((near, far), (far, near)):
            thread = threading.Thread(target=self._pump, args=(source, sink), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.silent.is_set():
                    sink.sendall(data)

    def close(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)


def test_host_without_a_pin_is_refused_before_login(machine):
    wait_for(lambda: machine.log.exists() and "listening" in machine.log.read_text())
    with pytest.raises(HostKeyUnknown):
        machine.connect()
    machine.end()
    assert "userauth-request" not in machine.log.read_text()


def test_host_with_a_changed_key_is_refused_before_login(machine, tmp_path):
    machine.pins.pin(NAME, keygen(tmp_path / "other"))
    with pytest.raises(HostKeyChanged):
        machine.connect()
    machine.end()
    assert "userauth-request" not in machine.log.read_text()


def test_pin_of_a_key_that_the_host_likes_less_is_found(machine):
    machine.pins.pin_fingerprint(NAME, fingerprint(machine.public_ecdsa))
    with contextlib.closing(machine.connect()) as host:
        assert host.shown == fingerprint(machine.public_ecdsa)


def test_operator_key_that_is_missing_ends_at_once(machine, tmp_path):
    machine.target = replace(machine.target, identity_file=tmp_path / "missing")
    began = time.monotonic()
    with pytest.raises(HostUnreachable):
        machine.connect(timeout_s=60)
    assert time.monotonic() - began < 2


def test_operator_key_with_a_passphrase_ends_at_once(machine, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "locked")], check=True)
    machine.target = replace(machine.target, identity_file=tmp_path / "locked")
    with pytest.raises(HostUnreachable):
        machine.connect(timeout_s=60)


def test_socket_that_accepts_and_never_answers_ends_within_its_deadline(machine):
    with socket.create_server(("127.0.0.1", 0)) as dead:
        machine.pins.pin(NAME, machine.public)
        machine.target = replace(machine.target, port=dead.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(HostUnreachable):
            machine.connect(timeout_s=1.5)
        assert time.monotonic() - began < 3


def test_wait_for_a_host_ends_when_cancelled(machine):
    machine.pins.pin(NAME, machine.public)
    machine.target = replace(machine.target, port=free_port())
    cancel = Event()
    cancel.set()
    with pytest.raises(Interrupted):
        ssh.connect(machine.target, machine.pins, timeout_s=60, cancel=cancel)


def test_link_that_goes_silent_ends_every_verb_at_its_deadline(machine):
    link = Link(machine.target.port)
    try:
        machine.pins.pin(NAME, machine.public)
        machine.target = replace(machine.target, port=link.port)
        wait_for(lambda: machine.log.exists() and "listening" in machine.log.read_text())
        with contextlib.closing(machine.connect()) as host:
            threading.Timer(0.5, link.silent.set).start()
            for argv in (["sleep", "30"], ["true"]):
                began = time.monotonic()
                with pytest.raises(RemoteTimeout):
                    host.run(argv, timeout_s=1.5)
                assert time.monotonic() - began < 3
    finally:
        link.close()


def test_large_input_and_both_outputs_at_once_do_not_block_each_other(host):
    said = host.run(["tee", "/dev/stderr"], timeout_s=30, input=b"x" * 8 * 1024 * 1024)
    assert (said.status, said.output) == (0, "x" * TAIL_BYTES)


def test_command_that_ignores_a_large_input_still_says_its_status(host):
    assert host.run(["sh", "-c", "exit 3"], timeout_s=10, input=bytes(4 * 1024 * 1024), check=False).status == 3


def test_words_reach_the_command_as_they_are(host):
    word = "a b'c\"d $(id) ; `true` \\ *"
    assert host.run(["printf", "%s", word], timeout_s=10).output == word


def test_upload_has_its_mode_before_its_first_byte(host, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    target = tmp_path / "home/kit.tar"
    aside = tmp_path / "home/kit.tar.part"
    worker = threading.Thread(target=host.upload, args=(pipe, str(target)), kwargs={"mode": 0o600})
    worker.start()
    with pipe.open("wb") as content:  # opens when the upload asks for the first byte
        wait_for(aside.exists)
        assert aside.stat().st_size == 0
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600
        content.write(b"key")
    worker.join(10)
    assert target.read_bytes() == b"key"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_upload_that_arrives_damaged_is_refused_and_replaces_nothing(host, tmp_path, monkeypatch):
    target = tmp_path / "home/kit.tar"
    target.write_bytes(b"before")
    (tmp_path / "source").write_bytes(b"after")
    run = host.run

    def damage(argv, **options):
        if argv[0] == "sha256sum":
            (tmp_path / "home/kit.tar.part").write_bytes(b"aftex")
        return run(argv, **options)

    monkeypatch.setattr(host, "run", damage)
    with pytest.raises(UploadFailed):
        host.upload(tmp_path / "source", str(target), mode=0o600)
    assert target.read_bytes() == b"before"


def can_unshare() -> bool:
    if os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--pid", "--mount", "--fork", "true"], check=False).returncode == 0


@pytest.mark.root
@pytest.mark.skipif(not can_unshare(), reason="needs root: the machine's /etc/ssh is replaced inside a namespace")
@pytest.mark.parametrize("killed_after", ["nothing", "make", "switch"])
def test_host_key_of_the_user_data_is_replaced_wherever_a_kill_came(tmp_path, killed_after):
    inside = ("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
    script = f'mount --bind {tmp_path}/etc /etc/ssh && "$@"'
    with machine_in(tmp_path, prefix=(*inside, script, "sh"), keys_in=Path("/etc/ssh")) as machine:
        machine.pins.pin(NAME, machine.public)
        first = machine.connect()
        if killed_after != "nothing":
            steps = Stopping(first, after=killed_after)
            with pytest.raises(KeyboardInterrupt):
                host_keys.rotate(steps, machine.target, machine.pins, NAME, bootstrap=machine.public, cancel=Event())
            first.close()
            first = machine.connect()
        proven = host_keys.rotate(first, machine.target, machine.pins, NAME, bootstrap=machine.public, cancel=Event())
        proven.close()
        final = (tmp_path / "etc/clouddeploy_host_ed25519_key.pub").read_text()
        assert proven.shown == fingerprint(final)
        assert machine.pins.lookup(NAME) == (fingerprint(final),)
        with contextlib.closing(machine.connect()) as again:
            assert again.shown == fingerprint(final)


class Stopping:
    """A host whose user is interrupted once a step of the rotation has been done there."""

    def __init__(self, host: ssh.SshHost, *, after: str) -> None:
        self._host = host
        self._after = after

    def run(self, argv, **options):
        done = self._host.run(argv, **options)
        if argv[-1] == self._after:
            raise KeyboardInterrupt
        return done


PROJECT = Project(
    name="study",
    description="",
    participants=(
        Participant(Kind.SERVER, "server1", "hub", hosts=("127.0.0.1",), host="127.0.0.1", port=free_port()),
        Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=free_port()),
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
                wheelhouse_for=lambda target: wheelhouse.collect(target, self.cache),
                timeout_s=120,
            )
            return self.release
        finally:
            self.host.upload = upload


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Slow, some ten seconds: wheels are really built, fetched and installed, once for the tests below."""
    folder = tmp_path_factory.mktemp("machine")
    with machine_in(folder) as machine:
        machine.pins.pin(NAME, machine.public)
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


def test_started_site_runs_once_and_says_its_state(site):
    bootstrap.start(site.host, site.release)
    pid = (site.root / "workspace/daemon_pid.fl").read_text()
    bootstrap.start(site.host, site.release)
    site.install()
    assert (site.root / "workspace/daemon_pid.fl").read_text() == pid
    wait_for(lambda: bootstrap.status(site.host, site.release) is not None)
    assert (bootstrap.status(site.host, site.release) or {})["state"] == "connecting"
    wait_for(lambda: bootstrap.logs(site.host, site.release, lines=5) != "")


def test_uninstalled_site_has_no_process_and_no_folder(site):
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
