"""One run of provisioning, with the project's folder locked: draft every kit, run the builders, sign, write, show."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property, partial
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import keys, revocation
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.enrolment.formats import Profile, ServerProfile
from clouddeploy_runtime.kit import Kind, config, manifest

from clouddeploy_provision import certificates, drafts, kit_tree
from clouddeploy_provision.builders import archive, catalogue
from clouddeploy_provision.builders.homomorphic import SHARED_SUFFIX
from clouddeploy_provision.ca_records import Issued, RevokedLine, write_atomic
from clouddeploy_provision.errors import CaError, ResultError
from clouddeploy_provision.identities import Identities
from clouddeploy_provision.kit_builder import KitBuilder
from clouddeploy_provision.kit_tree import FOLDER, File
from clouddeploy_provision.pipeline import Pipeline
from clouddeploy_provision.previous import (
    LISTENER_CERT,
    NEVER_EDITED,
    Index,
    KitRecord,
    Previous,
    check_open,
    next_result,
)
from clouddeploy_provision.spec import Context

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
        self._endpoint: config.EndpointOverlay | None = None
        """Where clients connect, when a deployment says so."""
        self._mask = kit_tree.umask()
        self.authority: Authority

    def open(self, passphrase: bytes) -> None:
        """Open the authority, or make it on the first run.

        Raises:
            PassphraseError: the passphrase is wrong.
            CaError: its folder is damaged.
        """
        days = self._project.root_valid_days
        if not self._store.exists:
            self.authority = self._store.create(
                self._project.name, passphrase=passphrase, now=self.now, days=days, algorithm=self._algorithm
            )
            return
        self.authority = self._store.open(passphrase)

    def check(self, *, needs_result: bool) -> None:
        """Refuse what cannot be done, before anything is changed.

        Args:
            needs_result: another result is to be written.

        Raises:
            ResultError: the results are used up, the keys of the last one are encrypted, or somebody is to be renewed
                whom the project file does not have.
            CaError: the authority cannot be used for this project any more, or a participant cannot be what the
                project file says.
        """
        if needs_result:
            next_result(self._folder)
        check_open(self._folder)
        if self._root is not None:
            self._check_root(self._root)
        away = sorted(self._options.renewal.names & self.enrolled)
        if away:
            raise ResultError(
                f"{', '.join(away)} cannot be renewed here",
                why="the private key is at the site, which alone can ask for another certificate",
                hint="let the site make a request, and approve it: clouddeploy cert approve",
            )
        unknown = sorted(self._options.renewal.names - {one.name for one in self._project.participants})
        if unknown:
            raise ResultError(
                f"{', '.join(unknown)} cannot be renewed",
                why="the project file has no such participant",
                hint="see its names",
            )
        for one in self._project.participants:
            _check_identity(one, self._last_issued.get(one.name))

    def _check_root(self, root: x509.Certificate) -> None:
        if root.not_valid_after_utc <= self.now:
            raise CaError(
                "the project's root certificate has expired",
                why=f"it was valid until {root.not_valid_after_utc:%Y-%m-%d}",
                hint="use a new workspace and send every participant a new kit",
            )
        days = self._project.root_valid_days
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
            CaError: a participant was revoked.
        """
        revoked = set(self._revoked)
        here = [one for one in self._project.participants if one.name not in self.enrolled]
        found = [self._decide(one, hosts, revoked) for one in here]
        pipeline = Pipeline(self._project, self._options.custom, bundled_only=is_preview)
        self._pipeline = pipeline
        ctx = self._context()
        self._ctx = ctx
        overlay = self._previous.endpoint()
        if endpoint is not None:
            overlay = config.EndpointOverlay(endpoint.host, endpoint.port)
        self._endpoint = overlay
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
            self._identities.complete(found, ctx.kits)
        pipeline.run(ctx)
        self.warnings += ctx.warnings
        # What the last result has beyond this, builders that a preview does not run may well make again.
        spares = is_preview and any(map(catalogue.is_custom, self._project.builders))
        for draft in found:
            draft.settle(ctx.kits[draft.participant.name], spare_others=spares)
        last = self._previous.result.name if self._previous.result is not None else ""
        for name, why in self._previous.refused.items():
            self.warnings.append(f"{name}'s kit in {last} is not carried over, it gets a new key: {why}")
        return found

    def reusable(self, found: Sequence[Draft]) -> Path | None:
        """Return the last result when it holds exactly these kits."""
        last = self._previous.result
        if last is None or not all(draft.is_same for draft in found):
            return None
        here = self._previous.names - self._asked
        return last if here == {draft.participant.name for draft in found} else None

    def removed(self) -> list[str]:
        """Return who has a kit in the last result but is not in the project file."""
        return sorted(self._previous.names - {one.name for one in self._project.participants} - self._asked)

    @cached_property
    def enrolled(self) -> frozenset[str]:
        """Participants that get no kit here: their keys are, or will be, made where they run."""
        return self._options.enrolled | (self._asked & {one.name for one in self._project.participants})

    @cached_property
    def _asked(self) -> frozenset[str]:
        """Names whose certificate in use was issued on request; one that was revoked does not count."""
        return frozenset(
            name
            for name, one in self._last_issued.items()
            if one.by_request and int(one.serial, 16) not in self._revoked
        )

    def write(self, found: Sequence[Draft]) -> Path:
        """Sign and write every kit, and show the result under its number.

        Raises:
            ResultError: the results are used up.
            BuilderFailed: the archives or the packager failed.
        """
        result = next_result(self._folder)
        if not self._pipeline.has_custom:
            new = [draft for draft in found if draft.outcome is not drafts.Outcome.KEPT]
            self._identities.complete(new, self._ctx.kits)
        wip = self._folder / "wip" / "result"
        wip.mkdir(FOLDER, parents=True)
        wip.chmod(FOLDER)
        try:
            records = self._write_all(found, wip)
            beside = self._options.result_files(draft.participant.name for draft in found)
            for path, file in {**self._ctx.result_files, **beside}.items():
                for parent in sorted(map(str, PurePath(path).parents)):
                    if not (wip / parent).exists():
                        kit_tree.make_folder(f"{wip}/{parent}")
                kit_tree.write(str(wip), {path: file})
            self._archive(wip, found)
            # Before the kits can be seen: a certificate that nobody got is harmless, one that nobody knows of is not.
            self._store.records.record(self._identities.issued)
            wip.rename(result)
        finally:
            shutil.rmtree(self._folder / "wip", ignore_errors=True)
        try:
            self._ctx.finished(result)
            self._pipeline.package(self._ctx)
        except BaseException:
            shutil.rmtree(result, ignore_errors=True)
            raise
        self._previous.keep(Index(result.name, records, self._endpoint, len(self._revoked)))
        return result

    def describe(self) -> None:
        """Keep with the authority what approving a request needs to know."""
        server = self._project.server
        where = ServerProfile(server.host, server.port, server.port, server.name)
        security = self._project.connection_security
        profile = Profile(self._project.name, where, config.SCHEME, security)
        self._store.describe(profile, now=self.now)

    @property
    def _algorithm(self) -> keys.KeyAlgorithm:
        given = catalogue.argument(self._project.builders, "CertBuilder", "key_algorithm")
        return keys.KeyAlgorithm(given) if given else keys.KeyAlgorithm.P256

    @cached_property
    def _identities(self) -> Identities:
        return Identities(self.authority, self._algorithm, now=self.now)

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
    def _last_issued(self) -> dict[str, Issued]:
        return self._store.records.last_issued()

    @cached_property
    def _revoked(self) -> dict[int, RevokedLine]:
        return self._store.records.revoked()

    def _crl(self, *, is_preview: bool) -> File | None:
        if not self._revoked:
            return None
        if is_preview:
            return File(self._store.records.signed(self._store.certificate()))
        return File(self._store.records.crl(self.authority, now=self.now))

    def _decide(self, one: Participant, hosts: tuple[str, ...], revoked: set[int]) -> Draft:
        known, previous = self._last_issued.get(one.name), self._previous.kit(one.name)
        # The last kit's too: a run that was killed may have recorded a new certificate that nobody ever got.
        serials = [known.serial] if known is not None else []
        if previous is not None:
            serials += [record.serial for record in (previous.record.certificate, previous.record.listener) if record]
        is_revoked = any(int(serial, 16) in revoked for serial in serials)
        if is_revoked and one.name not in self._options.renewal.names:
            raise CaError(
                f"{one.name} gets no kit",
                why="its certificate was revoked",
                hint=f"take it out of the project file, or readmit it: clouddeploy cert renew {one.name} --new-key",
            )
        if previous is None or self._root is None:
            is_known = one.name in self._previous.refused
            return drafts.decide_new(one, hosts, reason="its last kit cannot be carried over" if is_known else "")
        return drafts.decide(
            one,
            extra_hosts=hosts,
            previous=previous,
            root=self._root,
            root_fingerprint=self._root_fingerprint,
            is_revoked=is_revoked,
            renewal=self._options.renewal,
            now=self.now,
        )

    def _context(self) -> Context:
        def carried(name: str, path: str) -> bytes | None:
            if path.endswith(SHARED_SUFFIX) and self._previous.revoked != len(self._revoked):
                return None  # somebody who was shut out since knows it
            kit = self._previous.kit(name)
            return kit.read(path)[0] if kit is not None and path in kit.record.files else None

        return Context(
            workspace=self._workspace,
            folder=self._folder,
            custom_folder=self._options.custom.folder,
            kits={},
            previous=carried,
        )

    def _write_all(self, found: Sequence[Draft], wip: Path) -> dict[str, KitRecord]:
        """Write every kit; returns what is remembered of each, in the order of the project file."""
        write = partial(self._write, wip=wip)
        # New kits are signed and written, for which threads let each other run; to link kept ones they would only wait.
        kept = {one.participant.name: write(one) for one in found if one.outcome is drafts.Outcome.KEPT}
        new = [one for one in found if one.participant.name not in kept]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = dict(zip([one.participant.name for one in new], pool.map(write, new), strict=True))
        return {name: kept.get(name) or made[name] for name in (one.participant.name for one in found)}

    def _write(self, draft: Draft, wip: Path) -> KitRecord:
        """Write one kit: signed files that are the same are linked, edits in `local/` go on, the rest is new."""
        kit = f"{wip}/{draft.participant.name}"
        previous = draft.previous
        made = dict(self._ctx.kits[draft.participant.name])
        linked: dict[str, kit_tree.Stored] = {}
        if previous is not None and draft.outcome is drafts.Outcome.KEPT:
            made = {path: file for path, file in made.items() if not path.startswith(kit_tree.STARTUP)}
            linked = {path: one for path, one in previous.record.files.items() if path.startswith(kit_tree.STARTUP)}
        else:
            made |= self._signed(draft, made)
        by_hand = self._by_hand(draft, made)
        kit_tree.make_folders(kit, [*linked, *made, *by_hand], mask=self._mask)
        stored = kit_tree.carry(previous.folder, kit, linked) if previous is not None else {}
        new = {path: file for path, file in made.items() if path not in by_hand}
        stored |= kit_tree.write(kit, new, mask=self._mask)
        kit_tree.write(kit, by_hand)
        if previous is not None:  # of an edited file, what it was before; so it is still known as edited next time
            stored |= {path: previous.record.files[path] for path in by_hand if path in made}
            if linked:
                return msgspec.structs.replace(previous.record, hosts=draft.project_hosts, files=stored)
        listener = None
        if draft.listens:
            listener = self._identities.record(made[LISTENER_CERT].content, draft, is_listener=True)
        return KitRecord(
            kind=draft.participant.kind.value,
            certificate=self._identities.record(made[f"startup/{draft.stem}.crt"].content, draft),
            listener=listener,
            hosts=draft.project_hosts,
            files=stored,
        )

    def _by_hand(self, draft: Draft, made: Mapping[str, File]) -> dict[str, File]:
        """Read what somebody added to the last kit's `local/`, or edited there."""
        previous, name = draft.previous, draft.participant.name
        if previous is None:
            return {}
        edited = {path for path, file in made.items() if previous.carries(path, file)}
        for path in sorted((previous.edited & set(made)) - edited - NEVER_EDITED):
            self.warnings.append(
                f"{name}/{path} is made differently now; what was edited there is in {previous.folder}"
            )
        return kit_tree.read(previous.folder, [*(path for path in previous.added if path not in made), *sorted(edited)])

    def _signed(self, draft: Draft, files: Mapping[str, File]) -> dict[str, File]:
        """Describe and sign everything in `startup/`."""
        one = draft.participant
        record = self._identities.record(files[f"startup/{draft.stem}.crt"].content, draft)
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
                crl_number=len(self._revoked),
            )
        )
        return {manifest.MANIFEST_PATH: File(data), manifest.SIGNATURE_PATH: File(self.authority.sign(data))}

    def _archive(self, wip: Path, found: Sequence[Draft]) -> None:
        """Write one encrypted archive for each kit, when the project has a ZipBuilder."""
        builder = self._pipeline.archives
        if builder is None:
            return
        names = [draft.participant.name for draft in found]
        passwords = builder.passwords(names, given=self._options.zip_password)
        for name in names:
            folder = wip / name
            files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            archive.write(wip / f"{name}.zip", name, kit_tree.read(folder, files), passwords[name])
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
