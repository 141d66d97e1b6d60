"""Makes the startup kits of a project: carries over what has not changed, signs the rest, shows the result at once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from clouddeploy_runtime import keys
from clouddeploy_runtime.kit import Kind, config, manifest
from clouddeploy_runtime.kit.kit import is_host
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from clouddeploy_provision import certificates, previous
from clouddeploy_provision.ca_store import CaStore, Issued
from clouddeploy_provision.errors import CaError, ProvisionError, ResultError
from clouddeploy_provision.kit_builder import PRIVATE, File, KitBuilder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from clouddeploy_provision.ca import Authority
    from clouddeploy_provision.previous import PreviousKit
    from clouddeploy_provision.project import Participant, Project

FOLDER = 0o755
_ENDPOINT = "local/endpoint.json"


@dataclass(frozen=True)
class Endpoint:
    """Where the server of a deployment is reached."""

    host: str
    port: int


@dataclass(frozen=True)
class ProvisionReport:
    """What a run of `provision` made."""

    result: Path
    """The `prod_NN` folder."""
    kits: Mapping[str, Path]
    """Participant → its kit."""
    created: tuple[str, ...]
    """Participants with a new key."""
    kept: tuple[str, ...]
    """Participants whose signed files are byte for byte those of the last result."""
    reissued: tuple[str, ...]
    """Participants with the same key, but a new certificate or other signed files."""
    root_not_after: datetime


@dataclass
class _Draft:
    """A kit in memory, before it is written."""

    participant: Participant
    files: dict[str, File] = field(repr=False)
    outcome: str
    is_same: bool
    """Nothing differs from the last result, `local/` included."""
    issued: x509.Certificate | None = None


def provision(
    project: Project,
    workspace: Path,
    *,
    passphrase: bytes,
    extra_server_hosts: Sequence[str] = (),
    endpoint: Endpoint | None = None,
    reuse_result: bool = False,
    now: datetime | None = None,
) -> ProvisionReport:
    """Write a signed kit for each participant into `<workspace>/<project>/prod_NN`.

    A participant's key and certificate are carried over from the last result while they fit; a certificate that lacks a
    name or nears its end is issued anew with the same key. A run that fails or is killed leaves no `prod_NN`.

    Args:
        project: from `project.load`.
        workspace: where results go; made when missing.
        passphrase: of the certificate authority; the first run for a project sets it.
        extra_server_hosts: further addresses and names for the server's certificate. Names of earlier runs stay in it.
        endpoint: where clients and admins connect, instead of what the project file says; `None` keeps what the last
            result says.
        reuse_result: return the last result when nothing would change, instead of making an equal one.
        now: the time of issue; the clock's when not given.

    Raises:
        ProvisionError: see `clouddeploy_provision.errors`.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    for host in (*extra_server_hosts, *((endpoint.host,) if endpoint else ())):
        if not is_host(host):
            raise ResultError("the server's address cannot be used", why=f"{host!r} is neither an address nor a name")
    folder = workspace / project.name
    store = CaStore(folder / "state")
    try:
        with store.locked():
            run = _Run(project, folder, store=store, passphrase=passphrase, now=moment)
            return run.go(tuple(extra_server_hosts), endpoint, reuse_result=reuse_result)
    except OSError as exc:
        raise ProvisionError(f"the kits of {project.name} could not be written", why=str(exc)) from exc


