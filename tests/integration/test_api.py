"""The Python API against a running federation: scripts for the reference, with another import."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading

import pytest

from clouddeploy.api import (
    AuthenticationError,
    AuthorizationError,
    ClientsStillRunning,
    CommandError,
    InvalidArgumentError,
    InvalidTarget,
    JobNotDone,
    JobNotFound,
    JobTimeout,
    MonitorReturnCode,
    NoConnection,
    NoReply,
    Session,
    SessionClosed,
    SubmitTokenConflict,
    TargetType,
    connect,
    new_secure_session,
)
from tests.integration.federation import tiny_job, until
from tests.integration.rounds import Jobs, job

pytestmark = pytest.mark.xdist_group("api")
ROOT = "root@org.example"
MEMBER = "member@org.example"
BROKEN = "raise ValueError('no data here')\n"


@contextlib.contextmanager
def running(folder, *sites):
    federation = Jobs(folder)
    federation.kits |= {
        ROOT: federation.authority.admin(ROOT, "project_admin"),
        MEMBER: federation.authority.admin(MEMBER, "member"),
    }
    try:
        federation.begin(*sites)
        yield federation
    finally:
        for name in list(federation.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                federation.stop(name)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    with running(tmp_path_factory.mktemp("federation"), "site-1", "site-2") as one:
        yield one


@pytest.fixture
def session(federation):
    with new_secure_session(ROOT, str(federation.kits[ROOT])) as one:
        yield one


@pytest.fixture
def held(federation, session, tmp_path):
    """Id of a job that runs, and waits in its second round."""
    for site in ("site-1", "site-2"):
        federation.hold(site, 1)
    job_id = session.submit_job(str(job(tmp_path / "held", rounds=2)))
    until(lambda: session.get_job_meta(job_id)["rounds"] == 1, what="a round")
    yield job_id
    with contextlib.suppress(JobNotFound):
        session.abort_job(job_id)
        session.wait_for_job(job_id, 60)
    for site in ("site-1", "site-2"):
        federation.release(site, 1)


def test_a_script_for_the_reference_runs_a_job(federation, session, tmp_path):
    seen = []

    def status_cb(sess, job_id, job_meta, *args, **kwargs):
        seen.append((sess is session, job_id, job_meta["status"], args, kwargs))
        return True

    job_id = session.submit_job(str(job(tmp_path / "job", rounds=2)))
    code = session.monitor_job(job_id, 60.0, 0.5, status_cb, "more", word=1)
    assert code == MonitorReturnCode.JOB_FINISHED == 0
    assert seen[-1] == (True, job_id, "FINISHED:COMPLETED", ("more",), {"word": 1})
    meta = session.get_job_meta(job_id)
    assert (meta["job_id"], meta["name"], meta["rounds"]) == (job_id, "recovery", 2)
    assert meta["job_deploy_detail"][-2:] == ["site-1: OK", "site-2: OK"]
    assert session.get_job_status(job_id) == "FINISHED:COMPLETED"
    (listed,) = [one for one in session.list_jobs(name_prefix="reco", id_prefix=job_id[:8]) if one["job_id"] == job_id]
    assert set(listed) == {"job_id", "job_name", "name", "status", "submit_time", "duration"}
    result = session.download_job_result(job_id)
    assert result == str(federation.kits[ROOT] / "transfer" / job_id)
    assert json.loads((federation.kits[ROOT] / "transfer" / job_id / "job" / "meta.json").read_text())
    assert session.download_job_result(job_id, tmp_path / "there") == str(tmp_path / "there" / job_id)
    again = session.clone_job(job_id)
    assert session.wait_for_job(again, 60)["cloned_from"] == job_id
    session.delete_job(again)
    with pytest.raises(JobNotFound, match=again):
        session.get_job_meta(again)


def test_metrics_of_a_job_can_be_had_and_drawn(session, tmp_path):
    job_id = session.submit_job(job(tmp_path / "job", rounds=2))
    assert session.watch(job_id, 60)["status"] == "FINISHED:COMPLETED"
    assert [one["round"] for one in session.get_job_rounds(job_id)] == [1, 2]
    names = set(session.get_job_rounds(job_id)[0]["metrics"])
    assert names
    axes = session.plot_metrics(job_id, ax=Axes())
    assert set(axes.drawn) == names
    with pytest.raises(InvalidArgumentError, match="no metric wealth"):
        session.plot_metrics(job_id, ["wealth"], ax=Axes())


class Axes:
    """As much of matplotlib's as is used."""

    def __init__(self):
        self.drawn = {}

    def plot(self, x, y, *, label):
        self.drawn[label] = (x, y)

    def set_xlabel(self, label):
        assert label == "round"

    def legend(self):
        pass


