"""The Python API without a server: kits, names, errors, and what becomes of answers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from clouddeploy_runtime import studies as runtime_studies
from clouddeploy_runtime.admin.sites import SiteReply
from clouddeploy_runtime.admin.status import SystemStatus
from clouddeploy_runtime.errors import (
    AuthenticationRefused,
    AuthorizationRefused,
    ConnectionFailed,
    ExitCode,
    InvalidCommand,
    RuntimeFault,
    ServerBusy,
    Timeout,
)
from clouddeploy_runtime.errors import JobNotFound as RuntimeJobNotFound
from clouddeploy_runtime.errors import SessionExpired as RuntimeSessionExpired
from clouddeploy_runtime.jobs import JobInfo, JobStatus

from clouddeploy import api
from clouddeploy.api import errors
from tests.integration.federation import Authority

ROOT = "root@org.example"
STATUS = {
    "state": "serving",
    "since": "2026-01-01T00:00:00.000+00:00",
    "clients": [{"name": "site-1", "address": "10.0.0.1", "connected_since": "2026-01-01T00:00:01+00:00", "jobs": []}],
    "jobs": [],
}


class FakeAdmin:
    """Stands in for the runtime's session: gives prepared answers, and keeps what it was asked."""

    def __init__(self, answers=None, replies=None):
        self.answers = answers or {}
        self.replies = replies or {}
        self.asked = []
        self.timeout_s = 0
        self.sites = FakeSites(self)
        self.is_open = False

    def __enter__(self):
        self.is_open = True
        return self

    def __exit__(self, *_):
        self.is_open = False

    def ask(self, command, **arguments):
        self.asked.append((command, arguments))
        answer = self.answers[command]
        answer = answer.pop(0) if isinstance(answer, list) and command == "job_meta" else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    give = ask

    def shutdown(self, name, *, force=False):
        self.asked.append(("shutdown", name))

    def restart(self, name, *, force=False):
        self.asked.append(("restart", name))

    def system_status(self):
        return SystemStatus.parse(self.ask("system_status"))

    def job_meta(self, job_id):
        return JobInfo.parse(self.ask("job_meta", job_id=job_id))

    def job_log(self, job_id, *, site):
        return self.ask("job_log", job_id=job_id, site=site)

    def report_resources(self):
        return self.ask("report_resources")


class FakeSites:
    def __init__(self, admin):
        self.admin = admin
        self.reply_s = 0

    def __getattr__(self, name):
        def call(*words, **more):
            self.admin.asked.append((name, words, more))
            answer = self.admin.replies[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("kits"), port=1)
    return {ROOT: authority.admin(ROOT, "project_admin"), "site-1": authority.client("site-1")}


@pytest.fixture
def session_of(kits):
    def make(answers=None, replies=None, **more):
        admin = FakeAdmin(answers, replies)
        session = api.Session(ROOT, kits[ROOT], dial=lambda _kit, **_: admin, **more)
        session.try_connect(1)
        return session, admin

    return make


def job(**changes):
    known = {"job_id": "j-1", "name": "hello", "status": "RUNNING", "revision": 1}
    return known | changes


def test_a_name_that_is_not_the_certificates_is_refused(kits):
    with pytest.raises(api.AuthenticationError, match=ROOT) as caught:
        api.Session("somebody@org.example", kits[ROOT])
    assert caught.value.auth_code == "AUTH_USER_MISMATCH"
    assert caught.value.exit_code == ExitCode.CONNECTION


def test_only_the_kit_of_an_admin_will_do(kits, tmp_path):
    with pytest.raises(api.InvalidArgumentError, match="client"):
        api.Session("site-1", kits["site-1"])
    with pytest.raises(api.ApiError):
        api.Session(ROOT, tmp_path / "nothing")


def test_a_changed_kit_is_refused(tmp_path):
    kit = Authority(tmp_path, port=1).admin(ROOT, "project_admin")
    (kit / "startup" / "more.txt").write_text("?")
    with pytest.raises(api.AuthenticationError, match=r"more\.txt") as caught:
        api.Session(ROOT, kit)
    assert caught.value.auth_code == "KIT_TAMPERED"


