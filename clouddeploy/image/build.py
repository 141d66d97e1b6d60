"""Builds the image with the engine's own command, from wheels that were fetched before: `clouddeploy image build`."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime._version import __version__
from clouddeploy_runtime.errors import printable

from clouddeploy import wheelhouse
from clouddeploy.errors import ConfigError, DeployError
from clouddeploy.remote.wheels import PythonTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clouddeploy.remote.wheels import Wheelhouse

BASE = "docker.io/library/python:{python}-slim"
PYTHON = "3.12"
LAUNCHING = ("docker>=7.1,<8", "PyYAML>=6,<7")
"""What a site needs to start jobs in containers: the extra `docker` of our runtime."""
ENGINES = ("docker", "podman")
RECORD = "images.jsonl"
"""In the cache: every image that was built, with its digest."""
BUILD_S = 1800
_FILES = ("Dockerfile", "install.py")
_TAG = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]{0,250}")
_PYTHON = re.compile(r"3\.[0-9]{1,2}")


@dataclass(frozen=True)
class Wanted:
    """What to build.

    Attributes:
        tag: the image's name.
        base: with the `python3` that it is to have; empty: Python's own slim image.
        python: version of that, as `3.12`.
        extra: further requirements from the index, such as what jobs import.
    """

    tag: str
    base: str = ""
    python: str = PYTHON
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes:
        tag: its name here; another image may get it later.
        digest: its id, by which it is the same for ever.
        base: what it was made from.
        wheels: digest of what was installed.
        version: of our runtime in it.
        engine: that has it.
        at: when.
    """

    tag: str
    digest: str
    base: str
    wheels: str
    version: str
    engine: str
    at: str


def build(
    wanted: Wanted,
    *,
    engine: str | None = None,
    cache: Path | None = None,
    collect: Callable[..., Wheelhouse] = wheelhouse.collect,
) -> Built:
    """Build an image, and note its digest in the cache.

    Args:
        wanted: what.
        engine: `docker` or `podman`, or the path of one; None: the first that is here.
        cache: has the wheels, and the record.
        collect: fetches the wheels; see `wheelhouse.collect`.

    Raises:
        ConfigError: a name or a requirement is none.
        DeployError: there is no engine, or it cannot build.
    """
    _check(wanted)
    command = _engine(engine)
    place = cache or wheelhouse.default_cache()
    base = wanted.base or BASE.format(python=wanted.python)
    target = PythonTarget(version=wanted.python, machine=platform.machine())
    wheels = collect(target, place, extra=(*LAUNCHING, *wanted.extra))
    with tempfile.TemporaryDirectory(prefix="clouddeploy-image-") as folder:
        _fill(Path(folder), wheels)
        # By its id, which the engine writes: what the tag leads to may be another image a moment later.
        _run(
            command, _words(command, wanted.tag, base, Path(folder), wheels.digest), what=f"{wanted.tag} was not built"
        )
        digest = (Path(folder) / "id").read_text(encoding="ascii").strip()
    if not digest.startswith("sha256:"):
        digest = f"sha256:{digest}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = Built(wanted.tag, digest, base, wheels.digest, __version__, Path(command).name, now)
    _note(place / RECORD, made)
    return made


def _check(wanted: Wanted) -> None:
    for name in filter(None, (wanted.tag, wanted.base.partition("@")[0])):
        if not _TAG.fullmatch(name):
            raise ConfigError(f"{name!r} is no name of an image", hint="for example registry.example.com/fl/site:1")
    if not _PYTHON.fullmatch(wanted.python):
        raise ConfigError(f"{wanted.python!r} is no version of Python", hint="for example 3.12")
    for one in wanted.extra:
        if not wheelhouse.is_from_index(one):
            raise ConfigError(
                f"{one!r} cannot be in the image",
                why="only names and versions can be asked for",
                hint="for example scikit-learn==1.5.2",
            )


def _engine(named: str | None) -> str:
    found = next((path for one in ([named] if named else ENGINES) if (path := shutil.which(one))), None)
    if found is None:
        raise DeployError(
            f"there is no {named or 'container engine'} here",
            why="neither docker nor podman is installed" if named is None else f"{named} is not installed",
            hint="install docker or podman, or name another one with --engine",
        )
    return found


def _fill(folder: Path, wheels: Wheelhouse) -> None:
    for name in _FILES:
        content = resources.files("clouddeploy.image").joinpath(name).read_bytes()
        (folder / name).write_bytes(content)
    (folder / "wheels").mkdir()
    with tarfile.open(wheels.archive) as tar:
        tar.extractall(folder / "wheels", filter="data")


def _words(command: str, tag: str, base: str, folder: Path, digest: str) -> list[str]:
    words = ["build", "--tag", tag, "--build-arg", f"BASE={base}", "--iidfile", str(folder / "id")]
    words += ["--label", f"org.opencontainers.image.version={__version__}", "--label", f"clouddeploy.wheels={digest}"]
    if Path(command).name == "podman":
        words += ["--format", "docker"]  # the other format has no health check
    return [*words, "--file", str(folder / "Dockerfile"), str(folder)]


def _run(command: str, words: Sequence[str], *, what: str) -> None:
    try:
        done = subprocess.run(
            [command, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeployError(what, why=f"{command} did not end within {BUILD_S} s") from error
    if done.returncode != 0:
        said = printable((done.stderr or done.stdout).strip()[-1000:].replace("\n", " / "))
        raise DeployError(what, why=said, hint="is the base here, or can it be pulled? Is it of the right Python?")


def _note(record: Path, made: Built) -> None:
    line = json.dumps(asdict(made)) + "\n"
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(line)
