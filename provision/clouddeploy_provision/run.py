"""One run of provisioning, with the project's folder locked: draft every kit, run the builders, sign, write, show."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import keys, revocation
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.enrolment.formats import Profile, ServerProfile
from clouddeploy_runtime.kit import Kind, config, manifest
from cryptography.hazmat.primitives.serialization import Encoding

from clouddeploy_provision import certificates, drafts, kit_tree
from clouddeploy_provision.builders import archive, catalogue
from clouddeploy_provision.ca_records import Issued, write_atomic
from clouddeploy_provision.errors import CaError, ResultError
from clouddeploy_provision.kit_builder import KitBuilder
from clouddeploy_provision.kit_settings import packaged
from clouddeploy_provision.kit_tree import FOLDER, PRIVATE, SCRIPT, File
from clouddeploy_provision.pipeline import Pipeline
from clouddeploy_provision.previous import CertificateRecord, Index, KitRecord, Previous, next_result
from clouddeploy_provision.spec import Context

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from cryptography import x509

    from clouddeploy_provision.ca import Authority
    from clouddeploy_provision.ca_store import CaStore
    from clouddeploy_provision.drafts import Draft
    from clouddeploy_provision.project import Participant, Project
    from clouddeploy_provision.provisioner import Endpoint, Options

_ENDPOINT = "local/endpoint.json"
_ROOT = "startup/rootCA.pem"


class Run:
    """One run.

    Args:
        project: the project.
        workspace: where results go.
        store: the project's authority, locked by the caller.
        options: how kits are made.
        now: the time of the run.
    """

    def __init__(self, project: Project, workspace: Path, *, store: CaStore, options: Options, now: datetime) -> None:
        self.now = now
        self.warnings: list[str] = []
        self._project = project
        self._workspace = workspace
        self._folder = workspace / project.name
        self._store = store
        self._options = options
        self._issued: list[Issued] = []
        self._fresh: dict[bytes, x509.Certificate] = {}
        """What was issued in this run, by its PEM form."""
        self._records: dict[str, KitRecord] = {}
        self.authority: Authority

    def open(self, passphrase: bytes) -> None:
        """Open the authority, or make it on the first run.

        Raises:
            PassphraseError: the passphrase is wrong.
            CaError: the authority cannot be used for this project any more.
        """
        days = self._project.root_valid_days
        if not self._store.exists:
            self.authority = self._store.create(
                self._project.name, passphrase=passphrase, now=self.now, days=days, algorithm=self._algorithm
            )
            return
        self.authority = self._store.open(passphrase)
        root = self.authority.certificate
        if root.not_valid_after_utc <= self.now:
            raise CaError(
                "the project's root certificate has expired",
                why=f"it was valid until {root.not_valid_after_utc:%Y-%m-%d}",
                hint="use a new workspace and send every participant a new kit",
            )
        life = root.not_valid_after_utc - root.not_valid_before_utc
        if days is not None and life not in {timedelta(days=days), timedelta(days=days) + certificates.CLOCK_SKEW}:
            raise CaError(
                "root_valid_days cannot change",
                why=f"the project's root was made for {life.days} days, the project file says {days}",
                hint="put the old number back, or exchange the root: clouddeploy cert rollover",
            )

    def draft(self, hosts: tuple[str, ...], endpoint: Endpoint | None, *, is_preview: bool = False) -> list[Draft]:
        """Decide about every kit and gather its files, all but identities and manifests.

        Raises:
            BuilderFailed: a builder failed.
            CaError: a participant cannot be what the project file says.
        """
        self._check_renewal()
        known = self._store.records.last_issued()
        for one in self._project.participants:
            _check_identity(one, known.get(one.name))
        revoked = self._store.records.revoked()
        found = [self._decide(one, hosts, known.get(one.name), set(revoked)) for one in self._project.participants]
        pipeline = Pipeline(self._project, self._options.custom, bundled_only=is_preview)
        self._pipeline = pipeline
        ctx = self._context()
        self._ctx = ctx
        overlay = self._overlay(endpoint)
        builder = KitBuilder(self._project)
        crl = self._crl(is_preview=is_preview)
        for draft in found:
            files = builder.files(draft.participant)
            files[_ROOT] = self._roots
            if crl is not None:
                files[revocation.LIST_PATH] = crl
            if overlay is not None:
                host = None if draft.participant.kind is Kind.SERVER else overlay.host
                files[_ENDPOINT] = File(config.encode(config.EndpointOverlay(host, overlay.port)))
            ctx.kits[draft.participant.name] = files
        if pipeline.has_custom:  # they may want to see whole kits
            self._identify(found)
        pipeline.run(ctx)
        self.warnings += ctx.warnings
        for draft in found:
            draft.settle(ctx.kits[draft.participant.name])
        return found

    def reusable(self, found: Sequence[Draft]) -> Path | None:
        """Return the last result when it holds exactly these kits."""
        last = self._previous.result
        if last is None or not all(draft.is_same for draft in found):
            return None
        return last if self._previous.names() == {draft.participant.name for draft in found} else None

    def removed(self) -> list[str]:
        """Return who has a kit in the last result but is not in the project file."""
        return sorted(self._previous.names() - {one.name for one in self._project.participants})

    def write(self, found: Sequence[Draft]) -> Path:
        """Sign and write every kit, and show the result under its number.

        Raises:
            ResultError: the results are used up.
            BuilderFailed: the archives or the packager failed.
        """
        result = next_result(self._folder)
        if not self._pipeline.has_custom:
            self._identify([draft for draft in found if draft.outcome is not drafts.Outcome.KEPT])
        wip = self._folder / "wip" / "result"
        wip.mkdir(FOLDER, parents=True)
        wip.chmod(FOLDER)
        try:
            for draft in found:
                self._write(draft, str(wip / draft.participant.name))
            for path, file in self._result_files().items():
                (wip / path).parent.mkdir(FOLDER, parents=True, exist_ok=True)
                kit_tree.write(str(wip), {path: file})
            self._archive(wip, found)
            # Before the kits can be seen: a certificate that nobody got is harmless, one that nobody knows of is not.
            self._store.records.record(self._issued)
            wip.rename(result)
        finally:
            shutil.rmtree(self._folder / "wip", ignore_errors=True)
        try:
            self._ctx.finished(result)
            self._pipeline.package(self._ctx)
        except BaseException:
            shutil.rmtree(result, ignore_errors=True)
            raise
        self._previous.keep(Index(result.name, self._records))
        return result

    def describe(self) -> None:
        """Keep with the authority what approving a request needs to know."""
        server = self._project.server
        where = ServerProfile(server.host, server.port, server.port)
        security = self._project.connection_security
        profile = Profile(self._project.name, where, config.SCHEME, security)
        self._store.describe(profile, now=self.now)

    @property
    def _algorithm(self) -> keys.KeyAlgorithm:
        given = catalogue.argument(self._project.builders, "CertBuilder", "key_algorithm")
        return keys.KeyAlgorithm(given) if given else keys.KeyAlgorithm.P256

    @cached_property
    def _previous(self) -> Previous:
        trusted = self._store.trusted() if self._store.exists else []
        return Previous(self._folder, project=self._project.name, trusted=trusted, now=self.now)

    @cached_property
    def _root(self) -> x509.Certificate | None:
        return self._store.certificate() if self._store.exists else None

    @cached_property
    def _root_fingerprint(self) -> str:
        return fingerprint(self._root) if self._root is not None else ""

    @cached_property
    def _roots(self) -> File:
        return File(self._store.bundle() if self._store.exists else b"")

    @cached_property
    def _crl_number(self) -> int:
        return len(self._store.records.revoked())

    def _crl(self, *, is_preview: bool) -> File | None:
        if not self._crl_number:
            return None
        if is_preview:
            return File((self._store.folder / "crl.pem").read_bytes())
        return File(self._store.records.crl(self.authority, now=self.now))

    def _check_renewal(self) -> None:
        unknown = sorted(self._options.renewal.names - {one.name for one in self._project.participants})
        if unknown:
            raise ResultError(
                f"{', '.join(unknown)} cannot be renewed",
                why="the project file has no such participant",
                hint="see its names",
            )

    def _decide(self, one: Participant, hosts: tuple[str, ...], known: Issued | None, revoked: set[int]) -> Draft:
        is_revoked = known is not None and int(known.serial, 16) in revoked
        if is_revoked and one.name not in self._options.renewal.names:
            raise CaError(
                f"{one.name} gets no kit",
                why="its certificate was revoked",
                hint=f"take it out of the project file, or readmit it: clouddeploy cert renew {one.name} --new-key",
            )
        previous = self._previous.kit(one.name)
        if previous is None or self._root is None:
            found = drafts.decide_new(one, hosts)
        else:
            found = drafts.decide(
                one,
                extra_hosts=hosts,
                previous=previous,
                root=self._root,
                root_fingerprint=self._root_fingerprint,
                is_revoked=is_revoked,
                renewal=self._options.renewal,
                now=self.now,
            )
        return found

    def _context(self) -> Context:
        def carried(name: str, path: str) -> bytes | None:
            kit = self._previous.kit(name)
            return kit.read(path)[0] if kit is not None and path in kit.record.files else None

        return Context(
            workspace=self._workspace,
            folder=self._folder,
            custom_folder=self._options.custom.folder,
            kits={},
            previous=carried,
        )

    def _overlay(self, endpoint: Endpoint | None) -> config.EndpointOverlay | None:
        if endpoint is not None:
            return config.EndpointOverlay(endpoint.host, endpoint.port)
        return self._previous.endpoint()

    def _identify(self, found: Iterable[Draft]) -> None:
        """Give each draft its keys and certificates: carried over, or made."""
        wanted = list(found)
        made = self._make_keys(sum(draft.needs_key for draft in wanted) + sum(draft.needs_listener for draft in wanted))
        for draft in wanted:
            files = self._ctx.kits[draft.participant.name]
            files |= self._certified(draft, draft.stem, made)
            if draft.listens:
                files |= self._listener(draft, made)

    def _make_keys(self, count: int) -> list[keys.PrivateKey]:
        """Make private keys on every core: OpenSSL lets go of the interpreter while it looks for primes."""
        if count > 1 and self._algorithm is keys.KeyAlgorithm.RSA_2048:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(pool.map(lambda _: keys.generate(self._algorithm), range(count)))
        return [keys.generate(self._algorithm) for _ in range(count)]

    def _certified(self, draft: Draft, stem: str, made: list[keys.PrivateKey]) -> dict[str, File]:
        key_path, cert_path = f"startup/{stem}.key", f"startup/{stem}.crt"
        if draft.previous is not None and not draft.needs_certificate:
            key_pem, cert_pem = draft.previous.read(key_path, cert_path)
            return {key_path: File(key_pem, PRIVATE), cert_path: File(cert_pem)}
        if draft.previous is None or draft.needs_key:
            key = made.pop()
            key_pem = keys.to_pem(key)
        else:
            (key_pem,) = draft.previous.read(key_path)
            key = keys.from_pem(key_pem)
        one = draft.participant
        cert = self.authority.issue(one, key.public_key(), hosts=draft.hosts, now=self.now)
        return {key_path: File(key_pem, PRIVATE), cert_path: self._certificate(one, cert)}

    def _listener(self, draft: Draft, made: list[keys.PrivateKey]) -> dict[str, File]:
        key_path, cert_path = "startup/server.key", "startup/server.crt"
        if draft.previous is not None and not draft.needs_listener:
            key_pem, cert_pem = draft.previous.read(key_path, cert_path)
            return {key_path: File(key_pem, PRIVATE), cert_path: File(cert_pem)}
        key, one = made.pop(), draft.participant
        listening = one.listening
        hosts = (listening.host, *listening.hosts) if listening is not None else ()
        cert = self.authority.issue_listener(one, key.public_key(), hosts=hosts, now=self.now)
        return {
            key_path: File(keys.to_pem(key), PRIVATE),
            cert_path: self._certificate(one, cert),
        }

    def _certificate(self, one: Participant, cert: x509.Certificate) -> File:
        """Note a certificate that was just issued."""
        self._issued.append(_issued(one, cert))
        pem = cert.public_bytes(Encoding.PEM)
        self._fresh[pem] = cert
        return File(pem)

    def _write(self, draft: Draft, kit: str) -> None:
        """Write one kit: what is the same is linked, what a site added is copied, the rest is new."""
        name, previous = draft.participant.name, draft.previous
        files = dict(self._ctx.kits[name])
        if draft.outcome is drafts.Outcome.KEPT and previous is not None:
            record = previous.record
            startup = [path for path in record.files if path.startswith("startup/")]
            rest = {path: file for path, file in files.items() if not path.startswith("startup/")}
            same = [path for path, file in rest.items() if previous.stored(path, file) is not None]
            added = kit_tree.read(previous.folder, [path for path in previous.added if path not in rest])
            new = {path: file for path, file in rest.items() if path not in same} | added
            kit_tree.make_folders(kit, [*startup, *rest, *added])
            kit_tree.link(previous.folder, kit, [*startup, *same])
            written = kit_tree.write(kit, new)
            stored = {path: record.files[path] for path in [*startup, *same]}
            stored |= {path: one for path, one in written.items() if path in rest}
            self._records[name] = msgspec.structs.replace(record, hosts=draft.project_hosts, files=stored)
            return
        files |= self._signed(draft, files)
        added = {}
        if previous is not None:
            added = kit_tree.read(previous.folder, [path for path in previous.added if path not in files])
        kit_tree.make_folders(kit, [*files, *added])
        stored = kit_tree.write(kit, files)
        kit_tree.write(kit, added)
        self._records[name] = KitRecord(
            kind=draft.participant.kind.value,
            certificate=self._record(files[f"startup/{draft.stem}.crt"], draft, is_listener=False),
            listener=self._record(files["startup/server.crt"], draft, is_listener=True) if draft.listens else None,
            hosts=draft.project_hosts,
            files=stored,
        )

    def _record(self, file: File, draft: Draft, *, is_listener: bool) -> CertificateRecord:
        fresh = self._fresh.get(file.content)
        if fresh is not None:
            return CertificateRecord.of(fresh, self.authority.certificate)
        kept = draft.previous.record if draft.previous is not None else None
        found = None if kept is None else kept.listener if is_listener else kept.certificate
        if found is None:
            raise ResultError(
                f"{draft.participant.name} has no certificate", why="a builder exchanged it", hint="leave it"
            )
        return found

    def _signed(self, draft: Draft, files: Mapping[str, File]) -> dict[str, File]:
        """Describe and sign everything in `startup/`."""
        one = draft.participant
        record = self._record(files[f"startup/{draft.stem}.crt"], draft, is_listener=False)
        covered = sorted((path, file) for path, file in files.items() if path.startswith("startup/"))
        data = manifest.encode(
            manifest.Manifest(
                project=self._project.name,
                participant=one.name,
                kind=one.kind.value,
                certificate_serial=record.serial,
                issued_at=self.now.isoformat(),
                files=tuple(
                    manifest.ManifestEntry(path, file.sha256, len(file.content), f"{file.mode:04o}")
                    for path, file in covered
                ),
                crl_number=self._crl_number,
            )
        )
        return {manifest.MANIFEST_PATH: File(data), manifest.SIGNATURE_PATH: File(self.authority.sign(data))}

    def _result_files(self) -> dict[str, File]:
        found = dict(self._ctx.result_files)
        if self._options.start_script:
            found["start_all.sh"] = File(packaged("start_all.sh"), SCRIPT)
        return found

    def _archive(self, wip: Path, found: Sequence[Draft]) -> None:
        """Write one encrypted archive for each kit, when the project has a ZipBuilder."""
        builder = self._pipeline.archives
        if builder is None:
            return
        names = [draft.participant.name for draft in found]
        passwords = builder.passwords(names, given=self._options.zip_password)
        for name in names:
            folder = wip / name
            archive.write(
                wip / f"{name}.zip", name, kit_tree.read(folder, sorted(kit_tree.scan(str(folder)))), passwords[name]
            )
        if builder.source == "generate":
            path = self._store.folder / "zip_passwords.json"
            write_atomic(path, msgspec.json.format(msgspec.json.encode(passwords), indent=2) + b"\n")
            self.warnings.append(f"the archives' passwords are in {path}; send each by another way than its archive")


def _check_identity(one: Participant, known: Issued | None) -> None:
    """Refuse another role or organisation for a name: the certificate given out would still say the old one."""
    if known is None:
        return
    for label, before, after in (
        ("type", known.kind or one.kind.value, one.kind.value),
        ("role", known.role, one.role),
        ("organisation", known.org, one.org),
    ):
        if before != after:
            raise CaError(
                f"{one.name} cannot change its {label}",
                why=f"its certificate says {before!r} until {known.not_after[:10]}, the project file says {after!r}",
                hint="use another name for it, or a new workspace",
            )


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
