"""A site runs what a person signed, and nothing that only the server wants, however the server came to want it."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
from datetime import UTC, datetime, timedelta

import grpc
import msgspec
import pytest
from clouddeploy_runtime import audit, jobs
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.admin.replies import translated
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.server.statements import MANIFEST
from clouddeploy_runtime.signing import NonceUnknown, SignatureRefused, UnsignedJob
from clouddeploy_runtime.wire import rpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.integration.federation import POLICY, Federation, tiny_job, until

ROOT = ("root@org.example", "project_admin")
LEAD = "lead@org.example"
TRAIN = """
from clouddeploy_runtime.job import client_api as flare
flare.init()
while flare.is_running():
    model = flare.receive()
    flare.send(flare.FLModel(params=model.params, samples=1))
"""
WAIT = "import time\ntime.sleep(60)\n"


@pytest.fixture
def federation(tmp_path):
    one = Federation(tmp_path)
    yield one
    ended(one)


def ended(federation):
    for name in list(federation.processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            federation.stop(name)


def start(federation, *names):
    for name in names:
        federation.start(name)
    for name in names:
        federation.wait_for(name, "serving" if name == "server" else "registered")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server and a site, for all tests that leave them as they are."""
    one = Federation(tmp_path_factory.mktemp("federation"))
    start(one, "server", "site-1")
    yield one
    ended(one)


def recorded(federation, name):
    path = federation.workspace(name) / "audit.jsonl"
    assert audit.first_broken_line(path) is None
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [(one["user"], one["action"], one["result"], one["detail"]) for one in entries]


def send(session, folder, envelope):
    """Submit an archive with an envelope of one's own choice; None: with none."""
    call = session._channel.stream_unary(rpc.SUBMIT)
    messages = [jobs.pack(folder)] if envelope is None else [envelope, jobs.pack(folder)]
    metadata = () if envelope is None else ((rpc.SIGNED_KEY, "1"),)
    return answered(lambda: call(iter(messages), metadata=metadata, timeout=10)).decode()


def command(session, envelope, name, **arguments):
    """Give a command with an envelope of one's own choice."""
    request = {"command": name, "signed": base64.b64encode(envelope).decode(), **arguments}
    call = session._channel.unary_unary(rpc.COMMAND)
    return answered(lambda: call(msgspec.json.encode(request), timeout=10))


def answered(call):
    try:
        return call()
    except grpc.RpcError as exc:
        raise translated(exc) from exc


def test_a_job_runs_for_the_person_who_signed_it_and_so_does_its_clone(running, tmp_path):
    folder = tiny_job(tmp_path / "job", client=TRAIN)
    with running.admin() as lead, running.admin(*ROOT) as root:
        job_id = lead.submit(folder)
        assert lead.wait(job_id, 30).status is JobStatus.COMPLETED
        clone = root.clone(job_id)
        assert root.wait(clone, 30).status is JobStatus.COMPLETED
        again = root.clone(clone)
        info = root.wait(again, 30)
    assert (info.status, info.submitter, info.cloned_from) == (JobStatus.COMPLETED, ROOT[0], clone)
    about = [entry[:3] for entry in recorded(running, "site-1") if entry[1].split()[-1] in {job_id, clone, again}]
    judged = [entry for entry in about if entry[2] != "done"]
    assert judged == [
        (who, f"{action} {one}", "allowed")
        for who, one in ((LEAD, job_id), (ROOT[0], clone), (ROOT[0], again))
        for action in ("submit_job", "byoc")
    ]
    for action, about in (("submit_job", job_id), (f"clone_job {job_id}", clone)):
        (reference,) = references(running, "site-1", f"submit_job {about}")
        assert references(running, "server", action, user=LEAD if action == "submit_job" else ROOT[0]) >= {reference}


def references(federation, name, action, user=""):
    """What the entries about an action have in common with those elsewhere."""
    path = federation.workspace(name) / "audit.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert {one["result"] for one in entries if one["reference"]} <= {"allowed", "refused", "done", "failed"}
    return {one["reference"] for one in entries if one["action"] == action and user in {"", one["user"]}}


def test_the_server_takes_no_job_but_the_one_that_was_signed_for_it_now(running, tmp_path):
    folder = tiny_job(tmp_path / "job")
    changed = tiny_job(tmp_path / "changed", client="evil\n")
    with running.admin() as lead, running.admin("bob@org.example", "lead") as bob:
        before = {info.job_id for info in lead.list_jobs()}
        with pytest.raises(UnsignedJob) as caught:
            send(lead, folder, None)
        assert caught.value.error_code == "UNSIGNED_JOB_REJECTED"
        with pytest.raises(SignatureRefused, match=r"app/custom/train\.py was changed"):
            send(lead, changed, lead._signatures.job(folder, study=""))
        with pytest.raises(SignatureRefused, match=f"it is that of {LEAD}, and bob@"):
            send(bob, folder, lead._signatures.job(folder, study=""))
        envelope = lead._signatures.job(folder, study="")
        job_id = send(lead, folder, envelope)
        with pytest.raises(NonceUnknown):
            send(lead, folder, envelope)
        assert {info.job_id for info in lead.list_jobs()} - before == {job_id}
        lead.abort(job_id)
    refused = [entry for entry in recorded(running, "server") if entry[1:3] == ("submit_job", "refused")]
    assert len(refused) == 4
    assert all(entry[3] in running.log("server") for entry in refused)


