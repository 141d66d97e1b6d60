"""People ask the server and sites about themselves; each answers by its own policy, whatever the server says."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess

import pytest
from clouddeploy_runtime import audit
from clouddeploy_runtime._version import __version__
from clouddeploy_runtime.admin.sites import DEFAULT_REPLY_S
from clouddeploy_runtime.errors import InvalidTarget, JobNotFound, NoClients
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import SERVER, Federation, tiny_job, until

ROOT = ("root@org.example", "project_admin")
PATIENT = """
import logging
import time
from clouddeploy_runtime.job import client_api as flare
log = logging.getLogger("train")
flare.init()
while flare.is_running():
    model = flare.receive()
    log.warning("careful")
    while not log.isEnabledFor(logging.DEBUG):
        time.sleep(0.02)
    log.debug("told at last")
    flare.send(flare.FLModel(params=model.params, samples=1))
"""
MEMBER = ("mia@org.example", "member")
pytestmark = pytest.mark.xdist_group("site_inquiries")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server and two sites."""
    one = Federation(tmp_path_factory.mktemp("federation"))
    for name in ("server", "site-1", "site-2"):
        one.start(name)
    for name in ("server", "site-1", "site-2"):
        one.wait_for(name, "serving" if name == "server" else "registered")
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


@pytest.fixture(scope="module")
def root(running):
    with running.admin(*ROOT) as session:
        yield session


def recorded(federation, name):
    path = federation.workspace(name) / "audit.jsonl"
    assert audit.first_broken_line(path) is None
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [(one["user"], one["action"], one["result"]) for one in entries]


def test_every_site_says_what_its_machine_is(root, running):
    replies = root.sites.sys_info("all")
    assert sorted(replies) == [SERVER, "site-1", "site-2"]
    for reply in replies.values():
        assert reply.is_ok
        assert reply.data["memory_total_bytes"] > reply.data["memory_free_bytes"] > 0
    assert {reply.data["pid"] for reply in replies.values()} == {one.pid for one in running.processes.values()}


def test_versions_packages_and_scopes_come_from_each_site(root, running):
    (running.kits["site-1"] / "local" / "privacy.json").write_text(
        json.dumps({"scopes": [{"name": "public"}], "default_scope": "public"})
    )
    try:
        scopes = root.sites.show_scopes("client")
    finally:
        (running.kits["site-1"] / "local" / "privacy.json").unlink()
    assert scopes["site-1"].data["default"] == "public"
    assert scopes["site-2"].data["scopes"] == []
    environments = root.sites.report_env(["site-2", "server"])
    assert sorted(environments) == [SERVER, "site-2"]
    assert "grpcio" in environments["site-2"].data["versions"]
    version = root.sites.report_version("all")
    assert {one.data["version"] for one in version.values()} == {__version__}


def test_the_files_of_a_workspace_are_shown_and_the_kit_and_the_audit_log_are_not(root):
    names = root.sites.shell("site-1", "ls")["site-1"].data["text"].split()
    assert "log.txt" in names
    assert not {"audit.jsonl", "used_statements.json"} & set(names)
    assert "registered" in root.sites.shell("site-1", "grep", "-i", "registered", "log.txt")["site-1"].data["text"]
    assert root.sites.shell("server", "tail", "-n", "1", "log.txt")[SERVER].is_ok
    refused = root.sites.shell("client", "cat", "../kits/site-1/startup/client.key")
    assert {one.code for one in refused.values()} == {"PATH_REFUSED"}


