"""A server's studies: what its kit says, what commands have changed, and what both mean for jobs and logins."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import AuthenticationRefused
from clouddeploy_runtime.lifecycle import write_atomically
from clouddeploy_runtime.studies import (
    DEFAULT,
    SiteNotInStudy,
    StudyAlreadyExists,
    StudyFault,
    StudyMismatch,
    StudyNotFound,
    StudyRegistryUnusable,
    check_name,
    named,
)
from clouddeploy_runtime.studies.registry_file import (
    CHANGES_FILE,
    KIT_FILE,
    Change,
    digest,
    encode_changes,
    parse_changes,
    parse_kit,
)

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.jobs import JobSpec
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.studies import Study
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

JOB_RIGHTS = frozenset({"submit_job", "list_jobs"})
"""With all rights about one job, those for which the role in the study counts; for all others the certificate's does:
who gives roles in a study must not give the server away with them.
"""
_MAX_STUDIES = 1000
"""Guessed; the file is written anew with each change."""


class StudyBook:
    """Every study of this server; lives in the event loop.

    The kit's registry is read at the start. A study that a command has changed is as the command left it from then on,
    whatever a later kit says; the others are as in the kit. Where a file cannot be used there is only `default`.

    Args:
        local: the `local` folder of the server's kit.
        workspace: where changes are kept.
        registry: the connected sites, of which it learns whose they are.

    Attributes:
        problem: why there is only `default`; empty: the files are sound.
    """

    def __init__(self, local: Path, workspace: Path, registry: Registry) -> None:
        self._file = workspace / CHANGES_FILE
        self._orgs: dict[str, str] = {}
        """Site → organisation, of those that were connected."""
        self._kit: dict[str, Study] = {}
        self._changes: dict[str, Change] = {}
        self.problem = ""
        try:
            self._kit = parse_kit(_content(local / KIT_FILE) or b'{"format_version":"1.0","studies":{}}')
            self._changes = parse_changes(_content(self._file) or b'{"format_version":"1.0","changes":{}}')
        except (StudyFault, OSError) as exc:
            self.problem = str(exc)
            log.error("There is only the study default: %s", self.problem)  # noqa: TRY400 - its cause is in the text
        self._warn_of_other_kits()
        registry.watch(self._joined)

    def _warn_of_other_kits(self) -> None:
        for name, change in self._changes.items():
            if digest(self._kit.get(name)) != change.based_on:
                log.warning("The kit says something new of the study %s, which commands have changed; they count", name)

    @property
    def _all(self) -> dict[str, Study]:
        if self.problem:
            return {}
        changed = {name: change.study for name, change in self._changes.items()}
        return {name: study for name, study in {**self._kit, **changed}.items() if study is not None}

    def all(self) -> list[Study]:
        """Return every study by name, without `default`.

        Raises:
            StudyRegistryUnusable: a file cannot be used.
        """
        self._require_sound()
        return [study for _, study in sorted(self._all.items())]

    def find(self, name: str) -> Study:
        """Return a study.

        Raises:
            StudyNotFound: there is none of this name.
            StudyRegistryUnusable: a file cannot be used.
        """
        self._require_sound()
        study = self._all.get(name)
        if study is None:
            raise not_found(name)
        return study

    def require_new(self, name: str) -> None:
        """Refuse a name that a study has, or none can have.

        Raises:
            InvalidStudyName: it breaks the rule.
            StudyAlreadyExists: there is one.
            StudyRegistryUnusable: a file cannot be used.
        """
        self._require_sound()
        check_name(name)
        if name in self._all:
            raise StudyAlreadyExists(f"There is a study {name} already", hint="Choose another name.")

    def add(self, study: Study) -> None:
        """Keep a new study.

        Raises:
            InvalidStudyName, StudyAlreadyExists: as in `require_new`.
            StudyRegistryUnusable: a file cannot be used, or there are too many.
        """
        self.require_new(study.name)
        if len(self._changes) >= _MAX_STUDIES:
            raise StudyRegistryUnusable("There are too many studies", why=f"{_MAX_STUDIES} were changed by commands")
        self._keep(study.name, study)

    def change(self, study: Study) -> None:
        """Keep what a study is now.

        Raises:
            StudyNotFound: there is none of its name.
            StudyRegistryUnusable: a file cannot be used.
        """
        self.find(study.name)
        self._keep(study.name, study)

    def remove(self, name: str) -> None:
        """Forget a study.

        Raises:
            StudyNotFound: there is none of its name.
            StudyRegistryUnusable: a file cannot be used.
        """
        self.find(name)
        self._keep(name, None)

    def _keep(self, name: str, study: Study | None) -> None:
        before = self._changes.get(name)
        based_on = digest(self._kit.get(name)) if before is None else before.based_on
        changes = {**self._changes, name: Change(study, based_on)}
        if study is None and not based_on:
            del changes[name]  # the kit has never had it, so nothing has to be hidden
        try:
            write_atomically(self._file, encode_changes(changes), mode=0o600)
        except OSError as exc:
            raise StudyRegistryUnusable(
                "The studies cannot be written", why=exc.strerror or str(exc), hint="Look at the server's disk."
            ) from exc
        self._changes = changes

    def org_of(self, site: str) -> str | None:
        """Return whose a site is, as its certificate says, or as a study has it; None: nobody has heard of it."""
        orgs = (study.org_of(site) for study in self._all.values())
        return self._orgs.get(site) or next((org for org in orgs if org is not None), None)

    def admit(self, peer: Peer, study: str) -> str:
        """Return the role of a person in a study: the one that the study gives, else the certificate's.

        Raises:
            AuthenticationRefused: there is no such study, or the person is no member.
        """
        name = named(study)
        if name == DEFAULT:
            return peer.role
        found = self._all.get(name)
        if found is None:
            is_empty = self.problem or not self._all
            why = self.problem or f"there is no study {name[:80]!r} here"
            raise _refused(peer, why, code="AUTH_STUDY_NOT_CONFIGURED" if is_empty else "AUTH_UNKNOWN_STUDY")
        if not found.has_member(peer.name, org=peer.org):
            raise _refused(peer, f"{peer.name} is no member of the study {name}", code="AUTH_STUDY_USER_NOT_MAPPED")
        return (found.users[peer.name] or peer.role) if peer.role else ""

    def role_of(self, peer: Peer, study: str) -> str:
        """Return as `admit`; empty for who is no member."""
        try:
            return self.admit(peer, study)
        except AuthenticationRefused:
            return ""

    def takes(self, study: str, site: Session) -> bool:
        """Tell whether new jobs of a study may go to a connected site."""
        name = named(study)
        if name == DEFAULT:
            return True
        found = self._all.get(name)
        org = found.org_of(site.name) if found is not None else None
        return org is not None and site.peer is not None and site.peer.org == org

    def check_job(self, study: str, spec: JobSpec) -> None:
        """Refuse a job that its study cannot have.

        Args:
            study: of the submitter's session.
            spec: the job.

        Raises:
            StudyMismatch: its meta.json names another study.
            StudyNotFound: the study was removed meanwhile.
            SiteNotInStudy: it names a site that takes no part.
            StudyRegistryUnusable: a file cannot be used.
        """
        if spec.study and spec.study != study:
            raise StudyMismatch(
                f"The job {spec.name} cannot be submitted in the study {study}",
                why=f"its meta.json names the study {spec.study[:80]!r}",
                hint="Log in with that study, or take the study out of meta.json.",
            )
        if study == DEFAULT:
            return
        strangers = sorted((spec.named_sites | spec.mandatory_clients) - self.find(study).sites)
        if strangers:
            raise SiteNotInStudy(
                f"The job {spec.name} cannot be submitted in the study {study}",
                why=f"it names {', '.join(strangers[:10])}, no site of the study",
                hint="Name sites of the study, or @ALL for every one of them.",
            )

    def _require_sound(self) -> None:
        if self.problem:
            raise StudyRegistryUnusable(
                "The server's studies cannot be used",
                why=self.problem,
                hint=f"Correct local/{KIT_FILE} of the server's kit or {CHANGES_FILE} in its workspace; restart it.",
            )

    def _joined(self, session: Session, joined: bool) -> None:
        if joined and session.peer is not None:
            self._orgs[session.name] = session.peer.org


def not_found(name: str) -> StudyNotFound:
    """Return the error for a study that is not there, or not to be seen by the asker."""
    return StudyNotFound(
        f"There is no study {name[:80]!r}", hint="`clouddeploy study list` names those that you may see."
    )


def _content(path: Path) -> bytes:
    """Return a file's bytes; empty when there is none: a link that leads nowhere is one that cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if os.path.lexists(path):
            raise
        return b""


def _refused(peer: Peer, why: str, *, code: str) -> AuthenticationRefused:
    return AuthenticationRefused(
        f"{peer.name} may not log in", why=why, hint="Log in with a study that you are a member of.", code=code
    )
