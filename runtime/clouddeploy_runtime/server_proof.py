"""How a server proves which certificate it has, so that a revoked one is refused by those who connect to it.

TLS has checked that the server holds a certificate of the project, but the library does not show which one. The server
therefore signs a fresh number, and the digest of the certificate that the other side showed, with the key of its kit.
Nobody can pass such an answer on: it is good for that one peer only.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clouddeploy_runtime import keys
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.kit.kit import attribute
from clouddeploy_runtime.kit.verify import issuer_of

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

NONCE_BYTES = 32
_CONTEXT = b"clouddeploy server proof 1\0"


class Proof(msgspec.Struct, frozen=True):
    """The server's answer."""

    certificate: bytes
    """PEM."""
    signature: bytes
    crl: bytes = b""
    """The newest list of revoked certificates that the server knows, PEM; empty: none."""
    number: bytes = b""
    """To be signed in turn: by people to log in, by sites where TLS shows no certificate; see `login_proof` and
    `identity_proof`."""
    time_s: float = 0.0
    """The server's clock, seconds since 1970. Not signed: it serves for a warning only."""


def nonce() -> bytes:
    """Return a fresh number."""
    return secrets.token_bytes(NONCE_BYTES)


def request(nonce: bytes, *, security: str, certificate: bytes) -> bytes:
    """Return what to ask a server with: the number, and where TLS does not show it the certificate, PEM."""
    return nonce if security == "mtls" else nonce + certificate


def answer(
    key: keys.PrivateKey, certificate: bytes, *, nonce: bytes, peer: bytes, crl: bytes, number: bytes = b""
) -> bytes:
    """Sign a number for one peer.

    Args:
        key: of the server's kit.
        certificate: of the server's kit, PEM.
        nonce: the peer's number.
        peer: the certificate that the peer showed, PEM.
        crl: the list to send along.
        number: for the peer to sign in turn.

    Raises:
        ValueError: the peer's certificate cannot be read.
    """
    try:
        shown = x509.load_pem_x509_certificate(peer)
    except (UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise ValueError(f"the certificate is of another kind: {exc}") from exc
    signature = keys.sign(key, _signed(nonce, shown))
    return msgspec.msgpack.encode(Proof(certificate, signature, crl, number, datetime.now(UTC).timestamp()))


def check(
    reply: bytes,
    *,
    nonce: bytes,
    own: x509.Certificate,
    server_name: str,
    trusted: Sequence[x509.Certificate],
    now: datetime | None = None,
) -> tuple[Proof, x509.Certificate]:
    """Check an answer; whether the certificate was revoked is the caller's to ask, once it has read the list.

    Args:
        reply: the answer.
        nonce: the number that was sent.
        own: the certificate that this side showed.
        server_name: whom this side wants to talk to.
        trusted: the project's root certificates.
        now: the time; the clock's when not given.

    Raises:
        ConnectionFailed: not an answer of that server.
    """
    try:
        proof = msgspec.msgpack.decode(reply, type=Proof)
        cert = x509.load_pem_x509_certificate(proof.certificate)
    except (msgspec.MsgspecError, RecursionError, ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise _refused(server_name, "its answer cannot be read") from exc
    if issuer_of(cert, trusted) is None:
        raise _refused(server_name, "its certificate is not one of this project")
    if attribute(cert, NameOID.COMMON_NAME) != server_name or not _may_serve(cert):
        raise _refused(server_name, f"its certificate is that of {attribute(cert, NameOID.COMMON_NAME)!r}")
    # TLS checked the time of the certificate that it saw, which need not be this one; and an expired one is in no list.
    moment = now or datetime.now(UTC)
    if moment > cert.not_valid_after_utc:
        raise _refused(server_name, f"its certificate has expired on {cert.not_valid_after_utc:%Y-%m-%d}")
    if moment < cert.not_valid_before_utc:
        begin = f"{cert.not_valid_before_utc:%Y-%m-%d %H:%M}"
        raise _refused(
            server_name, f"its certificate is not valid before {begin} UTC, this clock says {moment:%Y-%m-%d %H:%M}"
        )
    if not keys.is_signed_by(cert.public_key(), proof.signature, _signed(nonce, own)):
        raise _refused(server_name, "it does not hold the key of its certificate")
    return proof, cert


def refuse_revoked(cert: x509.Certificate, revoked: Container[int], server_name: str) -> None:
    """Refuse a server whose certificate was revoked.

    Raises:
        ConnectionFailed: it was.
    """
    if cert.serial_number in revoked:
        raise _refused(server_name, "its certificate was revoked")


def _refused(name: str, why: str) -> ConnectionFailed:
    return ConnectionFailed(
        f"The server {name} is refused", why=why, hint="Ask the project admin; this machine may be led astray."
    )


def _may_serve(cert: x509.Certificate) -> bool:
    try:
        usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True  # a certificate of the reference has none
    return ExtendedKeyUsageOID.SERVER_AUTH in usage


def _signed(nonce: bytes, peer: x509.Certificate) -> bytes:
    return _CONTEXT + nonce + hashlib.sha256(peer.public_bytes(Encoding.DER)).digest()
