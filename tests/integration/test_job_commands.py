"""What people ask a running server for, by its session and by the command line."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import threading
import time

import pytest
from click.testing import CliRunner
from clouddeploy_runtime import audit, lifecycle
from clouddeploy_runtime.errors import (
    AuthorizationRefused,
    InvalidCommand,
    InvalidTarget,
    JobNotFinished,
    JobNotFound,
    SubmitTokenConflict,
    SubmitTokenJobDeleted,
)
from clouddeploy_runtime.jobs import JobStatus

from clouddeploy.cli.job import job as job_command
from tests.integration.federation import Federation, tiny_job, until

ROOT = ("root@org.example", "project_admin")


def ended(federation):
    for name in list(federation.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            federation.stop(name)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server without sites, for all tests that do not stop it."""
    one = Federation(tmp_path_factory.mktemp("federation"))
    one.start("server")
    one.wait_for("server", "serving")
    yield one
    ended(one)


@pytest.fixture
def federation(tmp_path):
    one = Federation(tmp_path)
    yield one
    ended(one)


def recorded(federation):
    path = federation.workspace("server") / "audit.jsonl"
    assert audit.first_broken_line(path) is None
    return [json.loads(line) for line in path.read_text().splitlines()]


def watching(session, job_id):
    """What a thread that watches a job sees, in a queue."""
    states = queue.Queue()

    def watch():
        for info in session.watch(job_id, timeout_s=60):
            states.put(info.status)

    threading.Thread(target=watch, daemon=True).start()
    return states


def with_meta(folder, **changes):
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_submission_with_a_token_can_be_repeated(server, tmp_path):
    folder = tiny_job(tmp_path / "job")
    with server.admin() as session:
        job_id = session.submit(folder, token="run-1")
        assert session.submit(folder, token="run-1") == job_id
        with pytest.raises(SubmitTokenConflict, match=job_id):
            session.submit(with_meta(folder, name="other"), token="run-1")
        session.delete(job_id)
        with pytest.raises(SubmitTokenJobDeleted):
            session.submit(with_meta(folder, name="tiny"), token="run-1")
        with pytest.raises(JobNotFound):
            session.job_meta(job_id)
        with pytest.raises(InvalidCommand, match="submit token"):
            session.submit(folder, token="with space")
    assert not (server.workspace("server") / "jobs" / job_id).exists()


def test_jobs_are_listed_by_name_state_and_submitter(server, tmp_path):
    with server.admin() as ann, server.admin("bob@org.example", "lead") as bob:
        first = ann.submit(with_meta(tiny_job(tmp_path / "a"), name="heart-1"))
        second = bob.submit(with_meta(tiny_job(tmp_path / "b"), name="heart-2"))
        ann.abort(first)
        assert [info.job_id for info in ann.list_jobs(name="heart")] == [first, second]
        assert [info.job_id for info in ann.list_jobs(name="heart", state="aborted")] == [first]
        assert [info.job_id for info in ann.list_jobs(name="heart", state="FINISHED")] == [first]
        assert [info.job_id for info in ann.list_jobs(name="heart", state="submitted")] == [second]
        assert [info.job_id for info in ann.list_jobs(submitter="bob@org.example")] == [second]
        assert [info.job_id for info in ann.list_jobs(name="heart", limit=1)] == [second]
        assert bob.job_meta(second).schedule_history[-1].endswith("0 of at least 1 sites can take part now: none")


def test_a_job_is_managed_by_its_submitter_only(server, tmp_path):
    with server.admin() as ann, server.admin("bob@org.example", "lead") as bob:
        job_id = ann.submit(tiny_job(tmp_path / "job"), token="mine")
        for forbidden in (bob.abort, bob.clone, bob.delete, bob.job_log, bob.list_components):
            with pytest.raises(AuthorizationRefused):
                forbidden(job_id)
        with pytest.raises(AuthorizationRefused):
            bob.download(job_id, tmp_path / "out")
        assert (bob.job_meta(job_id).submit_token, ann.job_meta(job_id).submit_token) == ("", "mine")
        clone = ann.job_meta(ann.clone(job_id))
        assert (clone.cloned_from, clone.status, clone.submit_token) == (job_id, JobStatus.SUBMITTED, "")


def test_a_log_that_a_job_has_made_a_link_is_not_read(server, tmp_path):
    with server.admin() as session:
        job_id = session.submit(tiny_job(tmp_path / "job"))
        session.abort(job_id)
        folder = server.workspace("server") / "jobs" / job_id
        (folder / "result").mkdir()
        (folder / "result" / "log.txt").symlink_to(server.kits["server"] / "startup" / "server.key")
        with pytest.raises(JobNotFound):
            session.job_log(job_id)
        (folder / "result" / "log.txt").unlink()
        (folder / "result" / "log.txt").write_text("its own")
        assert session.job_log(job_id) == "its own"


