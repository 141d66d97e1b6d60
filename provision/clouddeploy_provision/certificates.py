"""What each kind of certificate carries, with the section of RFC 5280 that says so; pure, does no I/O."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from clouddeploy_runtime import revocation
from clouddeploy_runtime.kit import Kind
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clouddeploy_runtime.keys import PrivateKey, PublicKey

    from clouddeploy_provision.ca_records import RevokedLine

ROOT_DAYS = 3650
"""The reference's 360 days end a federation within a year, and it cannot roll its root over."""
LEAF_DAYS = 360
"""As the reference; never beyond the root's own end."""
UNSTRUCTURED_NAME = x509.ObjectIdentifier("1.2.840.113549.1.9.2")
"""PKCS#9 unstructuredName (RFC 2985 §5.4.2), where the reference keeps an admin's role."""
CLOCK_SKEW = timedelta(hours=1)
"""A site's clock may be behind the authority's by this much."""

_EXTENDED_USAGE = {
    # The reference gives servers both, too; clients and admins only ever connect, so a stolen one cannot play server.
    Kind.SERVER: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    Kind.CLIENT: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Kind.RELAY: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Kind.ADMIN: (ExtendedKeyUsageOID.CLIENT_AUTH,),
}


def root(key: PrivateKey, *, project: str, now: datetime, days: int = ROOT_DAYS, org: str = "") -> x509.Certificate:
    """Make a self-signed root, named after the project, and after the organisation that runs it when one is given."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, project)]
    if org:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, org))
    name = x509.Name(attributes)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())  # §4.1.2.2: positive, at most 20 octets
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        # §4.2.1.9: may sign leaves, no further authorities.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # §4.2.1.3: digitalSignature is for the kits' manifests.
        .add_extension(_usage(digital_signature=True, certificates=True), critical=True)
        # §4.2.1.2
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        # §4.2.1.6, as the reference has it
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(project)]), critical=False)
        .sign(key, hashes.SHA256())
    )


def leaf(
    public_key: PublicKey,
    *,
    kind: Kind,
    name: str,
    org: str,
    role: str = "",
    hosts: Iterable[str] = (),
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    now: datetime,
    days: int = LEAF_DAYS,
) -> x509.Certificate:
    """Issue a participant's certificate.

    Args:
        public_key: the participant's.
        kind: decides the extended key usage.
        name: the common name; for a server also its first alternative name, whatever its addresses.
        org: the organisation.
        role: of an admin; empty for others.
        hosts: further names and addresses of a server.
        issuer: the root.
        issuer_key: the root's key.
        now: the time of issue.
        days: how long it is valid; never beyond the root's end.
    """
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, org)]
    if role:
        subject.append(x509.NameAttribute(UNSTRUCTURED_NAME, role))
    end = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - CLOCK_SKEW, issuer.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)  # §4.2.1.9
        .add_extension(_usage(digital_signature=True), critical=True)  # §4.2.1.3: all that TLS 1.3 needs
        .add_extension(x509.ExtendedKeyUsage(_EXTENDED_USAGE[kind]), critical=False)  # §4.2.1.12
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)  # §4.2.1.2
        .add_extension(_authority_key(issuer), critical=False)  # §4.2.1.1
        .add_extension(x509.SubjectAlternativeName(alternative_names(kind, name, hosts)), critical=False)  # §4.2.1.6
        .sign(issuer_key, hashes.SHA256())
    )


REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key_compromise": x509.ReasonFlags.key_compromise,
    "affiliation_changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation_of_operation": x509.ReasonFlags.cessation_of_operation,
    "privilege_withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
"""RFC 5280 §5.3.1; what a person may give as the reason of a revocation."""


def revocation_list(
    revoked: Sequence[RevokedLine], *, issuer: x509.Certificate, issuer_key: PrivateKey, now: datetime
) -> bytes:
    """Sign a list of revoked certificates (RFC 5280 §5), PEM; its number is their count, so it only ever grows."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(max(now - CLOCK_SKEW, issuer.not_valid_before_utc))
        .next_update(issuer.not_valid_after_utc)  # §5.1.2.5 demands one; the offline authority promises no next list
        .add_extension(x509.CRLNumber(len(revoked)), critical=False)  # §5.2.3
        .add_extension(_authority_key(issuer), critical=False)  # §5.2.1
    )
    for one in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(int(one.serial, 16))
            .revocation_date(datetime.fromisoformat(one.revoked_at))
        )
        if one.reason != "unspecified":  # §5.3.1: should be absent then
            entry = entry.add_extension(x509.CRLReason(REASONS[one.reason]), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def is_crl_of(pem: bytes, issuer: x509.Certificate, *, number: int) -> bool:
    """Tell whether this is a root's list of this number."""
    try:
        crl = revocation.parse(pem, [issuer])
    except revocation.RevocationFault:
        return False
    return crl.number == number


def alternative_names(kind: Kind, name: str, hosts: Iterable[str] = ()) -> list[x509.GeneralName]:
    """Return the alternative names in a fixed order without repetition, addresses as iPAddress (RFC 5280 §4.2.1.6)."""
    if kind is Kind.ADMIN:
        return [x509.RFC822Name(name)]
    return list(dict.fromkeys([x509.DNSName(name), *(general_name(host) for host in hosts)]))


def general_name(host: str) -> x509.GeneralName:
    """Return an address as iPAddress and anything else as dNSName; a client that checks an address looks only there."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def names_of(cert: x509.Certificate) -> set[x509.GeneralName]:
    """Return the alternative names that a certificate has."""
    try:
        return set(cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def text_of(name: x509.GeneralName) -> str:
    """Write an alternative name, for example `DNS:fl.example.com`."""
    label = {x509.DNSName: "DNS", x509.IPAddress: "IP", x509.RFC822Name: "email"}.get(type(name), "other")
    return f"{label}:{name.value}"


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:  # an imported root
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(*, digital_signature: bool, certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
