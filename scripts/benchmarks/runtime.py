"""Measures the runtime on this machine: start, memory, rounds of small and large models, a thousand clients.

A server and two clients in processes of their own, over mutual TLS on 127.0.0.1, with kits made here. Memory is that
of whole processes and their children from /proc, shared pages counted once (Pss). A round's time is the time between
two lines of the controller's log, the middle of all rounds but the first. The time and the memory of large rounds are
those of two jobs, since watching memory takes computing time. What gRPC and TLS alone take is measured in the same run
(`limits.py`), and so are NVFLARE and Flower where a `--peer-python` has them (`peers.py`). `--quick` leaves out what
takes minutes; what was not measured, or not at its full size, is null.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import installed
import limits
import peers
from clouddeploy_rehearsal.probe import until
from federation import REGISTER_S, SERVER, SITES, Federation, write_job
from measure import machine, median, run, show, versions
from watching import GIB, MIB, cpu_s, memory, own_memory, watched

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIUM_MB, LARGE_MB = 100.0, 1000.0
ROUNDS_LARGE, ROUNDS_WATCHED, ROUNDS_TINY = 5, 3, 20
CLIENTS = 1000
IDLE_S, WATCH_S, CROWD_S = 5.0, 20.0, 180.0
HELPS = 9
CLOUDDEPLOY = Path(sys.executable).with_name("clouddeploy")
DISTRIBUTIONS = ("clouddeploy-runtime", "grpcio", "protobuf", "cryptography", "numpy", "safetensors", "msgspec")
KEYS = (
    "registered_s",
    "idle_client_mib",
    "idle_server_mib",
    "tiny_job_s",
    "tiny_round_s",
    "round_100mb_s",
    "round_1gb_s",
    "server_peak_gib",
    "client_peak_gib",
    "connected_clients",
    "connected_cpu_fraction",
    "site_install_mb",
    "site_packages",
    "bare_grpc_1gb_s",
    "bare_tls_1gb_s",
)
"""What the result always has, in this order; all else is under `more`."""
LIMITS = {
    "help_s": 0.12,
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


def small(folder: Path) -> dict[str, Any]:
    """Measure start, idle memory, and jobs of small models."""
    federation = Federation(folder)
    found: dict[str, Any] = {"registered_s": round(federation.start_all(), 2)}
    try:
        time.sleep(IDLE_S)
        for name, pid in (("server", federation.pid(SERVER)), ("client", federation.pid(SITES[0]))):
            found[f"idle_{name}_mib"] = round(memory(pid) / MIB, 1)
            found[f"idle_{name}_rss_mib"] = round(own_memory(pid, "Rss") / MIB, 1)
        with federation.session() as session:
            tiny = write_job(folder / "tiny", megabytes=0.001, rounds=3)
            found["tiny_job_s"] = round(federation.run_job(session, tiny).whole_s, 2)
            rounds = write_job(folder / "tiny-rounds", megabytes=0.001, rounds=ROUNDS_TINY)
            found["tiny_round_s"] = round(federation.run_job(session, rounds).round_s, 4)
            medium = write_job(folder / "medium", megabytes=MEDIUM_MB, rounds=6)
            found["round_100mb_s"] = round(federation.run_job(session, medium).round_s, 2)
    finally:
        federation.end()
    return found


def large(folder: Path, *, megabytes: float) -> dict[str, Any]:
    """Measure rounds of a model of 1 GB, and in a second job the memory that they take."""
    federation = Federation(folder)
    federation.start_all()
    try:
        with federation.session() as session:
            timed = write_job(folder / "timed", megabytes=megabytes, rounds=ROUNDS_LARGE)
            seconds = federation.run_job(session, timed).round_s
            job = write_job(folder / "watched", megabytes=megabytes, rounds=ROUNDS_WATCHED)
            with watched({name: federation.pid(name) for name in federation.names}) as peaks:
                federation.run_job(session, job)
    finally:
        federation.end()
    return {
        "round_1gb_s": round(seconds, 2),
        "server_peak_gib": round(peaks[SERVER] / GIB, 2),
        "client_peak_gib": round(max(peaks[name] for name in SITES) / GIB, 2),
    }


def crowd(folder: Path, count: int) -> dict[str, Any]:
    """Measure a server with many clients: connections of one process, each with its own certificate."""
    names = [f"site-{n}" for n in range(1, count + 1)]
    federation = Federation(folder, names)
    federation.start(SERVER)
    try:
        until(lambda: federation.is_registered(SERVER), timeout_s=REGISTER_S, what="the server")
        crowd_file = folder / "crowd.json"
        crowd_file.write_text(json.dumps([str(federation.kits[name]) for name in names]))
        command = [sys.executable, str(Path(__file__).with_name("crowd.py")), str(crowd_file), str(folder / "crowd")]
        with subprocess.Popen(command) as process:
            try:
                return _crowded(federation, count)
            finally:
                process.terminate()
    finally:
        federation.end()


def _crowded(federation: Federation, count: int) -> dict[str, Any]:
    def connected() -> int:
        with contextlib.suppress(Exception), federation.session() as session:
            return len(session.system_status().clients)
        return 0

    until(lambda: connected() == count, timeout_s=CROWD_S, what=f"{count} clients")
    time.sleep(IDLE_S)
    server = federation.pid(SERVER)
    began, before = time.perf_counter(), cpu_s(server)
    time.sleep(WATCH_S)
    fraction = (cpu_s(server) - before) / (time.perf_counter() - began)
    found = {
        "connected_clients": count,
        "connected_mib": round(memory(server) / MIB),
        "connected_cpu_fraction": round(fraction, 3),
    }
    federation.kill(SERVER)
    federation.start(SERVER)
    until(lambda: federation.is_registered(SERVER), timeout_s=REGISTER_S, what="the server again")
    began = time.perf_counter()
    until(lambda: connected() == count, timeout_s=CROWD_S, what=f"{count} clients again")
    return {**found, "rejoined_s": round(time.perf_counter() - began, 1)}


def whole(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Measure all that was asked for; return the result as it is printed."""
    found: dict[str, Any] = {"machine": machine(), "versions": versions(*DISTRIBUTIONS)}
    found |= small(folder / "small")
    if not given.quick:
        sized = large(folder / "large", megabytes=given.large_mb)
        sized |= limits.measure(folder / "limits", megabytes=given.large_mb)
        found |= sized if given.large_mb == LARGE_MB else {f"of_{given.large_mb:g}_mb": sized}
        found |= crowd(folder / "crowd", given.clients)
        found["peers"] = peers.measure(given.peer_python, folder / "peers", megabytes=MEDIUM_MB)
    found |= installed.measure(folder / "installed")
    found["help_s"] = round(median([run([CLOUDDEPLOY, "--help"], cwd=folder) for _ in range(HELPS)]).wall_s, 3)
    return shaped(found)


