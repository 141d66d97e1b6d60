"""Every profile of certificate, field by field, and then as OpenSSL and a TLS handshake see it."""

from __future__ import annotations

import ipaddress
import zipfile
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from clouddeploy_provision import approval, certificate_authority
from clouddeploy_provision.ca import Authority
from clouddeploy_provision.certificates import UNSTRUCTURED_NAME
from clouddeploy_provision.project import Participant
from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment import formats, request
from clouddeploy_runtime.kit import Kind
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

SERVER_AUTH, CLIENT_AUTH = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
HOSTS = ("fl.example.com", "192.0.2.7", "2001:db8::7")
ADDRESSES = [x509.IPAddress(ipaddress.ip_address(one)) for one in HOSTS[1:]]
SITES = {
    "server": Participant(Kind.SERVER, "server1", "hub", hosts=HOSTS),
    "client": Participant(Kind.CLIENT, "site-1", "org_a"),
    "relay": Participant(Kind.RELAY, "relay-1", "hub"),
    "listener": Participant(Kind.RELAY, "relay-1", "hub"),
    "admin": Participant(Kind.ADMIN, "lead@example.com", "org_a", role="lead"),
}
APPROVED = {
    "approved server": ("server", "fl.example.com", "hub", ""),
    "approved client": ("client", "site-9", "org_a", ""),
    "approved admin": ("admin", "member@example.com", "org_a", "member"),
}


@dataclass(frozen=True)
class Profile:
    name: str
    org: str
    role: str
    usages: list[x509.ObjectIdentifier]
    names: list[x509.GeneralName]
    days: int = 360


PROFILES = {
    "server": Profile(
        "server1",
        "hub",
        "",
        [SERVER_AUTH, CLIENT_AUTH],
        [x509.DNSName("server1"), x509.DNSName("fl.example.com"), *ADDRESSES],
    ),
    "client": Profile("site-1", "org_a", "", [CLIENT_AUTH], [x509.DNSName("site-1")]),
    "relay": Profile("relay-1", "hub", "", [CLIENT_AUTH], [x509.DNSName("relay-1")]),
    "listener": Profile(
        "relay-1", "hub", "", [SERVER_AUTH, CLIENT_AUTH], [x509.DNSName("relay-1"), x509.DNSName("r"), *ADDRESSES]
    ),
    "admin": Profile("lead@example.com", "org_a", "lead", [CLIENT_AUTH], [x509.RFC822Name("lead@example.com")]),
    "approved server": Profile(
        "fl.example.com",
        "hub",
        "",
        [SERVER_AUTH, CLIENT_AUTH],
        [x509.DNSName("fl.example.com"), ADDRESSES[1]],
        days=1095,
    ),
    "approved client": Profile("site-9", "org_a", "", [CLIENT_AUTH], [x509.DNSName("site-9")], days=1095),
    "approved admin": Profile(
        "member@example.com", "org_a", "member", [CLIENT_AUTH], [x509.RFC822Name("member@example.com")], days=1095
    ),
}
SERVING = [name for name, one in PROFILES.items() if SERVER_AUTH in one.usages]


class World:
    """One root and a certificate of each profile, on disk."""

    def __init__(self, folder: Path, algorithm: keys.KeyAlgorithm, now) -> None:
        self.folder, self.now = folder, now
        self.root_file = folder / "ca" / "rootCA.pem"
        passphrase = b"of this test"
        where = formats.ServerProfile("fl.example.com", 8002)
        certificate_authority.init(
            formats.Profile("study", where), folder / "ca", passphrase=passphrase, algorithm=algorithm, now=now
        )
        authority = certificate_authority.require(folder / "ca").open(passphrase)
        self.root = authority.certificate
        shared = keys.generate(algorithm)
        for label, site in SITES.items():
            public = shared.public_key()
            if label == "listener":
                made = authority.issue_listener(site, public, hosts=("r", *HOSTS[1:]), now=now)
            else:
                made = authority.issue(site, public, hosts=site.hosts, now=now)
            self._keep(label, made.public_bytes(Encoding.PEM), keys.to_pem(shared))
        for label, (kind, name, org, role) in APPROVED.items():
            site = formats.Site("study", name, org, kind, role, HOSTS[2:] if kind == "server" else ())
            asked = request.make(site, folder / "sites", algorithm=algorithm)
            answer = approval.approve(asked.archive, folder / "ca", passphrase=passphrase, now=now)
            with zipfile.ZipFile(answer.archive) as archive:
                self._keep(label, archive.read(f"{name}.crt"), (asked.folder / f"{name}.key").read_bytes())

    def _keep(self, label: str, cert: bytes, key: bytes) -> None:
        self.file(label).write_bytes(cert)
        keys.write_private(self.file(label).with_suffix(".key"), key)

    def file(self, label: str) -> Path:
        return self.folder / f"{label}.crt"

    def cert(self, label: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.file(label).read_bytes())

    def files(self, label: str) -> tuple[Path, Path, Path]:
        return self.root_file, self.file(label), self.file(label).with_suffix(".key")


@pytest.fixture(scope="module", params=list(keys.KeyAlgorithm), ids=str)
def world(request, tmp_path_factory, now):
    return World(tmp_path_factory.mktemp("profiles"), request.param, now)


def extension(cert, kind):
    return cert.extensions.get_extension_for_class(kind)


