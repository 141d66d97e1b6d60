"""What a parent tells about itself: its machine, its packages, its logs, and how much it logs."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime

import pytest
from clouddeploy_runtime import authorization, privacy
from clouddeploy_runtime import logging as runtime_logging
from clouddeploy_runtime.admin.sites import Sites
from clouddeploy_runtime.errors import InvalidCommand, InvalidTarget, JobNotFound
from clouddeploy_runtime.inspection import (
    environment,
    log_wishes,
    machine,
    parent_log,
    questions,
    scopes,
    targets,
)
from clouddeploy_runtime.inspection.job_logs import JobLogs
from clouddeploy_runtime.inspection.tallies import JobTally
from clouddeploy_runtime.job import log_level

JOB = "0b8b4d4e-0000-4000-8000-000000000001"
LOG = """2026-01-01 10:00:00,500 - job - INFO - begins
2026-01-01 10:00:01,000 - job - WARNING - slow
2026-01-01 10:00:02,000 - job - ERROR - broken
Traceback (most recent call last):
ValueError: no
done
"""


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "jobs" / JOB / "run"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(LOG)
    return JobLogs(tmp_path / "jobs", "run")


def text(logs, **wanted):
    return logs.text(JOB, wanted)["text"]


def test_a_machine_is_described_in_numbers(tmp_path):
    found = machine.report(tmp_path, started=time.time() - 5)
    assert found["memory_total_bytes"] >= found["memory_free_bytes"] > 0
    assert found["disk_total_bytes"] >= found["disk_free_bytes"] > 0
    assert found["process_memory_bytes"] > 1 << 20
    assert found["process_uptime_s"] >= 5
    assert found["cpus"] >= found["usable_cpus"] >= 1
    assert json.dumps(found)


def test_secrets_in_variables_are_not_shown():
    given = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "s", "https_proxy": "http://me:pw@proxy", "TZ": "UTC"}
    found = environment.report(given)
    assert found["environment"] == {"PATH": "/bin", "TZ": "UTC"}
    assert found["versions"][environment.DISTRIBUTION] == environment.versions_in_short()["version"]


def test_the_end_of_a_jobs_log_is_shown_as_wished(logs):
    assert text(logs) == LOG
    assert text(logs, tail="1") == "done\n"
    assert logs.text(JOB, {"tail": "1"})["is_cut"]
    assert text(logs, tail="0") == LOG
    assert text(logs, max_bytes="5") == "done\n"
    assert text(logs, pattern="WARN").endswith("slow\n")
    local = datetime(2026, 1, 1, 10, 0, 1).astimezone()  # as a log has it
    assert text(logs, since=local.astimezone(UTC).isoformat()) == LOG.partition("\n")[2]
    assert text(logs, since="2050-01-01T00:00:00Z") == ""


@pytest.mark.parametrize("wanted", [{"tail": "-1"}, {"max_bytes": "many"}, {"since": "soon"}, {"pattern": "x" * 201}])
def test_what_is_wished_of_a_log_must_make_sense(logs, wanted):
    with pytest.raises(InvalidCommand):
        logs.text(JOB, wanted)


@pytest.mark.parametrize("job_id", ["../x", "", "other", f"{JOB}/run"])
def test_only_the_log_of_a_job_is_a_jobs_log(logs, job_id):
    with pytest.raises(JobNotFound):
        logs.text(job_id, {})


def test_a_link_in_the_place_of_a_log_is_not_followed(logs, tmp_path):
    path = tmp_path / "jobs" / JOB / "run" / "log.txt"
    path.unlink()
    (tmp_path / "secret.txt").write_text("secret")
    path.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(JobNotFound):
        logs.text(JOB, {})


def test_errors_are_shown_until_they_are_reset(logs, tmp_path):
    assert [line.split(" - ")[-1] for line in logs.errors(JOB)] == [
        "slow",
        "broken",
        "Traceback (most recent call last):",
        "ValueError: no",
    ]
    logs.reset(JOB)
    assert logs.errors(JOB) == []
    with (tmp_path / "jobs" / JOB / "run" / "log.txt").open("a") as file:
        file.write("x - job - ERROR - again\n")
    assert logs.errors(JOB) == ["x - job - ERROR - again"]


def test_what_a_parent_logged_of_a_job_is_found_in_its_log(tmp_path):
    early, late = "2026-01-01T00:00:00.000+00:00", "2026-01-02T00:00:00.000+00:00"
    entries = [
        {"time": early, "level": "WARNING", "logger": "a", "message": "early", "job": JOB},
        {"time": late, "level": "ERROR", "logger": "a", "message": "late", "job": JOB},
        {"time": late, "level": "INFO", "logger": "a", "message": "fine", "job": JOB},
        {"time": late, "level": "ERROR", "logger": "a", "message": f"of another, not {JOB}", "job": "other"},
    ]
    (tmp_path / "log.json").write_text("\n".join(["half a l", *map(json.dumps, entries)]) + "\n")
    assert [line.split(" - ")[-1] for line in parent_log.troubles(tmp_path, JOB)] == ["early", "late"]
    assert [line.split(" - ")[-1] for line in parent_log.troubles(tmp_path, JOB, since=early)] == ["late"]
    assert parent_log.troubles(tmp_path / "nowhere", JOB) == []


def test_the_scopes_of_a_site_are_named_without_what_is_its_own(tmp_path):
    assert scopes.report(tmp_path) == {"scopes": [], "default": "", "has_policy": False}
    noise = "nvflare.app_common.filters.svt_privacy.SVTPrivacy"
    scope = {"name": "public", "properties": {"own": 1}, "task_result_filters": [{"path": noise, "args": {"eps": 1}}]}
    (tmp_path / "privacy.json").write_text(json.dumps({"scopes": [scope], "default_scope": "public"}))
    found = scopes.report(tmp_path)
    assert found["default"] == "public"
    assert found["scopes"] == [{"name": "public", "task_data_filters": [], "task_result_filters": [noise]}]
    (tmp_path / "privacy.json").write_text("{")
    with pytest.raises(privacy.ScopeRefused):
        scopes.report(tmp_path)


def test_tasks_are_counted_by_name():
    tally = JobTally()
    tally.answered("train", seconds=1.5, bytes_in=10, bytes_out=20)
    tally.answered("train", seconds=0.5, bytes_in=10, bytes_out=20)
    tally.failed("validate")
    found = tally.report()["tasks"]
    assert found["train"] == {"answered": 2, "failed": 0, "seconds": 2.0, "bytes_in": 20, "bytes_out": 40}
    assert found["validate"]["failed"] == 1
    for number in range(200):
        tally.failed(f"task {number}")
    assert len(tally.report()["tasks"]) <= 101


def test_a_log_wish_is_a_level_a_mode_or_levels_by_logger():
    assert log_wishes.parse("debug").levels == {"root": logging.DEBUG}
    assert log_wishes.parse("msg_only") == log_wishes.Wish(mode="msg_only")
    assert log_wishes.parse("reload").is_reload
    document = {"version": 1, "loggers": {"a.b": {"level": "error"}}, "root": {"level": "INFO"}}
    assert log_wishes.parse(json.dumps(document)).levels == {"a.b": logging.ERROR, "root": logging.INFO}


@pytest.mark.parametrize(
    "wish",
    [
        "",
        "LOUD",
        "[]",
        "[" * 100_000,
        '{"version": 2, "loggers": {"a": {"level": "INFO"}}}',
        '{"version": 1}',
        '{"version": 1, "loggers": {"a": {"level": "INFO", "handlers": ["x"]}}}',
        '{"version": 1, "loggers": {"a": {"level": 10}}}',
        '{"version": 1, "loggers": [], "root": {"level": "INFO"}}',
        '{"version": 1, "handlers": {"a": {"class": "os.system"}}, "loggers": {"a": {"level": "INFO"}}}',
        '{"version": 1, "loggers": {"a": {"level": "INFO"}}, "formatters": {"a": {"()": "os.system"}}}',
    ],
)
def test_a_log_wish_that_could_bring_code_or_makes_no_sense_is_refused(wish):
    with pytest.raises(InvalidCommand):
        log_wishes.parse(wish)


@pytest.fixture
def root_logger():
    """The process's logging, put back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers[:] = []
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("a.quiet").setLevel(logging.NOTSET)


