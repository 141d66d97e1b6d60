"""Machines that are reached from a jump host alone: two real sshds, each with a key of its own that is pinned."""

from __future__ import annotations

import contextlib
import getpass
import socket
import subprocess
import time
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import pytest
from clouddeploy_providers.resources import Kind, ResourceRef

from clouddeploy.access import Access
from clouddeploy.errors import HostKeyChanged, HostKeyUnknown, HostUnreachable, UploadFailed
from clouddeploy.remote import ssh
from clouddeploy.remote.known_hosts import fingerprint, jump_name
from clouddeploy.shells import Shells
from clouddeploy.state import Record, State

NAME = "site-1/machine"
SIZE = 4 * 1024 * 1024


class Site:
    """A machine inside and the one that leads there."""

    def __init__(self, inside, bastion) -> None:
        self.inside = inside
        self.bastion = bastion
        self.pins = inside.pins

    @property
    def jump_name(self) -> str:
        return jump_name("site-1", f"127.0.0.1:{self.bastion.target.port}")

    @property
    def target(self) -> ssh.Target:
        return replace(self.inside.target, jump=replace(self.bastion.target, name=self.jump_name))

    def pin(self) -> None:
        self.pins.pin(NAME, self.inside.public)
        self.pins.pin(self.jump_name, self.bastion.public)

    def connect(self, *, timeout_s: float = 10.0) -> ssh.SshHost:
        return ssh.connect(self.target, self.pins, timeout_s=timeout_s, cancel=Event())

    def outputs(self) -> dict[str, str]:
        return {
            "address": "127.0.0.1",
            "ssh_port": str(self.inside.target.port),
            "user": getpass.getuser(),
            "identity_file": str(self.inside.target.identity_file),
            "host_key": fingerprint(self.inside.public),
            "jump": f"{getpass.getuser()}@127.0.0.1:{self.bastion.target.port}",
            "jump_host_key": fingerprint(self.bastion.public),
            "jump_identity_file": str(self.bastion.target.identity_file),
        }


@pytest.fixture
def site(machine_in, tmp_path, wait_for):
    with machine_in(tmp_path / "inside") as inside, machine_in(tmp_path / "bastion") as bastion:
        for one in (inside, bastion):
            wait_for(lambda one=one: one.log.exists() and "listening" in one.log.read_text())
        yield Site(inside, bastion)


def logins(machine) -> int:
    return machine.log.read_text().count("Accepted publickey")


def is_asked(machine) -> bool:
    return "userauth-request" in machine.log.read_text()


def test_every_verb_goes_through_the_jump_host(site, tmp_path):
    site.pin()
    (tmp_path / "source").write_bytes(b"k" * SIZE)
    there = site.inside.home / "copy"
    with contextlib.closing(site.connect()) as host:
        assert host.shown == fingerprint(site.inside.public)
        assert host.run(["echo", "hello"], timeout_s=10).output == "hello\n"
        host.upload(tmp_path / "source", str(there), mode=0o600)
        assert host.read(str(there), limit=3) == b"kkk"
    assert there.stat().st_size == SIZE
    assert (logins(site.bastion), logins(site.inside)) == (1, 1)
    assert f"connected to 127.0.0.1 port {site.inside.target.port}" in site.bastion.log.read_text()


def test_a_jump_host_without_a_pin_is_refused_before_login(site):
    site.pins.pin(NAME, site.inside.public)
    with pytest.raises(HostKeyUnknown, match="jump host"):
        site.connect()
    assert not is_asked(site.bastion)


def test_a_jump_host_with_a_changed_key_is_refused_and_the_machine_never_asked(site):
    site.pin()
    site.pins.pin(site.jump_name, site.inside.public)
    with pytest.raises(HostKeyChanged, match="jump host"):
        site.connect()
    assert not is_asked(site.bastion)
    assert "Connection from" not in site.inside.log.read_text()


def test_a_machine_with_a_changed_key_is_refused_before_login_though_its_jump_host_is_right(site):
    site.pin()
    site.pins.pin(NAME, site.bastion.public)
    with pytest.raises(HostKeyChanged, match=NAME):
        site.connect()
    assert not is_asked(site.inside)