def test_what_has_not_ended_is_not_downloaded(server, tmp_path):
    with server.admin() as session:
        job_id = session.submit(tiny_job(tmp_path / "job"))
        with pytest.raises(JobNotFinished) as caught:
            session.download(job_id, tmp_path / "out")
        assert caught.value.error_code == "JOB_NOT_FINISHED"
        assert list((tmp_path / "out").iterdir()) == []


def test_the_commands_of_operators_need_their_right(server):
    with server.admin() as lead:
        for forbidden in (lead.restart, lead.shutdown, lead.report_resources):
            with pytest.raises(AuthorizationRefused):
                forbidden()
        for forbidden in (lead.disable_client, lead.enable_client, lead.remove_client):
            with pytest.raises(AuthorizationRefused):
                forbidden("site-1")
        with pytest.raises(InvalidCommand, match="There is no command"):
            lead.ask("invented")


def test_watching_a_job_is_recorded_once_a_minute_and_a_refusal_always(server, tmp_path):
    with server.admin("watcher@org.example", "lead") as session, server.admin("no@org.example", "none") as other:
        job_id = session.submit(tiny_job(tmp_path / "job"))
        for _ in range(5):
            session.job_meta(job_id)
            session.list_jobs()
            with pytest.raises(AuthorizationRefused):
                other.list_jobs()
    lines = recorded(server)
    actions = [line["action"] for line in lines if line["user"] == "watcher@org.example"]
    assert actions == ["login", "submit_job", "submit_job", f"get_job_meta {job_id}", "list_jobs", "logout"]
    looks = [line for line in lines if line["user"] == "no@org.example" and line["action"] == "list_jobs"]
    assert [line["result"] for line in looks] == ["refused"] * 5


def test_who_waits_for_a_job_learns_of_its_end_at_once(server, tmp_path):
    with server.admin() as session, server.admin() as watcher:
        job_id = session.submit(tiny_job(tmp_path / "job"))
        until(lambda: session.job_meta(job_id).schedule_history, what="the first look of the scheduler")
        states = watching(watcher, job_id)
        assert states.get(timeout=10) is JobStatus.SUBMITTED
        session.abort(job_id)
        began = time.monotonic()
        assert states.get(timeout=10) is JobStatus.ABORTED
        assert time.monotonic() - began < 1


@pytest.mark.fault("server killed while somebody waits for a job", "the wait goes on")
def test_a_wait_survives_the_death_of_the_server(federation, tmp_path):
    federation.start("server")
    federation.wait_for("server", "serving")
    with federation.admin() as session:
        job_id = session.submit(tiny_job(tmp_path / "job"))
        states = watching(session, job_id)
        assert states.get(timeout=10) is JobStatus.SUBMITTED
        federation.stop("server", signal.SIGKILL)
        federation.start("server")
        federation.wait_for("server", "serving")
        with federation.admin() as other:
            other.abort(job_id)
        assert until(lambda: states.get(timeout=20).is_final)


def test_the_server_restarts_for_its_admin_and_shuts_down_for_good(federation):
    process = federation.start("server")
    federation.wait_for("server", "serving")
    with federation.admin(*ROOT) as session:
        session.restart()
    assert process.wait(10) == lifecycle.RESTART_STATUS
    process = federation.start("server")
    federation.wait_for("server", "serving")
    with federation.admin(*ROOT) as session:
        session.shutdown()
    assert process.wait(10) == 0


def test_clients_are_removed_disabled_and_enabled_by_an_admin(federation):
    for name in ("server", "site-1"):
        federation.start(name)
    federation.wait_for("site-1", "registered")
    with federation.admin(*ROOT) as session:
        until(lambda: federation.connected(session) == {"site-1"}, what="the client")
        session.remove_client("site-1")
        until(lambda: federation.log("server").count("New client site-1") == 2, what="a return")
        until(lambda: federation.connected(session) == {"site-1"}, what="the client again")
        session.disable_client("site-1")
        until(lambda: federation.connected(session) == set(), what="its leaving")
        assert session.system_status().disabled == ("site-1",)
        until(lambda: "disabled" in federation.log("site-1"), what="the reason at the site")
        session.enable_client("site-1")
        assert session.system_status().disabled == ()
        with pytest.raises(InvalidTarget, match="not disabled"):
            session.enable_client("site-1")
        for impossible in (session.remove_client, session.restart, session.shutdown):
            with pytest.raises(InvalidTarget, match="not connected"):
                impossible("nobody")