class _Run:
    """One run, with the project's folder locked."""

    def __init__(self, project: Project, folder: Path, *, store: CaStore, passphrase: bytes, now: datetime) -> None:
        self._project = project
        self._folder = folder
        self._store = store
        self._now = now
        self._authority = self._open(passphrase)
        self._builder = KitBuilder(project)
        found = previous.results(folder)
        self._last = found[-1] if found else None

    def go(self, hosts: tuple[str, ...], endpoint: Endpoint | None, *, reuse_result: bool) -> ProvisionReport:
        wip = self._folder / "wip"
        if wip.exists():
            shutil.rmtree(wip)  # of a run that was killed
        overlay = self._overlay(endpoint)
        drafts = self._drafts(hosts, overlay)
        if reuse_result and self._last and self._is_unchanged(drafts):
            return self._report(self._last, drafts)
        result = previous.next_result(self._folder)
        try:
            for draft in drafts:
                _write(wip / draft.participant.name, draft.files)
            # Before the kits can be seen: a certificate that nobody got is harmless, one that nobody knows of is not.
            self._store.record([_issued(one.participant, one.issued) for one in drafts if one.issued is not None])
            wip.chmod(FOLDER)
            wip.rename(result)
        except BaseException:
            shutil.rmtree(wip, ignore_errors=True)
            raise
        return self._report(result, drafts)

    def _open(self, passphrase: bytes) -> Authority:
        days = self._project.root_valid_days
        if not self._store.exists:
            return self._store.create(self._project.name, passphrase=passphrase, now=self._now, days=days)
        authority = self._store.open(passphrase)
        end = authority.certificate.not_valid_after_utc
        if end <= self._now:
            raise CaError(
                "the project's root certificate has expired",
                why=f"it was valid until {end:%Y-%m-%d}",
                hint="use a new workspace and send every participant a new kit",
            )
        life = end - authority.certificate.not_valid_before_utc - certificates.CLOCK_SKEW
        if days is not None and life != timedelta(days=days):
            raise CaError(
                "root_valid_days cannot change",
                why=f"the project's root was made for {life.days} days, the project file says {days}",
                hint="put the old number back, or use a new workspace",
            )
        return authority

    def _overlay(self, endpoint: Endpoint | None) -> config.EndpointOverlay | None:
        if endpoint is not None:
            return config.EndpointOverlay(endpoint.host, endpoint.port)
        return previous.endpoint(self._last) if self._last else None

    def _drafts(self, hosts: tuple[str, ...], overlay: config.EndpointOverlay | None) -> list[_Draft]:
        known = self._store.last_issued()
        for one in self._project.participants:
            _check_identity(one, known.get(one.name))
        return [self._draft(one, hosts, overlay) for one in self._project.participants]

    def _draft(self, one: Participant, hosts: tuple[str, ...], overlay: config.EndpointOverlay | None) -> _Draft:
        files = dict(self._builder.files(one))
        if overlay is not None:
            host = None if one.kind is Kind.SERVER else overlay.host
            files[_ENDPOINT] = File(config.encode(config.EndpointOverlay(host, overlay.port)))
        startup = {path: file for path, file in files.items() if path.startswith("startup/")}
        names = (*one.hosts, *hosts) if one.kind is Kind.SERVER else ()
        old = self._previous(one)
        carried = _tree(old.kit.root) if old else {}
        if old is not None and self._fits(old, one, names):
            if all(carried.get(path) == file for path, file in startup.items()) and _covers(carried, startup, one):
                is_same = all(carried.get(path) == file for path, file in files.items())
                return _Draft(one, {**carried, **files}, "kept", is_same)
            key_pem, cert, issued = old.key_pem, old.certificate, None
        else:
            key = keys.from_pem(old.key_pem) if old else keys.generate()
            key_pem = old.key_pem if old else keys.to_pem(key)
            if old:  # names that clients may still use stay valid
                names = tuple(dict.fromkeys([*names, *_further_names(old.certificate)]))
            cert = issued = self._authority.issue(one, key.public_key(), hosts=names, now=self._now)
        stem = _stem(one)
        startup[f"startup/{stem}.key"] = File(key_pem, PRIVATE)
        startup[f"startup/{stem}.crt"] = File(cert.public_bytes(Encoding.PEM))
        startup["startup/rootCA.pem"] = File(self._authority.pem)
        startup |= self._manifest(one, cert, startup)
        local = {path: file for path, file in carried.items() if path.startswith("local/")}
        outcome = "reissued" if old else "created"
        return _Draft(one, {**local, **files, **startup}, outcome, is_same=False, issued=issued)

    def _previous(self, one: Participant) -> PreviousKit | None:
        if self._last is None:
            return None
        root = self._authority.certificate
        return previous.read(self._last / one.name, root=root, project=self._project.name, now=self._now)

    def _fits(self, old: PreviousKit, one: Participant, names: tuple[str, ...]) -> bool:
        """Tell whether a certificate can stay: it has every name and enough time left."""
        if old.is_expired:
            return False
        has_time = not certificates.is_worn(old.certificate, self._now) or (
            old.certificate.not_valid_after_utc >= self._authority.certificate.not_valid_after_utc
        )
        wanted = set(certificates.alternative_names(one.kind, one.name, names))
        return has_time and old.kit.kind is one.kind and wanted <= certificates.names_of(old.certificate)

    def _manifest(self, one: Participant, cert: x509.Certificate, startup: Mapping[str, File]) -> dict[str, File]:
        """Describe and sign everything in `startup/`."""
        data = manifest.encode(
            manifest.Manifest(
                project=self._project.name,
                participant=one.name,
                kind=one.kind.value,
                certificate_serial=f"{cert.serial_number:x}",
                issued_at=self._now.isoformat(),
                files=tuple(manifest.entry(path, file.content, file.mode) for path, file in sorted(startup.items())),
            )
        )
        return {manifest.MANIFEST_PATH: File(data), manifest.SIGNATURE_PATH: File(self._authority.sign(data))}

    def _is_unchanged(self, drafts: Sequence[_Draft]) -> bool:
        """Tell whether the last result holds exactly these kits."""
        if self._last is None:
            return False
        found = {path.name for path in self._last.iterdir() if path.is_dir()}
        return all(draft.is_same for draft in drafts) and found == {draft.participant.name for draft in drafts}

    def _report(self, result: Path, drafts: Sequence[_Draft]) -> ProvisionReport:
        def those(outcome: str) -> tuple[str, ...]:
            return tuple(draft.participant.name for draft in drafts if draft.outcome == outcome)

        return ProvisionReport(
            result=result,
            kits={draft.participant.name: result / draft.participant.name for draft in drafts},
            created=those("created"),
            kept=those("kept"),
            reissued=those("reissued"),
            root_not_after=self._authority.certificate.not_valid_after_utc,
        )


