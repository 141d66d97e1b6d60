"""Measures the runtime on this machine: start, memory, rounds of small and large models, a thousand clients.

A server and two clients in processes of their own, over mutual TLS on 127.0.0.1, with kits made here. Memory is that
of whole processes and their children from /proc, shared pages counted once (Pss). A round's time is the time between
two lines of the controller's log, the middle of all rounds but the first. `--quick` leaves out what takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from clouddeploy_provision import project as project_file
from clouddeploy_provision.provisioner import provision
from clouddeploy_rehearsal.probe import until
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.admin.session import AdminSession
from measure import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
MIB, GIB = 1 << 20, 1 << 30
SITES = ("site-1", "site-2")
ADMIN = "admin@hub.example"
POLL_S = 0.02
ROUNDS_LARGE, ROUNDS_TINY = 4, 20
CLIENTS = 1000
IDLE_S, WATCH_S = 5.0, 20.0
TENSORS = 10
MODEL = """\
import numpy as np


def initial():
    return {{f"layer{{n}}": np.zeros({size}, np.float32) for n in range({count})}}
"""
TRAINER = """\
import numpy as np
from clouddeploy_runtime.job import client_api as flare

own = {}
flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    for name, array in model.params.items():
        own[name] = np.add(array, 1, out=own.get(name))  # as a network has its parameters in memory of its own
    flare.send(flare.FLModel(params=own, metrics={"loss": 1.0}, samples=1))
"""
LIMITS = {
    "registered_s": 1.5,
    "idle_client_mib": 50,
    "tiny_job_s": 2,
    "tiny_round_s": 0.05,
    "round_100mb_s": 0.8,
    "round_1gb_s": 6,
    "server_peak_gib": 3.2,
    "client_peak_gib": 2.6,
    "connected_mib": 300,
    "connected_cpu_fraction": 0.1,
    "rejoined_s": 20,
    "site_install_mb": 110,
    "site_packages": 12,
}


class Federation:
    """A server and clients, as processes."""

    def __init__(self, folder: Path, sites: Sequence[str] = SITES) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        server = {"name": "server1", "type": "server", "org": "hub", "fed_learn_port": self.port}
        document = {
            "api_version": 3,
            "name": "bench",
            "participants": [
                {**server, "default_host": "127.0.0.1"},
                *({"name": name, "type": "client", "org": "site"} for name in sites),
                {"name": ADMIN, "type": "admin", "org": "hub", "role": "project_admin"},
            ],
            "builders": [
                {"path": f"nvflare.lighter.impl.{name}"} for name in ("cert.CertBuilder", "signature.SignatureBuilder")
            ],
        }
        folder.mkdir(parents=True)
        file = folder / "project.yml"
        file.write_text(yaml.safe_dump(document))
        self.kits = provision(project_file.load(file), folder / "provisioned", passphrase=b"bench").kits
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        resources = self.kits["server1"] / "local" / "resources.json.default"
        settings = json.loads(resources.read_bytes())
        settings["servers"][0]["max_num_clients"] = 10 * CLIENTS
        (resources.parent / "resources.json").write_text(json.dumps(settings))

    def start(self, name: str) -> None:
        """Start one of them."""
        kind = "server" if name == "server1" else "client"
        workspace = self.folder / name
        workspace.mkdir(exist_ok=True)
        command = [sys.executable, "-P", "-m", "clouddeploy_runtime", kind, str(self.kits[name])]
        with (workspace / "out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                [*command, "--workspace", str(workspace)], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def is_registered(self, name: str) -> bool:
        """Tell whether a site is."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / name / "status.json").read_bytes())["state"] in {"registered", "serving"}
        return False

    def end(self, number: int = signal.SIGTERM) -> None:
        """End all of them."""
        for process in self.running.values():
            process.send_signal(number)
        for process in self.running.values():
            process.wait()
        self.running.clear()

    def session(self) -> AdminSession:
        """Return an admin's session."""
        return AdminSession(kits.load(self.kits[ADMIN]), timeout_s=60)


