"""A container engine of this machine, with a store of its own and an image that is made from this Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from importlib import metadata
from pathlib import Path

import clouddeploy_runtime
import pytest
from packaging.requirements import Requirement

# Where rlimits cannot be raised and cgroups are of both versions; elsewhere it does no harm. Locks of its own, since
# those of all of root's engines are one file otherwise.
CONTAINERS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{folder}/tmp"
"""
STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
[storage.options.overlay]
skip_mount_home = "true"
"""
LEFT_OUT = {
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "turtledemo",
    "pydoc_data",
    "_pyrepl",
}
RUNTIME = "clouddeploy-runtime"
LAUNCHING = ("docker", "PyYAML")
"""What a site needs besides to start jobs in containers."""


class Engine:
    """podman, with its images and containers in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "containers.conf").write_text(CONTAINERS.format(folder=folder))
        (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
        self.environment = {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def __call__(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["podman", *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def containers(self) -> set[str]:
        """Names of those that run, and of those that have ended."""
        return set(self("ps", "--all", "--format", "{{.Names}}").split())

    def images(self) -> set[str]:
        return set(self("images", "--format", "{{.Repository}}:{{.Tag}}").split())


def _machine_lacks(folder: Path) -> str:
    """Says why there is no engine that works; empty: there is one."""
    if shutil.which("podman") is None:
        return "podman is not installed"
    if os.geteuid() != 0:
        return "the store of this test is root's"
    done = subprocess.run(
        ["podman", "info"],
        env={**os.environ, **Engine(folder).environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return "" if done.returncode == 0 else f"podman does not work here: {done.stderr[-300:]}"


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    if lacks := _machine_lacks(folder):
        pytest.skip(lacks)
    made = Engine(folder)
    yield made
    made("system", "reset", "--force", check=False)


@pytest.fixture(scope="session")
def base(engine, tmp_path_factory):
    """The name of an image with Python and without our runtime."""
    archive = tmp_path_factory.mktemp("image") / "base.tar"
    with tarfile.open(archive, "w") as tar:
        _add_python(tar)
    engine("import", str(archive), "localhost/base:1")
    archive.unlink()
    return "localhost/base:1"


@pytest.fixture(scope="session")
def image(engine, base, tmp_path_factory):
    """The name of an image that can run a site."""
    return add_runtime(engine, base, "localhost/site:1", tmp_path_factory.mktemp("with"))


@pytest.fixture(scope="session")
def launching(engine, base, tmp_path_factory):
    """The name of an image that can run a site which starts jobs in containers."""
    return add_runtime(engine, base, "localhost/launching:1", tmp_path_factory.mktemp("with"), more=LAUNCHING)


def add_runtime(engine: Engine, base: str, name: str, folder: Path, *, more: tuple[str, ...] = ()) -> str:
    """Makes an image with what a checkout's runtime is and needs, and more distributions; returns its name."""
    packages = folder / "site-packages"
    packages.mkdir()
    wanted = dict.fromkeys(one for distribution in (RUNTIME, *more) for one in _needed(distribution))
    for distribution in wanted:
        _copy(distribution, packages)
    shutil.copytree(
        Path(clouddeploy_runtime.__file__).parent,
        packages / "clouddeploy_runtime",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (folder / "Containerfile").write_text(f"FROM {base}\nCOPY site-packages /usr/local/lib/python3/site-packages\n")
    engine("build", "--quiet", "--network", "none", "--tag", name, str(folder))
    shutil.rmtree(packages)
    return name


def _needed(name: str) -> list[str]:
    found: list[str] = []
    for one in map(Requirement, metadata.requires(name) or []):
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            found += _needed(one.name)
    return [name, *dict.fromkeys(found)]


def _copy(name: str, packages: Path) -> None:
    for file in metadata.files(name) or []:
        source = Path(str(file.locate()))
        if (
            source.is_file()
            and ".." not in file.parts
            and "__pycache__" not in file.parts
            and "tests" not in file.parts
        ):
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _add_python(tar: tarfile.TarFile) -> None:
    """Adds this machine's Python as /usr/local/bin/python3, and the libraries that it and its modules load."""
    binary = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = set(Path(info.name).parts)
        return None if parts & LEFT_OUT or "config-" in info.name or ".opt-" in info.name else _of_root(info)

    tar.add(binary, f"usr/local/bin/{version}", filter=_of_root)
    _link(tar, "usr/local/bin/python3", version)
    tar.add(library, f"usr/local/lib/{version}", filter=wanted)
    _link(tar, "usr/local/lib/python3", version)
    modules = list(library.glob("lib-dynload/*.so"))
    modules += [
        Path(str(file.locate()))
        for name in _needed(RUNTIME)
        for file in metadata.files(name) or []
        if str(file).endswith(".so")
    ]
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    for link in ("lib", "lib64"):
        _link(tar, link, f"usr/{link}")
    said = subprocess.run(["ldd", str(binary), *map(str, modules)], capture_output=True, text=True, check=False).stdout
    paths = {word for line in said.splitlines() for word in line.split() if word.startswith("/") and ":" not in word}
    own = {path for path in paths if "site-packages" in path}  # which find each other
    for name, path in {Path(path).name: path for path in sorted(paths - own)}.items():
        place = "usr/lib64" if "ld-linux" in name else f"usr/lib/{multiarch}"
        tar.add(Path(path).resolve(), f"{place}/{name}", filter=_of_root)


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.mode |= 0o755 if info.isdir() else 0o444
    return info


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type = tarfile.SYMTYPE
    info.linkname = target
    tar.addfile(info)