def test_a_jump_host_that_cannot_reach_the_machine_is_named_with_where_it_went(site, free_port):
    site.pin()
    site.inside.target = replace(site.inside.target, port=free_port())
    began = time.monotonic()
    with pytest.raises(HostUnreachable) as refused:
        site.connect(timeout_s=1.0)
    assert time.monotonic() - began < 3
    assert site.jump_name in refused.value.what
    assert f"does not connect to 127.0.0.1:{site.inside.target.port}" in refused.value.why
    assert refused.value.hint


def test_a_jump_host_that_does_not_take_our_key_is_named_and_asked_once(site):
    site.pin()
    (site.bastion.folder / "authorized_keys").write_text("")
    site.inside.target = replace(site.inside.target, retries_login=True)
    began = time.monotonic()
    with pytest.raises(HostUnreachable, match=f"no login to {site.jump_name}"):
        site.connect(timeout_s=60)
    assert time.monotonic() - began < 10
    assert site.bastion.log.read_text().count("Connection from") == 1


def test_a_link_to_the_jump_host_that_dies_ends_a_transfer(site, tmp_path, link_to):
    link_to(site.bastion, stops_after=SIZE / 4)
    site.inside.target = replace(site.inside.target, answer_s=1.0)
    site.pin()
    (tmp_path / "source").write_bytes(b"k" * SIZE)
    with contextlib.closing(site.connect()) as host:
        began = time.monotonic()
        with pytest.raises(UploadFailed) as refused:
            host.upload(tmp_path / "source", str(site.inside.home / "copy"), mode=0o600)
        assert time.monotonic() - began < 5
    assert refused.value.why == "nothing moved for 1 s"


def test_the_end_of_the_connection_ends_the_one_to_the_jump_host(site, wait_for):
    site.pin()
    site.connect().close()
    wait_for(lambda: all("do_cleanup" in one.log.read_text() for one in (site.bastion, site.inside)))


def test_a_deployment_pins_both_keys_of_the_deploy_file_and_logs_in(site):
    ref = ResourceRef(Kind.MACHINE, "machine", "machine", site.outputs())
    host = Access(SimpleNamespace(), site.pins, timeout_s=10).open("site-1", ref, Event())
    with contextlib.closing(host):
        assert host.run(["true"], timeout_s=10).status == 0
    assert site.pins.lookup(NAME) == (fingerprint(site.inside.public),)
    assert site.pins.lookup(site.jump_name) == (fingerprint(site.bastion.public),)


@pytest.fixture
def shells(site, tmp_path):
    """The site in a folder whose name OpenSSH, and the shell that it starts, have to be told with care."""
    ref = ResourceRef(Kind.MACHINE, "machine", "machine", site.outputs())
    directory = tmp_path / """a folder, "quoted" at 100%h with $HOME and 'more'"""
    directory.mkdir()
    site.pins = type(site.pins)(directory / "known_hosts")
    site.pin()
    state = State(directory, "0a1b2c3d", resources={"site-1/machine": Record(ref, "site-1", "onprem", {}, {})})
    return Shells(state, directory=directory, keyring=SimpleNamespace(), pins=site.pins.path)


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_openssh_goes_through_the_jump_host_too(site, shells):
    done = run(shells.command("site-1", ["sh", "-c", 'echo "$1"; exit 7', "sh", "two  words"]))
    assert (done.stdout, done.returncode) == ("two  words\n", 7), done.stderr
    assert (logins(site.bastion), logins(site.inside)) == (1, 1)


@pytest.mark.parametrize("whose", ["bastion", "inside"])
def test_openssh_refuses_a_changed_key_of_either(site, shells, whose):
    site.pins.pin(*{"bastion": (site.jump_name, site.inside.public), "inside": (NAME, site.bastion.public)}[whose])
    done = run(shells.command("site-1", ["true"]))
    assert done.returncode == 255
    assert "shows another host key" in done.stderr
    assert logins(site.inside) == 0
    assert logins(site.bastion) == (whose == "inside")


def test_a_port_is_forwarded_through_the_jump_host(site, shells, free_port, wait_for):
    port = free_port()
    command = shells.command("site-1", [], forwards=[f"{port}:127.0.0.1:{site.inside.target.port}"])
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: banner(port).startswith("SSH-2.0"))
        finally:
            process.terminate()


def banner(port: int) -> str:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        return sock.recv(64).decode()
    return ""
