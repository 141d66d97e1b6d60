"""The project's step of enrolment: check a site's request, and answer it with a signed kit that lacks only its key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime.enrolment import formats, request
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.kit import Kind
from clouddeploy_runtime.kit.kit import MAX_PORT, is_host

from clouddeploy_provision import asked as requests
from clouddeploy_provision import site_file
from clouddeploy_provision.answer import Answers
from clouddeploy_provision.ca_records import Issued, write_atomic
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.errors import CaError, ProvisionError
from clouddeploy_provision.project import Participant, Project

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_provision.asked import Asked
    from clouddeploy_provision.ca import Authority

APPROVED_DAYS = 1095
"""As the reference: three years, since every renewal takes two people."""


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
    """Of the key that was certified; the site sees the same when it asks."""
    host_names: tuple[str, ...] = ()
    """Further names and addresses in the certificate of a server, as it asked for them."""


def read_profile(path: Path) -> formats.Profile:
    """Read a project's profile: `name`, `server: {host, fed_learn_port}`, `scheme`, `connection_security`.

    Raises:
        EnrolmentFault: PROFILE_INVALID.
    """
    try:
        profile = formats.convert(site_file.plain(path.read_bytes()), formats.Profile)
        check_profile(profile)
    except (OSError, ValueError) as exc:
        raise EnrolmentFault(
            "PROFILE_INVALID",
            f"{path} is not a project's profile",
            why=getattr(exc, "strerror", None) or str(exc),
            hint="example: {name: my_project, server: {host: fl.example.com, fed_learn_port: 8002}}",
        ) from exc
    return profile


def check_profile(profile: formats.Profile) -> None:
    """Refuse a profile that no kit could be made from.

    Raises:
        ValueError: says what is wrong.
    """
    if not request.is_project_name(profile.name):
        raise ValueError(f"name {profile.name!r} cannot be that of a project")
    server = profile.server
    if server is not None:
        if not is_host(server.host):
            raise ValueError(f"server.host {server.host!r} is neither a host name nor an address")
        if server.name is None and not request.is_server_name(server.host):
            raise ValueError("server.name is missing: server.host cannot be its name in a certificate")
        if server.name is not None and not request.is_server_name(server.name):
            raise ValueError(f"server.name {server.name!r} cannot be that of a server")
        for port in (server.fed_learn_port, server.admin_port):
            if port is not None and not 0 < port <= MAX_PORT:
                raise ValueError(f"port {port} is not in 1 to {MAX_PORT}")
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
    asked = requests.read(request_zip)
    store = CaStore(ca_folder)
    if not store.exists:
        raise CaError(
            f"{ca_folder} has no authority", why="rootCA.pem is missing", hint="make one: clouddeploy cert init"
        )
    target = (out if out is not None else request_zip.parent) / f"{asked.site.name}.signed.zip"
    if target.exists() and not force:
        raise EnrolmentFault(
            "OUTPUT_DIR_EXISTS", f"{target} is there already", why="it may answer another request", hint="use --force"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
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
        self._profile = found
        self._server = msgspec.structs.replace(found.server, name=found.server.name or self._server_name(found.server))
        try:
            check_profile(msgspec.structs.replace(found, server=self._server))
        except ValueError as exc:
            raise EnrolmentFault(
                "PROFILE_INVALID", f"no kit can be made for {found.name}", why=str(exc), hint="--profile"
            ) from exc

    def _server_name(self, where: formats.ServerProfile) -> str:
        """Return the name in the server's certificate: clients refuse any other, whatever address leads there."""
        issued = [one.name for one in self._store.records.issued() if one.kind == Kind.SERVER.value]
        return issued[-1] if issued else where.host

    def answer(self, asked: Asked, target: Path, *, days: int, force: bool) -> Approval:
        """Issue the certificate, make the kit, and write both, signed."""
        site = asked.site
        self._check_project(site)
        self._check_name(site, force=force)
        participant, project = self._project(site)
        hosts = participant.hosts if participant.kind is Kind.SERVER else ()
        cert = self._authority.issue(participant, asked.public_key, hosts=hosts, now=self._now, days=days)
        answers = Answers(
            self._store, self._authority, msgspec.structs.replace(self._profile, server=self._server), now=self._now
        )
        content = answers.write(asked, participant, cert, answers.files(project, participant, cert))
        # Before anybody can have it: a certificate that nobody got is harmless, one that nobody knows of is not.
        self._store.records.record([Issued.of(participant, cert, by_request=True)])
        write_atomic(target, content)
        return Approval(
            archive=target,
            name=site.name,
            kind=site.type,
            org=site.org,
            role=site.role,
            serial=f"{cert.serial_number:x}",
            not_after=cert.not_valid_after_utc,
            rootca_fingerprint=fingerprint(self._authority.certificate),
            public_key_sha256=asked.metadata.public_key_sha256,
            host_names=site.host_names,
        )

    def _check_project(self, site: formats.Site) -> None:
        """Refuse a request for another project, and any once the root has expired."""
        if site.project != self._ca.project:
            raise EnrolmentFault(
                "PROJECT_MISMATCH",
                f"{site.name} asks for {site.project}",
                why=f"the authority is that of {self._ca.project}",
                hint="the site must ask again, for the right project",
            )
        end = self._authority.certificate.not_valid_after_utc
        if end <= self._now:
            raise EnrolmentFault(
                "CERT_EXPIRED",
                "the project's root certificate has expired",
                why=f"it was valid until {end:%Y-%m-%d}",
                hint="start a new authority: clouddeploy cert init",
            )

    def _check_name(self, site: formats.Site, *, force: bool) -> None:
        """Refuse a name that is somebody else's, and, unless forced, one that has a valid certificate."""
        server_name = self._server.name
        if site.type == "server" and site.name != server_name:
            raise EnrolmentFault(
                "SERVER_NAME_HOST_MISMATCH",
                f"the server asks to be {site.name}",
                why=f"the project's server is {server_name}",
                hint="the server must ask with that name, or the profile must say server.name",
            )

        def conflict(what: str, why: str, hint: str) -> EnrolmentFault:
            return EnrolmentFault("IDENTITY_CONFLICT", f"{site.name} {what}", why=why, hint=hint)

        asks = f"the request is for a {site.type} of {site.org}"
        if site.type != "server" and site.name == server_name:
            raise conflict("is the project's server", asks, "choose another name")
        known = self._store.records.last_issued().get(site.name)
        if known is None:
            return
        if (known.kind or site.type, known.org, known.role) != (site.type, site.org, site.role):
            role = f", {known.role}" if known.role else ""
            asks += f", {site.role}" if site.role else ""
            raise conflict(f"is a {known.kind} of {known.org}{role} already", asks, "choose another name")
        is_revoked = int(known.serial, 16) in self._store.records.revoked()
        if not force and (is_revoked or datetime.fromisoformat(known.not_after) > self._now):
            state = "was revoked" if is_revoked else f"is valid until {known.not_after[:10]}"
            why = f"it {state}; whoever sent this request may not be {site.name}"
            raise conflict("has a certificate already", why, "ask them; --force approves it")

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
