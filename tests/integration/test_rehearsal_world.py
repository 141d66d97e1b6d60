"""Worlds as a whole: they leave nothing, also when killed; and those for users without root."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import paramiko
import pytest
from clouddeploy_providers import cloud_init
from clouddeploy_rehearsal.isolation import OWN, is_isolated, isolated
from clouddeploy_rehearsal.probe import answers, connect, run, until
from clouddeploy_rehearsal.world import World, load_endpoints

pytest_plugins = ["clouddeploy_rehearsal.pytest_plugin"]
pytestmark = pytest.mark.xdist_group("world")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="hosts in network namespaces need root")


def serve(directory, *words, prefix=()):
    with (directory / "log").open("wb") as log:
        command = [
            *prefix,
            sys.executable,
            "-m",
            "clouddeploy_rehearsal",
            "serve",
            "--directory",
            str(directory),
            *words,
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    endpoints = directory / "endpoints.json"

    def ready():
        assert process.poll() is None, (directory / "log").read_text()
        return endpoints.exists()

    until(ready, timeout_s=60, what="the served world")
    return process, load_endpoints(endpoints)


def processes(directory):
    """Everything alive that has the world's folder in its environment or command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            if str(directory).encode() in text and int(entry.name) != os.getpid():
                found.append(text)
    return found


