"""The SSH side against OpenSSH's own server on 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import socket
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


def test_login_that_is_refused_is_final_but_on_a_machine_that_may_not_know_our_key_yet(machine, tmp_path, keygen):
    keygen(tmp_path / "other")
    machine.pins.pin(NAME, machine.public)
    machine.target = replace(machine.target, identity_file=tmp_path / "other")
    for retries_login, at_least_s, at_most_s in ((False, 0, 4), (True, 2, 5)):
        machine.target = replace(machine.target, retries_login=retries_login)
        began = time.monotonic()
        with pytest.raises(HostUnreachable):
            machine.connect(timeout_s=60 if not retries_login else 4)
        assert at_least_s <= time.monotonic() - began < at_most_s
    machine.end()
    tries = machine.log.read_text().count("Connection closed by authenticating user")
    assert tries <= 3


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


def test_link_that_goes_silent_ends_every_verb_at_its_deadline(machine, link_to):
    link = link_to(machine)
    machine.pins.pin(NAME, machine.public)
    with contextlib.closing(machine.connect()) as host:
        threading.Timer(0.5, link.silent.set).start()
        for argv in (["sleep", "30"], ["true"]):
            began = time.monotonic()
            with pytest.raises(RemoteTimeout):
                host.run(argv, timeout_s=1.5)
            assert time.monotonic() - began < 3


def test_large_input_and_both_outputs_at_once_do_not_block_each_other(host):
    said = host.run(["tee", "/dev/stderr"], timeout_s=30, input=b"x" * 8 * 1024 * 1024)
    assert (said.status, said.output) == (0, "x" * TAIL_BYTES)


def test_command_that_ignores_a_large_input_still_says_its_status(host):
    assert host.run(["sh", "-c", "exit 3"], timeout_s=10, input=bytes(4 * 1024 * 1024), check=False).status == 3


def test_words_reach_the_command_as_they_are(host):
    word = "a b'c\"d $(id) ; `true` \\ *"
    assert host.run(["printf", "%s", word], timeout_s=10).output == word


def test_machine_that_stops_answering_ends_every_transfer(machine, tmp_path, link_to):
    """Its system still acknowledges what arrives, so neither TCP nor SSH notices."""
    link = link_to(machine)
    machine.pins.pin(NAME, machine.public)
    machine.target = replace(machine.target, answer_s=0.5)
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


def test_the_fastest_authenticated_cipher_is_spoken_both_ways(host, machine):
    assert host.run(["true"], timeout_s=10).status == 0
    said = machine.log.read_text()
    for way in ("client->server", "server->client"):
        assert f"kex: {way} cipher: aes128-gcm@openssh.com" in said


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
