"""Certificates for participants of a project file whose private keys are made where they run; may be asked again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime.enrolment import formats, request
from clouddeploy_runtime.enrolment import signed as approvals
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.kit import Kind, config, manifest

from clouddeploy_provision import asked as requests
from clouddeploy_provision import certificate_authority, certificates
from clouddeploy_provision.answer import Answers, signed_file
from clouddeploy_provision.ca_records import Issued, write_atomic
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.errors import CaError, ProvisionError
from clouddeploy_provision.kit_tree import File
from clouddeploy_provision.previous import CertificateRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography import x509

    from clouddeploy_provision.asked import Asked
    from clouddeploy_provision.ca import Authority
    from clouddeploy_provision.project import Project
    from clouddeploy_provision.provisioner import Endpoint

_ENDPOINT = "local/endpoint.json"
_NONE_YET = "it has none yet"


@dataclass(frozen=True)
class Answered:
    """The answer to a participant's request."""

    archive: Path
    """What its machine makes the kit from; nothing in it is secret."""
    serial: str
    not_after: datetime
    rootca_fingerprint: str
    reason: str = ""
    """Why a certificate was issued; empty: the one in force stays."""
    is_new: bool = True
    """Whether the archive is another one than before."""
    superseded: str = ""
    """Serial number of an earlier certificate, probably for another key. It is not revoked: it stays valid until it
    ends, as after a renewal with a new key."""


def expected(project: Project, name: str) -> formats.Site:
    """Return whom the machine of a participant must ask for.

    Raises:
        ProvisionError: a participant of this kind cannot make its key itself.
        EnrolmentFault: a name cannot stand in a request.
    """
    one = project.participant(name)
    what = f"{name} cannot make its private key on its own machine"
    hint = "let provisioning make its key: leave out `keys: on-site`"
    if one.kind not in {Kind.SERVER, Kind.CLIENT}:
        raise ProvisionError(what, why=f"a request is never for a {one.kind.value}", hint=hint)
    if one.kind is Kind.CLIENT and one.listening is not None:
        raise ProvisionError(what, why="others connect to it, so it needs a second key and certificate", hint=hint)
    site = formats.Site(project.name, one.name, one.org, one.kind.value)
    request.check(site)
    return site


def keyed_on_site(ca_folder: Path) -> frozenset[str]:
    """Return whose certificate in use is for a key made on its own machine: `provision` makes no kit for them."""
    records = CaStore(ca_folder).records
    revoked = records.revoked()
    return frozenset(
        name for name, one in records.last_issued().items() if one.by_request and int(one.serial, 16) not in revoked
    )


