"""`clouddeploy preflight`: its table, its envelope and its exit codes; what it finds is held in runtime_net and kit."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.project import Participant, Project
from clouddeploy_provision.provisioner import Options, provision
from clouddeploy_runtime import cli as runtime
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.kit import Kind, memory

from clouddeploy.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

NOW = datetime.now(UTC)


def make(folder: Path, *, now: datetime = NOW, renew: bool = False) -> Path:
    """Return the kit of site-1."""
    project = Project(
        "study",
        "",
        (
            Participant(Kind.SERVER, "server1", "hub", host="127.0.0.1", port=1),
            Participant(Kind.CLIENT, "site-1", "org_a", host="127.0.0.1", port=1),
        ),
    )
    options = Options(renewal=Renewal(frozenset({"site-1"} if renew else ())))
    return provision(project, folder, passphrase=b"x", options=options, now=now).kits["site-1"]


@pytest.fixture(autouse=True)
def records(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLOUDDEPLOY_STATE_DIR", str(tmp_path / "records"))
    for variable in ("CLOUDDEPLOY_WORKSPACE", "NVFL_WORKSPACE"):
        monkeypatch.delenv(variable, raising=False)


def run(*words: object, name: str = "preflight") -> Result:
    before = signal.getsignal(signal.SIGINT)
    try:
        return CliRunner().invoke(cli, [name, *(str(word) for word in words)])
    finally:
        signal.signal(signal.SIGINT, before)


def answer(*words: object) -> dict[str, Any]:
    done = run(*words, "--output", "json")
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.exit_code
    return found


def test_a_kit_that_may_start(tmp_path):
    root = make(tmp_path)
    done = run(root, "--offline")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"Checking Package: {root}"
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["Checks", "Problems", "How to fix"]
    assert {len(line) for line in lines[1:]} == {len(lines[1])}
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:4]] for line in lines[4:-1] if (cells := line.split("|"))
    }
    assert rows["Check certificate"] == ["PASSED", "N/A"]
    assert rows["Check server available"] == ["SKIPPED: nobody is to be contacted (--offline)", "N/A"]
    assert rows["Check dry run"] == ["PASSED", "N/A"]


def test_what_was_seen_is_told_when_asked_for(tmp_path):
    done = run(make(tmp_path), "--offline", "-v")
    assert "files are as study signed them for site-1" in done.stdout
    assert "PASSED: valid until" in done.stdout


def test_the_same_in_json(tmp_path):
    root = make(tmp_path)
    data = answer(root, "--offline")["data"]
    assert (data["package"], data["overall"]) == (str(root), "pass")
    assert {tuple(one) for one in data["checks"]} == {("component", "check", "status", "code", "details", "remedy")}
    assert {one["component"] for one in data["checks"]} == {"client"}
    assert {one["status"] for one in data["checks"]} <= {"pass", "warn", "skipped"}


def test_a_server_that_is_down(tmp_path):
    root = make(tmp_path)
    done = run(root)
    assert done.exit_code == ExitCode.FAILED
    assert "Can't connect to grpc server (127.0.0.1:1)" in done.stdout
    assert "Please check if server is up." in done.stdout
    assert "must not be started" in done.stderr
    found = answer(root)
    assert (found["status"], found["error_code"], found["data"]["overall"]) == ("error", "SERVER_REFUSES", "fail")
    assert [one["check"] for one in found["data"]["checks"] if one["status"] == "fail"] == ["Check server available"]


def test_a_kit_that_was_changed(tmp_path):
    root = make(tmp_path)
    (root / "startup/added").write_text("")
    done = run(root)
    assert done.exit_code == ExitCode.FAILED
    assert "startup/added" in done.stdout
    assert "Do not start it" in done.stdout


@pytest.mark.parametrize(
    ("what", "code", "exit_code"),
    [
        ("changed", "KIT_TAMPERED", 1),
        ("expired", "KIT_EXPIRED", 1),
        ("not a kit", "KIT_UNUSABLE", 4),
        ("missing", "KIT_UNUSABLE", 4),
    ],
)
def test_each_problem_has_a_code(tmp_path, what, code, exit_code):
    root = make(tmp_path, now=NOW - timedelta(days=400 if what == "expired" else 0))
    if what == "changed":
        os.truncate(root / "startup/manifest.json", 10)
    root = {"not a kit": tmp_path, "missing": tmp_path / "none"}.get(what, root)
    found = answer(root)
    assert (found["status"], found["exit_code"], found["error_code"]) == ("error", exit_code, code)


@pytest.mark.parametrize(
    ("name", "said"),
    [("none", "is not a valid directory"), ("", "is not in the correct format")],
)
def test_a_folder_that_is_no_kit_is_told_as_the_reference_does(tmp_path, name, said):
    done = run(tmp_path / name)
    assert done.exit_code == ExitCode.BAD_INPUT
    assert said in done.stderr


@pytest.mark.parametrize(
    ("days", "code"), [(360 - 20, "CERT_EXPIRES_SOON"), (360 - 3, "CERT_EXPIRES_THIS_WEEK"), (100, "")]
)
def test_a_certificate_that_ends_soon_is_said_and_may_start(tmp_path, days, code):
    found = answer(make(tmp_path, now=NOW - timedelta(days=days)), "--offline")
    assert found["exit_code"] == 0
    (one,) = [one for one in found["data"]["checks"] if one["check"] == "Check certificate"]
    assert one["code"] == code
    assert one["status"] == ("warn" if code else "pass")


def test_a_kit_that_a_newer_one_replaced_where_it_works(tmp_path):
    old = make(tmp_path, now=NOW - timedelta(days=1))
    memory.remember(kits.load(make(tmp_path, renew=True)), tmp_path / "work")
    (tmp_path / "work").mkdir(exist_ok=True)
    assert answer(old, "--offline")["exit_code"] == 0
    found = answer(old, "--offline", "--workspace", tmp_path / "work")
    assert (found["exit_code"], found["error_code"]) == (ExitCode.FAILED, "KIT_REPLACED")


@pytest.mark.parametrize("name", ["preflight", "preflight-check", "preflight_check"])
@pytest.mark.parametrize("option", ["-p", "--package-path", "--package_path"])
def test_the_names_of_the_reference(tmp_path, name, option):
    done = run(option, tmp_path, "--output", "json", name=name)
    assert json.loads(done.stdout)["error_code"] == "KIT_UNUSABLE"


def test_help_lists_the_command_once():
    assert run(name="--help").stdout.count("preflight") == 1


@pytest.mark.parametrize("words", [(), ("a", "-p", "b")])
def test_one_kit_is_to_be_named(words):
    assert run(*words).exit_code != 0


def test_schema():
    found = json.loads(run("--schema").stdout)
    assert [one["name"] for one in found["arguments"]] == ["kit"]
    assert ["-p", "--package-path", "--package_path"] in [one["flags"] for one in found["options"]]


@pytest.mark.parametrize("words", [(), ("-p",)])
def test_a_site_says_the_same(tmp_path, capsys, words):
    root = make(tmp_path)
    code = runtime.main(["preflight", *words, str(root), "--output", "json"])
    theirs, ours = json.loads(capsys.readouterr().out), answer(root)
    for check in (*theirs["data"]["checks"], *ours["data"]["checks"]):
        if check["check"] in {"Check disk", "Check temporary folder"}:
            del check["details"]  # others write there
    assert code == ExitCode.FAILED
    assert theirs == ours
    assert runtime.main(["preflight", str(root)]) == ExitCode.FAILED
    out, err = capsys.readouterr()
    assert out == run(root).stdout
    assert "must not be started" in err


def test_a_site_says_the_same_of_what_is_no_kit(tmp_path, capsys):
    code = runtime.main(["preflight", str(tmp_path / "none"), "--output", "json"])
    theirs, ours = json.loads(capsys.readouterr().out), answer(tmp_path / "none")
    assert code == ExitCode.BAD_INPUT
    assert theirs == ours
