"""Reads what the project approved: nothing in it is believed before the root's fingerprint and the signature hold."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment import archive, formats
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.enrolment.request import ROLE_OID, SITE_FILE, check
from clouddeploy_runtime.kit.kit import attribute
from clouddeploy_runtime.kit.verify import issuer_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

SIGNED_FILE = "signed.json"
SIGNATURE_FILE = "signed.json.sig"
ROOT_FILE = "rootCA.pem"
KIT_PREFIX = "kit/"
MODES = {"0600": 0o600, "0644": 0o644, "0755": 0o755}
"""What a file of a kit may have; nobody but the owner writes any."""
_VERSION = re.compile(r"[0-9]{2}")


@dataclass(frozen=True)
class Approved:
    """A signed archive, verified."""

    signed: formats.Signed
    members: Mapping[str, bytes]
    certificate: x509.Certificate
    root_fingerprint: str

    @property
    def stem(self) -> str:
        """Name of key and certificate in `startup/`."""
        return stem(self.signed.kind)


def stem(kind: str) -> str:
    """Return how key and certificate of a kind of participant are called."""
    return "server" if kind == "server" else "client"


def read(path: Path, *, expected: str | None, now: datetime) -> Approved:
    """Read and verify an archive.

    Args:
        path: the file.
        expected: fingerprint of the root that must have signed; `None`: whichever came with it.
        now: the time to judge certificates by.

    Raises:
        EnrolmentFault: see the table in `errors`.
    """
    members = archive.read(path, "SIGNED", is_expected=_is_expected)
    reader = _Reader(f"{path} is refused", members)
    root = reader.signer(expected)
    signed = reader.metadata()
    reader.check_digests(signed)
    certificate = reader.certificate(signed, root, now)
    mark = fingerprint(root)
    if mark != signed.ca_info.rootCA_fingerprint:
        raise reader.fault("ROOTCA_FINGERPRINT_MISMATCH", f"signed.json names {signed.ca_info.rootCA_fingerprint!r}")
    return Approved(signed, members, certificate, mark)


class _Reader:
    """One archive: its members, and the checks in the order in which they must be made."""

    def __init__(self, refused: str, members: Mapping[str, bytes]) -> None:
        self._refused = refused
        self._members = members
        for name in (SIGNED_FILE, SIGNATURE_FILE, ROOT_FILE, SITE_FILE):
            if name not in members:
                raise self.fault("INVALID_SIGNED_ZIP", f"{name} is missing")

    def fault(self, code: str, why: str, hint: str = "ask for it again") -> EnrolmentFault:
        return EnrolmentFault(code, self._refused, why=why, hint=hint)

    def signer(self, expected: str | None) -> x509.Certificate:
        """Return the root that signed `signed.json`: the expected one.

        While a root is exchanged several come along. Only the one whose fingerprint the site was told counts here:
        beside it anybody could have put a root of his own.
        """
        try:
            roots = _certificates(self._members[ROOT_FILE])
            signature = base64.b64decode(self._members[SIGNATURE_FILE].strip(), validate=True)
        except (ValueError, binascii.Error) as exc:
            raise self.fault("INVALID_SIGNED_ZIP", f"rootCA.pem or signed.json.sig cannot be read: {exc}") from exc
        candidates = [root for root in roots if expected is None or fingerprint(root) == expected]
        if not candidates:
            raise self.fault(
                "ROOTCA_FINGERPRINT_MISMATCH",
                f"its root has {fingerprint(roots[0])}, expected was {expected}",
                hint="somebody may have exchanged it: talk to the project admin before you go on",
            )
        for root in candidates:
            if _is_signed_by(root, signature, self._members[SIGNED_FILE]):
                return root
        raise self.fault("SIGNATURE_INVALID", "signed.json was not signed by the root")

    def metadata(self) -> formats.Signed:
        try:
            signed = formats.decode(self._members[SIGNED_FILE], formats.Signed)
            _check_metadata(signed)
        except (ValueError, EnrolmentFault) as exc:
            raise self.fault("SIGNED_METADATA_INVALID", str(exc)) from exc
        return signed

    def check_digests(self, signed: formats.Signed) -> None:
        """Compare every member with what was signed, both ways."""
        wanted = {
            SITE_FILE: signed.hashes.site_yaml_sha256,
            ROOT_FILE: signed.hashes.rootca_sha256,
            signed.cert_file: signed.hashes.certificate_sha256,
            **{f"{KIT_PREFIX}{path}": file.sha256 for path, file in signed.kit.items()},
        }
        for name in sorted({*self._members, *wanted} - {SIGNED_FILE, SIGNATURE_FILE}):
            content = self._members.get(name)
            if content is None or name not in wanted:
                why = f"{name!r} is missing" if content is None else f"{name} was not approved"
                raise self.fault("INVALID_SIGNED_ZIP", why)
            if hashlib.sha256(content).hexdigest() != wanted[name]:
                raise self.fault("SIGNED_FILE_HASH_MISMATCH", f"{name} was exchanged")

    def certificate(self, signed: formats.Signed, root: x509.Certificate, now: datetime) -> x509.Certificate:
        """Return the participant's certificate: the root issued it, it is valid now, and it says what was signed."""
        try:
            (cert,) = _certificates(self._members[signed.cert_file])
        except ValueError as exc:
            raise self.fault("INVALID_SIGNED_ZIP", f"{signed.cert_file} cannot be read: {exc}") from exc
        if issuer_of(cert, [root]) is None:
            raise self.fault("CERT_CHAIN_INVALID", "the root did not issue the certificate")
        for one in (cert, root):
            if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
                span = f"{one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
                why = f"a certificate is valid {span}, now is {now:%Y-%m-%d}"
                raise self.fault("CERT_EXPIRED", why, hint="ask for it again, or set this machine's clock")
        found = _identity(cert)
        if found != (signed.name, signed.org, signed.cert_role, signed.certificate.serial):
            why = f"the certificate is for {found[0]!r} of {found[1]!r}, signed.json for {signed.name} of {signed.org}"
            raise self.fault("SIGNED_ZIP_IDENTITY_CONFLICT", why)
        return cert


