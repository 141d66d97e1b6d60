"""Signed statements: good for one project and server, made by a person whose certificate holds."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec
import pytest
from clouddeploy_runtime import keys, signing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import utils
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC)
JOB = signing.JobStatement("trial", "server1", "4711", NOW, "", {"meta.json": "00"})


class Authority:
    def __init__(self):
        self._key = keys.generate()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
        self.root = self._signed(self._name, self._key.public_key())

    def person(self, name, role="lead", *, days=1):
        key = keys.generate()
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if role:
            parts.append(x509.NameAttribute(NameOID.UNSTRUCTURED_NAME, role))
        cert = self._signed(x509.Name(parts), key.public_key(), days=days)
        return key, cert.public_bytes(serialization.Encoding.PEM), cert.serial_number

    def _signed(self, subject, public_key, *, days=1):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=2))
            .not_valid_after(NOW + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=subject == self._name, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def lead(authority):
    return authority.person("lead@a")


def check(envelope, authority, **changes):
    return signing.verify(envelope, **{"project": "trial", "server": "server1", "trusted": [authority.root], **changes})


def test_what_a_person_signed_is_read_with_who_it_was(authority, lead):
    key, cert, serial = lead
    signed = check(signing.sign(key, cert, JOB), authority)
    assert signed.statement == JOB
    assert (signed.signer.name, signed.signer.role, signed.signer.serial) == ("lead@a", "lead", serial)


def test_another_projects_or_servers_statement_is_refused(authority, lead):
    envelope = signing.sign(lead[0], lead[1], JOB)
    for changes in ({"project": "other"}, {"server": "server2"}):
        with pytest.raises(signing.SignatureRefused, match="it is for the server server1"):
            check(envelope, authority, **changes)


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("stranger", "not one of this project"),
        ("site", "only people sign"),
        ("late", "expired"),
        ("revoked", "revoked"),
    ],
)
def test_a_signer_who_may_not_is_refused_by_cause(authority, lead, who, why):
    key, cert, serial = {
        "stranger": lambda: Authority().person("lead@a"),
        "site": lambda: authority.person("site-1", ""),
        "late": lambda: authority.person("lead@b", days=-1),
        "revoked": lambda: lead,
    }[who]()
    with pytest.raises(signing.SignatureRefused, match=why):
        check(signing.sign(key, cert, JOB), authority, revoked={serial} if who == "revoked" else ())


def test_a_statement_that_was_changed_or_signed_by_another_key_is_refused(authority, lead):
    document = msgspec.msgpack.decode(signing.sign(lead[0], lead[1], JOB))
    other = msgspec.msgpack.encode(msgspec.structs.replace(JOB, files={"meta.json": "11"}))
    changed = msgspec.msgpack.encode({**document, "statement": other})
    with pytest.raises(signing.SignatureRefused, match="did not sign it as it is"):
        check(changed, authority)
    with pytest.raises(signing.SignatureRefused, match="did not sign it as it is"):
        check(signing.sign(keys.generate(), lead[1], JOB), authority)


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x81\xa1a\x01", b"x" * 1000])
def test_what_is_no_statement_is_refused(authority, raw):
    with pytest.raises(signing.SignatureRefused, match="cannot be read"):
        check(raw, authority)


def test_a_command_holds_for_minutes_only():
    command = signing.CommandStatement("trial", "server1", "1", 1, NOW, "abort_job", {"job_id": "j"})
    signing.require_recent(command, now=NOW + timedelta(minutes=9))
    for later in (timedelta(minutes=11), -timedelta(minutes=11)):
        with pytest.raises(signing.SignatureRefused, match="abort_job"):
            signing.require_recent(command, now=NOW + later)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda job: (job / "app/config.json").write_text("other"), "app/config.json was changed"),
        (lambda job: (job / "app/evil.py").write_text(""), "app/evil.py was added"),
        (lambda job: (job / "meta.json").unlink(), "meta.json is missing"),
    ],
)
def test_a_job_folder_is_held_against_what_was_signed(tmp_path, change, why):
    for app in ("app", "other"):
        (tmp_path / app).mkdir()
        (tmp_path / app / "config.json").write_text("{}")
    (tmp_path / "meta.json").write_text("{}")
    signed = signing.digests(tmp_path, [path for path in tmp_path.rglob("*") if path.is_file()])
    signing.check_files(tmp_path, signed)
    (tmp_path / "other/config.json").unlink()
    (tmp_path / "other").rmdir()
    signing.check_files(tmp_path, signed, apps=frozenset({"app"}))
    change(tmp_path)
    with pytest.raises(signing.SignatureRefused, match=why):
        signing.check_files(tmp_path, signed, apps=frozenset({"app"}))


def test_a_statement_is_remembered_by_what_was_signed_however_its_envelope_is_changed(authority, lead):
    envelope = signing.sign(lead[0], lead[1], JOB)
    document = msgspec.msgpack.decode(envelope)
    r, s = utils.decode_dss_signature(document["signature"])
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, SEC 2 §2.4.2
    twin = msgspec.msgpack.encode({**document, "signature": utils.encode_dss_signature(r, order - s)})
    padded = msgspec.msgpack.encode({"more": 1, **document, "certificate": b"#\n" + document["certificate"]})
    for other in (twin, padded, signing.sign(lead[0], lead[1], JOB)):
        assert check(other, authority).statement == JOB
        assert other != envelope
        assert signing.fingerprint(other) == signing.fingerprint(envelope)
    later = msgspec.structs.replace(JOB, nonce="4712")
    assert signing.fingerprint(signing.sign(lead[0], lead[1], later)) != signing.fingerprint(envelope)
    with pytest.raises(signing.SignatureRefused, match="cannot be read"):
        signing.fingerprint(b"x")


def test_a_time_without_a_zone_is_refused_and_breaks_nothing(authority, lead):
    naive = msgspec.structs.replace(JOB, time=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(signing.SignatureRefused, match="another version"):
        check(signing.sign(lead[0], lead[1], naive), authority)


def manifest(job, clone=b""):
    return msgspec.msgpack.encode(signing.Manifest(job, clone))


def permit(data, authority):
    return signing.permit(data, project="trial", server="server1", trusted=[authority.root])


def test_a_clone_has_the_files_of_the_original_and_the_rights_of_the_cloner(authority, lead):
    root = authority.person("root@a", "project_admin")
    job = signing.sign(lead[0], lead[1], JOB)
    arguments = {"job_id": "j1", "statement": signing.fingerprint(job)}
    command = signing.CommandStatement("trial", "server1", "1", 1, NOW, "clone_job", arguments)
    clone = signing.sign(root[0], root[1], command)
    own, cloned = permit(manifest(job), authority), permit(manifest(job, clone), authority)
    assert (own.submitter.name, own.seal, own.cloned_from) == ("lead@a", own.origin, "")
    assert (cloned.submitter.name, cloned.job, cloned.cloned_from) == ("root@a", JOB, "j1")
    assert (cloned.origin, cloned.seal) == (own.origin, signing.fingerprint(clone))
    other = signing.sign(lead[0], lead[1], msgspec.structs.replace(JOB, nonce="4712"))
    abort = signing.sign(root[0], root[1], msgspec.structs.replace(command, command="abort_job"))
    for data, why in (
        (manifest(other, clone), "root@a cloned another job"),
        (manifest(job, abort), "something else than that the job is cloned"),
        (manifest(job, job), "something else than that the job is cloned"),
        (manifest(clone), "a command, not a job"),
        (b"\x00", "cannot be read"),
    ):
        with pytest.raises(signing.SignatureRefused, match=why):
            permit(data, authority)


@pytest.mark.parametrize(
    ("content", "mode", "is_required"),
    [
        ('{"require_signed_jobs": false}', 0o600, False),
        ('{"require_signed_jobs": false}', 0o622, True),
        ('{"require_signed_jobs": true}', 0o600, True),
        ('{"require_signed_jobs": "false"}', 0o600, True),
        ('{"require_signed_jobs": 0}', 0o600, True),
        ('{"require_signed_jobs": null}', 0o600, True),
        ("{}", 0o600, True),
        ("[]", 0o600, True),
        ("{", 0o600, True),
        (None, 0o600, True),
    ],
)
def test_only_a_plain_false_that_nobody_else_can_write_lets_unsigned_jobs_in(tmp_path, content, mode, is_required):
    kit = SimpleNamespace(startup=tmp_path, kind="client")
    if content is not None:
        (tmp_path / "fed_client.json").write_text(content)
        (tmp_path / "fed_client.json").chmod(mode)
    assert signing.is_required(kit) is is_required
