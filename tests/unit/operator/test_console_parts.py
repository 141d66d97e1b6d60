"""Parts of the console: lines, completion, history, pipes, and the page that describes it."""

import asyncio
import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from clouddeploy_runtime.errors import AuthorizationRefused, ExitCode
from clouddeploy_runtime.inspection.questions import QUESTIONS
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import DummyHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from clouddeploy.console import line as lines
from clouddeploy.console.catalogue import COMMANDS, GROUPS
from clouddeploy.console.errors import SyntaxFault
from clouddeploy.console.history import BoundedHistory
from clouddeploy.console.keyboard import IdleTooLong, Pipe
from clouddeploy.console.prompting import Terminal
from clouddeploy.console.suggestions import Suggestions
from tests.packaging.pages import page, tables

SERVER = Path(__file__).parents[3] / "runtime/clouddeploy_runtime/server"


class Asked:
    """A session that has one of everything, and counts."""

    def __init__(self):
        self.asked = 0
        self.studies = SimpleNamespace(list=lambda: [SimpleNamespace(name="cancer")])
        self.refusal = None

    def list_jobs(self, *, limit):
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        return [SimpleNamespace(job_id="job-1")]

    def system_status(self):
        return SimpleNamespace(clients=[SimpleNamespace(name="site-1")])


@pytest.mark.parametrize(
    ("text", "words", "file", "is_shown"),
    [
        ("", (), None, True),
        ("# a comment", (), None, True),
        ("submit_job 'my job'", ("submit_job", "my job"), None, True),
        ("list_jobs -m 3 > jobs.txt", ("list_jobs", "-m", "3"), "jobs.txt", True),
        ("list_jobs>>'two words'", ("list_jobs",), "two words", False),
        ("grep server '>' log.txt", ("grep", "server", ">", "log.txt"), None, True),
        (r"grep server \> log.txt", ("grep", "server", ">", "log.txt"), None, True),
    ],
)
def test_a_line_is_taken_apart(text, words, file, is_shown):
    assert lines.parse(text) == lines.Line(words, file=Path(file) if file else None, is_shown=is_shown)


@pytest.mark.parametrize("text", ["submit_job 'open", "> file", "list_jobs >", "list_jobs > a b"])
def test_a_line_that_cannot_be_read_is_a_syntax_error(text):
    with pytest.raises(SyntaxFault) as caught:
        lines.parse(text)
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert caught.value.hint


def test_tab_offers_what_may_stand_next(tmp_path):
    suggestions = Suggestions(COMMANDS)
    assert list(suggestions.after(["get_job_meta"])) == []
    (tmp_path / "tiny").mkdir()
    suggestions.desk = SimpleNamespace(session=Asked(), kit=SimpleNamespace(transfer=tmp_path))
    assert "list_jobs" in suggestions.after([])
    assert "remove_client" not in suggestions.after([])
    assert list(suggestions.after(["list_jobs"])) == []
    assert list(suggestions.after(["frobnicate"])) == []
    assert list(suggestions.after(["sys_info"])) == ["server", "client", "all"]
    assert list(suggestions.after(["sys_info", "client"])) == ["site-1"]
    assert list(suggestions.after(["cat"])) == ["server", "site-1"]
    assert list(suggestions.after(["submit_job"])) == ["tiny"]
    assert list(suggestions.after(["show_study"])) == ["cancer"]
    assert "bye" in suggestions.after(["help"])


def test_tab_asks_the_server_once_in_a_while_and_never_fails():
    session = Asked()
    now = [0.0]
    suggestions = Suggestions(COMMANDS, clock=lambda: now[0])
    suggestions.desk = SimpleNamespace(session=session)
    assert list(suggestions.after(["abort_job"])) == ["job-1"]
    session.refusal = AuthorizationRefused("no")
    assert list(suggestions.after(["abort_job"])) == ["job-1"]
    now[0] = 60.0
    suggestions.after(["abort_job"])
    assert session.asked == 2


def test_the_history_is_bounded_and_its_own(tmp_path):
    path = tmp_path / ".admin_cli_history"
    history = BoundedHistory(path, size=3)
    assert list(history.load_history_strings()) == []
    for number in range(7):
        history.store_string(f"line {number}")
    assert path.read_text().splitlines() == ["line 4", "line 5", "line 6"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(BoundedHistory(path, size=2).load_history_strings()) == ["line 6", "line 5"]


def test_a_history_follows_no_link(tmp_path):
    (tmp_path / "other").write_text("kept\n")
    path = tmp_path / ".admin_cli_history"
    path.symlink_to(tmp_path / "other")
    history = BoundedHistory(path, size=3)
    assert list(history.load_history_strings()) == []
    history.store_string("x")
    assert (tmp_path / "other").read_text() == "kept\n"


def test_a_pipe_gives_its_lines_and_does_not_wait_for_ever():
    reading, writing = os.pipe()
    try:
        pipe = Pipe(reading, idle_s=0.05)
        os.write(writing, b"one\r\ntwo\nthr")
        assert [pipe.command("> "), pipe.command("> ")] == ["one", "two"]
        with pytest.raises(IdleTooLong):
            pipe.command("> ")
        os.write(writing, b"ee")
        os.close(writing)
        assert pipe.command("> ") == "three"
        with pytest.raises(EOFError):
            pipe.command("> ")
    finally:
        os.close(reading)


def test_each_right_is_one_that_the_server_or_a_site_asks_its_policy_for():
    sources = "".join(path.read_text() for path in SERVER.glob("*.py"))
    known = set(re.findall(r'Command\(\s*"(\w+)"', sources)) | set(re.findall(r'_check\(context, "(\w+)"', sources))
    known |= {question.right for question in QUESTIONS.values()}
    assert {command.right for command in COMMANDS.values() if command.right} <= known


def test_the_page_names_each_command_with_its_right_and_what_it_does():
    documented = [row for table in tables(page("console.md").partition("## Commands")[2]) for row in table]
    expected = [
        [f"`{command.usage()}`", f"`{command.right}`" if command.right else "–", command.summary]
        for group in GROUPS.values()
        for command in group
    ]
    assert expected == documented


def test_a_command_is_found_by_one_name():
    names = [command.name for group in GROUPS.values() for command in group]
    assert len(names) == len(set(names)) == len(COMMANDS)


def test_a_prompt_that_is_given_up_reads_no_more():
    """Else two prompts read the same keyboard after Ctrl-C, and what is typed is lost in the earlier one."""
    state = []

    class Prompt:
        async def prompt_async(self, _prompt):
            state.append("reads")
            try:
                await asyncio.Event().wait()
            finally:
                state.append("ended")

    async def given_up():
        with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
            terminal = Terminal(DummyHistory(), lambda _words: (), idle_s=60)
            asking = asyncio.ensure_future(terminal._ask(Prompt(), "> "))
            while not state:  # noqa: ASYNC110 - an event would be the thing that is tested
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert state == ["reads", "ended"]
            terminal.close()

    asyncio.run(given_up())
