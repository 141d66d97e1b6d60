"""Machines of OpenSSH's own server on 127.0.0.1."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from clouddeploy.remote import ssh
from clouddeploy.remote.known_hosts import HostKeys

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
NAME = "site-1/machine"


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def make_key(path: Path, kind: str = "ed25519") -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


class Link:
    """TCP connections in between that can go silent, or stop for good after so many bytes, without closing.

    Args:
        port: where they lead.
        stops_after: of what the client sends; no more is read then, so that its system's buffers fill.
        drops_after: of what the client sends; the rest is read and dropped.
    """

    def __init__(self, port: int, *, stops_after: float = float("inf"), drops_after: float = float("inf")) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.to = port
        self._sockets = [self._server]
        self._stops_after = stops_after
        self._drops_after = drops_after
        self._ended = Event()
        self.silent = Event()
        """Set it, and what comes is read and dropped."""
        self.stopped = Event()
        self.sent = 0
        """Bytes from the client."""
        self.turns = 0
        """How often one side spoke after the other."""
        self._speaker: socket.socket | None = None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    thread = threading.Thread(
                        target=self._pump, args=(source, sink), kwargs={"is_up": source is near}, daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, *, is_up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._speaker is not source:
                    self._speaker, self.turns = source, self.turns + 1
                if is_up:
                    self.sent += len(data)
                if self.sent > self._drops_after:
                    self.silent.set()
                if not self.silent.is_set():
                    sink.sendall(data)
                if self.sent > self._stops_after:
                    self.stopped.set()
                    self._ended.wait()
        for sock in (source, sink):  # an end is passed on
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._ended.set()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)


class Machine:
    """One sshd with its own keys, home and log."""

    def __init__(
        self, folder: Path, *, prefix: tuple[str, ...] = (), keys_in: Path | None = None, environment: str = ""
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.home = folder / "home"
        self.home.mkdir()
        keys = folder / "etc"
        keys.mkdir()
        self.public = make_key(keys / "ssh_host_ed25519_key")
        self.public_ecdsa = make_key(keys / "ssh_host_ecdsa_key", "ecdsa")
        make_key(folder / "operator")
        shutil.copy(folder / "operator.pub", folder / "authorized_keys")
        self.log = folder / "sshd.log"
        shown_in = keys_in or keys
        port = unused_port()
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {shown_in}/ssh_host_ed25519_key\n"
            f"HostKey {shown_in}/ssh_host_ecdsa_key\nPidFile none\nStrictModes no\nUsePAM no\nLogLevel DEBUG1\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv HOME={self.home} CLOUDDEPLOY_NO_SUDO=1 CLOUDDEPLOY_NO_CRON=1 {environment}\n"
            "Subsystem sftp internal-sftp\n"
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


@pytest.fixture(scope="session")
def machine_in():
    """Returns a context manager that runs a machine in a folder."""
    if SSHD is None:
        pytest.skip("needs OpenSSH's sshd")

    @contextlib.contextmanager
    def machine_in(folder: Path, **options):
        made = Machine(folder, **options)
        try:
            yield made
        finally:
            made.end()

    return machine_in


@pytest.fixture
def machine(machine_in, tmp_path):
    with machine_in(tmp_path) as made:
        yield made


@pytest.fixture
def host(machine):
    machine.pins.pin(machine.target.name, machine.public)
    with contextlib.closing(machine.connect()) as connected:
        yield connected


@pytest.fixture
def link_to():
    """Returns a function that puts a link before a machine, which is reached over it from then on."""
    with contextlib.ExitStack() as stack:

        def link_to(machine: Machine, **options) -> Link:
            until(lambda: machine.log.exists() and "listening" in machine.log.read_text())
            link = Link(machine.target.port, **options)
            stack.callback(link.close)
            machine.target = replace(machine.target, port=link.port)
            return link

        yield link_to


@pytest.fixture(scope="session")
def keygen():
    """Returns a function that makes a key pair and returns its public half."""
    return make_key


@pytest.fixture(scope="session")
def wait_for():
    """Returns a function that polls a condition to a deadline."""
    return until


@pytest.fixture(scope="session")
def free_port():
    """Returns a function that finds a port nobody listens on."""
    return unused_port
