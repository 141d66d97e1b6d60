"""`start.sh` of a real kit, run with a real interpreter: a kit that is not as it was signed starts nothing.

Every attack on every file is in tests/unit/kit; here is one of each sort, and that nothing of a kit runs before it is
verified. A kit that may start would run for ever, so the ones here are all refused.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.kit import Kind, memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROJECT = Project(
    "study",
    "",
    (
        Participant(Kind.SERVER, "server1", "hub", hosts=("127.0.0.1",), host="127.0.0.1", port=1),
        Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=1),
        Participant(Kind.CLIENT, "site-2", "org_b", host="127.0.0.1", port=1),
    ),
)
COVERED = ("rootCA.pem", "stop_fl.sh", "sub_start.sh", "manifest.json", "manifest.json.sig")
FILES = [
    *(("server1", name) for name in (*COVERED, "fed_server.json", "server.crt", "server.key")),
    *(("site-1", name) for name in (*COVERED, "fed_client.json", "client.crt", "client.key")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return provision(PROJECT, tmp_path_factory.mktemp("made"), passphrase=b"x").result


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    return provision(PROJECT, tmp_path_factory.mktemp("foreign"), passphrase=b"x").result


@pytest.fixture
def place(made, tmp_path) -> Path:
    """Kits that a test may change."""
    return shutil.copytree(made, tmp_path / "kits")


@pytest.fixture
def start(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a kit's `start.sh --once`."""

    def run(root: Path, *, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        plain = {name: value for name, value in os.environ.items() if not name.endswith("_WORKSPACE")}
        own = {"CLOUDDEPLOY_PYTHON": sys.executable, "CLOUDDEPLOY_STATE_DIR": str(tmp_path / "records")}
        return subprocess.run(
            [str(root / "startup/start.sh"), "--once"],
            env={**plain, **own, **env},
            cwd=cwd or tmp_path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )

    return run


@pytest.fixture
def refused(start) -> Callable[..., None]:
    """Expect a kit to be refused, with one of the paths named, before anything is written."""

    def check(root: Path, *paths: str, **env: str) -> None:
        done = start(root, **env)
        assert done.returncode == 4, done.stderr
        assert any(path in done.stderr for path in paths), done.stderr
        assert "start.sh: not started, the startup kit was refused" in done.stderr
        assert "Traceback" not in done.stderr
        assert not {"log.txt", "status.json", "jobs"} & {path.name for path in root.iterdir()}

    return check


@pytest.mark.parametrize(("name", "file"), FILES, ids=map("/".join, FILES))
def test_a_flipped_byte(place, refused, name, file):
    path = place / name / "startup" / file
    mode, data = path.stat().st_mode, bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.chmod(mode)
    refused(place / name, f"startup/{file}", "startup/manifest.json")


def delete(startup: Path, _foreign: Path) -> str:
    (startup / "stop_fl.sh").unlink()
    return "startup/stop_fl.sh: is missing"


def add(startup: Path, _foreign: Path) -> str:
    (startup / "sitecustomize.py").write_text("")
    return "startup/sitecustomize.py: was added"


def rename(startup: Path, _foreign: Path) -> str:
    (startup / "stop_fl.sh").rename(startup / "stop.sh")
    return "startup/stop.sh: was added"


def swap(startup: Path, _foreign: Path) -> str:
    (startup / "stop_fl.sh").rename(startup / "x")
    (startup / "sub_start.sh").rename(startup / "stop_fl.sh")
    (startup / "x").rename(startup / "sub_start.sh")
    return "startup/sub_start.sh: has"


def other_mode(startup: Path, _foreign: Path) -> str:
    (startup / "sub_start.sh").chmod(0o775)
    return "startup/sub_start.sh: has mode 0775"


def open_key(startup: Path, _foreign: Path) -> str:
    (startup / "client.key").chmod(0o644)
    return "startup/client.key: has mode 0644"


def link(startup: Path, _foreign: Path) -> str:
    (startup / "sub_start.sh").rename(startup.parent / "sub_start.sh")
    (startup / "sub_start.sh").symlink_to("../sub_start.sh")
    return "startup/sub_start.sh: is not a regular file"


def hard_link(startup: Path, _foreign: Path) -> str:
    (startup / "sub_start.sh").unlink()
    (startup / "sub_start.sh").hardlink_to(startup / "start.sh")
    return "startup/sub_start.sh: has"


def folder(startup: Path, _foreign: Path) -> str:
    (startup / "rootCA.pem").unlink()
    (startup / "rootCA.pem").mkdir()
    return "startup/rootCA.pem"


def pipe(startup: Path, _foreign: Path) -> str:
    (startup / "rootCA.pem").unlink()
    os.mkfifo(startup / "rootCA.pem")
    return "startup/rootCA.pem"


def manifest_of_another_kit(startup: Path, _foreign: Path) -> str:
    for name in ("manifest.json", "manifest.json.sig"):
        shutil.copy2(startup.parents[1] / "site-2/startup" / name, startup / name)
    return "startup/client.crt: has"


def manifest_of_another_authority(startup: Path, foreign: Path) -> str:
    for name in ("manifest.json", "manifest.json.sig"):
        shutil.copy2(foreign / "site-1/startup" / name, startup / name)
    return "startup/manifest.json: its signature"


def identity_of_another_kit(startup: Path, _foreign: Path) -> str:
    for name in ("client.crt", "client.key"):
        shutil.copy2(startup.parents[1] / "site-2/startup" / name, startup / name)
    return "startup/client.key: has"


def no_manifest(startup: Path, _foreign: Path) -> str:
    (startup / "manifest.json").unlink()
    return "startup/manifest.json: cannot be read"


def no_signature(startup: Path, _foreign: Path) -> str:
    (startup / "manifest.json.sig").unlink()
    return "startup/manifest.json.sig: cannot be read"


def empty_signature(startup: Path, _foreign: Path) -> str:
    (startup / "manifest.json.sig").write_bytes(b"")
    return "startup/manifest.json: its signature"


def cut_manifest(startup: Path, _foreign: Path) -> str:
    os.truncate(startup / "manifest.json", 100)
    return "startup/manifest.json: its signature"


def shorter_manifest(startup: Path, _foreign: Path) -> str:
    data = json.loads((startup / "manifest.json").read_bytes())
    data["files"] = [one for one in data["files"] if "sub_start" not in one["path"]]
    (startup / "manifest.json").write_text(json.dumps(data))
    (startup / "sub_start.sh").write_text("evil")
    return "startup/manifest.json: its signature"


def forged_list(startup: Path, _foreign: Path) -> str:
    (startup.parent / "local/crl.pem").write_text("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    return "local/crl.pem"


def everybody(startup: Path, _foreign: Path) -> str:
    startup.chmod(0o777)
    return "startup: has mode 0777"


ATTACKS = [
    *(delete, add, rename, swap, other_mode, open_key, link, hard_link, folder, pipe),
    *(manifest_of_another_kit, manifest_of_another_authority, identity_of_another_kit),
    *(no_manifest, no_signature, empty_signature, cut_manifest, shorter_manifest, forged_list, everybody),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda one: one.__name__)
def test_an_attack(place, foreign, refused, attack):
    refused(place / "site-1", attack(place / "site-1/startup", foreign))


@pytest.mark.parametrize("workspace", ["in the kit", "of its own"])
def test_a_kit_from_before_a_renewal(tmp_path, refused, workspace):
    """Whoever checks looks where the parent that ran here has noted it."""
    folder = tmp_path / "project"
    old = provision(PROJECT, folder, passphrase=b"x", now=datetime.now(UTC) - timedelta(days=1)).kits["site-1"]
    options = Options(renewal=Renewal(frozenset({"site-1"})))
    new = provision(PROJECT, folder, passphrase=b"x", options=options).kits["site-1"]
    where = tmp_path / "work"
    env = {"CLOUDDEPLOY_WORKSPACE": str(where)} if workspace == "of its own" else {}
    if env:
        memory.remember(kits.load(new), where)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLOUDDEPLOY_STATE_DIR", str(tmp_path / "records"))
            memory.remember(kits.load(new), new)
    refused(old, "startup/client.crt was replaced by a newer one", **env)


@pytest.mark.parametrize("where", ["kit", "startup"])
@pytest.mark.parametrize("name", ["clouddeploy_runtime/__main__.py", "msgspec.py", "argparse.py"])
def test_code_that_lies_where_the_person_stands_is_not_run(place, start, tmp_path, where, name):
    """Python would look for modules there first, before anything is verified."""
    root = place / "site-1"
    cwd = root if where == "kit" else root / "startup"
    bait = cwd / name
    bait.parent.mkdir(exist_ok=True)
    bait.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    (root / "startup/stop_fl.sh").unlink()
    done = start(root, cwd=cwd)
    assert not (tmp_path / "ran").exists()
    assert done.returncode == 4
    assert "startup/stop_fl.sh" in done.stderr