def shaped(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured under the keys that a result always has, and the rest under `more`."""
    more = {key: value for key, value in found.items() if key not in KEYS}
    if found.get("round_1gb_s"):
        for name in ("grpc", "tls"):
            more[f"of_bare_{name}"] = round(found["round_1gb_s"] / found[f"bare_{name}_1gb_s"], 2)
    return {**{key: found.get(key) for key in KEYS}, "more": {**more, "must": LIMITS}}


def lines(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the table of a result."""
    more: Mapping[str, Any] = results["more"]
    rows = [(key, results[key]) for key in KEYS]
    rows += [(key, value) for key, value in more.items() if not isinstance(value, dict)]
    for name, values in more.get("peers", {}).items():
        rows += [(f"{name} {key}".strip(), value) for key, value in _pairs(values)]
    table = [("", "measured", "must")]
    for key, value in rows:
        said = "not measured" if value is None else str(value)
        table.append((key, said, f"<= {LIMITS[key]}" if key in LIMITS else ""))
    return table


def _pairs(values: Any) -> list[tuple[str, Any]]:
    return list(values.items()) if isinstance(values, dict) else [("", values)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--large-mb", type=float, default=LARGE_MB, help="another size than 1 GB, to try the bench")
    parser.add_argument("--quick", action="store_true")
    peers.add_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        results = whole(Path(name), given)
    show(results, lines(results), as_json=given.output == "json")


if __name__ == "__main__":
    main()
