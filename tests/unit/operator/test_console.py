"""The console without a federation: commands on a session that answers as it is told, and scripts."""

import io
import json
import stat
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from clouddeploy_runtime.admin.sites import SiteReply
from clouddeploy_runtime.admin.status import ClientInfo, OpenSession, SystemStatus
from clouddeploy_runtime.errors import AuthorizationRefused, ExitCode, NoClients, SessionExpired
from clouddeploy_runtime.jobs import JobInfo, JobStatus
from clouddeploy_runtime.studies import Study

from clouddeploy.console.catalogue import COMMANDS
from clouddeploy.console.desk import Desk
from clouddeploy.console.keyboard import IdleTooLong
from clouddeploy.console.running import Sitting
from clouddeploy.console.screen import Screen
from clouddeploy.tables import boxed

USER = "root@org.example"
CLIENT = ClientInfo(name="site-1", address="10.0.0.7", connected_since="2026-01-01T00:00:00+00:00", jobs=("job-1",))
QUIET = SystemStatus(server="server1", clients=(ClientInfo("site-1", "10.0.0.7", "", ()),), state="serving")
JOB = JobInfo(job_id="job-1", name="tiny", status=JobStatus.COMPLETED, submitter=USER, rounds=1, total_rounds=1)
STUDY = Study("cancer", site_orgs={"org_a": ("site-1",)}, users={USER: "", "lead@org": "lead"})


@dataclass
class Answers:
    """Notes each call, and answers with what is set for its name."""

    replies: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)
    timeout_s: float = 10.0
    study: str = "default"

    def __getattr__(self, name):
        def call(*words, **more):
            self.calls.append((name, *words, *more.items()))
            reply = self.replies.get(name, {})
            if isinstance(reply, Exception):
                raise reply
            return reply() if callable(reply) else reply

        return call


class Typist:
    """Answers questions, and types lines."""

    def __init__(self, *texts):
        self.left = list(texts)
        self.asked = []

    def command(self, prompt):
        if not self.left:
            raise EOFError
        text = self.left.pop(0)
        if isinstance(text, type):
            raise text
        return text

    def answer(self, prompt):
        self.asked.append(prompt)
        return self.command(prompt)


@pytest.fixture
def session():
    ok = {"server1": SiteReply("server1", {"os": "Linux"}), "site-1": SiteReply("site-1", {"os": "Linux"})}
    one = Answers(
        {
            "list_jobs": [JOB],
            "job_meta": JOB,
            "submit": "job-2",
            "clone": "job-3",
            "list_components": {"meta.json": 7},
            "job_log": "one\ntwo\n",
            "watch": [JOB],
            "system_status": QUIET,
            "report_resources": {"site-1": {"total": {"cpus": 2}, "free": {"cpus": 1}}},
            "sessions": [OpenSession("abc", USER, "org", "lead", "default", "10.0.0.1", "now", 0.5)],
            "end_sessions": 1,
        }
    )
    one.sites = Answers(dict.fromkeys(["sys_info", "report_env", "report_version", "show_scopes"], ok))
    one.studies = Answers({"list": [STUDY]} | dict.fromkeys(["show", "register", "add_site", "remove_site"], STUDY))
    one.studies.replies |= dict.fromkeys(["add_user", "remove_user"], STUDY)
    return one


@pytest.fixture
def sit(session, tmp_path):
    """Returns what types lines at a console and returns what it shows."""
    kit = SimpleNamespace(
        name=USER, project="example", server_name="server1", host="h", port=1, transfer=tmp_path / "transfer"
    )

    def sit(*texts, **more):
        out = io.StringIO()
        desk = Desk(session=session, kit=kit, screen=Screen(out), keyboard=Typist(*texts), commands=COMMANDS)
        sitting = Sitting(desk, idle_s=900, **more)
        fault = sitting.until_the_end()
        return SimpleNamespace(text=out.getvalue(), fault=fault, done=sitting.done, asked=desk.keyboard.asked)

    return sit