def test_a_running_job_tells_what_it_does_and_logs_as_wished(root, tmp_path):
    job_id = root.submit(tiny_job(tmp_path / "job", client=PATIENT, min_clients=2))
    until(lambda: len(at_work(root, job_id)) == 2, what="the job at both sites")
    assert root.sites.check_status(["server"])[SERVER].data["jobs"][0]["job_id"] == job_id
    assert all(one.is_ok for one in root.sites.configure_job_log(job_id, "client", "DEBUG").values())
    assert root.wait(job_id, 30).status is JobStatus.COMPLETED
    logs = root.sites.job_log(job_id, "all")
    assert "told at last" in logs["site-1"].data["text"]
    assert "told at last" in logs["site-2"].data["text"]
    assert logs[SERVER].data["text"]
    assert root.sites.job_log(job_id, "site-1", pattern="careful", tail=1)["site-1"].data["text"].endswith("careful\n")
    until(lambda: "train" in root.sites.show_stats(job_id, "site-1")["site-1"].data["tasks"], what="it counts")
    stats = root.sites.show_stats(job_id, "all")
    assert stats["site-1"].data["tasks"]["train"]["answered"] == 1
    assert stats["site-1"].data["tasks"]["train"]["bytes_out"] > 0
    assert (stats[SERVER].data["rounds"], stats[SERVER].data["answered"]) == (1, 2)
    errors = root.sites.show_errors(job_id, ["site-2"])["site-2"].data["lines"]
    assert [line.split(" - ")[-1] for line in errors] == ["careful"]
    assert root.sites.reset_errors(job_id, "client")["site-2"].is_ok
    assert root.sites.show_errors(job_id, "site-2")["site-2"].data["lines"] == []
    until(
        lambda: root.sites.configure_job_log(job_id, "site-1", "INFO")["site-1"].code == "JOB_NOT_RUNNING",
        what="the job has ended there, too",
    )


def at_work(session, job_id):
    replies = session.sites.check_status().values()
    return [
        one for reply in replies for one in reply.data["jobs"] if (one["job_id"], one["status"]) == (job_id, "running")
    ]


def test_a_site_logs_as_wished_until_its_file_is_read_again(root, running):
    assert root.sites.configure_site_log("site-1", "msg_only")["site-1"].is_ok
    assert "\nLogging goes on as was asked for: 'msg_only'\n" in running.log("site-1")
    assert root.sites.configure_site_log("site-1", "reload")["site-1"].data == {"problem": ""}
    assert running.log("site-1").endswith(" - INFO - Logging goes on as was asked for: 'reload'\n")
    assert root.sites.configure_site_log("site-1", {"version": 1, "handlers": {}})["site-1"].code == "INVALID_COMMAND"


def test_each_site_answers_by_its_own_policy_and_writes_down_who_asked(root, running):
    with running.admin(*MEMBER) as member:
        assert {one.code for one in member.sites.sys_info("all").values()} == {"AUTHORIZATION_REFUSED"}
        assert all(one.is_ok for one in member.sites.check_status().values())
    assert (MEMBER[0], "sys_info", "refused") in recorded(running, "site-1")
    assert (MEMBER[0], f"sys_info {SERVER}", "refused") in recorded(running, "server")
    own = running.kits["site-2"] / "local" / "authorization.json"
    own.write_text(json.dumps({"format_version": "1.0", "permissions": {"project_admin": {"view": "any"}}}))
    try:
        replies = root.sites.sys_info("client")
    finally:
        own.unlink()
    assert (replies["site-1"].code, replies["site-2"].code) == ("", "AUTHORIZATION_REFUSED")


def test_who_asks_learns_what_each_policy_lets_them_do(running):
    with running.admin() as lead:
        own = lead.sites.can_i("all", "abort_job", submitter="lead@org.example")
        assert [one.data["allowed"] for one in own.values()] == [True, True, True]
        other = lead.sites.can_i("site-1", "abort_job", submitter="somebody@org.example")["site-1"].data
        assert (other["allowed"], "n:submitter" in other["rule"]) == (False, True)
        assert not lead.sites.can_i("server", "sys_info")[SERVER].data["allowed"]


def test_a_site_that_does_not_answer_is_reported_and_keeps_nobody_waiting(root, running):
    process = running.processes["site-2"]
    process.send_signal(signal.SIGSTOP)
    try:
        root.sites.reply_s = 0.5
        replies = root.sites.report_version("client")
    finally:
        process.send_signal(signal.SIGCONT)
        root.sites.reply_s = DEFAULT_REPLY_S
    assert (replies["site-1"].code, replies["site-2"].code) == ("", "NO_REPLY")


def test_a_target_that_is_not_connected_is_nobody(root):
    with pytest.raises(InvalidTarget, match="site-9"):
        root.sites.sys_info(["site-1", "site-9"])
    with pytest.raises(JobNotFound):
        root.sites.show_stats("no-such-job", "all")


def test_without_clients_there_is_nobody_to_ask(root, running):
    for name in ("site-1", "site-2"):
        running.stop(name)
    until(lambda: not running.connected(root), what="no client is connected")
    with pytest.raises(NoClients):
        root.sites.sys_info("client")
    assert list(root.sites.sys_info("all")) == [SERVER]