def _check_identity(one: Participant, known: Issued | None) -> None:
    """Refuse another role or organisation for a name: the certificate given out would still say the old one."""
    if known is None:
        return
    for label, before, after in (
        ("type", known.kind, one.kind.value),
        ("role", known.role, one.role),
        ("organisation", known.org, one.org),
    ):
        if before != after:
            raise CaError(
                f"{one.name} cannot change its {label}",
                why=f"its certificate says {before!r} until {known.not_after[:10]}, the project file says {after!r}",
                hint="use another name for it, or a new workspace",
            )


def _stem(one: Participant) -> str:
    return "server" if one.kind is Kind.SERVER else "client"


def _further_names(cert: x509.Certificate) -> list[str]:
    """Return the names and addresses of a server's certificate as text."""
    names = certificates.names_of(cert)
    return sorted(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def _covers(carried: Mapping[str, File], startup: Mapping[str, File], one: Participant) -> bool:
    """Tell whether a kit has in `startup/` what would be written, and nothing that is not made any more."""
    made = {f"startup/{_stem(one)}.key", f"startup/{_stem(one)}.crt", "startup/rootCA.pem"}
    made |= {manifest.MANIFEST_PATH, manifest.SIGNATURE_PATH, *startup}
    return {path for path in carried if path.startswith("startup/")} == made


def _issued(one: Participant, cert: x509.Certificate) -> Issued:
    return Issued(
        serial=f"{cert.serial_number:x}",
        name=one.name,
        kind=one.kind.value,
        org=one.org,
        role=one.role,
        not_after=cert.not_valid_after_utc.isoformat(),
    )


def _tree(kit: Path) -> dict[str, File]:
    """Read the files of a kit that belong to it; what a run in place left beside them is not carried over."""
    found = [*(kit / "startup").rglob("*"), *(kit / "local").rglob("*"), kit / "readme.txt"]
    return {
        str(path.relative_to(kit)): File(path.read_bytes(), path.stat().st_mode & 0o777)
        for path in found
        if path.is_file() and not path.is_symlink()
    }


def _write(kit: Path, files: Mapping[str, File]) -> None:
    """Write a kit; private files are born private, and every mode is exact whatever the umask."""
    folders = {kit, kit / "transfer", *((kit / path).parent for path in files)}
    for folder in sorted(folders):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(FOLDER)
    for path, file in files.items():
        keys.write_private(kit / path, file.content)
        if file.mode != PRIVATE:
            (kit / path).chmod(file.mode)
