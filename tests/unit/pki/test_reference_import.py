"""The reference's `state/cert.json`: its root goes on, its kits stay valid, and what is not such a file is refused."""

from __future__ import annotations

import json
import stat
from datetime import timedelta

import pytest
from clouddeploy_provision import certificate_authority, certificates
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.errors import CaError, PassphraseError
from clouddeploy_provision.provisioner import provision
from clouddeploy_provision.reference_state import import_reference
from clouddeploy_runtime import keys, kit
from clouddeploy_runtime.errors import ClouddeployError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

PASSPHRASE = b"of ours"
DAYS = 360


def pkcs1(key):
    """A key as the reference writes it."""
    return key.private_bytes(
        Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()


class Reference:
    """A project of the reference: certificates with the fields that it gives them, and its state."""

    def __init__(self, now):
        self.now = now
        self.key = keys.generate(keys.KeyAlgorithm.RSA_2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "study")])
        self.root = self._sign(
            name,
            self.key.public_key(),
            name,
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
                (x509.SubjectAlternativeName([x509.DNSName("study")]), False),
            ],
        )
        self.keys, self.certs = {}, {}
        for one, role in (("server1", ""), ("site-1", ""), ("site-2", ""), ("admin@example.com", "project_admin")):
            org = {"site-1": "org_a", "site-2": "org_b"}.get(one, "hub")
            subject = [x509.NameAttribute(NameOID.COMMON_NAME, one), x509.NameAttribute(NameOID.ORGANIZATION_NAME, org)]
            if role:
                subject.append(x509.NameAttribute(certificates.UNSTRUCTURED_NAME, role))
            key = keys.generate(keys.KeyAlgorithm.RSA_2048)
            self.keys[one] = key
            extensions = [(x509.SubjectAlternativeName([x509.DNSName(one)]), False)]
            self.certs[one] = self._sign(x509.Name(subject), key.public_key(), name, extensions)

    def _sign(self, subject, public_key, issuer, extensions):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=100))
            .not_valid_after(self.now + timedelta(days=DAYS - 100))
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, critical=is_critical)
        return builder.sign(self.key, hashes.SHA256())

    def document(self):
        pairs = {
            name: {"cert": cert.public_bytes(Encoding.PEM).decode(), "pri_key": pkcs1(self.keys[name])}
            for name, cert in self.certs.items()
        }
        return {"root_cert": self.root.public_bytes(Encoding.PEM).decode(), "root_pri_key": pkcs1(self.key), **pairs}

    def files(self, folder, name):
        """Root, certificate and key as a kit of the reference has them."""
        folder.mkdir(exist_ok=True)
        (folder / "rootCA.pem").write_bytes(self.root.public_bytes(Encoding.PEM))
        (folder / f"{name}.crt").write_bytes(self.certs[name].public_bytes(Encoding.PEM))
        (folder / f"{name}.key").write_text(pkcs1(self.keys[name]))
        return folder / "rootCA.pem", folder / f"{name}.crt", folder / f"{name}.key"


@pytest.fixture(scope="module")
def reference(now):
    return Reference(now)


@pytest.fixture
def state(reference, tmp_path):
    """The reference's state folder as it leaves it: open to everybody."""
    folder = tmp_path / "workspace" / "study" / "state"
    folder.mkdir(parents=True)
    (folder / "cert.json").write_text(json.dumps(reference.document()))
    (folder / "cert.json").chmod(0o644)
    return folder


def test_kits_are_made_under_the_imported_root_and_those_of_the_reference_stay_valid(
    project, reference, state, tmp_path, handshake
):
    assert import_reference(state / "cert.json", state, passphrase=PASSPHRASE) == 4
    report = provision(project, tmp_path / "workspace", passphrase=PASSPHRASE)
    for root in report.kits.values():
        kit.verify(root)
    assert x509.load_pem_x509_certificate((report.kits["site-1"] / "startup/rootCA.pem").read_bytes()) == reference.root

    def ours(name):
        read = kit.load(report.kits[name])
        return read.root_cert_file, read.cert_file, read.key_file

    old = tmp_path / "old"
    assert handshake(ours("server1"), reference.files(old, "site-1"), "server1") == "site-1"
    assert handshake(reference.files(old, "server1"), ours("site-1"), "server1") == "site-1"
    assert handshake(ours("server1"), ours("admin@example.com"), "server1") == "admin@example.com"


def test_openssl_accepts_what_is_issued_under_the_imported_root(project, state, tmp_path, openssl):
    import_reference(state / "cert.json", state, passphrase=PASSPHRASE)
    kits = provision(project, tmp_path / "workspace", passphrase=PASSPHRASE).kits
    startup = kits["server1"] / "startup"
    for purpose in ("sslserver", "sslclient"):
        status, said = openssl("verify", "-purpose", purpose, "-CAfile", startup / "rootCA.pem", startup / "server.crt")
        assert status == 0, said


def test_the_import_is_private_and_encrypted_and_the_old_file_is_out_of_the_way(state):
    import_reference(state / "cert.json", state, passphrase=PASSPHRASE)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
    assert not (state / "cert.json").exists()
    assert b"ENCRYPTED" in (state / "rootCA.key").read_bytes()
    assert CaStore(state).open(PASSPHRASE)


