"""Measures what a site installs: the same wheelhouse, and the same script on the machine, as `apply` uses.

`bootstrap.sh prepare` makes the environment, without pip and without compiled modules, and `bootstrap.sh compile`
imports what a server, a client and a job's process import, so that the compiled modules they will have count too.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import machine, show

import clouddeploy
from clouddeploy import wheelhouse
from clouddeploy.remote.wheels import PythonTarget

BOOTSTRAP = Path(clouddeploy.__file__).parent / "remote" / "bootstrap.sh"


def measure(folder: Path) -> dict[str, float]:
    """Return the size of an environment in megabytes (1e6 bytes), on the disk too, and how many distributions it has.

    Raises:
        SystemExit: the script on the machine has failed.
    """
    version = ".".join(platform.python_version_tuple()[:2])
    wheels = wheelhouse.collect(PythonTarget(version=version, machine=platform.machine()), folder / "wheelhouse")
    root = folder / "site"
    (root / "uploads").mkdir(parents=True)
    shutil.copy(wheels.archive, root / "uploads" / f"wheels-{wheels.digest}.tar")
    _bootstrap("prepare", str(root), sys.executable, wheels.digest)
    (environment,) = root.glob("venv-*")
    _bootstrap("compile", str(environment))
    files = [path.lstat() for path in environment.rglob("*") if path.is_file() or path.is_symlink()]
    return {
        "site_install_mb": round(sum(one.st_size for one in files) / 1e6, 1),
        "site_disk_mb": round(sum(one.st_blocks for one in files) * 512 / 1e6, 1),
        "site_packages": len(list(environment.glob("lib/python*/site-packages/*.dist-info"))),
    }


def _bootstrap(*words: str) -> None:
    done = subprocess.run(["sh", str(BOOTSTRAP), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"bootstrap.sh {words[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        found = measure(Path(name))
    rows = [("", "measured"), *((key, str(value)) for key, value in found.items())]
    show({**found, "machine": machine()}, rows, as_json=given.output == "json")


if __name__ == "__main__":
    main()