@pytest.mark.parametrize(
    ("typed", "calls"),
    [
        (
            ["list_jobs -n t -u -m 3"],
            [("list_jobs", ("name", "t"), ("id_prefix", ""), ("submitter", USER), ("limit", 3))],
        ),
        (["list_jobs job"], [("list_jobs", ("name", ""), ("id_prefix", "job"), ("submitter", ""), ("limit", 0))]),
        (["get_job_meta job-1"], [("job_meta", "job-1")]),
        (["list_job job-1"], [("list_components", "job-1")]),
        (["get_job_log job-1"], [("job_log", "job-1")]),
        (["clone_job job-1"], [("clone", "job-1")]),
        (["abort_job job-1", "y"], [("abort", "job-1")]),
        (["delete_job job-1", USER], [("job_meta", "job-1"), ("delete", "job-1")]),
        (["disable_client site-1", USER], [("disable_client", "site-1")]),
        (["enable_client site-1", USER], [("enable_client", "site-1")]),
        (["remove_client site-1", USER], [("remove_client", "site-1")]),
        (["end_sessions lead@org", "y"], [("end_sessions", "lead@org")]),
        (["shutdown client site-1", USER], [("system_status",), ("shutdown", "site-1")]),
        (["restart server", USER], [("system_status",), ("restart", "server")]),
        (["monitor_job job-1"], [("watch", "job-1", ("timeout_s", 86400.0))]),
    ],
)
def test_a_command_calls_the_session(sit, session, typed, calls):
    said = sit(*typed)
    assert "Error" not in said.text
    assert session.calls == calls


@pytest.mark.parametrize(
    ("typed", "call"),
    [
        ("sys_info server", ("sys_info", "server")),
        ("sys_info client site-1 site-2", ("sys_info", ("site-1", "site-2"))),
        ("report_env client", ("report_env", "client")),
        ("report_version", ("report_version", "all")),
        ("show_scopes all", ("show_scopes", "all")),
        ("check_status client", ("check_status", ())),
        ("check_status client site-1", ("check_status", ("site-1",))),
        ("show_stats job-1 server", ("show_stats", "job-1", "server")),
        ("show_errors job-1 client", ("show_errors", "job-1", "client")),
        ("reset_errors job-1 client site-1", ("reset_errors", "job-1", ("site-1",))),
        ("configure_site_log client site-1 DEBUG", ("configure_site_log", ("site-1",), "DEBUG")),
        ("configure_job_log job-1 server full", ("configure_job_log", "job-1", "server", "full")),
        ("get_job_log job-1 site-1 --tail 9", ("job_log", "job-1", "site-1", ("tail", 9))),
        ("pwd server", ("shell", "server", "pwd")),
        ("tail site-1 -n 5 log.txt", ("shell", "site-1", "tail", "-n", "5", "log.txt")),
        ("grep site-1 -i 'two words' log.txt", ("shell", "site-1", "grep", "-i", "two words", "log.txt")),
    ],
)
def test_a_command_asks_the_sites(sit, session, typed, call):
    said = sit(typed)
    assert "Error" not in said.text
    assert session.sites.calls == [call]


@pytest.mark.parametrize(
    ("typed", "call"),
    [
        (["list_studies"], ("list",)),
        (["show_study cancer"], ("show", "cancer")),
        (
            ["register_study cancer --sites site-1 --site-org org_a:site-2 --users u v:lead"],
            (
                "register",
                "cancer",
                ("site_orgs", {"org_a": ["site-2"]}),
                ("sites", ["site-1"]),
                ("users", {"u": "", "v": "lead"}),
            ),
        ),
        (["add_study_site cancer --sites site-1"], ("add_site", "cancer", ["site-1"], ("site_orgs", {}))),
        (["remove_study_site cancer --sites site-1"], ("remove_site", "cancer", ["site-1"], ("site_orgs", {}))),
        (["add_study_user cancer u lead"], ("add_user", "cancer", "u", ("role", "lead"))),
        (["remove_study_user cancer u"], ("remove_user", "cancer", "u")),
        (["remove_study cancer", "y"], ("remove", "cancer")),
    ],
)
def test_a_command_changes_studies(sit, session, typed, call):
    said = sit(*typed)
    assert "Error" not in said.text
    assert session.studies.calls == [call]