def test_a_command_is_obeyed_once_and_for_its_signer_only(running, tmp_path):
    with running.admin() as lead, running.admin(*ROOT) as root:
        job_id = lead.submit(tiny_job(tmp_path / "job", client=WAIT))
        until(lambda: lead.job_meta(job_id).status is JobStatus.RUNNING, what="the job")
        with pytest.raises(SignatureRefused, match="is not signed"):
            root.ask("abort_job", job_id=job_id)
        envelope = root._signatures.command("abort_job", {"job_id": job_id})
        with pytest.raises(SignatureRefused, match="it is that of root@"):
            command(lead, envelope, "abort_job", job_id=job_id)
        with pytest.raises(SignatureRefused, match="signed another command"):
            command(root, envelope, "delete_job", job_id=job_id)
        assert lead.job_meta(job_id).status is JobStatus.RUNNING
        command(root, envelope, "abort_job", job_id=job_id)
        assert lead.wait(job_id, 20).status is JobStatus.ABORTED
        with pytest.raises(SignatureRefused, match="was given before"):
            command(root, envelope, "abort_job", job_id=job_id)
    until(
        lambda: (ROOT[0], f"abort_job {job_id}", "allowed", "") in recorded(running, "site-1"),
        what="the site's own judgement",
    )


def test_a_site_that_does_not_obey_an_abort_stops_when_the_server_says_that_the_job_has_ended(federation, tmp_path):
    policy = {"project_admin": {"abort_job": "none"}, "lead": POLICY["permissions"]["lead"]}
    local = federation.client_kit("site-1") / "local"
    (local / "authorization.json").write_text(json.dumps({**POLICY, "permissions": policy}))
    start(federation, "server", "site-1")
    with federation.admin() as lead, federation.admin(*ROOT) as root:
        job_id = lead.submit(tiny_job(tmp_path / "job", client=WAIT))
        until(lambda: lead.job_meta(job_id).status is JobStatus.RUNNING, what="the job")
        root.abort(job_id)
        assert lead.wait(job_id, 20).status is JobStatus.ABORTED
    said = f"Job {job_id} is not stopped: {ROOT[0]} may not abort_job"
    until(lambda: said in federation.log("site-1"), what="the refusal")
    why = "role project_admin, abort_job: does not hold: none"
    assert (ROOT[0], f"abort_job {job_id}", "refused", why) in recorded(federation, "site-1")
    assert f"Job {job_id} ended" not in federation.log("site-1")
    assert federation.stop("server") == 0
    federation.start("server")
    until(lambda: f"Job {job_id} ended" in federation.log("site-1"), what="the trainer's end")


def tamper(federation, job_id, **changes):
    """Do at the server what somebody with its disk in his hands can do to a job."""
    folder = federation.workspace("server") / "jobs" / job_id
    if "file" in changes:
        (folder / "job" / changes["file"]).write_text(TRAIN + "evil = True\n")
    if "manifest" in changes:
        (folder / MANIFEST).write_bytes(changes["manifest"])
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, **changes.get("record", {})}))


def test_a_server_in_the_wrong_hands_starts_nothing_at_a_site(federation, tmp_path):
    start(federation, "server")
    folder = tiny_job(tmp_path / "job", client=TRAIN)
    reserved = tiny_job(tmp_path / "reserved", client=TRAIN)
    meta = json.loads((reserved / "meta.json").read_text())
    (reserved / "meta.json").write_text(json.dumps({**meta, "resource_spec": {"@default": {"num_of_cpus": 1}}}))
    with federation.admin() as lead:
        good, changed, added, renamed, unsigned, replayed = (lead.submit(folder) for _ in range(6))
        asked = lead.submit(reserved)
    assert federation.stop("server") == 0
    jobs_folder = federation.workspace("server") / "jobs"
    tamper(federation, changed, file="app/custom/train.py")
    tamper(federation, added, file="app/custom/more.py")
    tamper(federation, renamed, record={"submitter": ROOT[0], "submitter_role": ROOT[1]})
    for one in (unsigned, asked):
        tamper(federation, one, manifest=b"")
    tamper(federation, replayed, manifest=(jobs_folder / good / MANIFEST).read_bytes())
    start(federation, "server", "site-1")
    no = "does not pass signature verification"
    causes = {
        changed: f"site-1: The job {no}: app/custom/train.py was changed",
        added: f"site-1: The job {no}: app/custom/more.py was added to the job",
        renamed: f"site-1: The statement {no}: the server calls it a job of {ROOT[0]}, and {LEAD} signed it",
        unsigned: "site-1: The job is not signed",
        replayed: f"site-1: The statement {no}: what was signed is for the job {good}",
    }
    with federation.admin(*ROOT) as root:
        assert root.wait(good, 30).status is JobStatus.COMPLETED
        for job_id, cause in causes.items():
            info = root.wait(job_id, 30)
            assert info.status is JobStatus.FAILED_TO_RUN
            assert info.deploy_detail["site-1"].startswith(cause)
            for name in ("server", "site-1"):
                assert cause in federation.log(name)
        assert "(UNSIGNED_JOB_REJECTED)" in root.job_meta(unsigned).deploy_detail["site-1"]
        assert "(SIGNATURE_REFUSED)" in root.job_meta(replayed).deploy_detail["site-1"]
        why = "site-1: The job is not signed"
        until(lambda: why in root.job_meta(asked).schedule_history[-1], what="a site that holds nothing for it")
    assert {entry[1] for entry in recorded(federation, "site-1") if entry[2] == "refused"} == {
        f"submit_job {one}" for one in (*causes, asked)
    }


