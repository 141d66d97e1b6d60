"""The fingerprint of a root certificate, read out over the telephone: `SHA256:AA:BB:…`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes

from clouddeploy_runtime.enrolment.errors import EnrolmentFault

if TYPE_CHECKING:
    from cryptography import x509

_SPELLING = re.compile(
    r"(?:sha-?256(?: *fingerprint)? *[:=] *)?((?:[0-9a-f]{2}:){31}[0-9a-f]{2}|[0-9a-f]{64})", re.ASCII | re.IGNORECASE
)


def fingerprint(cert: x509.Certificate) -> str:
    """Return the SHA-256 of the certificate's DER form."""
    return "SHA256:" + cert.fingerprint(hashes.SHA256()).hex(":").upper()


def parse(text: str) -> str:
    """Bring a fingerprint into the one form.

    Args:
        text: `SHA256:AA:…`, what `openssl x509 -fingerprint -sha256` prints, or 64 hexadecimal digits.

    Raises:
        EnrolmentFault: INVALID_ROOTCA_FINGERPRINT.
    """
    match = _SPELLING.fullmatch(text.strip())
    if match is None:
        raise EnrolmentFault(
            "INVALID_ROOTCA_FINGERPRINT",
            f"{text!r} is not a fingerprint",
            why="it must have 64 hexadecimal digits, in pairs with colons or without any",
            hint="example: SHA256:0A:1B:…, as `clouddeploy cert approve` prints it",
        )
    return "SHA256:" + bytes.fromhex(match[1].replace(":", "")).hex(":").upper()
