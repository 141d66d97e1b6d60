"""Whole results, every path with its mode, held against `tests/golden/kits`: one file for each kind of project."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import project
from clouddeploy_provision.builders.catalogue import Custom
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.certificate_authority import revoke
from clouddeploy_provision.provisioner import Endpoint, Options, provision

if TYPE_CHECKING:
    from clouddeploy_provision.project import Project

DATA = Path(__file__).parent / "data" / "reference"
GOLDEN = Path(__file__).parents[2] / "golden" / "kits"
PASSPHRASE = b"x"
NAMES = [
    "clouds",
    "custom",
    "default",
    "docker",
    "encryption",
    "hierarchy",
    "listening",
    "policies",
    "proxy",
    "relays",
    "studies",
]


def tree(result: Path) -> str:
    """Return a line for each file and folder: mode, path."""
    lines = []
    for path in sorted(result.rglob("*")):
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode), path
        lines.append(f"{stat.S_IMODE(status.st_mode):04o} {path.relative_to(result)}{'/' if path.is_dir() else ''}\n")
    return "".join(lines)


@pytest.fixture
def load(tmp_path):
    shutil.copytree(DATA, tmp_path / "files")
    (tmp_path / "files" / "proxy_ca.pem").write_bytes(Authority.create("proxy", now=datetime.now(UTC)).pem)

    def _load(name: str, *, old: str = "", new: str = "") -> Project:
        file = tmp_path / "files" / f"{name}.yml"
        file.write_text(file.read_text().replace(old, new) if old else file.read_text())
        return project.load(file, custom=Custom(file.parent))

    return _load


def made(found: Project, tmp_path: Path, **more) -> Path:
    options = Options(custom=Custom(tmp_path / "files"))
    return provision(found, tmp_path / "ws", passphrase=PASSPHRASE, options=options, **more).result


@pytest.mark.parametrize("name", NAMES)
def test_tree_of_a_result(load, tmp_path, name):
    if name == "encryption":
        pytest.importorskip("tenseal")
    assert tree(made(load(name), tmp_path)) == (GOLDEN / f"{name}.txt").read_text()


def test_tree_is_the_same_whatever_the_umask(load, tmp_path):
    load("default")
    program = (
        "import sys; from pathlib import Path; from clouddeploy_provision import project, provisioner;"
        "provisioner.provision(project.load(Path(sys.argv[1])), Path(sys.argv[2]), passphrase=b'x')"
    )
    words = [sys.executable, "-c", program, tmp_path / "files" / "default.yml", tmp_path / "ws"]
    subprocess.run(words, umask=0o077, check=True, capture_output=True)
    assert tree(tmp_path / "ws" / "example_project" / "prod_00") == (GOLDEN / "default.txt").read_text()


def test_an_endpoint_adds_a_file_to_every_kit(load, tmp_path):
    found = load("default")
    before = tree(made(found, tmp_path))
    after = tree(made(found, tmp_path, endpoint=Endpoint("192.0.2.1", 8002)))
    added = set(after.splitlines()) - set(before.splitlines())
    assert added == {f"0644 {one.name}/local/endpoint.json" for one in found.participants}
    assert set(before.splitlines()) <= set(after.splitlines())


def test_a_revocation_adds_the_list_to_every_kit(load, tmp_path):
    before = tree(made(load("default"), tmp_path))
    revoke(tmp_path / "ws" / "example_project" / "state", ["site-2"], passphrase=PASSPHRASE)
    found = load("default", old="  - name: site-2\n    type: client\n    org: nvidia\n")
    after = tree(made(found, tmp_path))
    kept = {line for line in before.splitlines() if " site-2/" not in line}
    assert set(after.splitlines()) - kept == {f"0644 {one.name}/local/crl.pem" for one in found.participants}
    assert kept <= set(after.splitlines())
