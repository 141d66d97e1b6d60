"""The dashboard's own certificate for HTTPS: the one that lies in its folder, or one that it signs itself."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from clouddeploy_provision.ca_records import write_atomic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clouddeploy.dashboard.errors import DashboardState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

DAYS = 397
"""Browsers take no longer one (CA/Browser Forum ballot SC-31)."""


@dataclass(frozen=True)
class Identity:
    """What HTTPS needs.

    Attributes:
        cert: PEM file, with the chain where there is one.
        key: PEM file.
        fingerprint: SHA-256 of the certificate, to compare with what the browser shows.
        is_own: whether the dashboard signed it itself, so that no browser knows it.
    """

    cert: Path
    key: Path
    fingerprint: str
    is_own: bool


def identity(folder: Path, *, hosts: Sequence[str], now: datetime) -> Identity:
    """Returns `<folder>/cert/web.crt` and `web.key`; makes them when neither is there, or an own one has ended.

    Args:
        folder: the dashboard's.
        hosts: names and addresses for a new certificate.
        now: the time.

    Raises:
        DashboardState: one is there without the other, or they cannot be used.
    """
    place = folder / "cert"
    cert, key = place / "web.crt", place / "web.key"
    if cert.exists() != key.exists():
        missing = key if cert.exists() else cert
        raise DashboardState("HTTPS is not possible", why=f"{missing} is missing", hint="put both files there")
    if cert.exists():
        found = _read(cert)
        is_own = found.issuer == found.subject
        if now < found.not_valid_after_utc - timedelta(days=1) or not is_own:
            _check(cert, key)
            return Identity(cert, key, _mark(found), is_own)
    place.mkdir(mode=0o700, exist_ok=True)
    made, private = _make(hosts, now)
    write_atomic(key, private)
    write_atomic(cert, made.public_bytes(serialization.Encoding.PEM))
    return Identity(cert, key, _mark(made), is_own=True)


def _read(cert: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(cert.read_bytes())
    except (OSError, ValueError) as error:
        raise DashboardState(f"{cert} cannot be used", why=str(error), hint="put a PEM certificate there") from error


def _check(cert: Path, key: Path) -> None:
    try:
        # `password`: without it OpenSSL would ask at the terminal for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise DashboardState(
            f"{key} cannot be used", why=str(error), hint="put the private key of web.crt there, not encrypted"
        ) from error


def _mark(cert: x509.Certificate) -> str:
    return cert.fingerprint(hashes.SHA256()).hex(":").upper()


def _make(hosts: Sequence[str], now: datetime) -> tuple[x509.Certificate, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clouddeploy dashboard")])
    start = now.replace(microsecond=0) - timedelta(minutes=5)  # a browser's clock may be behind
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([_alternative(one) for one in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return made, pem


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