def processes(root: int) -> list[int]:
    """Return a process and all that it has started."""
    found = [root]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def memory(roots: Iterable[int]) -> int:
    """Return the memory of processes with all that they started, in bytes; what they share counts once."""
    total = 0
    for root in roots:
        for one in processes(root):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{one}/smaps_rollup").read_text()
                total += sum(int(kib) for kib in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)) * 1024
    return total


def cpu_s(root: int) -> float:
    """Return the seconds that a process has computed."""
    fields = Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def watched(groups: dict[str, int]) -> Iterator[dict[str, int]]:
    """Yield the largest memory of each group of processes so far."""
    peaks = dict.fromkeys(groups, 0)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            for name, root in groups.items():
                peaks[name] = max(peaks[name], memory([root]))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def write_job(folder: Path, *, megabytes: float, rounds: int) -> Path:
    """Write a job whose trainers add one to a model of a size."""
    size = max(1, int(megabytes * 1e6 / 4 / TENSORS))
    custom = folder / "app" / "custom"
    custom.mkdir(parents=True)
    (folder / "app" / "config").mkdir()
    (custom / "model.py").write_text(MODEL.format(size=size, count=TENSORS))
    (custom / "train.py").write_text(TRAINER)
    workflow = {
        "id": "fedavg",
        "path": "nvflare.app_common.workflows.fedavg.FedAvg",
        "args": {"num_rounds": rounds, "initial_model": "model:initial"},
    }
    executor = {
        "path": "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor",
        "args": {"task_script_path": "train.py"},
    }
    for side, document in (
        ("server", {"format_version": 2, "workflows": [workflow]}),
        ("client", {"format_version": 2, "executors": [{"tasks": ["*"], "executor": executor}]}),
    ):
        (folder / "app" / "config" / f"config_fed_{side}.json").write_text(json.dumps(document))
    meta = {"name": folder.name, "deploy_map": {"app": ["@ALL"]}, "min_clients": len(SITES)}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def round_s(log: str) -> float:
    """Return the middle time of a round from a controller's log."""
    stamps = re.findall(r"^(\S+ \S+?),(\d+) .*round \d+ of \d+", log, re.MULTILINE)
    times = [datetime.strptime(f"{day}.{ms}", "%Y-%m-%d %H:%M:%S.%f").timestamp() for day, ms in stamps]  # noqa: DTZ007
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def run_job(federation: Federation, session: AdminSession, *, megabytes: float, rounds: int) -> tuple[float, float]:
    """Run a job; return its seconds from submit to done, and those of a round."""
    folder = write_job(federation.folder / f"job-{megabytes:g}-{rounds}", megabytes=megabytes, rounds=rounds)
    began = time.perf_counter()
    job_id = session.submit(folder)
    info = session.wait(job_id, 600)
    whole_s = time.perf_counter() - began
    if info.status != "FINISHED:COMPLETED":
        sys.exit(f"the job of {megabytes} MB ended {info.status}: {info.reason}")
    log = federation.folder / "server1" / "jobs" / job_id / "result" / "log.txt"
    return whole_s, round_s(log.read_text()) if rounds > 1 else whole_s


def small(folder: Path) -> dict[str, float]:
    """Measure start, idle memory and tiny jobs."""
    federation = Federation(folder)
    names = ("server1", *SITES)
    began = time.perf_counter()
    for name in names:
        federation.start(name)
    until(lambda: all(map(federation.is_registered, names)), timeout_s=30, what="registration")
    found = {"registered_s": round(time.perf_counter() - began, 2)}
    time.sleep(IDLE_S)
    found["idle_server_mib"] = round(memory([federation.running["server1"].pid]) / MIB, 1)
    found["idle_client_mib"] = round(memory([federation.running[SITES[0]].pid]) / MIB, 1)
    with federation.session() as session:
        found["tiny_job_s"] = round(run_job(federation, session, megabytes=0.001, rounds=3)[0], 2)
        found["tiny_round_s"] = round(run_job(federation, session, megabytes=0.001, rounds=ROUNDS_TINY)[1], 4)
        found["round_100mb_s"] = round(run_job(federation, session, megabytes=100, rounds=6)[1], 2)
    federation.end()
    return found


