"""`clouddeploy preflight`: its table, its envelope and its exit codes; what it finds is held in tests/unit/kit."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import Kind, memory

from clouddeploy.cli.preflight import preflight

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

NOW = datetime.now(UTC)


def make(folder: Path, *, now: datetime = NOW, renew: bool = False, security: str = "mtls") -> Path:
    """Return the kit of site-1."""
    project = Project(
        "study",
        "",
        (
            Participant(Kind.SERVER, "server1", "hub", host="server1", port=8002, connection_security=security),
            Participant(Kind.CLIENT, "site-1", "org_a", host="server1", port=8002, connection_security=security),
        ),
        connection_security=security,
    )
    options = Options(renewal=Renewal(frozenset({"site-1"} if renew else ())))
    return provision(project, folder, passphrase=b"x", options=options, now=now).kits["site-1"]


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLOUDDEPLOY_STATE_DIR", str(tmp_path / "records"))
    for variable in ("CLOUDDEPLOY_WORKSPACE", "NVFL_WORKSPACE"):
        monkeypatch.delenv(variable, raising=False)


def run(*words: object) -> Result:
    before = signal.getsignal(signal.SIGINT)
    try:
        return CliRunner().invoke(preflight, [str(word) for word in words])
    finally:
        signal.signal(signal.SIGINT, before)


def answer(*words: object) -> dict[str, Any]:
    done = run(*words, "--output", "json")
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.exit_code
    return found


def test_a_kit_that_may_start(tmp_path):
    done = run(make(tmp_path))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line[:8] for line in lines] == ["ok      "] * 4
    assert lines[0].endswith("files are as study signed them for site-1")
    assert "certificate: valid until" in lines[1]
    assert "root certificate: valid until" in lines[2]
    assert lines[3][8:].startswith("temporary folder: ")


def test_the_same_in_json(tmp_path):
    checks = answer(make(tmp_path))["data"]["checks"]
    assert [one["check"] for one in checks] == ["startup kit", "certificate", "root certificate", "temporary folder"]
    assert not any(one["is_problem"] for one in checks)


def test_a_folder_in_memory_is_a_problem_where_tensors_are_to_go_there(tmp_path, monkeypatch):
    root = make(tmp_path)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        done = run(root)
        assert done.exit_code == 0
        assert f"ok      temporary folder: the temporary folder {folder} is in memory (tmpfs)" in done.stdout
        component = {"id": "tensor_memory", "args": {"enable_tensor_disk_offload": True}}
        (root / "local" / "resources.json").write_text(json.dumps({"components": [component]}))
        done = run(root)
        assert done.exit_code == ExitCode.BAD_INPUT
        assert f"PROBLEM temporary folder: the temporary folder {folder} is in memory (tmpfs)" in done.stdout
        assert "fix: Set TMPDIR to a folder on a disk" in done.stdout
        assert answer(root)["error_code"] == "TEMPORARY_FOLDER_REFUSED"


def test_settings_that_cannot_be_read_are_a_problem(tmp_path):
    root = make(tmp_path)
    (root / "local" / "resources.json").write_text("{")
    done = run(root)
    assert done.exit_code == ExitCode.BAD_INPUT
    assert "PROBLEM settings: " in done.stdout


def test_a_kit_that_was_changed(tmp_path):
    root = make(tmp_path)
    (root / "startup/added").write_text("")
    done = run(root)
    assert done.exit_code == ExitCode.BAD_INPUT
    assert done.stdout.startswith("PROBLEM startup kit: ")
    assert "startup/added" in done.stdout
    assert "fix: do not start it" in done.stdout
    assert "must not be started" in done.stderr


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("changed", "KIT_TAMPERED"),
        ("expired", "KIT_EXPIRED"),
        ("not a kit", "KIT_UNUSABLE"),
        ("missing", "KIT_UNUSABLE"),
    ],
)
def test_each_problem_has_a_code(tmp_path, what, code):
    root = make(
        tmp_path,
        now=NOW - timedelta(days=400 if what == "expired" else 0),
    )
    if what == "changed":
        os.truncate(root / "startup/manifest.json", 10)
    root = {"not a kit": tmp_path, "missing": tmp_path / "none"}.get(what, root)
    found = answer(root)
    assert (found["status"], found["exit_code"], found["error_code"]) == ("error", ExitCode.BAD_INPUT, code)
    assert any(one["code"] == code for one in found["data"]["checks"])


@pytest.mark.parametrize(("security", "checks"), [("tls", []), ("clear", ["connection"])])
def test_a_kit_without_mutual_tls_may_start_and_clear_is_said(tmp_path, security, checks):
    found = answer(make(tmp_path, security=security))
    assert found["exit_code"] == 0
    said = [one for one in found["data"]["checks"] if one["check"] == "connection"]
    assert [one["check"] for one in said] == checks
    assert all("everybody on the way can read" in one["text"] for one in said)


@pytest.mark.parametrize(("days", "said"), [(360 - 20, "20 days"), (360 - 3, "3 days")])
def test_a_certificate_that_ends_soon_is_said_and_may_start(tmp_path, days, said):
    found = answer(make(tmp_path, now=NOW - timedelta(days=days)))
    assert found["exit_code"] == 0
    text = found["data"]["checks"][1]["text"]
    assert said in text or str(int(said.split()[0]) - 1) in text


def test_a_kit_that_a_newer_one_replaced_where_it_works(tmp_path):
    old = make(tmp_path, now=NOW - timedelta(days=1))
    memory.remember(kits.load(make(tmp_path, renew=True)), tmp_path / "work")
    assert answer(old)["exit_code"] == 0
    found = answer(old, "--workspace", tmp_path / "work")
    assert (found["exit_code"], found["error_code"]) == (ExitCode.BAD_INPUT, "KIT_REVOKED")


def test_without_a_kit():
    assert run().exit_code != 0


def test_schema():
    found = json.loads(run("--schema").stdout)
    assert [one["name"] for one in found["arguments"]] == ["kit"]
