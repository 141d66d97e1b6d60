"""What a site runs, as wheels for one Python, with hashes: a machine installs without a network."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from clouddeploy.errors import ConfigError, DeployError
from clouddeploy.remote.wheels import PythonTarget, Wheelhouse

PIP_S = 600
REQUIREMENTS = "startup/requirements.txt"
ARCHIVE = re.compile(r"\S+\.(whl|zip|tar|tgz|tbz2?|txz|gz|bz2|xz)(\s|\[|;|$)", re.IGNORECASE)
"""What pip takes for a file, if there is one of that name."""
"""In a kit: what its site needs besides the runtime."""
GLIBC_TAGS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""What Ubuntu 22.04, Debian 12 and everything newer can load."""


def default_cache() -> Path:
    """Returns where wheels are kept for all deployments of this user (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clouddeploy"


def collect(
    target: PythonTarget,
    cache: Path,
    *,
    requirements: tuple[str, ...] | None = None,
    extra: tuple[str, ...] = (),
    source: Path | None = None,
) -> Wheelhouse:
    """Returns the wheelhouse for a target, made at most once per version of what is in it.

    Args:
        target: the machine's Python.
        cache: where wheelhouses are kept; safe for several callers at once.
        requirements: what it has to hold, with everything that this needs, each pinned to a version: the wheelhouse
            that was made first is used from then on. None: our runtime.
        extra: what it has to hold besides our runtime.
        source: the folder `clouddeploy_runtime` in a checkout of our runtime; default: that which runs here.

    Raises:
        DeployError: a wheel cannot be built or fetched.
    """
    source = None if requirements is not None else source or _runtime_source()
    wanted = sorted(_requirements() if requirements is None else requirements) + sorted(extra)
    key = _digest_of(source, target, wanted)
    archive = cache / f"wheelhouse-{key}.tar"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make(source, target, wanted, archive)
    return Wheelhouse(archive=archive, digest=key)


def asked_for(kit: Path) -> tuple[str, ...]:
    """Returns what a kit asks for in its `startup/requirements.txt`, one requirement each; nothing without that file.

    Raises:
        ConfigError: a line is more than a name and versions. What is installed comes from the index, as a wheel; an
            address or a folder would be built here, which runs what is in it.
    """
    file = kit / REQUIREMENTS
    if not file.is_file():
        return ()
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in file.read_text(encoding="utf-8").splitlines()]
    wanted = [line for line in lines if line]
    refused = [line for line in wanted if not is_from_index(line)]
    if refused:
        raise ConfigError(
            f"{file} cannot be used",
            why=f"only names and versions can be asked for, and it has {', '.join(refused)}",
            hint="one requirement a line: scikit-learn==1.5.2",
        )
    return tuple(wanted)


def is_from_index(line: str) -> bool:
    """Tells whether a requirement is a name with versions and nothing else, so that a wheel of an index is meant."""
    try:
        return Requirement(line).url is None and not ARCHIVE.match(line)
    except InvalidRequirement:
        return False


def _runtime_source() -> Path:
    import clouddeploy_runtime  # noqa: PLC0415 - only its place is wanted

    return Path(str(clouddeploy_runtime.__file__)).parent


def _digest_of(source: Path | None, target: PythonTarget, wanted: list[str]) -> str:
    digest = hashlib.sha256(f"{target.version} {target.machine} {wanted}".encode())
    files = [(path, path.relative_to(source)) for path in sorted(source.rglob("*"))] if source else []
    for path, name in files:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(name).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _requirements() -> list[str]:
    return [line for line in metadata.requires("clouddeploy-runtime") or [] if "extra ==" not in line]


def _make(source: Path | None, target: PythonTarget, wanted: list[str], archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        wheels = Path(folder) / "wheels"
        wheels.mkdir()
        if source is not None:
            _build_runtime(source, wheels)
        platforms = [word for tag in GLIBC_TAGS for word in ("--platform", f"{tag}_{target.machine}")]
        _pip(
            [
                "download",
                "--only-binary=:all:",
                "--implementation",
                "cp",
                "--python-version",
                target.version,
                *platforms,
                "--dest",
                str(wheels),
                "pip",
                *wanted,
            ],
            what=f"{', '.join(wanted) or 'pip'} cannot be fetched",
        )
        _write_requirements(wheels)
        aside = Path(folder) / "wheelhouse.tar"
        with tarfile.open(aside, "w") as tar:
            for path in sorted(wheels.iterdir()):
                tar.add(path, arcname=path.name)
        aside.replace(archive)


def _build_runtime(source: Path, wheels: Path) -> None:
    """Builds the runtime's wheel: from its checkout, or from the installed files."""
    project = source.parent
    if not (project / "pyproject.toml").is_file():
        raise DeployError(
            "the runtime's wheel cannot be built here",
            why="clouddeploy-runtime is not a checkout",
            hint="install clouddeploy from its checkout",
        )
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(
            project, Path(copy) / "runtime", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "dist")
        )
        _pip(
            ["wheel", "--no-deps", "--wheel-dir", str(wheels), str(Path(copy) / "runtime")],
            what="the runtime's wheel could not be built",
        )


def _pip(words: list[str], *, what: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeployError(
            what, why=f"pip did not end within {PIP_S} s", hint="is the package index reachable from here?"
        ) from error
    if done.returncode != 0:
        raise DeployError(
            what, why=done.stderr.strip()[-1000:], hint="is there a network? The wheels are kept once they were fetched"
        )


def _write_requirements(wheels: Path) -> None:
    strange = sorted(path.name for path in wheels.iterdir() if path.suffix != ".whl")
    if strange:
        raise DeployError(
            "the wheelhouse cannot be made",
            why=f"the index gave no wheel: {', '.join(strange)}",
            hint="name a version that has wheels",
        )
    lines = []
    for path in sorted(wheels.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        if name != "pip":
            lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n")
    (wheels / "requirements.txt").write_text("".join(lines), encoding="utf-8")