def answer(
    request_zip: Path,
    answer_zip: Path,
    ca_folder: Path,
    *,
    project: Project,
    name: str,
    passphrase: bytes,
    endpoint: Endpoint,
    extra_server_hosts: Sequence[str] = (),
    now: datetime | None = None,
) -> Answered:
    """Answer a participant's request, as often as it is asked: what still holds stays byte for byte.

    Whoever calls must know by another way that the request comes from the participant's machine: unlike `approve`, this
    also certifies another key than that of the certificate in force.

    Args:
        request_zip: what the machine asks.
        answer_zip: the last answer, if there was one; replaced when it does not hold any more.
        ca_folder: `<workspace>/<project>/state`, after `provision`.
        project: the project file.
        name: of the participant.
        passphrase: of the authority.
        endpoint: where the server is reached; the certificate of the server names it.
        extra_server_hosts: further addresses and names for that.
        now: the time of issue; the clock's when not given.

    Raises:
        EnrolmentFault: the request is not sound, or asks for somebody else.
        ProvisionError: the authority cannot be used, or the participant was revoked.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    wanted = expected(project, name)
    asked = requests.read(request_zip)
    if asked.site != wanted:
        raise EnrolmentFault(
            "IDENTITY_CONFLICT",
            f"the machine of {name} asks for somebody else",
            why=f"it asks for {_said(asked.site)}; the project file has {_said(wanted)}",
            hint="remove the folder `enrolment` of the site on that machine, and find out who wrote it",
        )
    store = certificate_authority.require(ca_folder)
    with certificate_authority.changing(store):
        authority = store.open(passphrase)
        answering = _Answering(store, authority, project, name, now=moment)
        return answering.answer(asked, answer_zip, endpoint, extra_server_hosts)


def due(answer_zip: Path, ca_folder: Path, *, project: Project, name: str, now: datetime | None = None) -> str:
    """Say why a participant will get another certificate, as far as its machine need not be asked; empty: it will not.

    Changes nothing and needs no passphrase.

    Raises:
        ProvisionError: the authority's folder is damaged, or the participant cannot make its key.
    """
    expected(project, name)
    store = CaStore(ca_folder)
    if not store.exists:
        return _NONE_YET
    moment, root = now or datetime.now(UTC), store.certificate()
    before, reason = _before(answer_zip, root, moment)
    if before is None:
        return reason
    return _unfit(before, store.records.last_issued().get(name), root, moment)


def _said(site: formats.Site) -> str:
    names = f", also {', '.join(site.host_names)}," if site.host_names else ""
    return f"{site.type} {site.name}{names} of {site.org} in {site.project}"


def _before(answer_zip: Path, root: x509.Certificate, now: datetime) -> tuple[approvals.Approved | None, str]:
    """Read the last answer as the participant would, or say why a certificate is needed."""
    if not answer_zip.exists():
        return None, _NONE_YET
    try:
        return approvals.read(answer_zip, expected=fingerprint(root), now=now), ""
    except EnrolmentFault as exc:
        return None, f"its last one does not hold any more: {exc.why}"


def _unfit(before: approvals.Approved, last: Issued | None, root: x509.Certificate, now: datetime) -> str:
    """Say why the certificate of the last answer cannot stay, whoever has its key; empty when it can."""
    record = CertificateRecord.of(before.certificate, root)
    if last is None or last.serial != record.serial:
        return "the last one that was issued never reached it"
    if record.is_worn(now) and record.not_after < root.not_valid_after_utc:
        return f"its certificate ends on {record.not_after:%Y-%m-%d}"
    return ""


class _Answering:
    """One answer, with the authority's folder locked."""

    def __init__(self, store: CaStore, authority: Authority, project: Project, name: str, *, now: datetime) -> None:
        self._store = store
        self._authority = authority
        self._project = project
        self._one = project.participant(name)
        self._now = now

    def answer(self, asked: Asked, answer_zip: Path, endpoint: Endpoint, extra_hosts: Sequence[str]) -> Answered:
        """Keep the answer, write it anew with the same certificate, or issue another one."""
        last = self._store.records.last_issued().get(self._one.name)
        self._check_revoked(last)
        root, superseded = self._authority.certificate, ""
        # What a server's certificate names is the project's word, whatever its machine asks for.
        is_server = self._one.kind is Kind.SERVER
        hosts = tuple(dict.fromkeys([*self._one.hosts, *extra_hosts, endpoint.host])) if is_server else ()
        before, reason = _before(answer_zip, root, self._now)
        if before is not None:
            reason = self._mismatch(before, asked, hosts) or _unfit(before, last, root, self._now)
        if before is not None and not reason:
            cert = before.certificate
            is_new = self._write(asked, cert, endpoint, before, answer_zip)
        else:
            superseded = self._superseded(before, last, asked)
            cert = self._authority.issue(self._one, asked.public_key, hosts=hosts, now=self._now)
            # Before anybody can have it: a certificate that nobody got is harmless, one that nobody knows of is not.
            self._store.records.record([Issued.of(self._one, cert, by_request=True)])
            is_new = self._write(asked, cert, endpoint, None, answer_zip)
        return Answered(
            archive=answer_zip,
            serial=f"{cert.serial_number:x}",
            not_after=cert.not_valid_after_utc,
            rootca_fingerprint=fingerprint(root),
            reason=reason,
            is_new=is_new,
            superseded=superseded,
        )

    def _check_revoked(self, last: Issued | None) -> None:
        if last is not None and int(last.serial, 16) in self._store.records.revoked():
            raise CaError(
                f"{self._one.name} gets no kit",
                why="its certificate was revoked",
                hint="take it out of the project file; or readmit it: replace its machine, so that it makes another "
                f"key, and approve the request of that: clouddeploy cert approve --force {self._one.name}.request.zip",
            )

    def _mismatch(self, before: approvals.Approved, asked: Asked, hosts: tuple[str, ...]) -> str:
        """Say what the certificate of the last answer does not fit; empty when it fits."""
        if before.signed.hashes.public_key_sha256 != asked.metadata.public_key_sha256:
            return "its machine made another key"
        wanted = certificates.alternative_names(self._one.kind, self._one.name, hosts)
        if set(wanted) != certificates.names_of(before.certificate):
            return "its names and addresses are others now"
        return ""

    def _superseded(self, before: approvals.Approved | None, last: Issued | None, asked: Asked) -> str:
        """Return the serial number of a valid certificate that is not known to be for the same key."""
        if before is not None and before.signed.hashes.public_key_sha256 == asked.metadata.public_key_sha256:
            return ""
        if last is None or datetime.fromisoformat(last.not_after) <= self._now:
            return ""
        return last.serial

    def _write(
        self,
        asked: Asked,
        cert: x509.Certificate,
        endpoint: Endpoint,
        before: approvals.Approved | None,
        answer_zip: Path,
    ) -> bool:
        """Write the answer unless the last one says the same; returns whether it did."""
        profile = self._store.ca_file().project_profile
        if profile is None or profile.name != self._project.name:
            raise ProvisionError(
                f"{self._store.folder} does not say where the server of {self._project.name} is",
                hint="run provision for this project first",
            )
        answers = Answers(self._store, self._authority, profile, now=self._now)
        files = answers.files(self._project, self._one, cert)
        host = None if self._one.kind is Kind.SERVER else endpoint.host
        files[_ENDPOINT] = File(config.encode(config.EndpointOverlay(host, endpoint.port)))
        if before is not None and before.signed.request_id == asked.metadata.request_id:
            stays = {path: file for path, file in before.signed.kit.items() if path not in manifest.OUTSIDE}
            if stays == {path: signed_file(file) for path, file in files.items()}:
                return False
        write_atomic(answer_zip, answers.write(asked, self._one, cert, files))
        return True
