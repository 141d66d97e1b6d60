"""`clouddeploy provision`: the sample, the questions, the envelope; what it makes is held in tests/unit/provision."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner
from clouddeploy_runtime import kit
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.cli.provision import provision
from clouddeploy.secrets import PASSPHRASE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

PROJECT: dict[str, Any] = {
    "api_version": 3,
    "name": "study",
    "participants": [
        {"name": "server1", "type": "server", "org": "hub"},
        {"name": "site-1", "type": "client", "org": "org_a"},
        {"name": "admin@example.com", "type": "admin", "org": "hub", "role": "project_admin"},
    ],
    "builders": [{"path": "nvflare.lighter.impl.cert.CertBuilder"}],
}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., Result]:
    """Run the command in an empty folder, without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")

    def call(*words: str) -> Result:
        before = signal.getsignal(signal.SIGINT)
        try:
            done = CliRunner().invoke(provision, words)
        finally:
            signal.signal(signal.SIGINT, before)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in done.output
        return done

    return call


@pytest.fixture
def project(run) -> str:
    Path("p.yml").write_text(yaml.safe_dump(PROJECT))
    return "p.yml"


def envelope(done: Result) -> dict[str, Any]:
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.exit_code
    assert found["schema_version"] == "1"
    return found


@pytest.mark.parametrize("words", [(), ("-g",), ("--generate",), ("-g", "--dry-run")])
def test_without_a_file_a_sample_is_written_that_can_be_used(run, words):
    done = run(*words)
    assert done.exit_code == 0
    assert "project.yml was written" in done.stdout
    again = run("-p", "project.yml")
    assert again.exit_code == 0, again.output
    made = list(Path("workspace").glob("*/prod_00/*/startup/manifest.json"))
    assert len(made) > 2
    assert all(kit.verify(path.parents[1]) for path in made)


def test_the_sample_in_json(run):
    data = envelope(run("--output", "json"))["data"]
    assert set(data) == {"workspace", "packages", "project_yml", "message", "next_step", "suggested_command"}
    assert data["packages"] == []
    assert Path(data["project_yml"]).is_file()
    assert data["suggested_command"] == "clouddeploy provision -p project.yml"


def test_a_file_of_ones_own_is_not_replaced_by_the_sample(run):
    Path("project.yml").write_text("mine")
    assert run().exit_code == ExitCode.BAD_INPUT
    assert Path("project.yml").read_text() == "mine"
    assert run("--force").exit_code == 0
    assert Path("project.yml").read_text() != "mine"


@pytest.mark.parametrize("words", [("--dry-run",), ("-s",), ("--add-user", "x.yml"), ("--add_client", "x.yml")])
def test_what_makes_sense_with_a_project_file_only_writes_no_sample(run, words):
    done = run(*words, "--output", "json")
    assert envelope(done)["error_code"] == "INVALID_ARGS"
    assert done.exit_code == ExitCode.BAD_INPUT
    assert not Path("project.yml").exists()


def test_file_and_sample_exclude_each_other(run, project):
    found = envelope(run("-p", project, "-g", "--output", "json"))
    assert (found["exit_code"], found["error_code"]) == (ExitCode.BAD_INPUT, "INVALID_ARGS")


@pytest.mark.parametrize("content", [None, "", "- a\n- b\n", "text", "a: [", "\0"])
def test_a_file_that_is_missing_or_no_mapping(run, content):
    if content is not None:
        Path("p.yml").write_text(content)
    found = envelope(run("-p", "p.yml", "--output", "json"))
    assert (found["status"], found["exit_code"]) == ("error", ExitCode.BAD_INPUT)
    assert "p.yml" in found["message"]
    assert found["hint"]
    assert not Path("workspace").exists()


def test_lines_of_a_first_run(run, project):
    done = run("-p", project)
    assert done.exit_code == 0
    assert f"Project yaml file: {project}.\n" in done.stdout
    assert "Generated results can be found under workspace/study/prod_00.\n" in done.stdout
    assert "Kits: 3 new, 0 kept, 0 re-issued.\n" in done.stdout
    assert "Root CA validity: NotBefore=" in done.stdout
    assert ", NotAfter=" in done.stdout


