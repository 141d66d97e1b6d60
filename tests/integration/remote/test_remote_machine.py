"""The SSH side against OpenSSH's own server on 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from clouddeploy.errors import (
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    Interrupted,
    RemoteTimeout,
    UploadFailed,
)
from clouddeploy.remote import host_keys, ssh
from clouddeploy.remote.host import TAIL_BYTES
from clouddeploy.remote.known_hosts import fingerprint

NAME = "site-1/machine"


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


def test_host_without_a_pin_is_refused_before_login(machine, wait_for):
    wait_for(lambda: machine.log.exists() and "listening" in machine.log.read_text())
    with pytest.raises(HostKeyUnknown):
        machine.connect()
    machine.end()
    assert "userauth-request" not in machine.log.read_text()


def test_host_with_a_changed_key_is_refused_before_login(machine, tmp_path, keygen):
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


def test_wait_for_a_host_ends_when_cancelled(machine, free_port):
    machine.pins.pin(NAME, machine.public)
    machine.target = replace(machine.target, port=free_port())
    cancel = Event()
    cancel.set()
    with pytest.raises(Interrupted):
        ssh.connect(machine.target, machine.pins, timeout_s=60, cancel=cancel)


def test_link_that_goes_silent_ends_every_verb_at_its_deadline(machine, wait_for):
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


def test_upload_has_its_mode_before_its_first_byte(host, tmp_path, wait_for):
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


def test_upload_that_arrives_damaged_once_is_sent_again(host, tmp_path, monkeypatch):
    (tmp_path / "source").write_bytes(b"after")
    aside, run = tmp_path / "home/kit.tar.part", host.run
    damages = [b"aftex"]

    def damage(argv, **options):
        if argv[0] == "sha256sum" and damages:
            aside.write_bytes(damages.pop())
        return run(argv, **options)

    monkeypatch.setattr(host, "run", damage)
    host.upload(tmp_path / "source", str(tmp_path / "home/kit.tar"), mode=0o600)
    assert (tmp_path / "home/kit.tar").read_bytes() == b"after"
    assert not aside.exists()


def test_machine_that_stops_answering_ends_every_transfer(machine, tmp_path, wait_for):
    """Its system still acknowledges what arrives, so neither TCP nor SSH notices."""
    link = Link(machine.target.port)
    try:
        machine.pins.pin(NAME, machine.public)
        machine.target = replace(machine.target, port=link.port, answer_s=0.5)
        wait_for(lambda: machine.log.exists() and "listening" in machine.log.read_text())
        with contextlib.closing(machine.connect()) as host:
            assert host.read(str(tmp_path / "authorized_keys"), limit=7) == b"ssh-ed2"
            link.silent.set()
            began = time.monotonic()
            for _ in range(2):  # the second has to open its channel first
                with pytest.raises(HostUnreachable):
                    host.read(str(tmp_path / "authorized_keys"), limit=7)
            with pytest.raises(UploadFailed):
                host.upload(tmp_path / "authorized_keys", str(tmp_path / "home/copy"), mode=0o600)
            assert time.monotonic() - began < 5
    finally:
        link.close()


def can_unshare() -> bool:
    if os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--pid", "--mount", "--fork", "true"], check=False).returncode == 0


@pytest.mark.root
@pytest.mark.skipif(not can_unshare(), reason="needs root: the machine's /etc/ssh is replaced inside a namespace")
@pytest.mark.parametrize("killed_after", ["nothing", "make", "switch"])
def test_host_key_of_the_user_data_is_replaced_wherever_a_kill_came(tmp_path, killed_after, machine_in):
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