def descendants(pid):
    """Every process that a process has started, and those that these have."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(word) for children in threads for word in children.read_text().split()]
    return own + [one for child in own for one in descendants(child)]


def login(there):
    return connect(
        there.address,
        port=there.port,
        user=there.user,
        private=Path(there.identity_file).read_text(),
        host_key=there.host_key,
    )


@needs_root
def test_isolation_ends_and_the_machines_own_network_is_not_touched(tmp_path):
    before = OWN.readlink()
    with isolated():
        assert is_isolated()
        assert OWN.readlink() != before
        with pytest.raises(OSError, match=r"unreachable|timed out"):
            socket.create_connection(("192.0.2.77", 80), timeout=0.3)
    assert OWN.readlink() == before
    assert not is_isolated()
    with pytest.raises(RuntimeError, match="isolate"):
        World(tmp_path, as_root=True).start()


@needs_root
@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(["unshare", "--net"], id="in a namespace made for it", marks=pytest.mark.nightly),
        pytest.param([], id="in its own"),
    ],
)
def test_a_served_world_leaves_the_machine_as_it_was(tmp_path, prefix):
    process, endpoints = serve(tmp_path, "--host", "192.0.2.20=site-2", prefix=prefix)
    assert endpoints.hosts["192.0.2.20"].address == "192.0.2.20"
    assert (tmp_path / "endpoints.json").stat().st_mode & 0o777 == 0o600
    assert not is_isolated()
    process.terminate()
    assert process.wait(timeout=20) == 0
    assert processes(tmp_path) == []


@needs_root
def test_on_premises_hosts_have_their_own_addresses_and_the_pinned_keys(world):
    numbered, named = world.add_host("192.0.2.30", name="one"), world.add_host("gpu.example.org", name="two")
    assert (numbered.address, named.address != numbered.address) == ("192.0.2.30", True)
    assert Path(named.identity_file).stat().st_mode & 0o777 == 0o600
    with contextlib.closing(login(named)) as ssh:
        assert run(ssh, "hostname") == (0, "two")
        assert run(ssh, f"ping -c 1 -W 1 {numbered.address} >/dev/null 2>&1 || echo > /dev/tcp/192.0.2.30/22")[0] == 0
    other = cloud_init.generate_host_key()
    with pytest.raises(paramiko.BadHostKeyException):
        connect(named.address, user=named.user, private=other.private, host_key=other.public)
    with pytest.raises(paramiko.AuthenticationException):
        connect(named.address, user=named.user, private=other.private, host_key=named.host_key)


@needs_root
def test_a_hosts_outside_is_the_world_and_nothing_else(world):
    with contextlib.closing(login(world.add_host("192.0.2.31", name="three"))) as ssh:
        status, _ = run(ssh, "timeout 2 bash -c 'echo > /dev/tcp/1.1.1.1/443' 2>/dev/null")
        assert status != 0


@pytest.mark.parametrize(
    "words",
    [pytest.param([], marks=[needs_root, pytest.mark.nightly]), ["--unprivileged"]],
    ids=["root", "unprivileged"],
)
def test_hosts_die_with_a_killed_world_and_the_next_one_starts_in_its_folder(tmp_path, words, request):
    process, endpoints = serve(tmp_path, "--host", "192.0.2.20=site-2", *words)
    request.addfinalizer(lambda: (process.kill(), process.wait()))
    if words:
        with contextlib.closing(login(endpoints.hosts["192.0.2.20"])) as ssh:
            run(ssh, "setsid nohup sleep 300 >/dev/null 2>&1 &")
    started = descendants(process.pid)
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in started]
    assert words or "sshd" in names
    if words:
        until(lambda: any(b"sleep\x00300" in one for one in processes(tmp_path)), what="the process left there")
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), what="the hosts to die")
    until(lambda: processes(tmp_path) == [], what="what they started to die")
    with contextlib.nullcontext() if words else isolated(), World(tmp_path, as_root=not words):
        assert not list(tmp_path.glob("host-*"))


# From here on: hosts for users without root.


@pytest.fixture(scope="module")
def plain_host(unprivileged_world):
    return unprivileged_world.add_host("192.0.2.20", name="site-2")


@pytest.fixture
def ssh(plain_host):
    with contextlib.closing(login(plain_host)) as client:
        yield client


def test_a_host_is_a_folder_of_its_own(unprivileged_world, plain_host, ssh):
    assert plain_host.address.startswith("127.77.")
    assert plain_host.port == unprivileged_world.endpoints.ssh_port
    home = run(ssh, "echo $HOME; pwd")[1].split()
    assert home[0] == home[1]
    assert run(ssh, "echo to-stderr >&2; exit 3")[0] == 3


def test_input_reaches_the_command_and_large_outputs_return(ssh):
    stdin, out, _ = ssh.exec_command("cat")
    stdin.write(b"x" * 3_000_000)
    stdin.channel.shutdown_write()
    assert len(out.read()) == 3_000_000


def test_sftp_works_in_the_home_folder_and_nowhere_else(ssh):
    with ssh.open_sftp() as sftp:
        with sftp.open("a.txt", "w") as file:
            file.write("hello")
        home = run(ssh, "pwd")[1]
        assert sftp.stat(f"{home}/a.txt").st_size == 5
        with pytest.raises(PermissionError):
            sftp.stat("/etc/passwd")
        with pytest.raises(PermissionError):
            sftp.open("../etc-ssh/ssh_host_ed25519_key")
    assert run(ssh, "cat a.txt") == (0, "hello")


def test_other_keys_and_other_accounts_are_refused(plain_host):
    other = cloud_init.generate_host_key()
    with pytest.raises(paramiko.AuthenticationException):
        connect(
            plain_host.address,
            port=plain_host.port,
            user=plain_host.user,
            private=other.private,
            host_key=plain_host.host_key,
        )
    own = Path(plain_host.identity_file).read_text()
    with pytest.raises(paramiko.AuthenticationException):
        connect(plain_host.address, port=plain_host.port, user="root", private=own, host_key=plain_host.host_key)


def test_its_host_key_can_be_replaced_as_root_of_the_machine(unprivileged_world):
    there = unprivileged_world.add_host("other", name="other")
    with contextlib.closing(login(there)) as ssh:
        status, text = run(
            ssh,
            'sudo -n -- sh -euc \'ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/ssh/new;'
            " mv /etc/ssh/new /etc/ssh/ssh_host_ed25519_key; cat /etc/ssh/new.pub' 2>&1",
        )
    if status != 0 and "unshare" in text:
        pytest.skip("this machine has no user namespaces")
    assert status == 0, text
    own = Path(there.identity_file).read_text()
    connect(there.address, port=there.port, user=there.user, private=own, host_key=text).close()


def test_a_background_process_ends_with_the_world(tmp_path):
    with World(tmp_path, as_root=False) as world:
        with contextlib.closing(login(world.add_host("h", name="h"))) as ssh:
            run(ssh, "setsid nohup sleep 300 >/dev/null 2>&1 &")
        assert any(b"sleep" in one for one in processes(tmp_path))
    assert processes(tmp_path) == []


def test_closing_takes_no_time(tmp_path):
    with World(tmp_path, as_root=False) as world:
        address = world.add_host("h", name="h")
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert not answers(address.address, address.port)
