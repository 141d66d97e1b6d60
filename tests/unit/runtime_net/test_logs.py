"""The files that a parent logs to, and how a site says how much."""

from __future__ import annotations

import json
import logging

import pytest
from clouddeploy_runtime import lifecycle
from clouddeploy_runtime import logging as runtime_logging


@pytest.fixture(autouse=True)
def untouched():
    """Other tests get the logging back as it was."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("a", "a.b"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def local(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def lines(path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_is_text_and_one_json_object_on_one_line(tmp_path):
    runtime_logging.configure(tmp_path)
    logging.getLogger("a.b").info('a "quoted" \\ message\nof %s', "two lines", extra={"job": "17", "site": "site-1"})
    (line,) = lines(tmp_path / "log.json")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "a.b",
        "message": 'a "quoted" \\ message\nof two lines',
        "job": "17",
        "site": "site-1",
    }
    assert " - a.b - INFO - a" in (tmp_path / "log.txt").read_text()


def test_only_errors_are_in_the_file_of_errors_and_only_jobs_in_theirs(tmp_path):
    runtime_logging.configure(tmp_path)
    logger = logging.getLogger("a")
    logger.warning("of the site")
    logger.info("of a job", extra={"job": "17"})
    try:
        raise KeyError("x")
    except KeyError:
        logger.exception("it failed")
    assert [line["message"] for line in lines(tmp_path / "log.json")] == ["of the site", "of a job", "it failed"]
    assert "KeyError: 'x'" in str(lines(tmp_path / "log.json")[2]["exception"])
    assert "of the site" not in (tmp_path / "log_error.txt").read_text()
    assert "it failed" in (tmp_path / "log_error.txt").read_text()
    (line,) = (tmp_path / "log_fl.txt").read_text().splitlines()
    assert line.endswith("of a job")


def test_files_are_rotated_as_the_site_says(tmp_path, local):
    handlers = {"log_file": {"maxBytes": 200, "backupCount": 2}}
    (local / "log_config.json.default").write_text(json.dumps({"handlers": handlers}))
    runtime_logging.configure(tmp_path, local)
    for number in range(30):
        logging.getLogger("a").info("line %d", number)
    assert sorted(path.name for path in tmp_path.glob("log.txt*")) == ["log.txt", "log.txt.1", "log.txt.2"]
    assert max(path.stat().st_size for path in tmp_path.glob("log.txt*")) <= 200
    assert len(lines(tmp_path / "log.json")) == 30


def test_levels_are_the_sites_own_and_change_when_they_are_read_again(tmp_path, local):
    (local / "log_config.json.default").write_text(json.dumps({"loggers": {"root": {"level": "ERROR"}}}))
    path = local / "log_config.json"
    path.write_text(json.dumps({"loggers": {"root": {"level": "WARNING"}, "a.b": {"level": "debug"}}}))
    runtime_logging.configure(tmp_path, local)
    assert [logging.getLogger(name).getEffectiveLevel() for name in ("a", "a.b")] == [logging.WARNING, logging.DEBUG]
    path.write_text(json.dumps({"root": {"level": "INFO"}, "loggers": {"a": {"level": 25}}}))
    assert runtime_logging.reload(local) == ""
    assert [logging.getLogger(name).getEffectiveLevel() for name in ("", "a", "a.b")] == [logging.INFO, 25, 25]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "it is not an object"),
        ('{"loggers": []}', '"loggers" must be an object of objects'),
        ('{"loggers": {"a": {"level": "LOUD"}}}', "the level of loggers.a must be one of CRITICAL"),
        ('{"handlers": {"log_file": {"maxBytes": -1}}}', "handlers.log_file.maxBytes must be a whole number"),
    ],
)
def test_a_broken_configuration_is_a_warning_and_the_usual_one_counts(tmp_path, local, content, why):
    (local / "log_config.json").write_text(content)
    runtime_logging.configure(tmp_path, local)
    (line,) = lines(tmp_path / "log.json")
    assert line["level"] == "WARNING"
    assert f"{local}/log_config.json cannot be used: {why}" in str(line["message"])
    assert logging.getLogger("a").getEffectiveLevel() == logging.INFO


def test_a_file_that_cannot_be_written_is_said_once_and_the_others_go_on(tmp_path, capsys):
    (tmp_path / "log.txt").mkdir()
    runtime_logging.configure(tmp_path)
    for _ in range(3):
        logging.getLogger("a").warning("still alive")
    assert capsys.readouterr().err.count(f"{tmp_path}/log.txt cannot be written: Is a directory") == 1
    assert len(lines(tmp_path / "log.json")) == 3
    (tmp_path / "log.txt").rmdir()
    logging.getLogger("a").warning("well again")
    assert "well again" in (tmp_path / "log.txt").read_text()


def test_what_a_supervisor_keeps_is_not_logged_a_second_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(lifecycle.SUPERVISED_VARIABLE, "1")
    monkeypatch.setattr("os.isatty", lambda _descriptor: False)
    runtime_logging.configure(tmp_path)
    logging.getLogger("a").error("only in the files")
    assert "only in the files" not in capsys.readouterr().err
    assert "only in the files" in (tmp_path / "log.txt").read_text()


def test_a_quotation_in_the_text_steers_no_terminal_and_looks_like_no_line(tmp_path):
    runtime_logging.configure(tmp_path)
    evil = "x\x1b[2J\n2030-01-01 00:00:00,000 - a - INFO - all is well\u202e"
    logging.getLogger("a").info("said: %s", evil)
    try:
        raise ValueError(evil)
    except ValueError:
        logging.getLogger("a").exception("no")
    text = (tmp_path / "log.txt").read_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("\n    2030-01-01") == text.count("2030-01-01") == 2
    assert lines(tmp_path / "log.json")[0]["message"] == f"said: {evil}"
    runtime_logging.set_mode("concise")
    logging.getLogger("a").info(evil)
    assert "\x1b" not in (tmp_path / "log.txt").read_text()