def test_what_the_reference_issued_can_be_listed_and_revoked(reference, state, now):
    import_reference(state / "cert.json", state, passphrase=PASSPHRASE)
    found = {one.name: one for one in certificate_authority.listing(state, now=now)}
    assert found["site-1"].state == "valid"
    assert (found["admin@example.com"].role, found["site-1"].org) == ("project_admin", "org_a")
    certificate_authority.revoke(state, ["site-1"], passphrase=PASSPHRASE)
    assert reference.certs["site-1"].serial_number in CaStore(state).records.revoked()


def test_the_old_certificate_counts_as_replaced_once_there_is_a_new_one(project, state, tmp_path, now):
    import_reference(state / "cert.json", state, passphrase=PASSPHRASE)
    provision(project, tmp_path / "workspace", passphrase=PASSPHRASE)
    states = [one.state for one in certificate_authority.listing(state, now=now) if one.name == "site-1"]
    assert sorted(states) == ["replaced", "valid"]


def test_no_authority_is_made_beside_an_unimported_state(project, state, tmp_path):
    with pytest.raises(CaError, match="cannot be used yet") as caught:
        provision(project, tmp_path / "workspace", passphrase=PASSPHRASE)
    assert "cert import" in caught.value.hint
    assert [path.name for path in state.iterdir()] == ["cert.json"]


def test_it_can_be_imported_into_another_folder_once(state, tmp_path):
    assert import_reference(state / "cert.json", tmp_path / "ca", passphrase=PASSPHRASE) == 4
    assert (state / "cert.json").exists()
    with pytest.raises(CaError, match="has an authority already"):
        import_reference(state / "cert.json", tmp_path / "ca", passphrase=PASSPHRASE)


def test_an_existing_authority_is_not_touched(state):
    import_reference(state / "cert.json", state, passphrase=PASSPHRASE)
    (state / "cert.json.imported").rename(state / "cert.json")
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    with pytest.raises(CaError, match="has an authority already"):
        import_reference(state / "cert.json", state, passphrase=PASSPHRASE)
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def without(document, key):
    return {name: value for name, value in document.items() if name != key}


def ed25519_key(_document):
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def damaged_certificate(document):
    lines = document["site-1"]["cert"].splitlines()
    return {**document["site-1"], "cert": "\n".join([lines[0], "MIIB" + lines[1][4:], *lines[2:]])}


BAD = {
    "no root": lambda d: without(d, "root_cert"),
    "no key": lambda d: without(d, "root_pri_key"),
    "another key": lambda d: {**d, "root_pri_key": d["site-1"]["pri_key"]},
    "a site as the root": lambda d: {**d, "root_pri_key": d["site-1"]["pri_key"], "root_cert": d["site-1"]["cert"]},
    "a key that is none": lambda d: {**d, "root_pri_key": "x"},
    "a key of another kind": lambda d: {**d, "root_pri_key": ed25519_key(d)},
    "a root that is none": lambda d: {**d, "root_cert": "x"},
    "a pair as the root": lambda d: {**d, "root_cert": d["site-1"]},
    "a damaged certificate": lambda d: {**d, "site-1": damaged_certificate(d)},
    "a pair without key": lambda d: {**d, "site-1": {"cert": d["site-1"]["cert"]}},
    "a list": lambda _d: [],
    "a number": lambda d: {**d, "site-1": 1},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_is_not_the_references_state_is_refused(reference, state, change):
    (state / "cert.json").write_text(json.dumps(change(reference.document())))
    with pytest.raises(ClouddeployError) as caught:
        import_reference(state / "cert.json", state, passphrase=PASSPHRASE)
    assert caught.value.exit_code == 4
    assert "BEGIN" not in str(caught.value)
    assert [path.name for path in state.iterdir()] == ["cert.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(state, content):
    (state / "cert.json").write_bytes(content)
    with pytest.raises(CaError, match="cannot be imported"):
        import_reference(state / "cert.json", state, passphrase=PASSPHRASE)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CaError, match="cannot be imported"):
        import_reference(tmp_path / "cert.json", tmp_path, passphrase=PASSPHRASE)


def test_an_expired_root_is_refused(state, now):
    with pytest.raises(CaError, match="expired"):
        import_reference(state / "cert.json", state, passphrase=PASSPHRASE, now=now + timedelta(days=DAYS))


def test_an_empty_passphrase_is_refused_before_anything_is_changed(state):
    with pytest.raises(PassphraseError):
        import_reference(state / "cert.json", state, passphrase=b"")
    assert stat.S_IMODE((state / "cert.json").stat().st_mode) == 0o644


def test_a_root_of_ours_is_the_same_to_the_import(tmp_path, now):
    authority = Authority.create("study", now=now)
    document = {"root_cert": authority.pem.decode(), "root_pri_key": pkcs1(authority.key)}
    (tmp_path / "cert.json").write_text(json.dumps(document))
    assert import_reference(tmp_path / "cert.json", tmp_path / "ca", passphrase=PASSPHRASE) == 0
    assert CaStore(tmp_path / "ca").open(PASSPHRASE).certificate == authority.certificate
