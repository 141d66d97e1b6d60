"""The project's step of enrolment: check a site's request, and answer it with a signed kit that lacks only its key."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from clouddeploy_runtime import keys, revocation
from clouddeploy_runtime.enrolment import archive, formats, request
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.enrolment.packaging import KIT_PREFIX, ROOT_FILE, SIGNATURE_FILE, SIGNED_FILE
from clouddeploy_runtime.kit import Kind, manifest
from clouddeploy_runtime.kit.kit import attribute, is_host
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from clouddeploy_provision.ca_records import Issued, write_atomic
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.errors import CaError, ProvisionError
from clouddeploy_provision.kit_builder import KitBuilder
from clouddeploy_provision.kit_tree import File
from clouddeploy_provision.project import Participant, Project

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_provision.ca import Authority

APPROVED_DAYS = 1095
"""As the reference: three years, since every renewal takes two people."""
_MIN_RSA_BITS = 2048
_MAX_PORT = 65535


@dataclass(frozen=True)
class Approval:
    """What `approve` wrote."""

    archive: Path
    """Send it back to the site; nothing in it is secret."""
    name: str
    kind: str
    org: str
    role: str
    serial: str
    not_after: datetime
    rootca_fingerprint: str
    """Tell it to the site by another way than the archive."""
    public_key_sha256: str


@dataclass(frozen=True)
class _Asked:
    """A request, verified."""

    metadata: formats.Request
    site: formats.Site
    csr: x509.CertificateSigningRequest
    public_key: keys.PublicKey
    site_yaml: bytes


def read_profile(path: Path) -> formats.Profile:
    """Read a project's profile: `name`, `server: {host, fed_learn_port}`, `scheme`, `connection_security`.

    Raises:
        EnrolmentFault: PROFILE_INVALID.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
        profile = msgspec.convert(document, formats.Profile)
        check_profile(profile)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise EnrolmentFault(
            "PROFILE_INVALID",
            f"{path} is not a project's profile",
            why=str(exc),
            hint="example: {name: my_project, server: {host: fl.example.com, fed_learn_port: 8002}}",
        ) from exc
    return profile


def check_profile(profile: formats.Profile) -> None:
    """Refuse a profile that no kit could be made from.

    Raises:
        ValueError: says what is wrong.
    """
    server = profile.server
    if not profile.name:
        raise ValueError("name is empty")
    if server is not None:
        for host in (server.host, server.name or server.host):
            if not is_host(host):
                raise ValueError(f"{host!r} is neither a host name nor an address")
        for port in (server.fed_learn_port, server.admin_port or server.fed_learn_port):
            if not 0 < port <= _MAX_PORT:
                raise ValueError(f"port {port} is not in 1 to {_MAX_PORT}")
    if profile.scheme not in {"grpc", "tcp", "http"} or profile.connection_security not in {"mtls", "tls", "clear"}:
        raise ValueError("scheme must be grpc, tcp or http, connection_security mtls, tls or clear")


