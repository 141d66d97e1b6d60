"""Installs wheels while an image is built: `python3 -I install.py WHEELS ROOT`; runs pip from its own wheel."""

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Install what `requirements.txt` of the wheels names below ROOT, each wheel by its hash."""
    wheels, root = map(Path, sys.argv[1:])
    (pip,) = wheels.glob("pip-*.whl")
    sys.path.insert(0, str(pip))
    options = ["--no-index", "--no-cache-dir", "--no-deps", "--require-hashes", "--root-user-action", "ignore"]
    places = ["--find-links", str(wheels), "--root", str(root), "--requirement", str(wheels / "requirements.txt")]
    sys.argv = ["pip", "--disable-pip-version-check", "--quiet", "install", *options, *places]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
