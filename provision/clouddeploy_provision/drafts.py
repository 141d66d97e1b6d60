"""Decides, for each participant, what of the last result stays and why something is made anew; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from clouddeploy_runtime.kit import Kind

from clouddeploy_provision import certificates

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from cryptography import x509

    from clouddeploy_provision.kit_tree import File
    from clouddeploy_provision.previous import CertificateRecord, PreviousKit
    from clouddeploy_provision.project import Participant


class Outcome(StrEnum):
    """What a run does with one kit."""

    CREATED = "created"
    KEPT = "kept"
    REISSUED = "reissued"


@dataclass(frozen=True)
class Renewal:
    """Whose certificates are to be made anew although they could stay."""

    names: frozenset[str] = frozenset()
    new_key: bool = False
    """With a new private key."""


@dataclass
class Draft:
    """A kit in the making."""

    participant: Participant
    hosts: tuple[str, ...]
    """Every name and address for its certificate besides its own."""
    project_hosts: tuple[str, ...]
    """Those of them that the project file gives."""
    previous: PreviousKit | None
    needs_key: bool
    needs_certificate: bool
    reason: str
    """Why something is made anew; empty when nothing is."""
    needs_listener: bool = False
    files: dict[str, File] = field(default_factory=dict, repr=False)
    outcome: Outcome = Outcome.KEPT
    is_same: bool = False
    """Nothing differs from the last result, `local/` included."""

    @property
    def stem(self) -> str:
        """Name of key and certificate in `startup/`."""
        return "server" if self.participant.kind is Kind.SERVER else "client"

    def settle(self, files: Mapping[str, File], *, spare_others: bool = False) -> None:
        """Decide the outcome once it is known which files the kit has, identity and manifest aside.

        Args:
            files: path → file.
            spare_others: signed files of the last kit that are not among these stay.
        """
        self.files = dict(files)
        startup = {path: file for path, file in files.items() if path.startswith("startup/")}
        rest = {path: file for path, file in files.items() if not path.startswith("startup/")}
        if self.needs_key:
            self.outcome = Outcome.CREATED
        elif self.needs_certificate or self.needs_listener:
            self.outcome = Outcome.REISSUED
        elif self.previous is None or not self._same(startup, spare_others=spare_others):
            self.outcome = Outcome.REISSUED
            self.reason = self._difference(startup, spare_others=spare_others)
        else:
            self.outcome = Outcome.KEPT
            self.is_same = self.previous.same_rest(rest)

    def _identity(self) -> set[str]:
        """Return the paths of keys and certificates, which are compared by what they say, not by their bytes."""
        names = {f"startup/{self.stem}.key", f"startup/{self.stem}.crt"}
        return names | ({"startup/server.key", "startup/server.crt"} if self.listens else set())

    @property
    def listens(self) -> bool:
        """Whether it has a second certificate, as a server to those behind it."""
        return self.participant.listening is not None and self.participant.kind in {Kind.CLIENT, Kind.RELAY}

    def _same(self, startup: Mapping[str, File], *, spare_others: bool) -> bool:
        if self.previous is None:
            return False
        stored = self.previous.record.files
        identity = self._identity()
        if not identity <= set(stored):
            return False
        given = {path: file for path, file in startup.items() if path not in identity}
        others = self.previous.startup_paths() - set(startup) if spare_others else set()
        return self.previous.same_startup(given, but=identity | others)

    def _difference(self, startup: Mapping[str, File], *, spare_others: bool) -> str:
        """Say which signed files differ."""
        if self.previous is None:
            return "there is no kit yet"
        stored = self.previous.record.files
        changed = sorted(path for path, file in startup.items() if path not in stored or not stored[path].is_file(file))
        gone = sorted(self.previous.startup_paths() - set(startup) - self._identity()) if not spare_others else []
        parts = [f"{', '.join(changed)} changed"] if changed else []
        parts += [f"{', '.join(gone)} is not made any more"] if gone else []
        return "; ".join(parts) or "it lacks a file"


def decide_new(participant: Participant, extra_hosts: tuple[str, ...], *, reason: str = "") -> Draft:
    """Draft the kit of somebody who has none that can be carried over; `reason` says why, if not for being new."""
    given = participant.hosts if participant.kind is Kind.SERVER else ()
    hosts = tuple(dict.fromkeys([*given, *(extra_hosts if participant.kind is Kind.SERVER else ())]))
    draft = Draft(participant, hosts, given, None, needs_key=True, needs_certificate=True, reason="")
    draft.reason = reason or "it is new"
    draft.needs_listener = draft.listens
    return draft


def decide(
    participant: Participant,
    *,
    extra_hosts: tuple[str, ...],
    previous: PreviousKit,
    root: x509.Certificate,
    root_fingerprint: str,
    is_revoked: bool,
    renewal: Renewal,
    now: datetime,
) -> Draft:
    """Decide about one participant's identity.

    Args:
        participant: whose.
        extra_hosts: of a server: names and addresses that the project file does not know.
        previous: its kit in the last result.
        root: the root that signs now.
        root_fingerprint: of that root.
        is_revoked: the last certificate was revoked.
        renewal: what the user asked for.
        now: the time of the run.
    """
    draft = decide_new(participant, extra_hosts)
    if previous.record.kind != participant.kind.value:
        return draft
    draft.previous, draft.needs_key, draft.reason = previous, False, ""
    hosts, given = draft.hosts, draft.project_hosts
    asked = participant.name in renewal.names
    if is_revoked:
        draft.needs_key, draft.reason = True, "its certificate was revoked"
    elif asked:
        draft.needs_key, draft.reason = renewal.new_key, "its renewal was asked for"
    elif previous.is_expired:
        draft.reason = "its certificate has expired"
    else:
        draft.reason = _unfit(draft, previous, root, root_fingerprint, now)
        draft.needs_certificate = bool(draft.reason)
        if draft.listens:
            listening = participant.listening
            names = (listening.host, *listening.hosts) if listening else ()
            draft.needs_listener = not _fits(
                previous.record.listener, certificates.alternative_names(Kind.SERVER, participant.name, names)
            ) or bool(draft.reason)
            draft.reason = draft.reason or ("its names as a listener changed" if draft.needs_listener else "")
    if draft.needs_certificate and not draft.needs_key and participant.kind is Kind.SERVER:
        # Names that a deployment added stay valid; those that the project file no longer has go.
        dropped = set(previous.record.hosts or ()) - set(given)
        old = [text.partition(":")[2] for text in previous.record.certificate.names]
        draft.hosts = tuple(dict.fromkeys([*hosts, *(name for name in old if name not in dropped)]))
    return draft


def _fits(record: CertificateRecord | None, wanted: list[x509.GeneralName]) -> bool:
    return record is not None and {certificates.text_of(name) for name in wanted} <= set(record.names)


def _unfit(draft: Draft, previous: PreviousKit, root: x509.Certificate, root_fingerprint: str, now: datetime) -> str:
    """Say why a certificate cannot stay; empty when it can."""
    participant, given = draft.participant, draft.project_hosts
    record = previous.record.certificate
    if record.issuer != root_fingerprint:
        return "another root signs now"
    if record.is_worn(now) and record.not_after < root.not_valid_after_utc:
        return f"its certificate ends on {record.not_after:%Y-%m-%d}"
    wanted = {
        certificates.text_of(one)
        for one in certificates.alternative_names(participant.kind, participant.name, draft.hosts)
    }
    missing = sorted(wanted - set(record.names))
    if missing:
        return f"its certificate lacks {', '.join(missing)}"
    gone = sorted(set(previous.record.hosts if previous.record.hosts is not None else given) - set(given))
    if gone:
        return f"the project file has {', '.join(gone)} no more"
    return ""
