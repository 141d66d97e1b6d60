"""Deploys on the emulated clouds: kills at every call and write, fifty sites at once, and the example as a whole.

Fifty sites: half on AWS, half on Azure, each call answered after 0.1 s and each machine booted after 2 s; compared with
one site alone under the same delays. The clouds run in a process of their own. The example runs with real SSH hosts
and needs root. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_rehearsal.probe import until
from clouddeploy_rehearsal.world import load_endpoints
from measure import show

from clouddeploy import crash_matrix
from clouddeploy.deployment import Deployment
from clouddeploy.killable import BareInstallation
from clouddeploy.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clouddeploy_providers.endpoints import Endpoints

    from clouddeploy.killable import Point

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "hybrid" / "deploy.yml"
CLOUDDEPLOY = Path(sys.executable).with_name("clouddeploy")
LATENCY_S, BOOT_S = 0.1, 2.0
POLLING_S = 0.5
"""How often Azure is asked whether something is done; the real one is asked every three seconds."""
SITES = 50
REPEATS = 5
"""Of which the shortest time counts: what else runs on the machine, or beside it on its host, only ever adds."""
LIMIT_RATIO, LIMIT_HYBRID_S = 1.3, 20.0
WHERE = {
    "aws": "{provider: aws, region: us-west-2, size: t3.small}",
    "azure": "{provider: azure, location: westus2, subscription_id: 00000000-0000-0000-0000-000000000000,"
    " size: Standard_B2s}",
}


def deploy_file(folder: Path, clouds: Sequence[str]) -> Path:
    """Write project and deploy file of a server and clients, one site per name of a cloud."""
    names = ["server1", *(f"site-{number}" for number in range(1, len(clouds)))]
    people = ["{name: server1, type: server, org: hub, fed_learn_port: 8002, admin_port: 8002}"]
    people += [f"{{name: {name}, type: client, org: org}}" for name in names[1:]]
    people += ["{name: admin@example.com, type: admin, org: hub, role: project_admin}"]
    builders = [f"nvflare.lighter.impl.{name}" for name in ("workspace.WorkspaceBuilder", "cert.CertBuilder")]
    project = ["api_version: 3", "name: bench", "participants:", *(f"  - {one}" for one in people)]
    project += ["builders:", *(f"  - {{path: {one}}}" for one in builders)]
    (folder / "project.yml").write_text("\n".join(project) + "\n")
    sites = [f"  {name}: {WHERE[cloud]}" for name, cloud in zip(names, clouds, strict=True)]
    file = folder / "deploy.yml"
    file.write_text("\n".join(["version: 1", "project: project.yml", "sites:", *sites]) + "\n")
    return file


@contextmanager
def served_clouds(folder: Path) -> Iterator[Endpoints]:
    """Serve both clouds with the delays, without machines, in a process of its own."""
    folder.mkdir()
    command = [sys.executable, "-m", "clouddeploy_rehearsal", "serve", "--directory", str(folder)]
    command += ["--unmanned", str(BOOT_S), "--faults", json.dumps({"latency_s": LATENCY_S})]
    with subprocess.Popen(command) as process:
        try:
            file = folder / "endpoints.json"
            until(lambda: file.exists() or process.poll() is not None, timeout_s=60, what="the clouds")
            there = load_endpoints(file)
            yield replace(there, azure=replace(there.azure, polling_interval_s=POLLING_S))
        finally:
            process.terminate()


def apply_s(folder: Path, clouds: Sequence[str], endpoints: Endpoints) -> tuple[float, float]:
    """Apply and destroy; return the seconds of apply and how many of them this process was computing."""
    folder.mkdir()
    file = deploy_file(folder, clouds)
    started, computed = time.perf_counter(), time.process_time()
    Deployment(file, endpoints=endpoints, installation=BareInstallation).apply(Secret("none"))
    seconds, computing = time.perf_counter() - started, time.process_time() - computed
    Deployment(file, endpoints=endpoints, installation=BareInstallation).destroy()
    return seconds, computing


def fifty_sites(folder: Path, *, sites: int) -> dict[str, float]:
    """Measure so many sites and, for comparison, one alone; each time is the shortest of several runs."""
    runs = []
    for number in range(REPEATS):
        here = folder / f"run-{number}"
        here.mkdir()
        runs.append(at_once(here, sites=sites))
    seconds, critical_s, computing = (min(each) for each in zip(*runs, strict=True))
    return {
        "seconds": round(seconds, 2),
        "critical_path_s": round(critical_s, 2),
        "ratio": round(seconds / critical_s, 2),
        "computing_s": round(computing, 2),
    }


def at_once(folder: Path, *, sites: int) -> tuple[float, float, float]:
    """Return the seconds of so many sites, those of the critical path, and those that this process was computing.

    The critical path is one site alone, on the cloud where that takes longer. The clouds have seen nothing before.
    """
    with served_clouds(folder / "clouds") as endpoints:
        apply_s(folder / "warm", list(WHERE), endpoints)  # SDKs are imported and a region is made at the first use
        critical_s = max(apply_s(folder / cloud, [cloud], endpoints)[0] for cloud in WHERE)
        mixed = [("aws", "azure")[number % 2] for number in range(sites)]
        seconds, computing = apply_s(folder / "all", mixed, endpoints)
    return seconds, critical_s, computing


def crash(folder: Path, *, shares: int, points: int | None) -> dict[str, Any]:
    """Run the crash matrix of the example in so many processes, each with its share of the points."""
    command = [sys.executable, __file__, "--points", str(points or 0)]

    def share(number: int) -> dict[str, Any]:
        place = folder / f"share-{number}"
        place.mkdir()
        words = [*command, "--share", f"{number}/{shares}", "--folder", str(place)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    with ThreadPoolExecutor(shares) as pool:
        found = list(pool.map(share, range(shares)))
    total = {key: sum(one[key] for one in found) for key in ("kills", "orphans", "duplicates", "missed")}
    wrong = {point: text for one in found for point, text in one["wrong"].items()}
    return {**total, "calls": found[0]["calls"], "writes": found[0]["writes"], "wrong": wrong}


def print_share(share: str, *, folder: Path, points: int | None) -> None:
    """Kill at a share of the points and print what came of it, as JSON.

    A point's share follows from its name, not from its place: one poll more or less moves all others.
    """
    number, shares = map(int, share.split("/"))

    def choose(all_points: Sequence[Point]) -> list[Point]:
        chosen = crash_matrix.spread(points)(all_points) if points else all_points
        return [point for point in chosen if zlib.crc32(str(point).encode()) % shares == number]

    found = crash_matrix.run(EXAMPLE, directory=folder, choose=choose)
    facts = {name: getattr(found, name) for name in ("kills", "orphans", "duplicates", "calls", "writes", "wrong")}
    print(json.dumps({**facts, "missed": len(found.missed)}))


def hybrid_apply_s() -> float | None:
    """Rehearse the example as a user would; return the seconds of its apply, None without root."""
    if os.geteuid() != 0:
        return None
    command = [str(CLOUDDEPLOY), "rehearse", str(EXAMPLE), "--output", "json", "--no-input"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    if done.returncode:
        sys.exit(f"the rehearsal ended with {done.returncode}: {done.stdout}")
    return float(json.loads(done.stdout)["data"]["apply_s"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--sites", type=int, default=SITES)
    parser.add_argument("--points", type=int, default=0, help="kill at so many points only")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.share:
        print_share(given.share, folder=given.folder, points=given.points or None)
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        fifty = fifty_sites(folder, sites=given.sites)
        hybrid_s = hybrid_apply_s()
        matrix = crash(folder, shares=os.cpu_count() or 1, points=given.points or None)
    wrong = matrix["wrong"]
    results = {"crash_matrix": matrix, "fifty_sites": fifty, "hybrid_apply_s": hybrid_s}
    rows = [
        ("", "clouddeploy", "must"),
        (f"{given.sites} sites at once", f"{fifty['seconds']:.1f} s", ""),
        ("one site alone", f"{fifty['critical_path_s']:.1f} s", ""),
        ("ratio", f"{fifty['ratio']:.2f}", f"<= {LIMIT_RATIO}"),
        ("of that computing in this process", f"{fifty['computing_s']:.1f} s", ""),
        ("hybrid example, apply", f"{hybrid_s:.1f} s" if hybrid_s else "needs root", f"<= {LIMIT_HYBRID_S:.0f} s"),
        ("kills, each applied again and destroyed", str(matrix["kills"]), f"{matrix['calls']} calls, all writes"),
        ("duplicates", str(matrix["duplicates"]), "0"),
        ("orphans", str(matrix["orphans"]), "0"),
        ("points after which anything else was wrong", str(len(wrong)), "0"),
    ]
    show(results, rows, as_json=given.output == "json")


if __name__ == "__main__":
    main()
