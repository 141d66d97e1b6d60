"""Copies files to a machine: a wheelhouse beside `scp`, a kit over a slow link, and a host from bare to registered.

The machine is an sshd of our own on 127.0.0.1. The wheelhouse is 200 MB of random bytes, ours and `scp` in turns, login
included, each the middle of several. The kit goes over a proxy that holds everything back for 50 ms each way.
The bare host is one of a rehearsal (which needs root) of a server and a client on premises: from the beginning of
`apply`, when the machine is there and the wheels are fetched, until the client is registered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_rehearsal.probe import until
from measure import run, show

from clouddeploy.remote import ssh
from clouddeploy.remote.known_hosts import HostKeys

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOUDDEPLOY = Path(sys.executable).with_name("clouddeploy")
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
MEGABYTES, KIT_BYTES = 200, 64 * 1024
ONE_WAY_S = 0.05
FIRST_HOST = 20
"""The first addresses of the network are the rehearsal's own."""
REPEATS = 3
LIMIT_RATIO, LIMIT_KIT_S, LIMIT_REGISTERED_S = 1.25, 2.0, 10.0
PROJECT = """\
api_version: 3
name: bench
participants:
  - {name: server1, type: server, org: hub, fed_learn_port: 8002, admin_port: 8002}
  - {name: site-1, type: client, org: org_a}
builders:
  - {path: nvflare.lighter.impl.workspace.WorkspaceBuilder, args: {template_file: [master_template.yml]}}
  - {path: nvflare.lighter.impl.static_file.StaticFileBuilder, args: {config_folder: config, scheme: grpc}}
  - {path: nvflare.lighter.impl.cert.CertBuilder, args: {}}
  - {path: nvflare.lighter.impl.signature.SignatureBuilder, args: {}}
"""
SITE = "{{provider: onprem, address: {address}, user: fl, identity_file: none, host_key: 'SHA256:{key}'}}"
"""The rehearsal's host stands in for it, with an identity and a host key of its own."""


class Machine:
    """An sshd, with the keys that lead there."""

    def __init__(self, folder: Path) -> None:
        if SSHD is None:
            sys.exit("this needs OpenSSH's sshd: install openssh-server")
        self.folder = folder
        folder.mkdir()
        for name in ("host", "operator"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], cwd=folder)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/operator.pub\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        )
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        self.pins = HostKeys(folder / "pins.json")
        self.pins.pin("machine", (folder / "host.pub").read_text())
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Serve until left."""
        command = [str(SSHD), "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                until(lambda: answers(self.port), timeout_s=10, what="sshd")
                yield
            finally:
                process.terminate()

    def scp(self, source: Path) -> float:
        """Copy a file with OpenSSH's defaults; return the seconds."""
        options = ["-q", "-F", "none", "-i", self.folder / "operator", "-P", str(self.port)]
        options += ["-o", f"UserKnownHostsFile={self.folder}/known_hosts"]
        (self.folder / "by-scp").unlink(missing_ok=True)  # a new file for both
        there = f"{getpass.getuser()}@127.0.0.1:{self.folder}/by-scp"
        return run(["scp", *options, source, there], cwd=self.folder).wall_s

    def ours(self, source: Path, *, port: int | None = None) -> float:
        """Copy a file as `apply` does; return the seconds."""
        (self.folder / "by-us").unlink(missing_ok=True)
        target = ssh.Target("machine", "127.0.0.1", port or self.port, getpass.getuser(), self.folder / "operator")
        began = time.perf_counter()
        with contextlib.closing(ssh.connect(target, self.pins, timeout_s=30, cancel=threading.Event())) as host:
            host.upload(source, str(self.folder / "by-us"), mode=0o600)
        return time.perf_counter() - began


