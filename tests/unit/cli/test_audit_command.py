import json

import pytest
from click.testing import CliRunner
from clouddeploy_runtime.audit import AuditLog
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


def show(*words):
    result = CliRunner().invoke(audit, ["show", *words, "--output", "json"])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def server_log(tmp_path):
    path = tmp_path / "server.jsonl"
    one = AuditLog(path)
    ann = {"user": "ann", "role": "lead", "action": "abort_job j1", "address": "192.0.2.1", "reference": "abc"}
    one.record(**ann, allowed=True)
    one.record_end(**ann)
    refused = {**ann, "user": "bob\x1b[2J", "reference": "def"}
    one.record(**refused, allowed=False, code="AUTHORIZATION_REFUSED", detail="role member\nhas no abort_job")
    return path


def test_logs_of_servers_and_deployments_are_verified_together(log, server_log):
    code, envelope = run(str(log), str(server_log))
    assert code == ExitCode.OK
    assert [one["entries"] for one in envelope["data"]["files"]] == [2, 3]


def test_each_broken_log_of_several_is_named(log, server_log):
    for file in (log, server_log):
        file.write_bytes(file.read_bytes().replace(b"done", b"gone"))
    code, envelope = run(str(log), str(server_log))
    assert (code, envelope["error_code"]) == (ExitCode.FAILED, "STATE_ERROR")
    assert "2 of 2 logs are broken" in envelope["message"]
    assert "broken at line 1" in envelope["message"]
    assert "broken at line 2" in envelope["message"]
    assert "broken at line 2" in run(str(server_log), str(log.parent / "audit.jsonl"))[1]["message"]


def test_entries_of_both_kinds_are_shown_alike(log, server_log):
    ((one, two), first) = (show(str(path))[1]["data"]["entries"][:2] for path in (log, server_log))
    assert (one["what"], two["what"]) == ("apply: create s/machine", "apply: install s")
    assert [(entry["who"], entry["result"]) for entry in first] == [("ann", "allowed"), ("ann", "done")]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ((), 3),
        (("--who", "ann"), 2),
        (("--what", "abort"), 3),
        (("--result", "refused"), 1),
        (("--reference", "abc", "--limit", "1"), 1),
        (("--since", "2020-01-01"), 3),
        (("--since", "2999"), 0),
    ],
)
def test_what_is_shown_can_be_narrowed(server_log, words, count):
    code, envelope = show(str(server_log), *words)
    assert (code, len(envelope["data"]["entries"])) == (ExitCode.OK, count)


def test_nothing_that_others_wrote_steers_the_terminal(server_log):
    result = CliRunner().invoke(audit, ["show", str(server_log)])
    assert "\x1b" not in result.stdout
    assert "role member has no abort_job" in result.stdout


def test_a_log_that_is_broken_or_missing_is_not_shown(server_log, tmp_path):
    server_log.write_bytes(server_log.read_bytes().replace(b"done", b"gone"))
    assert show(str(server_log))[0] == ExitCode.FAILED
    assert show(str(tmp_path / "none.jsonl"))[0] == ExitCode.FAILED