def test_a_parent_logs_as_wished_until_its_file_is_read_again(tmp_path, root_logger):
    (tmp_path / "log_config.json").write_text(json.dumps({"loggers": {"root": {"level": "WARNING"}}}))
    runtime_logging.configure(tmp_path, tmp_path)
    log_wishes.apply_to_parent(log_wishes.parse("DEBUG"), tmp_path)
    log_wishes.apply_to_parent(log_wishes.Wish(levels={"root": 10, "a.quiet": 40}, mode="msg_only"), tmp_path)
    logging.getLogger("a").debug("heard")
    logging.getLogger("a.quiet").info("not heard")
    assert (tmp_path / "log.txt").read_text() == "heard\n"
    assert json.loads((tmp_path / "log.json").read_text())["message"] == "heard"
    assert log_wishes.apply_to_parent(log_wishes.parse("reload"), tmp_path) == ""
    assert root_logger.level == logging.WARNING
    logging.getLogger("a").warning("usual")
    assert (tmp_path / "log.txt").read_text().endswith(" - a - WARNING - usual\n")


def test_a_jobs_process_logs_as_wished(tmp_path, root_logger):
    (tmp_path / JOB / "run").mkdir(parents=True)
    folder = tmp_path / JOB / "run"
    root_logger.addHandler(logging.StreamHandler())
    assert log_level.look_once(folder, None) is None
    log_wishes.leave(log_wishes.Wish(levels={"root": 40, "a.quiet": 50}, mode="msg_only"), tmp_path, f"{JOB}/run")
    last = log_level.look_once(folder, None)
    assert root_logger.level == logging.ERROR
    assert logging.getLogger("a.quiet").level == logging.CRITICAL
    assert root_logger.handlers[0].formatter._fmt == "%(message)s"
    root_logger.setLevel(logging.DEBUG)  # as a script does
    assert log_level.look_once(folder, last) == last
    assert root_logger.level == logging.DEBUG
    (folder / log_level.FILE).write_text("no wish")
    log_level.look_once(folder, last)
    assert root_logger.level == logging.DEBUG