def large(folder: Path) -> dict[str, float]:
    """Measure rounds of a model of 1 GB, and the memory that they take."""
    federation = Federation(folder)
    names = ("server1", *SITES)
    for name in names:
        federation.start(name)
    until(lambda: all(map(federation.is_registered, names)), timeout_s=30, what="registration")
    groups = {name: process.pid for name, process in federation.running.items()}
    with federation.session() as session, watched(groups) as peaks:
        _, seconds = run_job(federation, session, megabytes=1000, rounds=ROUNDS_LARGE)
    federation.end()
    return {
        "round_1gb_s": round(seconds, 2),
        "server_peak_gib": round(peaks["server1"] / GIB, 2),
        "client_peak_gib": round(max(peaks[name] for name in SITES) / GIB, 2),
    }


def crowd(folder: Path, count: int) -> dict[str, float]:
    """Measure a server with many clients: connections of one process, each with its own certificate."""
    names = [f"site-{n}" for n in range(1, count + 1)]
    federation = Federation(folder, names)
    federation.start("server1")
    until(lambda: federation.is_registered("server1"), timeout_s=30, what="the server")
    clients = [str(federation.kits[name]) for name in names]
    crowd_file = folder / "crowd.json"
    crowd_file.write_text(json.dumps(clients))
    command = [sys.executable, str(Path(__file__).with_name("crowd.py")), str(crowd_file), str(folder / "crowd")]
    with subprocess.Popen(command) as process:
        try:
            return _crowded(federation, count)
        finally:
            process.terminate()
            federation.end()


def _crowded(federation: Federation, count: int) -> dict[str, float]:
    def connected() -> int:
        with contextlib.suppress(Exception), federation.session() as session:
            return len(session.system_status().clients)
        return 0

    until(lambda: connected() == count, timeout_s=180, what=f"{count} clients")
    time.sleep(IDLE_S)
    server = federation.running["server1"].pid
    began, before = time.perf_counter(), cpu_s(server)
    time.sleep(WATCH_S)
    fraction = (cpu_s(server) - before) / (time.perf_counter() - began)
    found = {
        "connected_clients": count,
        "connected_mib": round(memory([server]) / MIB),
        "connected_cpu_fraction": round(fraction, 3),
    }
    federation.running["server1"].kill()
    federation.running.pop("server1").wait()
    federation.start("server1")
    until(lambda: federation.is_registered("server1"), timeout_s=30, what="the server again")
    began = time.perf_counter()
    until(lambda: connected() == count, timeout_s=180, what=f"{count} clients again")
    return {**found, "rejoined_s": round(time.perf_counter() - began, 1)}


def installed() -> dict[str, float]:
    """Measure what a site installs: the distributions that the runtime needs, and their files."""
    names, found = ["clouddeploy-runtime"], set()
    size = 0
    while names:
        one = importlib.metadata.distribution(names.pop())
        if one.name in found:
            continue
        found.add(one.name)
        size += sum(file.locate().stat().st_size for file in one.files or [] if Path(str(file.locate())).is_file())
        names += [
            re.split(r"[^A-Za-z0-9._-]", line)[0] for line in one.requires or [] if "extra ==" not in line and line
        ]
    runtime = ROOT / "runtime" / "clouddeploy_runtime"
    size += sum(file.stat().st_size for file in runtime.rglob("*.py"))
    return {"site_install_mb": round(size / 1e6), "site_packages": len(found)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        results |= small(folder / "small")
        if not given.quick:
            results |= large(folder / "large")
            results |= crowd(folder / "crowd", given.clients)
    results |= installed()
    rows = [("", "clouddeploy", "must")]
    rows += [(key, str(value), f"<= {LIMITS[key]}" if key in LIMITS else "") for key, value in results.items()]
    show(results, rows, as_json=given.output == "json")


if __name__ == "__main__":
    main()