def _is_expected(name: str) -> bool:
    if name.startswith(KIT_PREFIX):
        return name.removeprefix(KIT_PREFIX).split("/")[0] in {"startup", "local", "readme.txt"}
    return "/" not in name and (name in {SIGNED_FILE, SIGNATURE_FILE, ROOT_FILE, SITE_FILE} or name.endswith(".crt"))


def _certificates(pem: bytes) -> list[x509.Certificate]:
    """Read PEM certificates.

    Raises:
        ValueError: there is none, or one is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)  # no serial of ours is negative
            certs = x509.load_pem_x509_certificates(pem)
            for cert in certs:  # the library parses these when they are asked for; a damaged one is to be found here
                cert.public_key(), cert.subject, cert.not_valid_before_utc, cert.not_valid_after_utc
    except (x509.InvalidVersion, UnsupportedAlgorithm, CryptographyDeprecationWarning) as exc:
        raise ValueError(str(exc)) from exc
    return certs


def _is_signed_by(root: x509.Certificate, signature: bytes, data: bytes) -> bool:
    try:
        return keys.is_signed_by(root.public_key(), signature, data)
    except (ValueError, UnsupportedAlgorithm):  # a key that no project of ours has
        return False


def _identity(cert: x509.Certificate) -> tuple[str, str, str, str]:
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, ROLE_OID)
    name, org, role = (attribute(cert, oid) for oid in oids)
    return name, org, role, f"{cert.serial_number:x}"


def _check_metadata(signed: formats.Signed) -> None:
    """Refuse an approval that no kit can be made from.

    What becomes part of a path is checked before it does, whoever signed it.

    Raises:
        ValueError: says what is wrong.
        EnrolmentFault: the participant is none.
    """
    if (signed.artifact_type, signed.schema_version) != (formats.SIGNED, formats.SCHEMA_VERSION):
        raise ValueError(f"it is a {signed.artifact_type!r} of version {signed.schema_version!r}")
    check(formats.Site(signed.project, signed.name, signed.org, signed.kind, signed.cert_role))
    if _VERSION.fullmatch(signed.ca_info.provision_version) is None:
        raise ValueError("provision_version must have two digits")
    if (signed.cert_file, signed.rootca_file, signed.cert_type) != (f"{signed.name}.crt", ROOT_FILE, signed.kind):
        raise ValueError("cert_file, rootca_file or cert_type does not fit")
    folders = {f"startup/{stem(signed.kind)}.key"}  # made here; and nothing may stand where a folder is
    for path in signed.kit:
        parts = path.split("/")
        folders |= {"/".join(parts[:length]) for length in range(1, len(parts))}
    for path, file in signed.kit.items():
        if path in folders | {"startup", "local"}:
            raise ValueError(f"{path!r} cannot be a file of a kit")
        if file.mode not in MODES:
            raise ValueError(f"{path!r} has mode {file.mode!r}")
