"""Provisions 500 sites, adds one more, and compares with the reference.

Every time is that of a whole command, start of the interpreter included: the middle of several runs, each in a folder
of its own. The kits are verified outside the measured time: all are signed, and those that were not to change are
byte for byte what they were. Right after large deletions ext4 avoids the inodes that became free, and everything takes
several times longer; run it a minute after.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clouddeploy_runtime import kit as kits
from measure import Run, median, run, show

PROJECT = "bench"
CLOUDDEPLOY = Path(sys.executable).with_name("clouddeploy")
PASSPHRASE = {"CLOUDDEPLOY_CA_PASSPHRASE": "only-for-this-measurement"}
REFERENCE_500_S, REFERENCE_ADD_S, REFERENCE_MIB = 20.3, 15.6, 76.2
"""NVFLARE 2.9.0 as it was measured on a machine of two cores."""
LIMIT_500_S, LIMIT_ADD_S = 1.0, 0.3


def project_file(sites: int, *, algorithm: str = "") -> str:
    """Write a project of one server, one admin and so many clients."""
    people = [
        "{name: server1, type: server, org: hub, fed_learn_port: 8002, admin_port: 8002}",
        "{name: admin@hub.example.com, type: admin, org: hub, role: project_admin}",
    ]
    people += [f"{{name: site-{number}, type: client, org: org_{number % 10}}}" for number in range(1, sites + 1)]
    reference = "nvflare.lighter.impl"
    builders = [
        f"{{path: {reference}.workspace.WorkspaceBuilder, args: {{template_file: [master_template.yml]}}}}",
        f"{{path: {reference}.static_file.StaticFileBuilder, args: {{config_folder: config, scheme: grpc}}}}",
        f"{{path: {reference}.cert.CertBuilder, args: {{{f'key_algorithm: {algorithm}' if algorithm else ''}}}}}",
        f"{{path: {reference}.signature.SignatureBuilder, args: {{}}}}",
    ]
    lines = ["api_version: 3", f"name: {PROJECT}", "participants:", *(f"  - {one}" for one in people)]
    return "\n".join([*lines, "builders:", *(f"  - {one}" for one in builders)]) + "\n"


def provision(folder: Path, *, sites: int, algorithm: str = "") -> Run:
    """Run our command once."""
    (folder / "project.yml").write_text(project_file(sites, algorithm=algorithm))
    command = [CLOUDDEPLOY, "provision", "-p", "project.yml", "--force", "--no-input"]
    return run(command, cwd=folder, env=PASSPHRASE)


def provision_reference(python: Path, folder: Path, *, sites: int) -> Run:
    """Run the reference's command once."""
    (folder / "project.yml").write_text(project_file(sites))
    command = [python, "-m", "nvflare.cli", "provision", "-p", "project.yml", "--force"]
    return run(command, cwd=folder)


def digests(result: Path) -> dict[str, str]:
    """Return participant → digest of names, modes and contents of its kit."""
    found = {}
    for kit in result.iterdir():
        total = hashlib.sha256()
        for path in sorted(kit.rglob("*")):
            total.update(f"{path.relative_to(kit)} {path.stat().st_mode}\n".encode())
            if path.is_file():
                total.update(path.read_bytes())
        found[kit.name] = total.hexdigest()
    return found


def verify(result: Path, count: int) -> None:
    """End the measurement when a kit is missing or not as it was signed."""
    folders = [path for path in result.iterdir() if path.is_dir()]
    if len(folders) != count:
        sys.exit(f"{result} has {len(folders)} kits, not {count}")
    with ThreadPoolExecutor() as pool:
        list(pool.map(kits.verify, folders))


def version_of(python: Path) -> str:
    """Return the version of the reference in an interpreter; empty: it is not there."""
    script = "import importlib.metadata as m; print(m.version('nvflare'))"
    found = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def measure(folder: Path, *, sites: int, repeats: int) -> tuple[dict[str, object], Run, Run]:
    """Measure ours."""
    first, second = [], []
    rewritten = 0
    for number in range(repeats):
        place = folder / str(number)
        place.mkdir()
        project = place / "workspace" / PROJECT
        first.append(provision(place, sites=sites))
        verify(project / "prod_00", sites + 2)
        before = digests(project / "prod_00")
        second.append(provision(place, sites=sites + 1))
        verify(project / "prod_01", sites + 3)
        after = digests(project / "prod_01")
        rewritten = sum(before.get(name) != digest for name, digest in after.items())
    small = folder / "small"
    small.mkdir()
    small_run = provision(small, sites=sites // 10)
    rsa = folder / "rsa"
    rsa.mkdir()
    rsa_run = provision(rsa, sites=sites, algorithm="rsa-2048")
    all_first, all_second = median(first), median(second)
    results = {
        "sites_500_s": round(all_first.wall_s, 3),
        "add_one_s": round(all_second.wall_s, 3),
        "kits_rewritten": rewritten,
        "peak_mib": round(all_first.peak_mib, 1),
        "sites_500_rsa_s": round(rsa_run.wall_s, 1),
        "peak_50_sites_mib": round(small_run.peak_mib, 1),
    }
    return results, all_first, all_second


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--sites", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--reference-python", type=Path, default=Path(sys.executable), help="an interpreter that has nvflare"
    )
    given = parser.parse_args()
    if not given.reference_python.exists():
        parser.error(f"there is no interpreter {given.reference_python}")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        results, first, second = measure(folder, sites=given.sites, repeats=given.repeats)
        version = version_of(given.reference_python)
        theirs = (f"{REFERENCE_500_S} s", f"{REFERENCE_ADD_S} s", f"{REFERENCE_MIB} MiB")
        source = "2.9.0, measured before"
        if version:
            place = folder / "reference"
            place.mkdir()
            whole = provision_reference(given.reference_python, place, sites=given.sites)
            one = provision_reference(given.reference_python, place, sites=given.sites + 1)
            theirs = (f"{whole.wall_s:.1f} s", f"{one.wall_s:.1f} s", f"{whole.peak_mib:.1f} MiB")
            source = f"{version}, measured now"
            results |= {
                "reference_version": version,
                "reference_sites_500_s": round(whole.wall_s, 1),
                "reference_add_one_s": round(one.wall_s, 1),
            }
    count = given.sites
    rows = [
        ("", "clouddeploy", f"NVFLARE {source}", "must"),
        (f"{count} sites, all kits signed, P-256", f"{first.wall_s:.2f} s", theirs[0], f"<= {LIMIT_500_S} s"),
        (f"{count} sites, RSA-2048, all cores", f"{results['sites_500_rsa_s']} s", theirs[0], ""),
        (f"add site {count + 1}", f"{second.wall_s:.2f} s", theirs[1], f"<= {LIMIT_ADD_S} s"),
        ("kits rewritten by that", str(results["kits_rewritten"]), str(count + 3), "1"),
        (f"peak memory, {count} sites", f"{first.peak_mib:.0f} MiB", theirs[2], ""),
        (f"peak memory, {count // 10} sites", f"{results['peak_50_sites_mib']} MiB", "", "flat"),
    ]
    show(results, rows, as_json=given.output == "json")


if __name__ == "__main__":
    main()