def subject(cert):
    return {one.oid: one.value for one in cert.subject}


def flags(usage):
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    return {name for name in names.split() if getattr(usage, name)}


def test_the_root_may_sign_leaves_and_lists_and_nothing_below_it(world):
    root = world.root
    assert root.version is x509.Version.v3
    assert subject(root) == {NameOID.COMMON_NAME: "study"}
    assert root.issuer == root.subject
    basic, usage = extension(root, x509.BasicConstraints), extension(root, x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert usage.critical
    assert flags(usage.value) == {"digital_signature", "key_cert_sign", "crl_sign"}
    assert list(extension(root, x509.SubjectAlternativeName).value) == [x509.DNSName("study")]
    own = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    assert extension(root, x509.SubjectKeyIdentifier).value == own
    assert root.not_valid_after_utc == world.now + timedelta(days=3650)
    assert isinstance(root.signature_hash_algorithm, hashes.SHA256)


@pytest.mark.parametrize("label", PROFILES)
def test_a_certificate_has_the_fields_of_its_profile(world, label):
    cert, wanted = world.cert(label), PROFILES[label]
    assert cert.version is x509.Version.v3
    expected = {NameOID.COMMON_NAME: wanted.name, NameOID.ORGANIZATION_NAME: wanted.org}
    assert subject(cert) == (expected | {UNSTRUCTURED_NAME: wanted.role} if wanted.role else expected)
    basic, usage = extension(cert, x509.BasicConstraints), extension(cert, x509.KeyUsage)
    assert (basic.critical, basic.value.ca) == (True, False)
    assert usage.critical
    assert flags(usage.value) == {"digital_signature"}
    assert list(extension(cert, x509.ExtendedKeyUsage).value) == wanted.usages
    assert list(extension(cert, x509.SubjectAlternativeName).value) == wanted.names
    assert cert.issuer == world.root.subject
    issuer = extension(world.root, x509.SubjectKeyIdentifier).value.digest
    assert extension(cert, x509.AuthorityKeyIdentifier).value.key_identifier == issuer
    own = x509.SubjectKeyIdentifier.from_public_key(cert.public_key())
    assert extension(cert, x509.SubjectKeyIdentifier).value == own
    assert cert.not_valid_after_utc == world.now + timedelta(days=wanted.days)
    assert world.root.not_valid_before_utc <= cert.not_valid_before_utc <= world.now
    assert isinstance(cert.signature_hash_algorithm, hashes.SHA256)


def test_serial_numbers_are_random_and_as_long_as_the_standard_allows(world):
    serials = {world.root.serial_number, *(world.cert(label).serial_number for label in PROFILES)}
    assert len(serials) == len(PROFILES) + 1
    assert all(0 < serial < 1 << 159 for serial in serials)  # RFC 5280 §4.1.2.2: 20 octets, and positive
    assert min(serials) > 1 << 96


def test_no_certificate_outlives_its_root(now):
    authority = Authority.create("study", now=now - timedelta(days=90), days=100)
    made = authority.issue(SITES["client"], keys.generate().public_key(), now=now)
    assert made.not_valid_after_utc == authority.certificate.not_valid_after_utc == now + timedelta(days=10)


def test_no_certificate_begins_before_its_root(now):
    authority = Authority.create("study", now=now)
    made = authority.issue(SITES["client"], keys.generate().public_key(), now=now - timedelta(minutes=30))
    assert made.not_valid_before_utc == authority.certificate.not_valid_before_utc


@pytest.mark.parametrize("label", PROFILES)
def test_openssl_accepts_a_certificate_for_its_purposes_and_no_other(world, openssl, label):
    for purpose, usage in (("sslserver", SERVER_AUTH), ("sslclient", CLIENT_AUTH)):
        status, said = openssl(
            "verify", "-x509_strict", "-CAfile", world.root_file, "-purpose", purpose, world.file(label)
        )
        assert (status == 0) == (usage in PROFILES[label].usages), said


@pytest.mark.parametrize(
    ("label", "check", "value", "status"),
    [
        ("server", "-verify_hostname", "fl.example.com", 0),
        ("server", "-verify_ip", "192.0.2.7", 0),
        ("server", "-verify_ip", "2001:db8::7", 0),
        ("server", "-verify_ip", "192.0.2.8", 2),
        ("admin", "-verify_email", "lead@example.com", 0),
        ("admin", "-verify_email", "other@example.com", 2),
    ],
)
def test_openssl_finds_the_names_where_they_belong(world, openssl, *, label, check, value, status):
    assert openssl("verify", "-CAfile", world.root_file, check, value, world.file(label))[0] == status


@pytest.mark.parametrize("label", SERVING)
def test_who_may_serve_is_reached_by_every_one_of_its_names(world, handshake, label):
    for name in PROFILES[label].names:
        assert handshake(world.files(label), world.files("client"), str(name.value)) == "site-1"


@pytest.mark.parametrize("label", PROFILES)
def test_everybody_can_connect_to_the_server(world, handshake, label):
    assert handshake(world.files("server"), world.files(label), "server1") == PROFILES[label].name


@pytest.mark.parametrize("label", sorted(set(PROFILES) - set(SERVING)))
def test_who_only_connects_cannot_serve(world, handshake, label):
    with pytest.raises(OSError, match=r"purpose|certificate"):
        handshake(world.files(label), world.files("client"), PROFILES[label].name)