def test_envelope_of_runs_that_follow_each_other(run, project):
    first = envelope(run("-p", project, "-w", "ws", "--output", "json"))["data"]
    assert (first["workspace"], first["packages"], first["result"]) == ("ws", ["prod_00"], "ws/study/prod_00")
    assert first["kits"] == {name: f"ws/study/prod_00/{name}" for name in first["created"]}
    second = envelope(run("-p", project, "-w", "ws", "--force", "--output", "json"))["data"]
    assert second["packages"] == ["prod_00", "prod_01"]
    assert (second["created"], second["reissued"], len(second["kept"])) == ([], [], 3)


def test_a_workspace_with_results_and_nobody_to_ask(run, project):
    run("-p", project)
    found = envelope(run("-p", project, "--output", "json"))
    assert found["exit_code"] == ExitCode.BAD_INPUT
    assert "workspace exists" in found["message"]
    assert "--force" in found["hint"]
    assert not Path("workspace/study/prod_01").exists()
    assert run("-p", project, "--force").exit_code == 0
    assert Path("workspace/study/prod_01").is_dir()


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", ExitCode.BAD_INPUT), ("", ExitCode.BAD_INPUT)])
def test_a_workspace_with_results_and_a_person(run, project, answer, code):
    """The question stands on stderr: a program may read stdout all the same."""
    run("-p", project)
    ours, theirs = os.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "clouddeploy.cli", "provision", "-p", project, "--output", "json"],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == code
    assert "Add a new result?" in done.stderr
    assert Path("workspace/study/prod_01").exists() == (code == 0)


def test_no_passphrase_and_nobody_to_ask(run, project, monkeypatch):
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    done = run("-p", project, "--no-input")
    assert done.exit_code == ExitCode.BAD_INPUT
    assert PASSPHRASE_VARIABLE in done.stderr
    assert not Path("workspace/study/prod_00").exists()


def test_the_passphrase_from_a_file(run, project, monkeypatch):
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    Path("secret").write_text("from a file\n")
    Path("secret").chmod(0o600)
    assert run("-p", project, "--passphrase-file", "secret").exit_code == 0
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "another one")
    done = run("-p", project, "--force", "--output", "json")
    assert envelope(done)["error_code"] == "CA_PASSPHRASE"
    assert "another one" not in done.output


def test_a_long_project_name_is_cut_and_said(run):
    Path("p.yml").write_text(yaml.safe_dump({**PROJECT, "name": "n" * 70}))
    done = run("-p", "p.yml")
    assert done.exit_code == 0, done.output
    assert Path("workspace", "n" * 63, "prod_00").is_dir()
    assert "63" in done.stdout


@pytest.mark.parametrize("dashes", ["-", "_"])
def test_both_spellings_of_the_options(run, project, dashes):
    Path("user.yml").write_text("{name: lead@example.com, org: hub, role: lead}")
    Path("client.yml").write_text("{name: site-9, org: org_a}")
    words = [
        ("--project-file", project),
        ("--custom-folder", "."),
        ("--add-user", "user.yml"),
        ("--add-client", "client.yml"),
    ]
    done = run(*(word for flag, value in words for word in ("--" + flag[2:].replace("-", dashes), value)))
    assert done.exit_code == 0, done.output
    kits = {path.name for path in Path("workspace/study/prod_00").iterdir()}
    assert {"lead@example.com", "site-9"} <= kits
    assert run("-p", project, "--force").exit_code == 0
    assert not Path("workspace/study/prod_01/site-9").exists()


@pytest.mark.parametrize("flag", ["-s", "--gen-scripts", "--gen_scripts"])
def test_a_script_that_starts_them_all(run, project, flag):
    assert run("-p", project, flag).exit_code == 0
    script = Path("workspace/study/prod_00/start_all.sh").resolve()
    stand_in = Path("python").resolve()
    stand_in.write_text(f'#!/bin/sh\necho "$@" >>{stand_in}.calls\nexit 4\n')
    stand_in.chmod(0o755)
    done = subprocess.run([script], env={**os.environ, "CLOUDDEPLOY_PYTHON": str(stand_in)}, check=False, timeout=60)
    assert done.returncode == 4
    assert str(script.parent / "server1") in Path(f"{stand_in}.calls").read_text()


