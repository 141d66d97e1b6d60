"""Signed statements: good for one project and server, made by a person whose certificate holds."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from clouddeploy_runtime import keys, signing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
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
