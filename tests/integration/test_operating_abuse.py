"""What people may not do to each other in a running federation, and what is written down of what they did."""

from __future__ import annotations

import json
import time

import pytest
from clouddeploy_runtime import audit
from clouddeploy_runtime.errors import ClientsRunning, JobNotFound, JobsRunning
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import Federation, tiny_job, until

ROOT = ("root@org.example", "project_admin")
LEAD, OTHER = ("lead@org.example", "lead"), ("other@org.example", "lead")
HELD = """
import time
from clouddeploy_runtime.job import client_api as flare
flare.init()
while flare.is_running():
    flare.receive()
    time.sleep(60)
"""
pytestmark = pytest.mark.xdist_group("operating_abuse")


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A server whose study `heart` has both leads, and a site with data of its own in its workspace."""
    one = Federation(tmp_path_factory.mktemp("federation"))
    heart = {"site_orgs": {"org": ["site-1"]}, "admins": [LEAD[0], ROOT[0]]}
    registry = {"format_version": "1.0", "studies": {"heart": heart}}
    (one.kits["server"] / "local" / "study_registry.json").write_text(json.dumps(registry))
    (one.workspace("site-1") / "data").mkdir(parents=True)
    (one.workspace("site-1") / "data" / "patients.csv").write_text("secret")
    for name in ("server", "site-1"):
        policy = json.loads((one.client_kit(name) / "local" / "authorization.json.default").read_text())
        policy["permissions"]["lead"]["shell_commands"] = "any"
        (one.kits[name] / "local" / "authorization.json").write_text(json.dumps(policy))
        one.start(name)
    one.wait_for("site-1", "registered")
    yield one
    for name in list(one.processes):
        one.stop(name)


def entries(federation, name):
    path = federation.workspace(name) / "audit.jsonl"
    assert audit.first_broken_line(path) is None
    return [json.loads(line) for line in path.read_text().splitlines()]


def ends(federation, name, reference):
    return [
        (one["action"].split()[0], one["result"]) for one in entries(federation, name) if one["reference"] == reference
    ]


def code_of(replies):
    return {site: one.code for site, one in replies.items()}


def test_a_running_job_is_disturbed_by_force_alone_and_its_end_is_in_both_logs(federation, tmp_path):
    with federation.admin(*LEAD) as session, federation.admin(*ROOT) as root:
        job_id = session.submit(tiny_job(tmp_path / "job", client=HELD))
        until(lambda: session.job_meta(job_id).status is JobStatus.RUNNING, what="the job")
        until(lambda: root.sites.check_status()["site-1"].data["jobs"], what="its trainer")
        for command, target in (
            ("shutdown", "server"),
            ("restart", "server"),
            ("restart", "site-1"),
            ("shutdown", "@ALL"),
        ):
            with pytest.raises(JobsRunning, match=job_id):  # as an earlier version asks, too
                root.give(command, target=target)
        assert code_of(root.sites.configure_job_log(job_id, "all", "DEBUG")) == {"server1": "", "site-1": ""}
        session.abort(job_id)
        assert session.wait(job_id, 60).status is JobStatus.ABORTED
        assert not [name for name in session.list_components(job_id) if "log_level" in name]
        with pytest.raises(ClientsRunning, match="site-1"):
            root.shutdown()
    job = next(one for one in entries(federation, "server") if one["action"] == "submit_job")["reference"]
    abort = next(one for one in entries(federation, "server") if one["action"] == f"abort_job {job_id}")["reference"]
    assert ends(federation, "server", abort) == [("abort_job", "allowed"), ("abort_job", "done")]
    until(lambda: ends(federation, "site-1", job)[-1:] == [("submit_job", "done")], what="the job's end at the site")
    both = [("abort_job", "allowed"), ("abort_job", "done")]
    until(lambda: ends(federation, "site-1", abort) == both, what="the abort's end there")


def test_a_site_restarts_by_force_though_a_job_runs_there(federation, tmp_path):
    with federation.admin(*LEAD) as session, federation.admin(*ROOT) as root:
        job_id = session.submit(tiny_job(tmp_path / "job", client=HELD))
        until(lambda: root.sites.check_status()["site-1"].data["jobs"], what="its trainer")
        with pytest.raises(JobsRunning):
            root.shutdown("site-1")
        root.restart("site-1", force=True)
        federation.processes.pop("site-1").wait(20)
        ended = [(one["action"], one["result"]) for one in entries(federation, "site-1") if one["action"] == "restart"]
        assert ended == [("restart", "allowed"), ("restart", "done")]
        federation.start("site-1")
        session.abort(job_id)
        session.wait(job_id, 60)
        until(lambda: federation.connected(root) == {"site-1"}, what="its return")


def test_files_of_a_job_are_for_those_who_may_have_its_result(federation, tmp_path):
    with federation.admin(*LEAD, study="heart") as heart, federation.admin(*OTHER) as other:
        job_id = heart.submit(tiny_job(tmp_path / "job"))
        assert heart.wait(job_id, 60).status.is_final
        path = f"jobs/{job_id}/run/log.txt"
        assert code_of(heart.sites.shell("site-1", "cat", path)) == {"site-1": ""}
        for look in ("cat", "tail", "ls"):
            with pytest.raises(JobNotFound):
                other.sites.shell("site-1", look, path)
        with pytest.raises(JobNotFound):
            other.sites.shell("server", "ls", f"jobs/{job_id}/result")
        assert code_of(other.sites.shell("all", "tail", "log.txt")) == {"server1": "", "site-1": ""}
        own = other.submit(tiny_job(tmp_path / "another"))
        other.wait(own, 60)
        with federation.admin(*LEAD) as lead:
            refused = code_of(lead.sites.shell("all", "ls", f"jobs/{own}"))
        assert refused == dict.fromkeys(("server1", "site-1"), "AUTHORIZATION_REFUSED")


def test_nobody_sees_the_data_of_a_site_by_its_shell(federation):
    with federation.admin(*ROOT) as root:
        assert code_of(root.sites.shell("site-1", "cat", "data/patients.csv")) == {"site-1": "PATH_REFUSED"}
        assert "data" not in root.sites.shell("site-1", "ls")["site-1"].data["text"].split()


def test_a_session_is_left_at_once(federation):
    """The connection's end waits for nothing; of five, since the machine may be busy."""
    took = []
    for _ in range(5):
        with federation.admin(*ROOT):
            began = time.monotonic()
        took.append(time.monotonic() - began)
    assert min(took) < 0.1
