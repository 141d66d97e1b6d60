"""Studies at a running server: who is let in, what its jobs are seen by, where they run, and what a restart keeps."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess

import pytest
from clouddeploy_runtime import audit
from clouddeploy_runtime.errors import (
    AuthenticationRefused,
    AuthorizationRefused,
    JobNotFound,
    SessionExpired,
)
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.studies import (
    SiteNotInOrg,
    SiteNotInStudy,
    Study,
    StudyHasJobs,
    StudyMismatch,
    StudyNotFound,
    StudyRegistryUnusable,
    UnknownSite,
)

from tests.integration.federation import POLICY, Federation, tiny_job, until

pytestmark = pytest.mark.xdist_group("studies")
ROOT, ADA, LEA, MEG = (
    ("root@hub.example", "project_admin"),
    ("ada@a.example", "org_admin"),
    ("lea@b.example", "lead"),
    ("meg@a.example", "member"),
)
ORGS = {"site-1": "org_a", "site-2": "org_b", ADA[0]: "org_a", LEA[0]: "org_b", MEG[0]: "org_a"}
CLIENT = """
import nvflare.client as flare

flare.init()
flare.send(flare.FLModel(params=flare.receive().params, metrics={"loss": 1.0}, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""
KIT = {
    "heart": {
        "site_orgs": {"org_a": ["site-1"]},
        "admins": [LEA[0], MEG[0]],
        "roles": {MEG[0]: "lead"},
    },
    "lung": {"site_orgs": {"org_a": ["site-1"], "org_b": ["site-2"]}, "admins": [ROOT[0], LEA[0]]},
}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A server whose kit has two studies, and two sites of two organisations."""
    one = Federation(tmp_path_factory.mktemp("federation"), orgs=ORGS)
    local = one.kits["server"] / "local"
    (local / "study_registry.json").write_text(json.dumps({"format_version": "1.0", "studies": KIT}))
    permissions = {**POLICY["permissions"], "org_admin": {"view": "any", "manage_study": "any"}}
    (local / "authorization.json").write_text(json.dumps({**POLICY, "permissions": permissions}))
    names = ("server", "site-1", "site-2")
    for name in names:
        one.start(name)
    for name in names:
        one.wait_for(name, "serving" if name == "server" else "registered")
    yield one
    for name in list(one.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.stop(name)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return tiny_job(tmp_path_factory.mktemp("job") / "job", client=CLIENT)


@pytest.fixture(scope="module")
def done(federation, job):
    """A finished job of the study heart."""
    with federation.admin(*LEA, study="heart") as lea:
        return lea.wait(lea.submit(job), 60)


def refused(federation, person, study):
    with pytest.raises(AuthenticationRefused) as caught, federation.admin(*person, study=study):
        pass
    return caught.value.error_code


def restarted(federation):
    federation.stop("server")
    federation.start("server")
    federation.wait_for("server", "serving")


def ids(session):
    return [info.job_id for info in session.list_jobs()]


def test_members_alone_are_let_in_and_others_are_told_why(federation):
    assert refused(federation, ROOT, "heart") == "AUTH_STUDY_USER_NOT_MAPPED"
    assert refused(federation, LEA, "hand") == "AUTH_UNKNOWN_STUDY"
    assert refused(federation, LEA, "No Study") == "AUTH_INVALID_STUDY_NAME"
    with federation.admin(*LEA, study="heart") as lea:
        assert lea.list_jobs() is not None


def test_a_job_of_a_study_runs_at_its_sites_only(done):
    assert (done.status, done.study, done.sites) == (JobStatus.COMPLETED, "heart", ("site-1",))


def test_nothing_about_a_job_is_seen_from_another_study(federation, done, tmp_path):
    with federation.admin(*LEA, study="heart") as inside:
        assert done.job_id in ids(inside)
        assert (inside.download(done.job_id, tmp_path) / "meta.json").exists()
    with federation.admin(*LEA, study="lung") as other, federation.admin(*ROOT) as root:
        for session in (other, root):
            assert done.job_id not in ids(session)
            for attempt in (
                lambda: session.job_meta(done.job_id),  # noqa: B023 - called at once
                lambda: session.job_log(done.job_id),  # noqa: B023
                lambda: session.job_rounds(done.job_id),  # noqa: B023
                lambda: session.list_components(done.job_id),  # noqa: B023
                lambda: session.abort(done.job_id),  # noqa: B023
                lambda: session.delete(done.job_id),  # noqa: B023
                lambda: session.clone(done.job_id),  # noqa: B023
                lambda: session.download(done.job_id, tmp_path / "no"),  # noqa: B023
                lambda: session.sites.job_log(done.job_id, "server"),  # noqa: B023
            ):
                with pytest.raises(JobNotFound, match=f"There is no job '{done.job_id}'"):
                    attempt()


def test_who_runs_what_is_told_within_the_study_only(federation, tmp_path):
    waiting = "import threading\nimport nvflare.client as flare\nflare.init()\nthreading.Event().wait()\n"

    def listed(session):
        replies = session.sites.check_status("all")
        at_sites = {job["job_id"] for reply in replies.values() for job in reply.data["jobs"]}
        status = session.system_status()
        return at_sites, {*status.jobs, *(job for client in status.clients for job in client.jobs)}, status.other_jobs

    with federation.admin(*ROOT, study="lung") as inside, federation.admin(*ROOT) as outside:
        job_id = inside.submit(tiny_job(tmp_path / "job", client=waiting, min_clients=2))
        until(lambda: listed(inside) == ({job_id}, {job_id}, 0), what="the job is seen")
        assert listed(outside) == (set(), set(), 1)
        assert {client.other_jobs for client in outside.system_status().clients} == {1}
        inside.abort(job_id)
        assert inside.wait(job_id, 60).status is JobStatus.ABORTED


def test_a_role_of_the_study_counts_for_its_jobs_and_for_nothing_else(federation, job):
    with federation.admin(*MEG) as meg, pytest.raises(AuthorizationRefused):
        meg.submit(job)
    with federation.admin(*MEG, study="heart") as meg:
        own = meg.wait(meg.submit(job), 60)
        assert own.submitter_role == "member", "the sites go by the certificate, whatever the server says"
        assert own.status is JobStatus.FAILED_TO_RUN
        for attempt in (meg.shutdown, lambda: meg.studies.add_site("heart", ["site-2"])):
            with pytest.raises(AuthorizationRefused):
                attempt()


def test_a_job_that_its_study_cannot_have_is_refused_when_it_comes(federation, tmp_path):
    def changed(name, **meta):
        folder = tiny_job(tmp_path / name)
        document = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(document | meta))
        return folder

    with federation.admin(*LEA, study="heart") as lea:
        with pytest.raises(SiteNotInStudy, match="site-2"):
            lea.submit(changed("stranger", deploy_map={"app": ["server", "site-1", "site-2"]}))
        with pytest.raises(StudyMismatch, match="lung"):
            lea.submit(changed("other", study="lung"))


def test_a_clone_stays_in_its_study(federation, done):
    with federation.admin(*LEA, study="heart") as lea:
        clone = lea.wait(lea.clone(done.job_id), 60)
        assert (clone.status, clone.study, clone.sites) == (JobStatus.COMPLETED, "heart", ("site-1",))


def test_a_change_of_a_study_counts_at_once(federation, job):
    with federation.admin(*ROOT) as root:
        assert root.studies.register("brain", site_orgs={"org_b": ["site-2"]}, users=[LEA[0]]).users == {LEA[0]: ""}
        with federation.admin(*LEA, study="brain") as lea:
            root.studies.add_site("brain", ["site-1"])
            both = lea.wait(lea.submit(job), 60)
            assert both.sites == ("site-1", "site-2")
            with pytest.raises(StudyHasJobs):
                root.studies.remove("brain")
            lea.delete(both.job_id)
            root.studies.remove_user("brain", LEA[0])
            with pytest.raises(SessionExpired, match="the study was changed"):
                lea.list_jobs()
        assert refused(federation, LEA, "brain") == "AUTH_STUDY_USER_NOT_MAPPED"
        root.studies.remove("brain")
        with pytest.raises(StudyNotFound):
            root.studies.show("brain")


def test_an_organisations_admin_names_its_own_sites_and_no_others(federation):
    with federation.admin(*ADA) as ada:
        made = ada.studies.register("kidney", sites=["site-1"])
        assert made == Study("kidney", {"org_a": ("site-1",)}, {ADA[0]: ""}, {ADA[0]: "org_a"})
        with pytest.raises(SiteNotInOrg):
            ada.studies.add_site("kidney", ["site-2"])
        with pytest.raises(UnknownSite):
            ada.studies.add_site("kidney", ["site-9"])
        with pytest.raises(AuthorizationRefused):
            ada.studies.remove("kidney")
        assert {"heart", "kidney", "lung"} <= {study.name for study in ada.studies.list()}
    with federation.admin(*LEA) as lea:
        seen = {study.name for study in lea.studies.list()}
        assert {"heart", "lung"} <= seen
        assert "kidney" not in seen
        with pytest.raises(AuthorizationRefused):
            lea.studies.register("mine")


def test_what_is_changed_is_for_the_servers_eyes_and_in_its_audit_log(federation):
    with federation.admin(*ROOT) as root:
        root.studies.register("spine", sites=["site-2"], users={LEA[0]: "member"})
    file = federation.workspace("server") / "studies.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with federation.admin(*LEA, study="spine") as lea, pytest.raises(AuthorizationRefused):
        lea.submit(tiny_job(federation.folder / "as-member"))
    log = federation.workspace("server") / "audit.jsonl"
    assert audit.first_broken_line(log) is None
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert ("root@hub.example", "register_study spine", "allowed") in {
        (one["user"], one["action"], one["result"]) for one in entries
    }


def test_changes_outlive_the_server_and_with_a_broken_file_there_is_the_default_study_alone(federation):
    with federation.admin(*ROOT) as root:
        root.studies.register("liver", sites=["site-1"])
        before = root.studies.list()
    file = federation.workspace("server") / "studies.json"
    sound = file.read_bytes()
    file.write_bytes(b"{")
    try:
        restarted(federation)
        assert refused(federation, LEA, "heart") == "AUTH_STUDY_NOT_CONFIGURED"
        status = json.loads((federation.workspace("server") / "status.json").read_bytes())
        assert "changed studies cannot be used" in status["detail"]
        with federation.admin(*ROOT) as root:
            assert root.list_jobs() == []
            with pytest.raises(StudyRegistryUnusable, match="changed studies cannot be used"):
                root.studies.list()
    finally:
        file.write_bytes(sound)
        restarted(federation)
    with federation.admin(*ROOT) as root:
        assert root.studies.list() == before
