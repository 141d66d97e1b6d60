"""What a person signs to log in: a number of the server's, and between which two certificates and for which study.

gRPC shows Python nothing of the TLS connection to bind a login to, so it names the certificates of both its ends. It is
good once, within a minute, at the server that gave out the number. Who is led to another server cannot be made to log
in to this one: that server would have to prove that it holds the key of this one's certificate.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from clouddeploy_runtime import keys
from clouddeploy_runtime.identity_proof import IdentityRefused, no_key, valid_certificate
from clouddeploy_runtime.kit.kit import certificate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography import x509

    from clouddeploy_runtime.kit import Kit

_CONTEXT = "clouddeploy login 1"


class LoginProof(msgspec.Struct, frozen=True):
    """What the server gets."""

    certificate: bytes
    """PEM."""
    number: bytes
    """The server's, from its answer to Prove."""
    project: str
    name: str
    study: str
    signature: bytes


def make(kit: Kit, *, number: bytes, study: str, server: x509.Certificate) -> bytes:
    """Sign a login.

    Args:
        kit: an admin's.
        number: what the server gave out.
        study: which one to work in.
        server: the server's certificate, as it has proven to hold its key.
    """
    own = certificate(kit.cert_file)
    proof = LoginProof(kit.cert_file.read_bytes(), number, kit.project, kit.name, study, b"")
    signature = keys.sign(keys.load_private_key(kit.key_file), _signed(proof, own, server))
    return msgspec.msgpack.encode(msgspec.structs.replace(proof, signature=signature))


def check(
    data: bytes, *, server: x509.Certificate, trusted: Sequence[x509.Certificate], now: datetime | None = None
) -> tuple[LoginProof, x509.Certificate]:
    """Return a login and whose certificate it shows; whether its number was given out here is the caller's to ask.

    Args:
        data: the proof.
        server: the certificate of the server that it must be meant for.
        trusted: the project's root certificates.
        now: the time; the clock's when not given.

    Raises:
        IdentityRefused: it proves nothing.
    """
    try:
        proof = msgspec.msgpack.decode(data, type=LoginProof)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise IdentityRefused("the login cannot be read") from exc
    cert = valid_certificate(proof.certificate, name=proof.name, trusted=trusted, now=now)
    if not keys.is_signed_by(cert.public_key(), proof.signature, _signed(proof, cert, server)):
        raise no_key(proof.name)
    return proof, cert


def _signed(proof: LoginProof, own: x509.Certificate, server: x509.Certificate) -> bytes:
    ends = tuple(hashlib.sha256(one.public_bytes(Encoding.DER)).digest() for one in (own, server))
    return msgspec.msgpack.encode((_CONTEXT, proof.number, proof.project, proof.name, proof.study, *ends))