def test_a_dry_run_says_what_a_run_does_and_does_nothing(run, project):
    run("-p", project)
    edited = {**PROJECT, "participants": [*PROJECT["participants"][:1], {**PROJECT["participants"][1], "name": "new"}]}
    edited["participants"][0] = {**edited["participants"][0], "host_names": ["fl.example.com"]}
    Path("p.yml").write_text(yaml.safe_dump(edited))
    foreseen = envelope(run("-p", project, "--dry-run", "--output", "json"))["data"]["changes"]
    text = run("-p", project, "--dry-run").stdout
    for line in ("~ server1", "+ new", "- site-1", "- admin@example.com"):
        assert line in text
    assert "1 created, 0 kept, 1 reissued, 2 removed" in text
    assert not Path("workspace/study/prod_01").exists()
    done = envelope(run("-p", project, "--force", "--output", "json"))["data"]
    assert done["changes"] == foreseen
    assert done["removed"] == ["admin@example.com", "site-1"]
    assert kit.verify(Path(done["kits"]["server1"])).participant == "server1"


def test_a_dry_run_needs_neither_passphrase_nor_force(run, project, monkeypatch):
    run("-p", project)
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    assert run("-p", project, "--dry-run", "--no-input").exit_code == 0


def test_a_dry_run_says_that_it_does_not_run_builders_of_ones_own(run):
    Path("mine.py").write_text("class Mine:\n    def build(self, project, ctx):\n        open('ran', 'w').close()\n")
    Path("p.yml").write_text(yaml.safe_dump({**PROJECT, "builders": [*PROJECT["builders"], {"path": "mine.Mine"}]}))
    done = run("-p", "p.yml", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "builders of your own were not run" in done.stdout
    assert not Path("ran").exists()


def test_a_workspace_that_cannot_be_written(run, project):
    Path("ws").write_text("")
    found = envelope(run("-p", project, "-w", "ws", "--output", "json"))
    assert found["status"] == "error"
    assert found["exit_code"] in {ExitCode.FAILED, ExitCode.BAD_INPUT}


def test_schema(run):
    done = run("--schema")
    assert done.exit_code == 0
    options = {one["name"]: one for one in json.loads(done.stdout)["options"]}
    assert options["file"]["flags"] == ["-p", "--project-file", "--project_file"]
    assert {"generate", "workspace", "custom", "add_user", "add_client", "start_script", "force"} <= set(options)


DEPLOY = {"version": 1, "project": "p.yml", "sites": {"server1": {"provider": "azure"}, "site-1": {"provider": "aws"}}}


def test_scripts_for_single_sites(run, project):
    Path("deploy.yml").write_text(yaml.safe_dump(DEPLOY))
    done = run("-p", project, "-s")
    assert done.exit_code == 0, done.output
    assert "Deploy scripts for server1, site-1, from deploy.yml.\n" in done.stdout
    assert os.access("workspace/study/prod_00/deploy_site-1.sh", os.X_OK)
    state = Path("workspace/study/prod_00/.clouddeploy/site-1.deploy/state.json")
    state.parent.mkdir(parents=True)
    state.write_text("damaged, so something was there")
    found = envelope(run("-p", project, "-s", "--force", "--output", "json"))["data"]
    assert found["deploy_file"] == "deploy.yml"
    assert found["deploy_scripts"] == {
        name: f"workspace/study/prod_01/deploy_{name}.sh" for name in ("server1", "site-1")
    }
    assert [one for one in found["warnings"] if "prod_00/site-1.deploy.yml" in one]


def test_scripts_without_a_deploy_file(run, project):
    done = run("-p", project, "-s")
    assert "Warning: no deploy script: there is no deploy.yml for p.yml; see --deploy-file\n" in done.stdout
    found = envelope(run("-p", project, "-s", "--force", "--output", "json"))["data"]
    assert (found["deploy_file"], found["deploy_scripts"]) == (None, {})


@pytest.mark.parametrize("content", [None, "version: 1\nproject: other.yml\nsites: {server1: {provider: azure}}\n"])
def test_a_deploy_file_that_cannot_be_used_makes_no_result(run, project, content):
    if content is not None:
        Path("mine.yml").write_text(content)
    found = envelope(run("-p", project, "-s", "--deploy-file", "mine.yml", "--output", "json"))
    assert (found["exit_code"], found["error_code"]) == (ExitCode.BAD_INPUT, "INVALID_CONFIG")
    assert not Path("workspace").exists()


@pytest.mark.parametrize("words", [("-p", "p.yml"), ()])
def test_a_deploy_file_without_scripts_to_write(run, project, words):
    found = envelope(run(*words, "--deploy-file", "deploy.yml", "--output", "json"))
    assert (found["exit_code"], found["error_code"]) == (ExitCode.BAD_INPUT, "INVALID_ARGS")
