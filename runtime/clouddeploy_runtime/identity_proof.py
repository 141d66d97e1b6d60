"""How a participant proves who it is where TLS shows no certificate (`connection_security` tls or clear).

It signs a number that the server gave out, which is good once and for a minute, together with what it wants: to be this
participant of this project at this server. So a proof is of no use to whoever sees it, at this server or another.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from clouddeploy_runtime import keys
from clouddeploy_runtime.errors import AuthorizationRefused
from clouddeploy_runtime.kit.kit import attribute
from clouddeploy_runtime.kit.verify import issuer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_runtime.kit import Kit

_CONTEXT = "clouddeploy identity proof 1"


class IdentityRefused(AuthorizationRefused):
    """Somebody did not prove to be the one that they say."""


class IdentityProof(msgspec.Struct, frozen=True):
    """What the server gets."""

    certificate: bytes
    """PEM."""
    number: bytes
    """The server's, from its answer to Prove."""
    project: str
    name: str
    signature: bytes


def make(kit: Kit, *, number: bytes) -> bytes:
    """Prove to be the participant of a kit.

    Args:
        kit: a client's or an admin's.
        number: what the server gave out.
    """
    key = keys.load_private_key(kit.key_file)
    signed = _signed(number, project=kit.project, name=kit.name, server=kit.server_name)
    proof = IdentityProof(kit.cert_file.read_bytes(), number, kit.project, kit.name, keys.sign(key, signed))
    return msgspec.msgpack.encode(proof)


def check(
    data: bytes, *, server_name: str, trusted: Sequence[x509.Certificate], now: datetime | None = None
) -> IdentityProof:
    """Check a proof; whether its number was given out here, and not yet used, is the caller's to ask.

    Args:
        data: the proof.
        server_name: whom it must be meant for.
        trusted: the project's root certificates.
        now: the time; the clock's when not given.

    Raises:
        IdentityRefused: it proves nothing.
    """
    try:
        proof = msgspec.msgpack.decode(data, type=IdentityProof)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise _unreadable() from exc
    cert = valid_certificate(proof.certificate, name=proof.name, trusted=trusted, now=now)
    signed = _signed(proof.number, project=proof.project, name=proof.name, server=server_name)
    if not keys.is_signed_by(cert.public_key(), proof.signature, signed):
        raise no_key(proof.name)
    return proof


def valid_certificate(
    pem: bytes, *, name: str, trusted: Sequence[x509.Certificate], now: datetime | None = None
) -> x509.Certificate:
    """Read the certificate that somebody claims to hold the key of.

    Args:
        pem: the certificate.
        name: whose it must be.
        trusted: the project's root certificates.
        now: the time; the clock's when not given.

    Raises:
        IdentityRefused: it is not this participant's, not this project's, or not valid now.
    """
    try:
        cert = x509.load_pem_x509_certificate(pem)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise _unreadable() from exc
    if issuer_of(cert, trusted) is None:
        raise IdentityRefused("the certificate was issued by another authority than this project's")
    moment = now or datetime.now(UTC)
    if moment > cert.not_valid_after_utc:
        raise IdentityRefused(f"the certificate has expired on {cert.not_valid_after_utc:%Y-%m-%d}")
    if moment < cert.not_valid_before_utc:
        begin = f"{cert.not_valid_before_utc:%Y-%m-%d %H:%M}"
        raise IdentityRefused(f"the certificate is not valid before {begin} UTC, here it is {moment:%Y-%m-%d %H:%M}")
    if attribute(cert, NameOID.COMMON_NAME) != name:
        raise IdentityRefused(f"the certificate is not that of {name!r}")
    return cert


def no_key(name: str) -> IdentityRefused:
    """Return the refusal of somebody whose signature does not hold."""
    return IdentityRefused(f"{name} does not hold the key of its certificate")


def _unreadable() -> IdentityRefused:
    return IdentityRefused("the proof of identity is missing or cannot be read")


def _signed(number: bytes, *, project: str, name: str, server: str) -> bytes:
    return msgspec.msgpack.encode((_CONTEXT, number, project, name, server))
