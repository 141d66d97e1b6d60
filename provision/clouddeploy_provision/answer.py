"""Makes the archive that answers a request: certificate, roots, and every file of the kit but its private key."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from clouddeploy_runtime import revocation
from clouddeploy_runtime.enrolment import archive, formats, request
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.enrolment.signed import KIT_PREFIX, ROOT_FILE, SIGNATURE_FILE, SIGNED_FILE, stem
from clouddeploy_runtime.kit import manifest
from cryptography.hazmat.primitives.serialization import Encoding

from clouddeploy_provision.kit_builder import KitBuilder
from clouddeploy_provision.kit_tree import File

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from cryptography import x509

    from clouddeploy_provision.asked import Asked
    from clouddeploy_provision.ca import Authority
    from clouddeploy_provision.ca_store import CaStore
    from clouddeploy_provision.project import Participant, Project


class Answers:
    """Makes answers in one run, with the authority's folder locked.

    Args:
        store: the authority's folder.
        authority: who signs.
        profile: of the project; its server has host and name.
        now: the time of issue.
    """

    def __init__(self, store: CaStore, authority: Authority, profile: formats.Profile, *, now: datetime) -> None:
        if profile.server is None:
            raise EnrolmentFault("PROFILE_INVALID", "nothing says where the server is", hint="name a profile that does")
        self._store = store
        self._authority = authority
        self._profile = profile
        self._server = profile.server
        self._now = now

    def files(self, project: Project, one: Participant, cert: x509.Certificate) -> dict[str, File]:
        """Make every file of a kit but its private key and its manifest."""
        files = KitBuilder(project).files(one)
        files["startup/rootCA.pem"] = File(self._store.bundle())
        files[f"startup/{stem(one.kind.value)}.crt"] = File(cert.public_bytes(Encoding.PEM))
        crl = self._store.records.crl(self._authority, now=self._now)
        if crl:
            files[revocation.LIST_PATH] = File(crl)
        return files

    def write(self, asked: Asked, one: Participant, cert: x509.Certificate, files: Mapping[str, File]) -> bytes:
        """Sign the manifest, which names the private key without a digest, and pack the answer.

        Args:
            asked: the request.
            one: who gets the kit.
            cert: its certificate.
            files: what `files` made, and whatever else belongs into the kit.
        """
        data = self._manifest(one, cert, files)
        kit = {
            **files,
            manifest.MANIFEST_PATH: File(data),
            manifest.SIGNATURE_PATH: File(self._authority.sign(data)),
        }
        signed = self._signed(asked, cert, kit)
        document = formats.encode(signed)
        members = {
            SIGNED_FILE: document,
            SIGNATURE_FILE: base64.b64encode(self._authority.sign(document)) + b"\n",
            request.SITE_FILE: asked.site_yaml,
            signed.cert_file: cert.public_bytes(Encoding.PEM),
            ROOT_FILE: self._store.bundle(),
            **{f"{KIT_PREFIX}{path}": file.content for path, file in kit.items()},
        }
        return archive.write(members)

    def _manifest(self, one: Participant, cert: x509.Certificate, files: Mapping[str, File]) -> bytes:
        covered = sorted((path, file) for path, file in files.items() if path.startswith("startup/"))
        return manifest.encode(
            manifest.Manifest(
                project=self._profile.name,
                participant=one.name,
                kind=one.kind.value,
                certificate_serial=f"{cert.serial_number:x}",
                issued_at=self._now.isoformat(),
                files=tuple(manifest.entry(path, file.content, file.mode) for path, file in covered),
                key_at_site=f"startup/{stem(one.kind.value)}.key",
                crl_number=len(self._store.records.revoked()),
            )
        )

    def _signed(self, asked: Asked, cert: x509.Certificate, kit: Mapping[str, File]) -> formats.Signed:
        site, pem = asked.site, cert.public_bytes(Encoding.PEM)
        return formats.Signed(
            artifact_type=formats.SIGNED,
            schema_version=formats.SCHEMA_VERSION,
            request_id=asked.metadata.request_id,
            approved_at=self._now.isoformat(),
            project=site.project,
            name=site.name,
            org=site.org,
            kind=site.type,
            cert_type=site.type,
            cert_role=site.role,
            certificate=formats.Certificate(f"{cert.serial_number:x}", cert.not_valid_after_utc.isoformat()),
            cert_file=f"{site.name}.crt",
            rootca_file=ROOT_FILE,
            ca_info=formats.CaInfo(self._store.ca_file().provision_version, fingerprint(self._authority.certificate)),
            hashes=formats.Hashes(
                csr_sha256=asked.metadata.csr_sha256,
                site_yaml_sha256=asked.metadata.site_yaml_sha256,
                certificate_sha256=hashlib.sha256(pem).hexdigest(),
                rootca_sha256=hashlib.sha256(self._store.bundle()).hexdigest(),
                public_key_sha256=asked.metadata.public_key_sha256,
            ),
            scheme=self._profile.scheme,
            default_connection_security=self._profile.connection_security,
            server=self._server,
            kit={path: signed_file(file) for path, file in sorted(kit.items())},
        )


def signed_file(file: File) -> formats.SignedFile:
    """Describe a file as an approval names it."""
    return formats.SignedFile(file.sha256, f"{file.mode:04o}")