def test_a_client_restarts_for_those_whom_its_own_policy_obeys(federation):
    process = federation.start("site-1")
    federation.start("server")
    federation.wait_for("site-1", "registered")
    policy = federation.kits["site-1"] / "local" / "authorization.json"
    policy.write_text(json.dumps({"format_version": "1.0", "permissions": {"project_admin": {"restart": "none"}}}))
    with federation.admin(*ROOT) as session:
        session.restart("site-1")
        until(lambda: "does not allow" in federation.log("site-1"), what="the refusal")
        assert process.poll() is None
        policy.unlink()
        session.restart("@ALL")
        assert process.wait(10) == lifecycle.RESTART_STATUS


def offers_a_gpu(federation, name):
    manager = {"id": "resource_manager", "args": {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 8, "ignore_host": True}}
    path = federation.client_kit(name) / "local" / "resources.json"
    path.write_text(json.dumps({"format_version": 2, "components": [manager]}))


def test_a_job_waits_for_a_card_and_says_what_it_lacks(federation, tmp_path):
    offers_a_gpu(federation, "site-1")
    for name in ("server", "site-1"):
        federation.start(name)
    federation.wait_for("site-1", "registered")
    large = with_meta(tiny_job(tmp_path / "large"), resource_spec={"site-1": {"num_of_gpus": 2}})
    fits = with_meta(
        tiny_job(tmp_path / "fits", client="import time\ntime.sleep(60)\n"),
        resource_spec={"@default": {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 8}},
    )
    with federation.admin() as session, federation.admin(*ROOT) as root:
        waits = session.submit(large)
        first, second = session.submit(fits), session.submit(fits)
        until(lambda: session.job_meta(first).status is JobStatus.RUNNING, what="the job that fits")
        for job_id, why in ((waits, "2 GPUs, and it has 1"), (second, "1 GPUs, and 0 of 1 are free")):
            until(lambda: any(why in one for one in session.job_meta(job_id).schedule_history), what=why)  # noqa: B023
        assert root.report_resources()["site-1"]["free"]["gpus"] == 0
        status = root.system_status()
        assert status.jobs == (first,)
        assert status.resources["site-1"]["total"]["gpus"] == 1
        session.abort(first)
        until(lambda: session.job_meta(second).status is JobStatus.RUNNING, what="its successor")
        assert session.job_meta(waits).status is JobStatus.SUBMITTED
        session.abort(second)
        assert session.wait(second, 20).status is JobStatus.ABORTED


def test_the_life_of_a_job_by_the_command_line(federation, tmp_path):
    for name in ("server", "site-1"):
        federation.start(name)
    federation.wait_for("site-1", "registered")
    federation.admin()
    folder = tiny_job(tmp_path / "job", client="raise SystemExit('no data here')\n")

    def run(*words, expected=0):
        kit = str(federation.kits["lead@org.example"])
        result = CliRunner().invoke(job_command, [*words, "--startup-kit", kit, "--output", "json"])
        assert result.exit_code == expected, result.output
        return json.loads(result.stdout.splitlines()[-1])

    job_id = run("submit", "-j", str(folder), "--token", "night")["data"]["job_id"]
    assert run("submit", "-j", str(folder), "--token", "night")["data"]["job_id"] == job_id
    failed = run("wait", job_id, "--timeout", "30", expected=1)
    assert "site-1" in failed["message"]
    assert run("meta", job_id)["data"]["job"]["status"] == JobStatus.EXECUTION_EXCEPTION
    assert [one["id"] for one in run("list", "--state", "EXECUTION_EXCEPTION", "-n", "tiny")["data"]["jobs"]] == [
        job_id
    ]
    assert "text" in run("log", job_id)["data"]
    assert run("log", job_id, "--site", "site-9", expected=4)["error_code"] == "INVALID_TARGET"
    path = run("download", job_id, "-o", str(tmp_path / "out"))["data"]["path"]
    assert path == str(tmp_path / "out" / job_id)
    assert {"job", "workspace", "meta.json"} <= {one.name for one in (tmp_path / "out" / job_id).iterdir()}
    meta = json.loads((tmp_path / "out" / job_id / "meta.json").read_text())
    assert (meta["job_id"], meta["status"]) == (job_id, JobStatus.EXECUTION_EXCEPTION)
    clone = run("clone", job_id)["data"]["job_id"]
    assert run("meta", clone)["data"]["job"]["cloned_from"] == job_id
    run("abort", clone)
    run("delete", job_id, expected=4)  # nobody confirms
    run("delete", job_id, "--yes")
    assert run("meta", job_id, expected=4)["error_code"] == "JOB_NOT_FOUND"