def approve(
    request_zip: Path,
    ca_folder: Path,
    *,
    passphrase: bytes,
    profile: formats.Profile | None = None,
    out: Path | None = None,
    days: int = APPROVED_DAYS,
    force: bool = False,
    now: datetime | None = None,
) -> Approval:
    """Answer a request with `<name>.signed.zip`.

    Args:
        request_zip: what the site sent.
        ca_folder: of the authority: made by `certificate_authority.init`, or a project's `state`.
        passphrase: of the authority.
        profile: where the server is; default: what the authority's folder says.
        out: the folder to write to; default: beside the request.
        days: how long the certificate is valid.
        force: approve although the name has a valid certificate, and replace an earlier answer.
        now: the time of issue; the clock's when not given.

    Raises:
        EnrolmentFault: see the table in `clouddeploy_runtime.enrolment.errors`.
        ProvisionError: the authority cannot be used.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    asked = _read(request_zip)
    store = CaStore(ca_folder)
    if not store.exists:
        raise CaError(
            f"{ca_folder} has no authority", why="rootCA.pem is missing", hint="make one: clouddeploy cert init"
        )
    target = (out if out is not None else request_zip.parent) / f"{asked.site.name}.signed.zip"
    if target.exists() and not force:
        raise EnrolmentFault("OUTPUT_DIR_EXISTS", f"{target} is there already", why="", hint="use --force")
    try:
        with store.locked():
            authority = store.open(passphrase)
            return _Approver(store, authority, profile, moment).answer(asked, target, days=days, force=force)
    except OSError as exc:
        raise ProvisionError(f"{target} could not be written", why=str(exc)) from exc


class _Approver:
    """One approval, with the authority's folder locked."""

    def __init__(self, store: CaStore, authority: Authority, profile: formats.Profile | None, now: datetime) -> None:
        self._store = store
        self._authority = authority
        self._now = now
        self._ca = store.ca_file()
        found = profile or self._ca.project_profile
        if found is None or found.server is None:
            raise EnrolmentFault(
                "PROFILE_INVALID", "nothing says where the server is", why="the profile has no server", hint="--profile"
            )
        if found.name != self._ca.project:
            raise EnrolmentFault(
                "PROJECT_MISMATCH",
                f"the profile is for {found.name}",
                why=f"the authority is that of {self._ca.project}",
                hint="use the profile of that project",
            )
        self._profile, self._server = found, found.server

    def answer(self, asked: _Asked, target: Path, *, days: int, force: bool) -> Approval:
        site = asked.site
        if site.project != self._ca.project:
            raise EnrolmentFault(
                "PROJECT_MISMATCH",
                f"{site.name} asks for {site.project}",
                why=f"the authority is that of {self._ca.project}",
                hint="the site must ask again, for the right project",
            )
        if authority_ends(self._authority) <= self._now:
            raise EnrolmentFault(
                "CERT_EXPIRED", "the project's root certificate has expired", why="", hint="a new project"
            )
        self._check_name(site, force=force)
        participant, project = self._project(site)
        hosts = participant.hosts if participant.kind is Kind.SERVER else ()
        cert = self._authority.issue(participant, asked.public_key, hosts=hosts, now=self._now, days=days)
        kit = self._kit(project, participant, cert)
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
        # Before anybody can have it: a certificate that nobody got is harmless, one that nobody knows of is not.
        self._store.records.record([_issued(participant, cert)])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, archive.write(members))
        return Approval(
            archive=target,
            name=site.name,
            kind=site.type,
            org=site.org,
            role=site.role,
            serial=signed.certificate.serial,
            not_after=cert.not_valid_after_utc,
            rootca_fingerprint=signed.ca_info.rootCA_fingerprint,
            public_key_sha256=asked.metadata.public_key_sha256,
        )

    def _check_name(self, site: formats.Site, *, force: bool) -> None:
        """Refuse a name that is somebody else's, and, unless forced, one that has a valid certificate."""
        server_name = self._server.name or self._server.host
        if site.type == "server" and site.name not in {server_name, self._server.host}:
            raise EnrolmentFault(
                "SERVER_NAME_HOST_MISMATCH",
                f"the server asks to be {site.name}",
                why=f"the profile says {server_name}",
                hint="the server's name in site.yaml and profile.server.host must agree",
            )
        known = self._store.records.last_issued().get(site.name)
        if known is None:
            return
        if (known.kind or site.type, known.org, known.role) != (site.type, site.org, site.role):
            raise EnrolmentFault(
                "IDENTITY_CONFLICT",
                f"{site.name} is a {known.kind} of {known.org} already",
                why=f"the request is for a {site.type} of {site.org}",
                hint="choose another name",
            )
        is_revoked = int(known.serial, 16) in self._store.records.revoked()
        if not force and (is_revoked or datetime.fromisoformat(known.not_after) > self._now):
            state = "was revoked" if is_revoked else f"is valid until {known.not_after[:10]}"
            raise EnrolmentFault(
                "IDENTITY_CONFLICT",
                f"{site.name} has a certificate already",
                why=f"it {state}; whoever sent this request may not be {site.name}",
                hint="ask them; --force approves it",
            )

    def _project(self, site: formats.Site) -> tuple[Participant, Project]:
        """Return the participant, and a project of it and the server, which is all that its kit depends on."""
        where = self._server
        security = self._profile.connection_security
        server = Participant(
            Kind.SERVER,
            where.name or where.host,
            site.org,
            hosts=tuple(dict.fromkeys([where.host, *site.host_names])),
            host=where.host,
            port=where.fed_learn_port,
            connection_security=security,
        )
        if site.type == "server":
            return server, Project(self._ca.project, "", (server,), connection_security=security)
        kind = Kind.ADMIN if site.type == "admin" else Kind.CLIENT
        one = Participant(
            kind,
            site.name,
            site.org,
            role=site.role,
            host=where.host,
            port=where.fed_learn_port,
            fqsn=site.name,
            connection_security=security,
        )
        return one, Project(self._ca.project, "", (server, one), connection_security=security)

    def _kit(self, project: Project, one: Participant, cert: x509.Certificate) -> Mapping[str, File]:
        """Make every file of the kit but the private key, which the manifest names without a digest."""
        stem = "server" if one.kind is Kind.SERVER else "client"
        files = KitBuilder(project).files(one)
        files["startup/rootCA.pem"] = File(self._store.bundle())
        files[f"startup/{stem}.crt"] = File(cert.public_bytes(Encoding.PEM))
        revoked = len(self._store.records.revoked())
        if revoked:
            files[revocation.LIST_PATH] = File(self._store.records.crl(self._authority, now=self._now))
        covered = sorted((path, file) for path, file in files.items() if path.startswith("startup/"))
        data = manifest.encode(
            manifest.Manifest(
                project=project.name,
                participant=one.name,
                kind=one.kind.value,
                certificate_serial=f"{cert.serial_number:x}",
                issued_at=self._now.isoformat(),
                files=tuple(manifest.entry(path, file.content, file.mode) for path, file in covered),
                key_at_site=f"startup/{stem}.key",
                crl_number=revoked,
            )
        )
        files[manifest.MANIFEST_PATH] = File(data)
        files[manifest.SIGNATURE_PATH] = File(self._authority.sign(data))
        return files

    def _signed(self, asked: _Asked, cert: x509.Certificate, kit: Mapping[str, File]) -> formats.Signed:
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
            ca_info=formats.CaInfo(self._ca.provision_version, fingerprint(self._authority.certificate)),
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
            kit={path: formats.SignedFile(file.sha256, f"{file.mode:04o}") for path, file in sorted(kit.items())},
        )