def test_a_server_that_does_not_answer_is_asked_again_as_often_as_one_likes(kits):
    tries = []

    def dial(_kit, **more):
        tries.append(more)
        raise Timeout("The server did not answer in time")

    session = api.Session(ROOT, kits[ROOT], dial=dial, study="lungs")
    with pytest.raises(api.NoReply):
        session.try_connect(5, max_tries=3)
    assert len(tries) == 3
    assert tries[0]["study"] == "lungs"
    assert 0 < tries[2]["timeout_s"] <= 5


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (ConnectionFailed("x"), api.NoConnection, "CONNECTION_FAILED"),
        (AuthenticationRefused("x", code="AUTH_UNKNOWN_STUDY"), api.AuthenticationError, "AUTH_UNKNOWN_STUDY"),
        (AuthenticationRefused("x"), api.AuthenticationError, "AUTHENTICATION_REFUSED"),
        (AuthorizationRefused("x"), api.AuthorizationError, "AUTHORIZATION_REFUSED"),
        (RuntimeSessionExpired("x"), api.SessionExpired, "SESSION_EXPIRED"),
        (RuntimeJobNotFound("x"), api.JobNotFound, "JOB_NOT_FOUND"),
        (InvalidCommand("x"), api.InvalidArgumentError, "INVALID_COMMAND"),
        (Timeout("x"), api.NoReply, "TIMEOUT"),
        (ServerBusy("x"), api.CommandError, "SERVER_BUSY"),
        (runtime_studies.StudyNotFound("x"), api.CommandError, "STUDY_NOT_FOUND"),
        (RuntimeFault("x"), api.InternalError, "FAILED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_of_the_runtime_is_one_that_scripts_know(fault, kind, code):
    fault.why, fault.hint = "because", "do this"
    with pytest.raises(api.ApiError) as caught, errors.told():
        raise fault
    error = caught.value
    assert (type(error), error.error_code, error.why, error.hint) == (kind, code, "because", "do this")
    assert error.message == "x: because"


def test_a_lost_connection_is_a_connection_error():
    assert issubclass(api.NoConnection, ConnectionError)


def test_every_error_is_exported_and_stands_in_the_tree():
    named = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert named <= set(api.__all__)
    assert all(name in errors.__doc__ for name in named)


def test_a_command_timeout_is_for_calls_and_sites(session_of):
    session, admin = session_of()
    assert (admin.timeout_s, admin.sites.reply_s) == (10, 5)
    session.set_timeout(3)
    assert (admin.timeout_s, admin.sites.reply_s) == (3, 3)
    session.unset_timeout()
    assert (admin.timeout_s, admin.sites.reply_s) == (10, 5)
    for wrong in (0, -1, float("inf"), True, "3"):
        with pytest.raises(api.InvalidArgumentError):
            session.set_timeout(wrong)


def test_leaving_a_session_closes_it(session_of):
    session, admin = session_of()
    with session as same:
        assert same is session
        assert admin.is_open
    assert not admin.is_open
    with pytest.raises(api.SessionClosed):
        session.get_system_info()


def test_jobs_are_listed_in_the_keys_of_the_reference(session_of):
    found = [job(submit_time="2026-01-01T00:00:00+00:00"), job(job_id="j-2", start_time="x", duration_s=61.5)]
    session, admin = session_of({"list_jobs": found})
    listed = session.list_jobs(limit=2, id_prefix="j", reverse=True)
    assert [one["job_id"] for one in listed] == ["j-2", "j-1"]
    assert listed[0]["duration"] == "0:01:01.500000"
    assert (listed[1]["duration"], listed[1]["submit_time"]) == ("N/A", "2026-01-01T00:00:00+00:00")
    assert admin.asked == [("list_jobs", {"id": "j", "name": "", "limit": 2})]
    assert session.list_jobs(detailed=True)[0]["submit_time"] == 1767225600.0
    with pytest.raises(api.InvalidArgumentError):
        session.list_jobs(limit=-1)


def test_watching_goes_on_when_the_server_was_away(session_of):
    session, admin = session_of({"job_meta": [job(), ConnectionFailed("away"), job(status="FINISHED:COMPLETED")]})
    assert session.wait_for_job("j-1", 5)["status"] == "FINISHED:COMPLETED"
    assert len(admin.asked) == 3
    assert admin.asked[1][1]["since"] == 1


def test_watching_does_not_begin_without_a_server(session_of):
    session, _ = session_of({"job_meta": [ConnectionFailed("away")]})
    with pytest.raises(api.NoConnection):
        session.monitor_job("j-1", 5)


@pytest.mark.parametrize("job_id", ["", " ", None])
def test_an_id_that_is_none_is_refused_before_anything_is_sent(session_of, job_id):
    session, admin = session_of()
    with pytest.raises(api.InvalidArgumentError):
        session.get_job_meta(job_id)
    assert admin.asked == []


def test_a_target_is_a_type_and_names(session_of):
    session, _ = session_of({"system_status": STATUS})
    with pytest.raises(api.InvalidArgumentError, match="everybody"):
        session.check_status("everybody")
    with pytest.raises(api.InvalidArgumentError, match="site-1"):
        session.check_status("server", ["site-1"])
    assert set(session.check_status(api.TargetType.SERVER)) == {"server"}


def test_who_did_not_answer_is_told_beside_the_others(session_of):
    replies = {
        "site-1": SiteReply("site-1", data={"version": "1"}),
        "site-2": SiteReply("site-2", code="NO_REPLY", reason="it did not answer in time"),
    }
    session, admin = session_of(replies={"report_version": replies, "configure_site_log": replies})
    assert session.report_version("client", ["site-1", "site-2"]) == {
        "site-1": {"version": "1"},
        "site-2": {"error_code": "NO_REPLY", "message": "it did not answer in time"},
    }
    assert admin.asked == [("report_version", (("site-1", "site-2"),), {})]
    with pytest.raises(api.NoReply, match="site-2"):
        session.configure_site_log("INFO")


def test_when_nobody_answers_that_is_an_error(session_of):
    refused = {"site-1": SiteReply("site-1", code="AUTHORIZATION_REFUSED", reason="not there")}
    session, _ = session_of(replies={"show_stats": refused, "shell": refused})
    with pytest.raises(api.AuthorizationError, match="not there"):
        session.show_stats("j-1", "client")
    with pytest.raises(api.AuthorizationError):
        session.ls_target("site-1")


def test_the_server_is_called_server(session_of):
    replies = {"server1": SiteReply("server1", data={"version": "1"})}
    session, _ = session_of(replies={"report_version": replies})
    assert set(session.report_version("server")) == {"server"}


def test_options_and_files_become_words_of_the_command(session_of):
    reply = {"site-1": SiteReply("site-1", data={"text": "one\n"})}
    session, admin = session_of(replies={"shell": reply})
    assert session.tail_target("site-1", "-n 3", "log.txt") == "one\n"
    assert session.grep_target_log("site-1", "-i", "two words") == "one\n"
    assert [words for _, words, _ in admin.asked] == [
        ("site-1", "tail", "-n", "3", "log.txt"),
        ("site-1", "grep", "-i", "two words", "log.txt"),
    ]
    for wrong in (
        lambda: session.cat_target("site-1"),
        lambda: session.ls_target("all"),
        lambda: session.ls_target("s", "'"),
    ):
        with pytest.raises(api.InvalidArgumentError):
            wrong()


def test_a_log_of_a_site_that_is_gone_is_what_it_said_last(session_of):
    session, _ = session_of(
        answers={"job_log": "one\ntwo\nthree\n"}, replies={"job_log": api_fault("INVALID_TARGET", "not connected")}
    )
    assert session.get_job_logs("j-1", "site-9", tail_lines=1) == {"logs": {"site-9": "three\n"}, "unavailable": {}}
    assert session.get_job_logs("j-1", "site-9", grep_pattern="tw")["logs"] == {"site-9": "two\n"}


def api_fault(code, what):
    fault = RuntimeFault(what)
    fault.error_code = code
    return fault


def test_a_configuration_of_a_log_may_be_a_file(session_of, tmp_path):
    session, admin = session_of(replies={"configure_job_log": {"server1": SiteReply("server1")}})
    (tmp_path / "log.json").write_text('{"version": 1}')
    session.configure_job_log("j-1", str(tmp_path / "log.json"), "server")
    assert admin.asked == [("configure_job_log", ("j-1", "server", {"version": 1}), {})]
    with pytest.raises(api.InvalidArgumentError, match=r"none\.json"):
        session.configure_job_log("j-1", str(tmp_path / "none.json"))


def test_nothing_is_stopped_while_jobs_run_or_clients_are_there(session_of):
    runs = {"job_id": "j-1", "name": "hello", "status": "RUNNING"}
    busy = STATUS | {"jobs": [runs], "clients": [STATUS["clients"][0] | {"jobs": ["j-1"]}]}
    session, admin = session_of({"system_status": busy})
    for stop in (session.shutdown_system, lambda: session.restart("client")):
        with pytest.raises(api.JobNotDone, match="j-1"):
            stop()
    assert session.restart("client", wait=False, force=True) == {"status": "ok", "client_status": {"site-1": "ok"}}
    admin.answers["system_status"] = STATUS
    with pytest.raises(api.ClientsStillRunning):
        session.shutdown("server")
    with pytest.raises(api.InvalidTarget, match="site-9"):
        session.shutdown("client", ["site-9"])
    admin.answers["system_status"] = STATUS | {"clients": []}
    with pytest.raises(api.NoClientsAvailable):
        session.shutdown("client")
    assert [words for words in admin.asked if words[0] in {"shutdown", "restart"}] == [("restart", "@ALL")]


def test_a_client_that_does_not_go_makes_it_incomplete(session_of):
    session, _ = session_of({"system_status": STATUS})
    assert session.shutdown("client", timeout=0.1) == {"status": "incomplete", "client_status": {"site-1": "no_reply"}}


def test_a_command_of_an_application_needs_a_running_job(session_of):
    session, admin = session_of({"job_meta": [job(), job(status=JobStatus.COMPLETED)], "app_command": {"x": 1}})
    assert session.do_app_command("j-1", "tune", {"rate": 2}) == {"x": 1}
    assert json.loads(admin.asked[-1][1]["data"]) == {"rate": 2}
    with pytest.raises(api.JobNotRunning):
        session.do_app_command("j-1", "tune")


def test_sites_of_a_study_are_given_with_their_organisation(session_of):
    session, admin = session_of()
    given = []

    def register(name, **more):
        given.append((name, more))
        return runtime_studies.Study(name, {"a": ("s1", "s2"), "b": ("s3",)}, {"p": "lead"})

    admin.studies = SimpleNamespace(register=register)
    shown = session.register_study("lungs", site_orgs=["a:s1", "a:s2", "b:s3"], users={"p": "lead"})
    assert shown == {"name": "lungs", "site_orgs": {"a": ["s1", "s2"], "b": ["s3"]}, "users": {"p": "lead"}}
    assert given[0][1]["site_orgs"] == {"a": ["s1", "s2"], "b": ["s3"]}
    assert session.register_study("lungs", sites="s1", site_orgs={"b": "s3"})
    assert (given[1][1]["sites"], given[1][1]["site_orgs"]) == (("s1",), {"b": ["s3"]})
    with pytest.raises(api.InvalidArgumentError, match="s1"):
        session.register_study("lungs", site_orgs=["s1"])


def test_jobs_that_could_be_submitted_are_found_in_the_transfer_folder(tmp_path):
    kit = Authority(tmp_path, port=1).admin(ROOT, "project_admin")
    session = api.Session(ROOT, kit, dial=lambda _kit, **_: FakeAdmin())
    assert session.get_available_apps_to_upload() == []
    (kit / "transfer" / "hello").mkdir(parents=True)
    (kit / "transfer" / "hello" / "meta.json").write_text("{}")
    (kit / "transfer" / "result").mkdir()
    assert session.get_available_apps_to_upload() == ["hello"]


def test_a_line_of_the_console_may_have_its_options_between_its_words(session_of):
    session, _ = session_of(replies={"job_log": {"site-1": SiteReply("site-1", data={"text": "one\n"})}})
    assert "one" in session.do_command("get_job_log j-1 --tail 1 site-1")["text"]