@pytest.mark.parametrize(
    "typed",
    [
        "frobnicate",
        "list_jobs -z",
        "list_jobs -m x",
        "get_job_meta",
        "sys_info nowhere",
        "sys_info server site-1",
        "timeout -3",
        "timeout many",
        "add_study_site cancer",
        "add_study_site cancer --site-org site-1",
        "get_job_log job-1 server log.json",
        "submit_job nothing-here",
        "configure_site_log all absent.json",
        "help frobnicate",
    ],
)
def test_what_cannot_be_meant_is_a_syntax_error_and_nothing_is_sent(sit, session, typed):
    said = sit(typed)
    assert "Error: syntax_error: " in said.text
    assert "Do:" in said.text
    assert not session.calls
    assert not session.sites.calls
    assert not session.studies.calls


@pytest.mark.parametrize(
    "typed",
    [["abort_job job-1", "n"], ["delete_job job-1", "lead@org"], ["disable_client site-1"], ["restart all", "y"]],
)
def test_without_the_right_answer_nothing_happens(sit, session, typed):
    said = sit(*typed)
    assert "Error: not_confirmed: " in said.text
    assert {call[0] for call in session.calls} <= {"job_meta", "system_status"}


@pytest.mark.parametrize(
    ("typed", "status", "word"),
    [
        ("shutdown server", SystemStatus("server1", (CLIENT,)), "clients_running"),
        ("shutdown all", SystemStatus("server1", (CLIENT,), jobs=("job-1",)), "job_running"),
        ("restart server", SystemStatus("server1", (), jobs=("job-1",)), "job_running"),
        ("restart server", SystemStatus("server1", (), other_jobs=1), "job_running"),
        ("restart client", SystemStatus("server1", (CLIENT,), jobs=("job-1",)), "job_running"),
        ("shutdown client", SystemStatus("server1", ()), "no_clients"),
        ("shutdown client site-9", SystemStatus("server1", (CLIENT,)), "invalid_target"),
    ],
)
def test_nobody_is_stopped_while_it_would_hurt(sit, session, typed, status, word):
    session.replies["system_status"] = status
    said = sit(typed, USER)
    assert f"Error: {word}: " in said.text
    assert not said.asked
    assert session.calls == [("system_status",)]


def test_what_the_server_refuses_is_said_with_its_word_and_the_console_goes_on(sit, session):
    session.replies["abort"] = AuthorizationRefused("lead may not abort_job", why="the policy", hint="Ask.")
    said = sit("abort_job job-1", "y", "lpwd")
    assert "Error: not_authorized: lead may not abort_job.\n  Why: the policy\n  Do:  Ask.\n" in said.text
    assert str(Path.cwd()) in said.text
    assert said.fault is None


def test_what_a_site_refuses_stands_beside_what_others_answer(sit, session):
    session.sites.replies["sys_info"] = {
        "site-1": SiteReply("site-1", {"os": "Linux", "load": [1.0], "gpus": []}),
        "site-2": SiteReply("site-2", code="AUTHORIZATION_REFUSED", reason="the site's policy"),
    }
    said = sit("sys_info client", is_script=True)
    assert "site-1:\n  os: Linux\n  load:\n    1.0\n  gpus: none\n" in said.text
    assert "site-2: not_authorized: the site's policy" in said.text
    assert said.fault.exit_code is ExitCode.PARTIAL
    assert said.fault.error_code == "AUTHORIZATION_REFUSED"


def test_no_connected_client_has_its_word(sit, session):
    session.sites.replies["check_status"] = NoClients("No client is connected")
    assert "Error: no_clients: No client is connected." in sit("check_status client").text


def test_a_session_that_was_ended_ends_the_console(sit, session):
    session.replies["list_jobs"] = SessionExpired("The session has ended")
    said = sit("list_jobs", "lpwd")
    assert said.fault.exit_code is ExitCode.CONNECTION
    assert "Error: session_expired" in said.text
    assert str(Path.cwd()) not in said.text


def test_the_server_status_shows_jobs_and_clients(sit, session):
    session.replies["system_status"] = SystemStatus(
        server="server1", clients=(CLIENT,), state="serving", disabled=("site-9",), jobs=("job-1",)
    )
    text = sit("check_status server").text
    assert "Engine status: serving" in text
    assert "| job-1  | tiny     |" in text
    assert "Registered clients: 1" in text
    assert "| site-1 | 10.0.0.7 | 2026-01-01T00:00:00+00:00 | job-1 |" in text
    assert "Disabled clients: site-9" in text


