"""A federation of real processes on 127.0.0.1; kits are made here, signed like real ones."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from clouddeploy_provision import project, provisioner
from clouddeploy_runtime import audit, kit
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.errors import (
    AuthenticationRefused,
    AuthorizationRefused,
    ConnectionFailed,
    InvalidJob,
    JobNotFound,
    Timeout,
)
from clouddeploy_runtime.jobs import JobStatus

from tests.integration.federation import Authority, Federation, tiny_job, until


@pytest.fixture
def federation(tmp_path):
    one = Federation(tmp_path)
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


@pytest.fixture
def running(federation):
    federation.start("server")
    federation.start("site-1")
    federation.start("site-2")
    for name, state in (("server", "serving"), ("site-1", "registered"), ("site-2", "registered")):
        federation.wait_for(name, state)
    return federation


@pytest.mark.fault("client started before its server", "says so, joins later")
def test_a_client_started_before_its_server_says_so_and_joins_later(federation):
    federation.start("site-1")
    line = "Could not connect to server. Setting flag for stopping training. failed to connect to all addresses"
    until(lambda: line in federation.log("site-1"), what="the line of the overview page")
    assert federation.status("site-1") == "connecting"
    federation.start("server")
    federation.wait_for("site-1", "registered")
    assert "Successfully registered client:site-1 for example. Got token:" in federation.log("site-1")
    server = federation.log("server")
    assert "Client: New client site-1@127.0.0.1 joined. Sent token: " in server
    assert "Total clients: 1" in server
    assert federation.stop("site-1") == 0
    assert federation.status("site-1") == "stopped"


@pytest.mark.fault("server restarted while idle", "clients come back")
def test_clients_rejoin_by_themselves_after_a_server_restart(running):
    assert running.stop("server") == 0
    assert running.status("server") == "stopped"
    running.wait_for("site-1", "connecting")
    running.start("server")
    running.wait_for("server", "serving")
    with running.admin() as session:
        until(lambda: running.connected(session) == {"site-1", "site-2"}, what="both clients")


def test_a_shutdown_file_in_the_workspace_stops_a_site(federation):
    process = federation.start("server")
    federation.wait_for("server", "serving")
    (federation.workspace("server") / "shutdown.fl").touch()
    assert process.wait(10) == 0
    assert not (federation.workspace("server") / "shutdown.fl").exists()


def test_a_kit_with_one_changed_byte_does_not_start(federation):
    path = federation.kits["server"] / "startup" / "fed_server.json"
    path.write_bytes(path.read_bytes().replace(b"example", b"exbmple", 1))
    process = federation.start("server")
    assert process.wait(20) == 4
    out = (federation.folder / "server.out").read_text()
    assert "startup/fed_server.json" in out
    assert "Traceback" not in out


@pytest.mark.fault("foreign client", "refused")
def test_a_client_of_another_authority_is_refused(federation):
    federation.start("server")
    federation.wait_for("server", "serving")
    stranger = Authority(federation.folder / "strangers", port=federation.port)
    federation.kits["site-1"] = stranger.client("site-1")
    federation.start("site-1")
    until(lambda: "Could not connect to server" in federation.log("site-1"), what="the refusal")
    with federation.admin() as session:
        assert federation.connected(session) == set()


@pytest.mark.fault("foreign admin", "refused")
def test_an_admin_of_another_authority_is_refused(federation):
    federation.start("server")
    federation.wait_for("server", "serving")
    stranger = Authority(federation.folder / "strangers", port=federation.port)
    path = stranger.admin("lead@org.example", "lead")
    with pytest.raises(ConnectionFailed), AdminSession(kit.load(path), timeout_s=1):
        pass


def test_what_an_admin_may_not_do_is_refused_and_audited(federation, tmp_path):
    federation.start("server")
    federation.wait_for("server", "serving")
    with federation.admin("member@org.example", "member") as session:
        assert session.list_jobs() == []
        with pytest.raises(AuthorizationRefused, match="may not submit_job"):
            session.submit(tiny_job(tmp_path / "job"))
        with pytest.raises(AuthorizationRefused, match="may not shutdown"):
            session.shutdown()
        with pytest.raises(JobNotFound):
            session.job_meta("none")
    path = federation.workspace("server") / "audit.jsonl"
    results = [json.loads(line)["result"] for line in path.read_text().splitlines()]
    # Login, list_jobs, then what was refused, logout.
    assert results == ["allowed", "allowed", "refused", "refused", "refused", "allowed"]
    assert audit.first_broken_line(path) is None


@pytest.mark.fault("server's policy broken", "everything is refused")
def test_a_broken_policy_refuses_everything(federation):
    federation.start("server")
    federation.wait_for("server", "serving")
    (federation.kits["server"] / "local" / "authorization.json").write_text("{")
    with federation.admin("root@org.example", "project_admin") as session, pytest.raises(AuthorizationRefused):
        session.list_jobs()


def test_a_site_certificate_is_no_admin(federation):
    federation.start("server")
    federation.wait_for("server", "serving")
    site = kit.load(federation.client_kit("site-1"))
    with pytest.raises(AuthenticationRefused, match="site-1 is no person"), AdminSession(site):
        pass


def test_a_job_waits_for_its_clients_and_can_be_aborted_meanwhile(federation, tmp_path):
    federation.start("server")
    federation.wait_for("server", "serving")
    with federation.admin() as session:
        job_id = session.submit(tiny_job(tmp_path / "job"))
        assert session.job_meta(job_id).status is JobStatus.SUBMITTED
        with pytest.raises(Timeout):
            session.wait(job_id, 0.2)
        session.abort(job_id)
        info = session.wait(job_id, 5)
        assert (info.status, info.reason) == (JobStatus.ABORTED, "aborted by lead@org.example")
        with pytest.raises(InvalidJob):
            session.submit(tmp_path)


EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_job_runs_over_provisioned_kits(federation, tmp_path):
    """The hybrid example's own project file, kits and job, on one machine."""
    report = provisioner.provision(
        project.load(EXAMPLES / "hybrid" / "project.yml"),
        tmp_path / "provision",
        passphrase=b"only for this test",
        endpoint=provisioner.Endpoint(host="127.0.0.1", port=federation.port),
    )
    federation.kits = {**report.kits, "server": report.kits["server1"]}
    for name in ("site-1", "site-2"):
        shutil.copytree(EXAMPLES / "hybrid" / "data" / name, federation.workspace(name) / "data")
    for name in ("server", "site-1", "site-2"):
        federation.start(name)
    for name, state in (("server", "serving"), ("site-1", "registered"), ("site-2", "registered")):
        federation.wait_for(name, state)
    with federation.admin("admin@example.com") as session:
        job_id = session.submit(EXAMPLES / "jobs" / "breast-cancer")
        info = session.wait(job_id, 60)
        assert (info.status, info.reason) == (JobStatus.COMPLETED, "")
        assert info.rounds == info.total_rounds == 5
        assert info.sites == ("site-1", "site-2")
        result = session.download(job_id, tmp_path / "download")
        assert any((result / "workspace").glob("*.safetensors"))
        assert session.system_status().clients[0].jobs == ()
    assert "Traceback" not in federation.log("server") + federation.log("site-1")