def authority_ends(authority: Authority) -> datetime:
    """Return the end of the root's time."""
    return authority.certificate.not_valid_after_utc


def _read(path: Path) -> _Asked:
    """Read and verify a request; it comes from elsewhere, so every statement in it is checked against the others."""
    members = archive.read(
        path,
        "REQUEST",
        is_expected=lambda name: (
            "/" not in name and (name in {request.REQUEST_FILE, request.SITE_FILE} or name.endswith(".csr"))
        ),
    )
    refused = f"{path} is refused"
    for name in (request.REQUEST_FILE, request.SITE_FILE):
        if name not in members:
            raise EnrolmentFault("INVALID_REQUEST_ZIP", refused, why=f"{name} is missing", hint="ask for it again")
    try:
        metadata = msgspec.json.decode(members[request.REQUEST_FILE], type=formats.Request)
        if (metadata.artifact_type, metadata.schema_version) != (formats.REQUEST, formats.SCHEMA_VERSION):
            raise msgspec.ValidationError(f"it is a {metadata.artifact_type} of version {metadata.schema_version}")
    except msgspec.MsgspecError as exc:
        raise EnrolmentFault("REQUEST_METADATA_INVALID", refused, why=str(exc), hint="ask for it again") from exc
    csr_pem, site_yaml = members.get(f"{metadata.name}.csr"), members[request.SITE_FILE]
    if csr_pem is None or len(members) != 3:  # noqa: PLR2004 - request.json, site.yaml, <name>.csr
        raise EnrolmentFault("INVALID_REQUEST_ZIP", refused, why=f"it is not one of {metadata.name}", hint="ask again")
    for code, content, wanted in (
        ("CSR_HASH_MISMATCH", csr_pem, metadata.csr_sha256),
        ("SITE_YAML_HASH_MISMATCH", site_yaml, metadata.site_yaml_sha256),
    ):
        if hashlib.sha256(content).hexdigest() != wanted:
            raise EnrolmentFault(code, refused, why="request.json has another digest", hint="ask for it again")
    site = _site(site_yaml, refused)
    said = (metadata.project, metadata.name, metadata.org, metadata.kind, metadata.cert_type, metadata.cert_role)
    if said != (site.project, site.name, site.org, site.type, site.type, site.role):
        raise EnrolmentFault(
            "REQUEST_METADATA_MISMATCH", refused, why="request.json and site.yaml disagree", hint="ask for it again"
        )
    request.check(site)
    csr, public_key = _csr(csr_pem, refused)
    subject = tuple(attribute(csr, oid) for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, request.ROLE_OID))
    digest = hashlib.sha256(keys.public_bytes(public_key)).hexdigest()
    if subject != (site.name, site.org, site.role) or digest != metadata.public_key_sha256:
        raise EnrolmentFault(
            "REQUEST_METADATA_MISMATCH",
            refused,
            why="request.json and the certificate request disagree",
            hint="ask for it again",
        )
    return _Asked(metadata, site, csr, public_key, site_yaml)