def test_a_running_job_is_seen_watched_and_stopped(session, held, capsys):
    info = session.get_system_info()
    assert info.server_info.status == "serving"
    assert info.server_info.start_time
    assert {one.name for one in info.client_info} >= {"site-1", "site-2"}
    assert [(one.job_id, one.app_name) for one in info.job_info] == [(held, "recovery")]
    assert session.monitor_job(held, timeout=0.3, poll_interval=0.1) is MonitorReturnCode.TIMEOUT
    assert session.monitor_job(held, cb=lambda *_: False) is MonitorReturnCode.ENDED_BY_CB
    session.watch(held, timeout=0.2)
    assert "RUNNING  round 1 of 2" in capsys.readouterr().out
    with pytest.raises(JobTimeout, match="1 rounds are done"):
        session.wait_for_job(held, timeout=0.2)
    with pytest.raises(JobNotDone):
        session.delete_job(held)
    with pytest.raises(JobNotDone, match=held):
        session.shutdown("server")
    statuses = session.get_client_job_status(["site-1"])
    assert [(one["client_name"], one["job_id"]) for one in statuses] == [("site-1", held)]
    assert held in session.abort_job(held)
    assert session.wait_for_job(held, 60)["status"] == "FINISHED:ABORTED"


def test_sites_answer_for_themselves(session, held):
    assert set(session.check_status(TargetType.ALL)) == {"server", "site-1", "site-2"}
    versions = session.report_version("all")
    assert {said["version"] for said in versions.values()} == {versions["server"]["version"]}
    (env,) = session.get_client_env(["site-2"])
    assert (env["client_name"], bool(env["versions"])) == ("site-2", True)
    assert session.get_site_info("client", ["site-1"])["site-1"]
    assert set(session.report_resources("client")) == {"site-1", "site-2"}
    assert set(session.report_resources("all")) == {"server", "site-1", "site-2"}
    assert set(session.show_stats(held, "client")) == {"site-1", "site-2"}
    assert session.show_errors(held, "client", ["site-1"])["site-1"]["lines"] == []
    assert set(session.reset_errors(held)) == {"server", "site-1", "site-2"}
    logs = session.get_job_logs(held, "all", tail_lines=2)
    assert set(logs["logs"]) | set(logs["unavailable"]) == {"server", "site-1", "site-2"}
    session.configure_job_log(held, "DEBUG")
    session.configure_site_log("INFO", "site-1")
    with pytest.raises(InvalidArgumentError):
        session.configure_site_log("louder", "site-1")


def test_files_of_a_workspace_are_looked_at(federation, session):
    assert session.get_working_directory("site-1") == str(federation.workspace("site-1"))
    assert "log.txt" in session.ls_target("site-1")
    assert session.tail_target_log("server", "-n 1").count("\n") <= 1
    assert session.head_target_log("site-1")
    assert "registered" in session.grep_target("site-1", pattern="registered", file="log.txt").lower()
    assert session.cat_target("site-1", file="log.txt").startswith(session.head_target("site-1", "-n 1", "log.txt"))
    with pytest.raises(InvalidArgumentError):
        session.cat_target("site-1", file="../kits/site-1/startup/client.key")
    with pytest.raises(InvalidTarget):
        session.ls_target("site-9")


def test_what_a_failed_site_said_is_a_component(session, tmp_path):
    job_id = session.submit_job(tiny_job(tmp_path / "job", client=BROKEN, min_clients=2))
    assert session.wait_for_job(job_id, 60)["status"] == "FINISHED:EXECUTION_EXCEPTION"
    names = session.list_job_components(job_id)
    assert names
    assert names[0].startswith("ERRORLOG_site-")
    folder = tmp_path / "components" / f"{job_id}_components"
    assert session.download_job_components(job_id, tmp_path / "components") == str(folder)
    assert "no data here" in (folder / names[0]).read_text()


def test_a_submission_with_a_token_is_the_same_job(session, tmp_path):
    folder = tiny_job(tmp_path / "job", min_clients=2)
    job_id = session.submit_job(folder, submit_token="night-1")
    assert session.submit_job(folder, submit_token="night-1") == job_id
    with pytest.raises(SubmitTokenConflict):
        session.submit_job(tiny_job(tmp_path / "other", client="x = 1\n", min_clients=2), submit_token="night-1")
    session.abort_job(job_id)
    session.wait_for_job(job_id, 60)