def test_a_wish_for_a_job_lands_in_no_folder_behind_a_link(tmp_path):
    (tmp_path / "jobs" / JOB).mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "jobs" / JOB / "run").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="Not a directory"):
        log_wishes.leave(log_wishes.parse("INFO"), tmp_path / "jobs", f"{JOB}/run")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_target_is_a_word_or_names():
    assert targets.written("all") == "all"
    assert targets.written("site-1") == "site-1,"
    assert targets.written(["a", "b", "a"]) == "a,b,"
    for wrong in ("", [], ["a,b"], [""]):
        with pytest.raises(InvalidTarget):
            targets.written(wrong)
    assert targets.means("all", "site-1")
    assert targets.means("client", "site-1")
    assert not targets.means("client", "server1", is_server=True)
    assert targets.means("server", "server1", is_server=True)
    assert not targets.means("server", "site-1")
    assert targets.means("site-1,site-2,", "site-2")
    assert not targets.means("site-1,site-2,", "site")
    assert not targets.means("site-1", "site-1")  # which nobody writes
    assert targets.means("client,", "client")


def test_every_right_of_a_question_belongs_to_a_category():
    known = {right for rights in authorization.CATEGORIES.values() for right in rights}
    assert {one.right for one in questions.QUESTIONS.values()} <= known | {""}


class FakeSession:
    def __init__(self):
        self.given = []

    def give(self, command, *, held_s=None, **arguments):
        self.given.append((command, arguments))
        return {"sites": {"a": {"data": {"text": "x"}}, "b": {"code": "NO_REPLY", "reason": "late"}}}


def test_replies_come_by_site():
    session = FakeSession()
    replies = Sites(session).shell(["a", "b"], "head", "-n", "5", "log.txt")
    assert session.given == [("head", {"target": "a,b,", "timeout_s": "5", "words": '["-n", "5", "log.txt"]'})]
    assert replies["a"].is_ok
    assert replies["a"].data == {"text": "x"}
    assert (replies["b"].is_ok, replies["b"].code, replies["b"].reason) == (False, "NO_REPLY", "late")
    with pytest.raises(InvalidCommand):
        Sites(session).shell("a", "rm", "log.txt")
