"""A machine in about a tenth of a second: own network, processes, mounts and name; a real sshd; a real firewall."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_rehearsal.hosts import arp
from clouddeploy_rehearsal.isolation import BRIDGE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from clouddeploy_rehearsal.user_data import UserData

BOOT_S = 30.0
POLL_S = 0.01
BANNER_S = 2.0
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class NamespaceHost:
    """One running machine; `kill` ends all of it.

    Attributes:
        name: its host name.
        addresses: the first is the one its own traffic comes from.
    """

    name: str
    directory: Path
    process: subprocess.Popen[bytes]
    addresses: list[str] = field(default_factory=list)

    def add_address(self, address: str) -> None:
        """Gives the machine one more address, from which its traffic comes from now on."""
        self._ip("addr", "add", f"{address}/32", "dev", "eth0")
        self._ip("route", "replace", "default", "dev", "eth0", "src", address)
        self.addresses.insert(0, address)
        arp.announce(address, _hardware(self.process))

    def remove_address(self, address: str) -> None:
        """Takes an address away."""
        if address in self.addresses:
            self.addresses.remove(address)
            self._ip("addr", "del", f"{address}/32", "dev", "eth0")
            if self.addresses:
                self._ip("route", "replace", "default", "dev", "eth0", "src", self.addresses[0])

    def set_rules(self, rules: Sequence[tuple[int, int, str]]) -> None:
        """Lets in TCP from (first port, last port, CIDR block) and answers to what went out, nothing else."""
        lines = ["*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]"]
        lines += ["-A INPUT -i lo -j ACCEPT", "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
        lines += [f"-A INPUT -p tcp --dport {first}:{last} -s {block} -j ACCEPT" for first, last, block in rules]
        self._inside(["iptables-restore"], "\n".join([*lines, "COMMIT", ""]))

    def plug(self, *, is_in: bool) -> None:
        """Pulls the machine's network cable or puts it in again; addresses and connections stay."""
        words = ["ip", "link", "set", _link(self.process), "up" if is_in else "down"]
        subprocess.run(words, check=True, capture_output=True)
        if is_in:
            for address in self.addresses:
                arp.announce(address, _hardware(self.process))

    def reboot(self) -> None:
        """Cuts the machine's power and gives it back; the disk stays. Returns when its SSH answers again.

        Raises:
            RuntimeError: it did not come up again in time.
        """
        before = self._first_process()
        if before is not None:
            os.kill(before, signal.SIGKILL)  # the kernel ends all others of that boot with it
        deadline = time.monotonic() + BOOT_S
        while self._first_process() in {None, before}:
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "log").read_text(errors="replace")
                raise RuntimeError(f"the host {self.name} did not boot again: {log[-2000:]}")
            time.sleep(POLL_S)
        _wait_for_banner(self)

    def kill(self) -> None:
        """Ends the machine as if its power were cut; returns when all its processes are gone."""
        first = self._first_process()
        self.process.kill()  # what it has started is told by the kernel
        self.process.wait()
        deadline = time.monotonic() + BOOT_S
        while first is not None and _is_running(first) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _first_process(self) -> int | None:
        """Returns PID 1 of the running boot, as this machine numbers it; None between two boots."""
        boots = _children(self.process.pid)
        return next((first for boot in boots for first in _children(boot)), None)

    def _ip(self, *words: str) -> None:
        self._inside(["ip", *words], "")

    def _inside(self, words: Sequence[str], given: str) -> None:
        command = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *words]
        subprocess.run(command, input=given.encode(), check=True, capture_output=True)


def boot(
    name: str, *, directory: Path, addresses: Sequence[str], user_data: UserData, spawner: Executor
) -> NamespaceHost:
    """Starts a machine and returns once its sshd answers.

    Args:
        name: its host name.
        directory: a new folder for what it is born with and its log.
        addresses: at least one.
        user_data: account, keys, commands.
        spawner: an executor of one thread that lives as long as the world. A child's death signal comes when the
            *thread* that started it ends, and the machine must die with the world and not with a request.

    Raises:
        RuntimeError: it ended while starting, or did not answer in time.
    """
    (directory / "root").mkdir(parents=True, mode=0o700)
    for file, text in (
        ("host_key", user_data.host_private_key),
        ("host_key.pub", user_data.host_public_key + "\n"),
        ("authorized_keys", "\n".join(user_data.authorized_keys) + "\n"),
    ):
        descriptor = os.open(directory / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(text)
    files = resources.files("clouddeploy_rehearsal.hosts")
    environment = {
        "PATH": PATH,
        "SEED": str(directory),
        "USER_NAME": user_data.user,
        "HOST_NAME": name[:63],
        "RUN_COMMANDS": "\n".join(user_data.commands),
        "BOOT": str(files.joinpath("boot.sh")),
        "CRONTAB": str(files.joinpath("crontab.sh")),
    }
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--ipc"]
    command += ["--propagation", "private", "bash", str(files.joinpath("machine.sh"))]

    def spawn() -> subprocess.Popen[bytes]:
        with (directory / "log").open("wb") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    process = spawner.submit(spawn).result()
    host = NamespaceHost(name=name, directory=directory, process=process)
    try:
        _connect_network(process, _link(process))
        for address in addresses:
            host.add_address(address)
        _wait_for_banner(host)
    except BaseException:
        host.kill()
        raise
    return host


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def _is_running(pid: int) -> bool:
    """Tells whether a process is more than a line that nobody has read yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _link(process: subprocess.Popen[bytes]) -> str:
    """Returns the name of the world's end of the machine's cable."""
    return f"v{process.pid}"


def _hardware(process: subprocess.Popen[bytes]) -> str:
    """Returns the machine's own locally administered hardware address."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *process.pid.to_bytes(4, "big")))


def _connect_network(process: subprocess.Popen[bytes], link: str) -> None:
    mine = Path("/proc/self/ns/net").readlink()
    deadline = time.monotonic() + BOOT_S
    while Path(f"/proc/{process.pid}/ns/net").readlink() == mine:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the host's network namespace did not come up")
        time.sleep(POLL_S / 10)
    pid = str(process.pid)
    for words in (
        ["link", "add", link, "type", "veth", "peer", "name", "eth0", "address", _hardware(process), "netns", pid],
        ["link", "set", link, "master", BRIDGE, "up"],
    ):
        subprocess.run(["ip", *words], check=True, capture_output=True)
    inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip", "link", "set"]
    for words in (["lo", "up"], ["eth0", "up"]):
        subprocess.run([*inside, *words], check=True, capture_output=True)


def _wait_for_banner(host: NamespaceHost) -> None:
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline:
        if host.process.poll() is not None:
            break
        try:
            with socket.create_connection((host.addresses[0], 22), timeout=BANNER_S) as connection:
                connection.settimeout(BANNER_S)
                if connection.recv(8).startswith(b"SSH-"):
                    return
        except OSError:
            time.sleep(POLL_S)
    log = (host.directory / "log").read_text(errors="replace")
    raise RuntimeError(f"the host {host.name} did not start: {log}")