def test_who_may_not_is_told_so(federation, session, tmp_path):
    with connect(federation.kits[MEMBER]) as member:
        assert member.username == MEMBER
        assert member.get_system_info().server_info.status == "serving"
        with pytest.raises(AuthorizationError) as caught:
            member.submit_job(tiny_job(tmp_path / "job"))
        assert caught.value.error_code == "AUTHORIZATION_REFUSED"
        with pytest.raises(AuthorizationError):
            member.disable_client("site-1")


def test_studies_are_made_entered_and_taken_away(federation, session):
    made = session.register_study("lungs", sites=["site-1"], users=[MEMBER])
    assert made == {"name": "lungs", "site_orgs": {"org": ["site-1"]}, "users": {MEMBER: ""}}
    assert session.add_study_site("lungs", site_orgs=["org:site-2"])["site_orgs"] == {"org": ["site-1", "site-2"]}
    assert session.remove_study_site("lungs", sites="site-1")["site_orgs"] == {"org": ["site-2"]}
    assert ROOT in session.add_study_user("lungs", ROOT)["users"]
    assert MEMBER not in session.remove_study_user("lungs", MEMBER)["users"]
    assert [one["name"] for one in session.list_studies()["studies"]] == ["lungs"]
    with new_secure_session(ROOT, federation.kits[ROOT], study="lungs") as inside:
        assert inside.list_jobs() == []
    with pytest.raises(AuthenticationError) as refused:
        new_secure_session(ROOT, federation.kits[ROOT], study="livers")
    assert refused.value.auth_code.startswith("AUTH_")
    with pytest.raises(CommandError) as caught:
        session.register_study("lungs")
    assert caught.value.error_code == "STUDY_ALREADY_EXISTS"
    session.remove_study("lungs")
    with pytest.raises(CommandError) as caught:
        session.show_study("lungs")
    assert caught.value.error_code == "STUDY_NOT_FOUND"


def test_a_line_of_the_console_is_a_call(session, held):
    found = session.do_command("list_jobs")
    assert found["status"] == "ok"
    assert held in found["text"]
    with pytest.raises(InvalidArgumentError, match="dance"):
        session.do_command("dance")
    with pytest.raises(JobNotFound):
        session.do_command("get_job_meta 1234")
    session.do_command(f"abort_job {held}")
    assert session.wait_for_job(held, 60)["status"] == "FINISHED:ABORTED"


def test_a_client_is_kept_out_let_in_and_stopped(federation, session):
    federation.start("site-3")
    federation.wait_for("site-3", "registered")
    assert session.disable_client("site-3")["is_disabled"]
    until(lambda: "site-3" not in {one.name for one in session.get_connected_client_list()}, what="its end")
    session.enable_client("site-3")
    until(lambda: "site-3" in {one.name for one in session.get_connected_client_list()}, what="its return")
    assert session.shutdown("client", ["site-3"]) == {"status": "ok", "client_status": {"site-3": "ok"}}
    assert federation.processes.pop("site-3").wait(60) == 0
    with pytest.raises(InvalidTarget, match="site-3"):
        session.shutdown("client", ["site-3"])
    with pytest.raises(ClientsStillRunning, match="site-1"):
        session.shutdown("server")


def test_a_closed_session_is_closed(federation):
    session = new_secure_session(ROOT, federation.kits[ROOT], command_timeout=3)
    session.close()
    session.close()
    with pytest.raises(SessionClosed):
        session.list_jobs()
    session.try_connect(5)
    assert session.get_connected_client_list()
    session.close()


@pytest.mark.nightly  # test_operating_cli.py does it too
def test_a_federation_is_restarted_and_shut_down(tmp_path):
    with running(tmp_path, "site-1") as federation:
        session = new_secure_session(ROOT, federation.kits[ROOT])

        def restarter():
            """Do what a supervisor does."""
            federation.processes.pop("server").wait(60)
            federation.start("server")

        supervisor = threading.Thread(target=restarter)
        supervisor.start()
        assert session.restart("server", timeout=60) == {"status": "ok", "server_status": "ok"}
        supervisor.join(60)
        until(session.get_connected_client_list, what="the client's return")
        assert session.shutdown("all", timeout=60) == {
            "status": "ok",
            "client_status": {"site-1": "ok"},
            "server_status": "ok",
        }
        with pytest.raises((NoConnection, NoReply)):
            session.get_system_info()
        session.close()
        with pytest.raises(NoConnection):
            Session(ROOT, federation.kits[ROOT]).try_connect(0.5)
