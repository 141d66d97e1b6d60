"""A site installs one wheel: what it declares is all that the site's half of enrolment needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from clouddeploy_provision import approval, certificate_authority
from clouddeploy_runtime.enrolment import formats
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PASSPHRASE = b"only for this test"
OPERATORS = ("click", "yaml", "pydantic", "paramiko", "rich", "clouddeploy", "clouddeploy_provision")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The runtime's wheel, built from its checkout without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "runtime"
    shutil.copytree(ROOT / "runtime", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "dist"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel's files and, as links, those of the distributions that it declares; nothing else."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (described,) = folder.glob("*.dist-info")
    wanted = list(metadata.PathDistribution(described).requires or [])
    known: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        if requirement.name in known or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        known.add(requirement.name)
        found = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(found.version), requirement
        wanted += found.requires or []
        for name in {path.parts[0] for path in found.files or []} - {"..", "__pycache__"}:
            (folder / name).symlink_to(Path(str(found.locate_file(name))))
    return folder


class Site:
    """A machine with Python, the wheel, and its dependencies."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder = folder
        self._packages = packages

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs Python without the `site-packages` of whoever runs the tests (-S)."""
        return subprocess.run(
            [sys.executable, "-S", *words],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "PYTHONPATH": str(self._packages),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *words: str) -> str:
        done = self.python("-m", "clouddeploy_runtime", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def site(tmp_path, installed) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, installed)


def test_the_wheel_holds_the_runtime_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"clouddeploy_runtime"}
    assert not [name for name in names if re.search(r"\.(key|pem|crt)$|__pycache__|/tests?/", name)]


@pytest.mark.parametrize("name", OPERATORS)
def test_nothing_of_the_operators_is_there(site, name):
    assert f"No module named '{name}'" in site.python("-c", f"import {name}").stderr


def test_a_site_gets_and_checks_its_kit_with_the_wheel_alone(site, tmp_path):
    ca = tmp_path / "ca"
    profile = formats.Profile("hospitals", formats.ServerProfile("fl.example.com", 8002))
    certificate_authority.init(profile, ca, passphrase=PASSPHRASE)
    site.run("request", "--project", "hospitals", "--name", "site-1", "--org", "hospital_a")
    answer = approval.approve(site.folder / "site-1" / "site-1.request.zip", ca, passphrase=PASSPHRASE)
    site.run("package", str(answer.archive), "--fingerprint", answer.rootca_fingerprint)
    kit = "workspace/hospitals/prod_00/site-1"
    assert "as it was signed" in site.run("verify", kit)
    assert "Check dry run" in site.run("preflight", kit, "--offline")


def test_asking_and_packaging_load_no_network_and_no_arrays(site):
    """They are fast, and work where gRPC's and numpy's libraries cannot be loaded."""
    program = (
        "import sys; from clouddeploy_runtime.cli import main\n"
        "main(['request', '--project', 'p', '--name', 'site-1', '--org', 'o'])\n"
        "main(['package', 'none.zip', '--trust-on-first-use'])\n"
        "print(sorted({'grpc', 'numpy', 'google', 'safetensors'} & set(sys.modules)))"
    )
    assert site.python("-c", program).stdout.splitlines()[-1] == "[]"