def revoked(authority, *serials):
    """A list of the project's authority."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority._name).last_update(now)
    builder = builder.next_update(now + timedelta(days=1)).add_extension(x509.CRLNumber(1), critical=False)
    for serial in serials:
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(one)
    return builder.sign(authority._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_one_site_refuses_a_person_whom_the_others_and_the_server_let_in(federation, tmp_path):
    names = ("site-1", "site-2", "site-3")
    federation.admin()
    lead_kit = kits.load(federation.kits[LEAD])
    policy = {**POLICY["permissions"], "lead": {**POLICY["permissions"]["lead"], "submit_job": "none"}}
    local = {name: federation.client_kit(name) / "local" for name in names}
    (local["site-2"] / "authorization.json").write_text(json.dumps({**POLICY, "permissions": policy}))
    serial = x509.load_pem_x509_certificate(lead_kit.cert_file.read_bytes()).serial_number
    (local["site-3"] / "crl.pem").write_bytes(revoked(federation.authority, serial))
    start(federation, "server", *names)
    with federation.admin() as lead:
        until(lambda: federation.connected(lead) == set(names), what="all sites")
        info = lead.wait(lead.submit(tiny_job(tmp_path / "job", client=TRAIN)), 30)
        assert info.deploy_detail["site-1"] == ""
        assert info.deploy_detail["site-2"] == f"site-2: this site's policy refuses jobs of {LEAD}"
        assert f"the certificate of {LEAD} was revoked" in info.deploy_detail["site-3"]


def require(federation, name, word):
    """Change a running participant's signed file, which it would not start with again."""
    kind = "server" if name == "server" else "client"
    path = federation.kits[name] / "startup" / f"fed_{kind}.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "require_signed_jobs": word}))


def test_unsigned_jobs_run_where_server_and_site_allow_that(federation, tmp_path):
    start(federation, "server", "site-1")
    folder = tiny_job(tmp_path / "job", client=TRAIN)
    with federation.admin() as lead:
        require(federation, "server", False)
        refused = lead.wait(send(lead, folder, None), 30)
        assert refused.status is JobStatus.FAILED_TO_RUN
        assert "UNSIGNED_JOB_REJECTED" in refused.deploy_detail["site-1"]
        require(federation, "site-1", False)
        allowed = send(lead, folder, None)
        assert lead.wait(allowed, 30).status is JobStatus.COMPLETED
        clone = lead.clone(allowed)
        assert lead.wait(clone, 30).status is JobStatus.COMPLETED
        require(federation, "server", "false")
        with pytest.raises(UnsignedJob):
            send(lead, folder, None)
    word = "not signed: who it is, is the server's word"
    for one in (allowed, clone):
        assert (LEAD, f"submit_job {one}", "allowed", word) in recorded(federation, "site-1")


def test_a_session_signs_on_after_the_servers_restart(federation, tmp_path):
    start(federation, "server")
    with federation.admin() as lead:
        first, second = (lead.submit(tiny_job(tmp_path / name)) for name in ("a", "b"))
        lead.abort(first)
        assert federation.stop("server") == 0
        start(federation, "server")
        until(lambda: reachable(lead), what="the connection again")
        lead.abort(second)
        assert {lead.job_meta(one).status for one in (first, second)} == {JobStatus.ABORTED}


def reachable(session):
    with contextlib.suppress(Exception):
        return session.list_jobs()
    return False


def test_people_who_show_no_certificate_in_tls_sign_as_well(tmp_path):
    one = Federation(tmp_path)
    one.authority.folder, one.authority.security = tmp_path / "tls", "tls"
    one.kits["server"] = one.authority.server()
    try:
        start(one, "server", "site-1")
        with one.admin() as lead:
            info = lead.wait(lead.submit(tiny_job(tmp_path / "job", client=TRAIN)), 30)
            assert info.status is JobStatus.COMPLETED
    finally:
        ended(one)
