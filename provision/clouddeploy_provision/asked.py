"""Reads a site's request; it comes from elsewhere, so every statement in it is checked against the others."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime import keys
from clouddeploy_runtime.enrolment import archive, formats, request
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.kit.kit import attribute
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from clouddeploy_provision import site_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192
"""A longer key only serves to keep the others busy."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Asked:
    """A request, verified."""

    metadata: formats.Request
    site: formats.Site
    public_key: keys.PublicKey
    site_yaml: bytes


def read(path: Path) -> Asked:
    """Read and verify a request.

    Raises:
        EnrolmentFault: see the table in `clouddeploy_runtime.enrolment.errors`.
    """
    return _Reader(f"{path} is refused", archive.read(path, "REQUEST", is_expected=_is_expected)).read()


def _is_expected(name: str) -> bool:
    return "/" not in name and (name in {request.REQUEST_FILE, request.SITE_FILE} or name.endswith(".csr"))


class _Reader:
    """One request: its members, and the checks in the order in which they must be made."""

    def __init__(self, refused: str, members: Mapping[str, bytes]) -> None:
        self._refused = refused
        self._members = members

    def fault(self, code: str, why: str) -> EnrolmentFault:
        return EnrolmentFault(code, self._refused, why=why, hint="the site must make a new request")

    def read(self) -> Asked:
        metadata = self._metadata()
        csr_pem, site_yaml = self._files(metadata)
        site = self._site(site_yaml)
        said = (metadata.project, metadata.name, metadata.org, metadata.kind, metadata.cert_type, metadata.cert_role)
        if said != (site.project, site.name, site.org, site.type, site.type, site.role):
            raise self.fault("REQUEST_METADATA_MISMATCH", "request.json and site.yaml disagree")
        request.check(site)
        public_key = self._public_key(csr_pem, metadata)
        return Asked(metadata, site, public_key, site_yaml)

    def _metadata(self) -> formats.Request:
        for name in (request.REQUEST_FILE, request.SITE_FILE):
            if name not in self._members:
                raise self.fault("INVALID_REQUEST_ZIP", f"{name} is missing")
        try:
            metadata = formats.decode(self._members[request.REQUEST_FILE], formats.Request)
            if (metadata.artifact_type, metadata.schema_version) != (formats.REQUEST, formats.SCHEMA_VERSION):
                raise ValueError(f"it is a {metadata.artifact_type!r} of version {metadata.schema_version!r}")
            if _ID.fullmatch(metadata.request_id) is None:
                raise ValueError("request_id must have 32 hexadecimal digits")
        except ValueError as exc:
            raise self.fault("REQUEST_METADATA_INVALID", str(exc)) from exc
        return metadata

    def _files(self, metadata: formats.Request) -> tuple[bytes, bytes]:
        """Return the certificate request and `site.yaml`, which are those that were asked with."""
        csr_name = f"{metadata.name}.csr"
        if set(self._members) != {request.REQUEST_FILE, request.SITE_FILE, csr_name}:
            raise self.fault("INVALID_REQUEST_ZIP", f"it must have one certificate request, {csr_name!r}")
        csr_pem, site_yaml = self._members[csr_name], self._members[request.SITE_FILE]
        for code, content, wanted in (
            ("CSR_HASH_MISMATCH", csr_pem, metadata.csr_sha256),
            ("SITE_YAML_HASH_MISMATCH", site_yaml, metadata.site_yaml_sha256),
        ):
            if hashlib.sha256(content).hexdigest() != wanted:
                raise self.fault(code, "request.json has another digest")
        return csr_pem, site_yaml

    def _site(self, data: bytes) -> formats.Site:
        try:
            return site_file.parse(data)
        except ValueError as exc:
            raise self.fault("SITE_FILE", f"site.yaml {exc}") from exc

    def _public_key(self, pem: bytes, metadata: formats.Request) -> keys.PublicKey:
        """Return the key that is to be certified; whoever asks has proved to hold its private half."""
        try:
            csr = x509.load_pem_x509_csr(pem)
            is_sound = csr.is_signature_valid
            public_key = csr.public_key()
            subject = tuple(
                attribute(csr, oid) for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, request.ROLE_OID)
            )
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
            raise self.fault("CSR_INVALID", "the certificate request cannot be read") from exc
        if not is_sound:
            raise self.fault("CSR_INVALID", "the certificate request was not signed with its own key")
        if not isinstance(public_key, keys.PublicKey) or not _is_strong(public_key):
            raise self.fault("CSR_INVALID", "its key is neither ECDSA P-256 nor RSA of 2048 to 8192 bits")
        digest = hashlib.sha256(keys.public_bytes(public_key)).hexdigest()
        said = (metadata.name, metadata.org, metadata.cert_role, metadata.public_key_sha256)
        if (*subject, digest) != said:
            raise self.fault("REQUEST_METADATA_MISMATCH", "request.json and the certificate request disagree")
        return public_key


def _is_strong(key: keys.PublicKey) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS
    return isinstance(key.curve, ec.SECP256R1)