def test_a_defect_is_no_traceback_unless_that_is_wanted(sit, session):
    session.replies["list_jobs"] = KeyError("x")
    said = sit("list_jobs", "lpwd")
    assert "Error: internal_error: " in said.text
    assert "Traceback" not in said.text
    assert "Traceback" in sit("list_jobs", shows_tracebacks=True).text


def test_an_answer_goes_to_a_file_as_well_or_only_there(sit, tmp_path):
    tee, only = tmp_path / "tee", tmp_path / "only"
    said = sit(f"lpwd > {tee}", f"info >> {only}")
    assert tee.read_text() == f"{Path.cwd()}\n"
    assert f"{Path.cwd()}\nDone [" in said.text
    assert "Project         example" in only.read_text()
    assert "Project" not in said.text
    assert stat.S_IMODE(only.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written_is_said(sit, tmp_path):
    assert f"syntax_error: {tmp_path} cannot be written" in sit(f"lpwd > {tmp_path}").text


def test_signs_that_steer_terminals_are_written_out(sit, session):
    session.replies["job_log"] = "\x1b]0;owned\x07\n"
    assert sit("get_job_log job-1").text.startswith("\\x1b]0;owned\\x07\nDone [")
    assert boxed(("A",), [("\x1b[2J\nx",)]).splitlines()[3] == "| \\x1b[2J\\nx |"


def test_a_script_ends_with_its_first_failure(sit, session):
    said = sit("lpwd", "get_job_meta", "list_jobs", is_script=True)
    assert said.fault.exit_code is ExitCode.BAD_INPUT
    assert len(said.done) == 2
    assert not session.calls


def test_a_script_that_keeps_going_ends_with_the_exit_code_of_the_first_failure(sit, session):
    session.replies["abort"] = AuthorizationRefused("no")
    said = sit("abort_job job-1", "y", "get_job_meta", "list_jobs", is_script=True, keeps_going=True)
    assert len(said.done) == 3
    assert said.fault.exit_code is ExitCode.CONNECTION
    assert "2 commands failed" in str(said.fault)


def test_lines_of_a_script_are_documents(sit):
    said = sit("get_job_meta job-1", "frobnicate", is_script=True)
    first, second = (json.loads(json.dumps(one.document())) for one in said.done)
    assert (first["status"], first["data"]["name"]) == ("ok", "tiny")
    assert (second["status"], second["error_code"]) == ("error", "SYNTAX_ERROR")


def test_who_does_not_type_is_logged_out(sit):
    said = sit(IdleTooLong, "lpwd")
    assert said.text == "Logging out due to inactivity for 900 seconds\n"
    assert said.fault is None


def test_a_given_up_line_is_forgotten(sit):
    assert str(Path.cwd()) in sit(KeyboardInterrupt, "lpwd").text


@pytest.mark.parametrize("word", ["bye", "exit", "quit"])
def test_bye_ends_the_console(sit, word):
    assert sit(word, "lpwd").text == ""


def test_timeout_holds_for_the_server_and_the_sites(sit, session):
    assert "Each command may take 2.5 s." in sit("timeout 2.5").text
    assert (session.timeout_s, session.sites.reply_s) == (2.5, 2.5)


def test_a_job_is_looked_for_in_the_transfer_folder_first(sit, session, tmp_path, monkeypatch):
    for place in ("transfer", "here"):
        (tmp_path / place / "tiny").mkdir(parents=True)
        (tmp_path / place / "tiny" / "meta.json").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert "Submitted job: job-2" in sit("submit_job tiny --submit-token t").text
    assert session.calls == [("submit", tmp_path / "transfer" / "tiny", ("token", "t"))]


def test_a_result_comes_to_the_transfer_folder(sit, session, tmp_path):
    session.replies["download"] = tmp_path
    sit("download_job job-1", f"download_job job-1 {tmp_path}/other")
    assert session.calls == [("download", "job-1", tmp_path / "transfer"), ("download", "job-1", tmp_path / "other")]
    assert stat.S_IMODE((tmp_path / "transfer").stat().st_mode) == 0o700


def test_help_lists_the_commands_and_explains_one(sit):
    text = sit("?").text
    assert all((name in text) != command.is_hidden for name, command in COMMANDS.items())
    text = sit("help list_jobs").text
    assert "Needs the right list_jobs." in text
    assert "usage: list_jobs [-n PREFIX]" in text
