"""`job …` without a server: options, exit codes, what people and programs see."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from clouddeploy_runtime.errors import ExitCode
from clouddeploy_runtime.jobs import JobStatus

from clouddeploy.cli.job import job
from tests.unit.cli.admin_sessions import JOB


def test_a_submission_has_a_study_a_token_and_a_timeout(run, tmp_path):
    words = ("submit", "-j", tmp_path, "--submit-token", "night", "--study", "trial", "--connect-timeout", "3")
    assert run(job, *words)["data"] == {"job_id": "j-1"}
    assert run.session.calls == [("submit", str(tmp_path), "night")]
    assert run.opening.opened == [(str(tmp_path / "kit"), 3.0, "trial")]


def test_a_list_passes_its_filters_to_the_server_and_can_be_reversed(run):
    run.session.jobs["j-2"] = replace(JOB, job_id="j-2", reason="no\x1b[2J")
    words = ("list", "-n", "ti", "-i", "j", "--state", "RUNNING", "--submitter", "lead", "-m", "5")
    found = run(job, *words)["data"]["jobs"]
    assert [one["id"] for one in found] == ["j-1", "j-2"]
    assert json.loads(run.session.calls[0][1]) == {
        "id_prefix": "j",
        "limit": 5,
        "name": "ti",
        "state": "RUNNING",
        "submitter": "lead",
    }
    assert [one["id"] for one in run(job, "list", "-r")["data"]["jobs"]] == ["j-2", "j-1"]
    text = run(job, "list", "-d", form="text")
    assert "site-1" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("command", ["wait", "monitor"])
@pytest.mark.parametrize(
    ("end", "code", "error"),
    [
        (JobStatus.COMPLETED, ExitCode.OK, None),
        (JobStatus.ABORTED, ExitCode.FAILED, "JOB_FAILED"),
        (JobStatus.EXECUTION_EXCEPTION, ExitCode.FAILED, "JOB_FAILED"),
        (None, ExitCode.TIMEOUT, "TIMEOUT"),
    ],
)
def test_how_a_job_ends_is_the_exit_code(run, command, end, code, error):
    run.session.end = None if end is None else replace(run.session.end, status=end)
    envelope = run(job, command, "j-1", "--interval", "2", expected=code)
    assert envelope.get("error_code") == error


def test_a_monitor_tells_rounds_as_lines_of_json_before_the_envelope(run):
    text = run(job, "monitor", "j-1", "--metric", "loss", form="jsonl")
    first, second, envelope = [json.loads(line) for line in text.splitlines()]
    assert [(one["round"], one["metrics"]) for one in (first, second)] == [(1, {"loss": 1.0}), (2, {"loss": 0.5})]
    assert envelope["status"] == "ok"
    assert len(envelope["data"]["rounds"]) == 2


def test_a_monitor_shows_what_sites_have_done_after_each_round(run):
    text = run(job, "monitor", "j-1", "--stats-target", "client", form="text")
    assert text.count("site-2: train count 1") == 2


def test_the_log_of_the_server_ends_with_as_many_lines_as_are_wanted(run):
    assert run(job, "logs", "j-1")["data"]["text"].splitlines() == [f"line {number}" for number in range(500, 1000)]
    assert run(job, "logs", "j-1", "--tail", "1")["data"]["text"] == "line 999"
    assert run(job, "logs", "j-1", "--tail", "0", "--max-bytes", "9")["data"]["text"] == "line 999\n"
    assert run.session.sites.asked == []


def test_the_logs_of_sites_are_asked_of_them_and_cannot_steer_a_terminal(run):
    text = run(job, "logs", "j-1", "--site", "all", "--tail", "3", form="text")
    assert text.startswith("== server\n")
    assert "\x1b" not in text
    options = {"tail": 3, "max_bytes": 5 << 20, "since": ""}
    assert run.session.sites.asked == [("job_log", "all", "j-1", options)]


def test_a_site_that_is_gone_has_left_what_it_said_of_its_failure(run):
    run.session.sites.silent = {"site-9": "SITE_GONE"}
    assert run(job, "logs", "j-1", "--site", "site-9")["data"]["text"] == "what it said\n"


def test_the_older_name_shows_what_the_server_has(run):
    assert run(job, "log", "j-1", "--site", "site-9")["data"]["text"] == "what it said\n"


def test_a_silent_site_makes_a_partial_success_with_what_the_others_say(run):
    run.session.sites.silent = {"site-2": "NO_REPLY"}
    envelope = run(job, "stats", "j-1", expected=ExitCode.PARTIAL)
    assert envelope["error_code"] == "PARTIAL_FAILURE"
    assert envelope["data"]["sites"]["site-1"]["status"] == "ok"
    assert envelope["data"]["sites"]["site-2"]["error_code"] == "NO_REPLY"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("NO_REPLY", ExitCode.TIMEOUT),
        ("AUTHORIZATION_REFUSED", ExitCode.CONNECTION),
        ("SITE_GONE", ExitCode.FAILED),
        ("INVALID_COMMAND", ExitCode.BAD_INPUT),
    ],
)
def test_when_nobody_answers_the_reason_is_the_error(run, code, exit_code):
    run.session.sites.silent = {"site-2": code}
    assert run(job, "stats", "j-1", "--site", "site-2", expected=exit_code)["error_code"] == code


def test_what_all_sites_say_is_said_once_with_what_to_do(run):
    run.session.sites.silent = dict.fromkeys(("server", "site-1", "site-2"), "INVALID_COMMAND")
    envelope = run(job, "log-config", "j-1", "LOUD", expected=ExitCode.BAD_INPUT)
    assert envelope["message"].count("so it is") == 1
    assert envelope["hint"]


def test_the_name_of_a_job_cannot_look_like_another_row(run):
    run.session.jobs["j-1"] = replace(JOB, name="tiny\nj-9  other  FINISHED:COMPLETED")
    assert len(run(job, "list", form="text").splitlines()) == 3
    run.session.jobs.clear()
    assert run(job, "list", form="text") == "No jobs.\n"


def test_a_level_of_a_job_is_set_by_a_word_or_by_a_file(run, tmp_path):
    run(job, "log-config", "j-1", "DEBUG", "--site", "site-1")
    file = tmp_path / "levels.json"
    file.write_text('{"version": 1, "loggers": {"x": {"level": "DEBUG"}}}')
    run(job, "log-config", "j-1", file)
    assert [one[1:] for one in run.session.sites.asked] == [
        ("site-1", "j-1", "DEBUG"),
        ("all", "j-1", json.loads(file.read_text())),
    ]
    file.write_text("[]")
    assert run(job, "log-config", "j-1", file, expected=ExitCode.BAD_INPUT)["error_code"] == "INVALID_CONFIG"


def test_a_download_replaces_an_earlier_one_and_nothing_else(run, tmp_path):
    there = tmp_path / "out" / "j-1"
    there.mkdir(parents=True)
    (there / "mine.txt").write_text("")
    words = ("download", "j-1", "-o", tmp_path / "out")
    assert run(job, *words, expected=ExitCode.BAD_INPUT)["error_code"] == "OUTPUT_EXISTS"
    assert run(job, *words, "--force")["data"]["path"] == str(there)
    (there / "meta.json").write_text("{}")
    run(job, *words)


def test_a_deletion_is_asked_about_and_an_abort_is_not(run):
    assert run(job, "delete", "j-1", expected=ExitCode.BAD_INPUT)["message"].startswith("this needs a confirmation")
    run(job, "delete", "j-1", "--force")
    run(job, "abort", "j-1", "--force")
    assert run.session.calls == [("delete", "j-1"), ("abort", "j-1")]


def test_an_unknown_job_is_bad_input(run):
    assert run(job, "meta", "j-9", expected=ExitCode.BAD_INPUT)["error_code"] == "JOB_NOT_FOUND"
