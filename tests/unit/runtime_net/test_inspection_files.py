"""What people see of a workspace's files, and what nobody sees."""

from __future__ import annotations

import os

import pytest
from clouddeploy_runtime.errors import InvalidCommand
from clouddeploy_runtime.inspection import files
from clouddeploy_runtime.inspection.files import PathRefused, Shell

LINES = "".join(f"line {number}\n" for number in range(1, 31))


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "workspace"
    (root / "jobs" / "one" / "run").mkdir(parents=True)
    (root / "log.txt").write_text(LINES)
    (root / "jobs" / "one" / "run" / "log.txt").write_text("Loss 0.5\nERROR no\nloss 0.4\n")
    (root / "jobs" / "one" / "admitted.json").write_text("{}")
    (root / "model.pt").write_bytes(b"1")
    (root / ".hidden.txt").write_text("secret")
    (root / "audit.jsonl").write_text("secret")
    (root / "audit.json").write_text("secret")
    (tmp_path / "outside.txt").write_text("secret")
    (root / "away.txt").symlink_to(tmp_path / "outside.txt")
    (root / "up").symlink_to(tmp_path)
    return root


@pytest.fixture
def shell(workspace, tmp_path):
    return Shell(workspace, tmp_path)


def said(shell, command, *words):
    return shell.run(command, words)["text"]


def test_the_usual_commands_say_what_a_shell_would(shell, workspace):
    assert said(shell, "pwd") == f"{workspace}\n"
    assert said(shell, "ls").split() == ["away.txt", "jobs", "log.txt", "model.pt", "up"]
    assert said(shell, "ls", "jobs/one").split() == ["run"]
    assert said(shell, "ls", "log.txt") == "log.txt\n"
    assert said(shell, "ls", "-l", "model.pt").startswith("-rw")
    assert said(shell, "cat", "./log.txt") == LINES
    assert said(shell, "cat", "-n", "log.txt").startswith("     1\tline 1\n")
    assert said(shell, "head", "log.txt").splitlines()[-1] == "line 10"
    assert said(shell, "head", "-n", "2", "log.txt") == said(shell, "head", "-2", "log.txt") == "line 1\nline 2\n"
    assert said(shell, "head", "-c4", "log.txt") == "line"
    assert said(shell, "tail", "-n1", "log.txt") == "line 30\n"
    assert said(shell, "tail", "-n", "0", "log.txt") == ""
    assert said(shell, "tail", "-c", "3", "log.txt") == "30\n"
    assert said(shell, "tail", "log.txt").splitlines()[0] == "line 21"


def test_grep_finds_text_and_takes_no_expressions(shell):
    path = "jobs/one/run/log.txt"
    assert said(shell, "grep", "loss", path) == "loss 0.4\n"
    assert said(shell, "grep", "-i", "-n", "loss", path) == "1:Loss 0.5\n3:loss 0.4\n"
    assert said(shell, "grep", "-c", "o", path) == "3\n"
    assert said(shell, "grep", "-v", "oss", path) == "ERROR no\n"
    assert said(shell, "grep", "(l|L)oss.*", path) == ""
    assert said(shell, "grep", "-i", "--", "-n", path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hosts.txt",
        "../outside.txt",
        "jobs/../../outside.txt",
        "away.txt",
        "up/outside.txt",
        "audit.jsonl",
        "audit.json",
        ".hidden.txt",
        "jobs/one/admitted.json",
        "model.pt",
        "jobs",
        "no such.txt",
        "a$b.txt",
        "nothing.txt",
        "log.txt/x.txt",
        "a" * 2000,
        "a\n.txt",
    ],
)
def test_a_file_that_is_nobodys_business_is_refused(shell, path):
    with pytest.raises(PathRefused):
        shell.run("cat", [path])


def test_a_folder_behind_a_link_is_not_listed(shell):
    assert said(shell, "ls", "up") == "up\n"
    with pytest.raises(PathRefused):
        shell.run("ls", ["up/workspace"])


@pytest.mark.parametrize("where", ["inside", "same"])
def test_the_kit_is_shown_to_nobody(workspace, where):
    kit = workspace / "kit" if where == "inside" else workspace
    for folder in ("startup", "local"):
        (kit / folder).mkdir(parents=True)
        (kit / folder / "fed.json").write_text("secret")
    shell = Shell(workspace, kit)
    assert not {"kit", "startup", "local"} & set(said(shell, "ls").split())
    prefix = "kit/" if where == "inside" else ""
    for path in ("startup/fed.json", "local/fed.json"):
        with pytest.raises(PathRefused):
            shell.run("cat", [prefix + path])
    with pytest.raises(PathRefused):
        shell.run("ls", [f"{prefix}startup"])


def test_a_pipe_keeps_nobody_waiting(shell, workspace):
    os.mkfifo(workspace / "pipe.txt")
    with pytest.raises(PathRefused):
        shell.run("cat", ["pipe.txt"])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cat", []),
        ("cat", ["log.txt", "log.txt"]),
        ("cat", ["--all", "log.txt"]),
        ("head", ["-n", "log.txt"]),
        ("head", ["-n"]),
        ("head", ["-x3", "log.txt"]),
        ("tail", ["-n", "9" * 30, "log.txt"]),
        ("grep", ["log.txt"]),
        ("grep", ["", "log.txt"]),
        ("grep", ["x" * 300, "log.txt"]),
        ("ls", ["jobs", "jobs"]),
        ("pwd", ["-x"]),
        ("ls", ["x"] * 20),
    ],
)
def test_words_that_make_no_sense_are_named(shell, command, words):
    with pytest.raises(InvalidCommand):
        shell.run(command, words)


def test_an_answer_is_bounded(shell, workspace):
    (workspace / "big.txt").write_bytes(b"x" * 100 + b"\n" + b"y" * (3 << 20))
    for command, words in (("cat", []), ("tail", ["-n", "9000"]), ("head", ["-n", "100"]), ("grep", ["y"])):
        found = shell.run(command, [*words, "big.txt"])
        assert len(found["text"]) <= files.MAX_BYTES
        assert found["is_cut"]


def test_a_search_ends_in_time(workspace, tmp_path):
    seconds = iter(range(0, 1000, 2))
    shell = Shell(workspace, tmp_path, clock=lambda: float(next(seconds)))
    assert shell.run("grep", ["line", "log.txt"]) == {"text": "line 1\nline 2\n", "is_cut": True}