def _site(data: bytes, refused: str) -> formats.Site:
    """Read `site.yaml`: a project's name and one participant."""

    def fault(why: str) -> EnrolmentFault:
        return EnrolmentFault("SITE_FILE", refused, why=f"site.yaml {why}", hint="ask for it again")

    try:
        document: Any = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise fault("is not YAML") from exc
    participants = document.get("participants") if isinstance(document, dict) else None
    if not isinstance(participants, list) or len(participants) != 1 or not isinstance(participants[0], dict):
        raise fault("must have exactly one participant")
    try:
        return msgspec.convert({"project": document.get("name"), **participants[0]}, formats.Site)
    except (msgspec.MsgspecError, TypeError) as exc:
        raise fault(str(exc)) from exc


def _csr(pem: bytes, refused: str) -> tuple[x509.CertificateSigningRequest, keys.PublicKey]:
    def fault(why: str) -> EnrolmentFault:
        return EnrolmentFault("CSR_INVALID", refused, why=f"the certificate request {why}", hint="ask for it again")

    try:
        csr = x509.load_pem_x509_csr(pem)
        is_sound = csr.is_signature_valid
        public_key = csr.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise fault("cannot be read") from exc
    if not is_sound:
        raise fault("was not signed with its own key")
    if isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, ec.SECP256R1):
        return csr, public_key
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size >= _MIN_RSA_BITS:
        return csr, public_key
    raise fault("has a key that is neither ECDSA P-256 nor RSA of 2048 bits or more")


def _issued(one: Participant, cert: x509.Certificate) -> Issued:
    return Issued(
        serial=f"{cert.serial_number:x}",
        name=one.name,
        kind=one.kind.value,
        org=one.org,
        role=one.role,
        not_after=cert.not_valid_after_utc.isoformat(),
        not_before=cert.not_valid_before_utc.isoformat(),
    )
