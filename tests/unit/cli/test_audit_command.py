import json

import pytest
from click.testing import CliRunner
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.audit import AuditTrail
from clouddeploy.cli.audit import audit


@pytest.fixture
def log(tmp_path):
    path = tmp_path / ".clouddeploy/deploy/audit.jsonl"
    path.parent.mkdir(parents=True)
    trail = AuditTrail(path, command="apply", deployment="0123abcd")
    trail.record("create", result="done", node="s/machine")
    trail.record("install", result="done", node="s")
    return path


def run(*words):
    result = CliRunner().invoke(audit, ["verify", *words, "--output", "json"])
    return result.exit_code, json.loads(result.stdout)


def deploy_file(folder):
    file = folder / "deploy.yml"
    file.write_text("version: 1\nproject: project.yml\nsites:\n  server1: {provider: local}\n")
    return file


def test_a_whole_log_is_counted(log):
    code, envelope = run(str(log))
    assert code == ExitCode.OK
    assert envelope["data"]["entries"] == 2
    assert len(envelope["data"]["last_hash"]) == 64


def test_a_deploy_file_stands_for_its_log(log, tmp_path):
    code, envelope = run(str(deploy_file(tmp_path)))
    assert (code, envelope["data"]["file"]) == (ExitCode.OK, str(log))


def test_a_changed_line_is_named(log):
    log.write_text(log.read_text().replace("install", "nothing"))
    code, envelope = run(str(log))
    assert (code, envelope["error_code"]) == (ExitCode.FAILED, "STATE_ERROR")
    assert "broken at line 2" in envelope["message"]


def test_an_end_that_was_cut_off_shows_with_a_known_hash(log):
    known = run(str(log))[1]["data"]["last_hash"]
    assert run(str(log), "--known-hash", known)[0] == ExitCode.OK
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert run(str(log))[0] == ExitCode.OK
    assert run(str(log), "--known-hash", known)[0] == ExitCode.FAILED


def test_words_for_people_name_what_a_kill_cut(log):
    log.write_bytes(log.read_bytes() + b'{"ti')
    result = CliRunner().invoke(audit, ["verify", str(log)])
    assert "2 entries, the chain is whole. 1 line(s) were cut by a kill." in result.stdout


def test_a_log_that_is_missing_is_an_error_with_what_to_do(tmp_path):
    code, envelope = run(str(tmp_path / "audit.jsonl"))
    assert code == ExitCode.FAILED
    assert envelope["hint"]
