"""`sweep` as a user runs it; removing names what to remove, since an account may be shared."""

import json
import shutil
from threading import Event

import pytest
import yaml
from clouddeploy_providers.endpoints import REAL
from clouddeploy_providers.fake import FakeProvider
from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import Kind, Owner, Resource
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.cli.main import main

SITES = ("server1", "site-1")


@pytest.fixture
def run(tmp_path, capsys, monkeypatch, write_trial):
    monkeypatch.setenv("CLOUDDEPLOY_CA_PASSPHRASE", "correct horse")
    write_trial(tmp_path)
    own = {"provider": "fake", "file": str(tmp_path / "cloud.json")}
    deploy = {"version": 1, "project": "project.yml", "sites": dict.fromkeys(SITES, own)}
    (tmp_path / "deploy.yml").write_text(yaml.safe_dump(deploy, default_flow_style=None))

    def run(*words):
        code = 0
        try:
            main(["sweep", str(tmp_path / "deploy.yml"), "--output", "json", "--no-input", *words])
        except SystemExit as ended:
            code = ended.code
        return code, json.loads(capsys.readouterr().out)

    run.folder = tmp_path
    return run


@pytest.fixture
def lost(run):
    """A machine of a deployment whose state is gone."""

    owner = Owner("0123abcd", "other", "site-9")
    provider = FakeProvider({"file": str(run.folder / "cloud.json")}, REAL)

    provider.create(Resource(Kind.FIREWALL, resource_name(owner, Kind.FIREWALL), owner, token="t/0"), Event())
    return owner


def test_it_shows_what_it_finds_and_removes_nothing(run, lost):
    for _ in range(2):
        code, answer = run()
        assert code == ExitCode.OK
        (found,) = answer["data"]["found"]
        assert (found["deployment"], found["site"], found["kind"]) == ("0123abcd", "site-9", "firewall")
        assert answer["data"]["deleted"] == []


def test_removing_names_the_deployment_and_needs_a_yes(run, lost):
    code, answer = run("--remove", "0123abcd")
    assert code == ExitCode.BAD_INPUT
    assert answer["hint"] == "add --yes"
    code, answer = run("--remove", "0123abcd", "--yes")
    assert (code, len(answer["data"]["deleted"]), answer["data"]["left"]) == (ExitCode.OK, 1, [])
    assert run()[1]["data"]["found"] == []


def test_another_id_is_refused(run, lost):
    code, answer = run("--remove", "deadbeef", "--yes")
    assert code == ExitCode.BAD_INPUT
    assert "deadbeef" in answer["message"]


def test_a_deployment_whose_state_is_elsewhere_is_known_when_it_is_named(run, lost):
    folder = run.folder / "elsewhere" / "deploy"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"schema": 2, "deployment": "0123abcd"}))
    assert run("--known", str(run.folder / "elsewhere"))[1]["data"]["found"] == []


def test_a_state_that_cannot_be_read_stops_it(run, lost):
    """Passing over it would call a living deployment a stray."""
    folder = run.folder / ".clouddeploy" / "other"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{")
    code, answer = run("--remove", "all", "--yes")
    assert code == ExitCode.FAILED
    assert "cannot read the state" in answer["message"]
    shutil.rmtree(folder)
    assert run("--remove", "all", "--yes")[0] == ExitCode.OK
