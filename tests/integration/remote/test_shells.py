"""OpenSSH's own client with a deployment's ssh_config, at a real sshd."""

import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from clouddeploy_providers.resources import Kind, ResourceRef

from clouddeploy.errors import ConfigError
from clouddeploy.remote import pinned
from clouddeploy.shells import Shells
from clouddeploy.state import Record, State


def answers(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def shells(machine, tmp_path, wait_for):
    """The machine as site-1 of a deployment in a folder whose name OpenSSH has to be told with care."""
    wait_for(lambda: answers(machine.target.port))
    outputs = {"address": "127.0.0.1", "ssh_port": str(machine.target.port), "user": machine.target.user}
    ref = ResourceRef(Kind.MACHINE, "machine", "machine", outputs)
    directory = tmp_path / 'a folder, "quoted" at 100%h'
    directory.mkdir()
    keyring = SimpleNamespace(operator_file=machine.target.identity_file)
    state = State(directory, "0a1b2c3d", resources={"site-1/machine": Record(ref, "site-1", "onprem", {}, {})})
    state.sites["site-1"] = {"root": str(machine.home)}
    machine.pins = type(machine.pins)(directory / "known_hosts")
    return Shells(state, directory=directory, keyring=keyring, pins=directory / "known_hosts")


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_a_command_keeps_its_words_its_output_and_its_status(machine, shells):
    machine.pins.pin(machine.target.name, machine.public)
    done = run(shells.command("site-1", ["sh", "-c", 'echo "$1"; exit 7', "sh", "two  words; $HOME"]))
    assert done.returncode == 7, done.stderr
    assert (done.stdout, done.returncode) == ("two  words; $HOME\n", 7)


def test_a_key_that_is_pinned_by_its_fingerprint_is_accepted(machine, shells):
    machine.pins.pin_fingerprint(machine.target.name, "SHA256:" + "A" * 43)
    machine.pins.add(machine.target.name, machine.public_ecdsa)
    done = run(
        [*shells.command("site-1", ["true"])[:3], "-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256", "site-1", "true"]
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pin", ["", "another"])
def test_a_host_key_that_is_not_pinned_ends_it(machine, shells, pin, tmp_path, keygen):
    if pin:
        machine.pins.pin(machine.target.name, keygen(tmp_path / "other"))
    done = run(shells.command("site-1", ["true"]))
    assert done.returncode == 255
    assert "host key" in done.stderr
    assert "Accepted publickey" not in machine.log.read_text()


def test_the_configuration_holds_no_secret_and_is_ours_alone(machine, shells):
    shells.command("site-1", ["true"])
    [file] = [word for word in shells.command("site-1", []) if word.endswith("ssh_config")]
    assert (shells._directory / "ssh_config").stat().st_mode & 0o777 == 0o600
    assert file == str(shells._directory / "ssh_config")
    assert "PRIVATE" not in shells.config()


@pytest.mark.parametrize("key", ["user", "address"])
def test_what_would_begin_a_line_of_its_own_is_refused(shells, key):
    shells.of("site-1").outputs[key] += "\n    ProxyCommand true"
    with pytest.raises(ConfigError, match="site-1 cannot stand in an ssh_config"):
        shells.config()


def test_a_port_of_the_machine_becomes_one_of_ours(machine, shells, free_port, wait_for):
    machine.pins.pin(machine.target.name, machine.public)
    local = free_port()
    command = shells.command("site-1", [], forwards=[f"127.0.0.1:{local}:127.0.0.1:{machine.target.port}"])
    with subprocess.Popen(command) as process:
        try:
            scan = ["ssh-keyscan", "-T", "2", "-p", str(local), "127.0.0.1"]
            wait_for(lambda: "ssh-ed25519" in run(scan).stdout)
        finally:
            process.terminate()


def test_a_site_without_a_machine_is_refused_by_name(shells):
    with pytest.raises(ConfigError, match="site-9 has no machine") as caught:
        shells.command("site-9", ["true"])
    assert "site-1" in caught.value.hint


def test_a_site_in_a_folder_of_this_machine_needs_no_ssh(tmp_path):
    ref = ResourceRef(Kind.MACHINE, "machine", "machine", {"directory": str(tmp_path)})
    state = State(tmp_path, "0a1b2c3d", resources={"site-1/machine": Record(ref, "site-1", "local", {}, {})})
    shells = Shells(state, directory=tmp_path, keyring=SimpleNamespace(operator_file=tmp_path), pins=tmp_path / "pins")
    assert run(shells.command("site-1", ["pwd"])).stdout.strip() == str(tmp_path)
    assert shells.config() == ""
    with pytest.raises(ConfigError, match="on this machine"):
        shells.command("site-1", [], forwards=["1:localhost:1"])
    with pytest.raises(ConfigError, match="not installed yet"):
        _ = shells.of("site-1").log


def test_openssh_is_told_nothing_while_it_orders_algorithms(tmp_path):
    assert pinned.line(tmp_path / "pins", "site-1/m", "site-1", "NONE", "NONE") == ""


def test_the_checker_starts_without_anything_that_it_does_not_need():
    loaded = run([sys.executable, "-P", "-X", "importtime", "-m", "clouddeploy.remote.pinned"]).stderr
    assert "paramiko" not in loaded
    assert "cryptography" not in loaded