def answers(port: int) -> bool:
    """Tell whether somebody listens."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def slow_link(port: int) -> Iterator[int]:
    """Serve a port that leads to another one, with a delay each way, opening a connection included."""
    loop = asyncio.new_event_loop()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            data = b"-"
            while data:
                try:
                    data = await source.read(65536)
                except OSError:
                    data = b""  # an end like any other
                await due.put((loop.time() + ONE_WAY_S, data))

        reading = loop.create_task(read())
        with contextlib.suppress(OSError):
            while (item := await due.get())[1]:
                await asyncio.sleep(max(0.0, item[0] - loop.time()))
                sink.write(item[1])
                await sink.drain()
        reading.cancel()
        sink.close()

    async def accepted(near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * ONE_WAY_S)
        far, far_out = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError):  # the end of the measurement
            await asyncio.gather(pump(near, far_out), pump(far, near_out))

    async def end() -> None:
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(accepted, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def wheelhouse(machine: Machine, source: Path, *, repeats: int) -> dict[str, float]:
    """Copy in turns, so that what else happens on the machine meets both."""
    times = [(machine.scp(source), machine.ours(source)) for _ in range(repeats)]
    if (machine.folder / "by-us").read_bytes() != source.read_bytes():
        sys.exit("what arrived is not what was sent")
    scp_s, ours_s = (statistics.median(each) for each in zip(*times, strict=True))
    return {"ours_s": round(ours_s, 2), "scp_s": round(scp_s, 2)}


def kit_s(machine: Machine, source: Path, *, repeats: int) -> float:
    """Copy a kit over the slow link, login included."""
    with slow_link(machine.port) as port:
        return round(statistics.median(machine.ours(source, port=port) for _ in range(repeats)), 2)


def registered_s(folder: Path) -> float | None:
    """Rehearse a server and a client on premises; return when the client was registered, None without root."""
    if os.geteuid() != 0:
        return None
    folder.mkdir()
    (folder / "project.yml").write_text(PROJECT)
    names = ("server1", "site-1")
    sites = [
        f"  {name}: {SITE.format(address=f'192.0.2.{n}', key='A' * 43)}" for n, name in enumerate(names, FIRST_HOST)
    ]
    file = folder / "deploy.yml"
    file.write_text("\n".join(["version: 1", "project: project.yml", "sites:", *sites]) + "\n")
    command = [str(CLOUDDEPLOY), "rehearse", str(file), "--output", "json", "--no-input"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    if done.returncode:
        sys.exit(f"the rehearsal ended with {done.returncode}: {done.stdout}")
    found = {site["name"]: site["registered_after_s"] for site in json.loads(done.stdout)["data"]["sites"]}
    return round(float(found["site-1"]), 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        machine = Machine(folder / "machine")
        wheels, kit = folder / "wheels.tar", folder / "kit.tar"
        wheels.write_bytes(os.urandom(given.megabytes * 1_000_000))
        kit.write_bytes(os.urandom(KIT_BYTES))
        with machine.running():
            whole = wheelhouse(machine, wheels, repeats=given.repeats)
            small_s = kit_s(machine, kit, repeats=given.repeats)
        host_s = registered_s(folder / "deployment")
    results = {"wheelhouse": whole, "kit_100ms_rtt_s": small_s, "host_to_registered_s": host_s}
    limit_s = LIMIT_RATIO * whole["scp_s"]
    rows = [
        ("", "clouddeploy", "scp", "must"),
        (f"{given.megabytes} MB to 127.0.0.1", f"{whole['ours_s']} s", f"{whole['scp_s']} s", f"<= {limit_s:.2f} s"),
        ("64 KiB, 100 ms round trip, login included", f"{small_s} s", "", f"<= {LIMIT_KIT_S} s"),
        (
            "from a bare host to a registered site",
            "needs root" if host_s is None else f"{host_s} s",
            "",
            f"<= {LIMIT_REGISTERED_S:.0f} s",
        ),
    ]
    show(results, rows, as_json=given.output == "json")


if __name__ == "__main__":
    main()
