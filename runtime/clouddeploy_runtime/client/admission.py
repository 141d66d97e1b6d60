"""Whose wishes a site follows: it checks for itself who signed a job or a command, and asks its own policy."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime import authorization, jobs, privacy, signing, tls
from clouddeploy_runtime.client.used_statements import UsedStatements
from clouddeploy_runtime.errors import AuthorizationRefused, ClouddeployError, RuntimeFault
from clouddeploy_runtime.inspection import questions, targets
from clouddeploy_runtime.jobs import ALL_SITES
from clouddeploy_runtime.kit.kit import authorities
from clouddeploy_runtime.signing import CommandStatement, SignatureRefused, UnsignedJob
from clouddeploy_runtime.studies import named

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from clouddeploy_runtime.audit import AuditLog
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.wire import federation_pb2 as pb

log = logging.getLogger(__name__)

MEMORY = "used_statements.json"
_SERVERS_WORD = "not signed: who it is, is the server's word"


@dataclass(frozen=True)
class Admitted:
    """A job that this site takes, and for whom."""

    job_id: str
    submitter: tls.Peer
    permit: signing.Permit | None
    """What was signed; None: nothing, and this site does not want it."""

    @property
    def reference(self) -> str:
        """What ties the entries of the audit logs about this job together, at the server and at sites."""
        return "" if self.permit is None else self.permit.reference


class Admission:
    """One site's judgement; every answer is in its audit log.

    Args:
        kit: the site's.
        workspace: where it remembers what was signed for which job.
        audit: the site's log.
        revoked: the certificates that it knows to be revoked.
        studies: of which it takes jobs; None: of each that the server sends it jobs of.
    """

    def __init__(
        self,
        kit: Kit,
        workspace: Path,
        audit: AuditLog,
        *,
        revoked: Container[int] = (),
        studies: frozenset[str] | None = None,
    ) -> None:
        self._studies = studies
        self._kit = kit
        self._audit = audit
        self._revoked = revoked
        self._policy = authorization.PolicyFile(kit.local)
        self._trusted = authorities(kit.root_cert_file)
        self._used = UsedStatements(workspace / MEMORY)

    def job(self, start: pb.StartJob) -> Admitted:
        """Admit a job, before anything of it is fetched.

        Raises:
            UnsignedJob: nobody signed it, and this site wants that.
            SignatureRefused: what was signed does not hold, is for another job, or the server names another submitter
                or study.
            AuthorizationRefused: this site's policy does not let the submitter run jobs, or it takes none of the study.
        """
        said = tls.Peer(name=start.submitter, org=start.submitter_org, role=start.submitter_role)
        action = f"submit_job {start.job_id}"
        try:
            permit = self._permit(start.manifest)
            if permit is not None:
                _compare(said, permit.submitter)
                _compare_study(start.study, permit.job.study)
                self._used.note_job(start.job_id, permit)
            self._require_study(start.study)
        except RuntimeFault as exc:
            self._refused(said, action, exc, signing.reference_of_job(start.manifest))
            raise
        submitter = said if permit is None else permit.submitter
        reference, word = ("", _SERVERS_WORD) if permit is None else (permit.reference, "")
        if not self.may(submitter, "submit_job", action=action, detail=word, reference=reference):
            raise self._not_allowed(submitter)
        return Admitted(start.job_id, submitter, permit)

    def question(self, question: pb.CheckResources) -> None:
        """Judge a job that this site is asked to hold resources for; `job` does it again when it starts.

        Raises:
            UnsignedJob: as in `job`.
            SignatureRefused: as in `job`.
            AuthorizationRefused: as in `job`.
        """
        action = f"submit_job {question.job_id}"
        try:
            permit = self._permit(question.manifest)
            if permit is None:
                return  # the server does not say here whose it is
            self._used.check_job(question.job_id, permit)
            self._require_study(permit.job.study)
        except RuntimeFault as exc:
            self._refused(tls.Peer(name="", org="", role=""), action, exc, signing.reference_of_job(question.manifest))
            raise
        decision = self._policy.current().explain(self._request(permit.submitter, "submit_job"))
        if not decision.allowed:
            code, reference = AuthorizationRefused.error_code, permit.reference
            self._record(permit.submitter, action, allowed=False, detail=decision.rule, code=code, reference=reference)
            raise self._not_allowed(permit.submitter)

    def folder(self, admitted: Admitted, folder: Path, app: str) -> None:
        """Hold a job that has come against what was signed. May run in a thread.

        Args:
            admitted: the job.
            folder: where it was unpacked.
            app: what the server wants to run of it.

        Raises:
            SignatureRefused: a file was changed, added or left out, or the job gives this site another app.
            InvalidJob: its meta.json is wrong.
        """
        if admitted.permit is None:
            return
        try:
            signing.check_files(folder, admitted.permit.job.files, apps=frozenset({app}))
            wanted = jobs.load(folder, apps={app}).app_for(self._kit.name)
            if wanted != app:
                raise SignatureRefused(
                    "The job does not pass signature verification",
                    why=f"the server wants {app!r} to run here, and the job has {wanted!r} for this site",
                )
        except SignatureRefused as exc:
            self._refused(admitted.submitter, f"submit_job {admitted.job_id}", exc, admitted.reference)
            raise

    def scope(self, admitted: Admitted, app: Path) -> privacy.Scope | None:
        """Find the privacy scope that a job runs in; None: this site has no `local/privacy.json`. May run in a thread.

        Args:
            admitted: the job, whose folder `folder` has looked at.
            app: the app's folder in it.

        Raises:
            ScopeRefused: the site has no scope for it, or its policy cannot be used.
            InvalidJob: its meta.json is wrong.
        """
        action = f"privacy_scope {admitted.job_id}"
        try:
            policy = privacy.load(self._kit.local)
            if policy is None:
                return None
            scope = policy.choose(jobs.load(app.parent, apps={app.name}).scope)
        except privacy.ScopeRefused as exc:
            self._refused(admitted.submitter, action, exc, admitted.reference)
            raise
        detail = f"scope {scope.name}"
        self._record(admitted.submitter, action, allowed=True, detail=detail, reference=admitted.reference)
        return scope

    def may_bring_code(self, admitted: Admitted) -> bool:
        """Tell whether this site lets a job's submitter bring code. May run in a thread."""
        detail = "" if admitted.permit else _SERVERS_WORD
        action = f"byoc {admitted.job_id}"
        return self.may(admitted.submitter, "byoc", action=action, detail=detail, reference=admitted.reference)

    def abort(self, wish: pb.AbortJob, admitted: Admitted | None) -> tls.Peer | None:
        """Judge a wish to end a job; returns whose it is. Without a command it is the server's own, and not judged.

        Args:
            wish: the server's event.
            admitted: the job as it was admitted here; None: it does not run here.

        Raises:
            SignatureRefused: the command does not hold, is old or was obeyed before, or is about another job.
            AuthorizationRefused: this site's policy does not let that person end this job.
        """
        if not wish.command:
            return None
        user = self._command(wish.command, action=f"abort_job {wish.job_id}", wanted=({"job_id": wish.job_id},))
        submitter = admitted.submitter if admitted is not None else user
        reference = _reference(wish.command)
        action = f"abort_job {wish.job_id}"
        if not self.may(user, "abort_job", action=action, submitter=submitter, reference=reference):
            raise AuthorizationRefused(f"{user.name} may not abort_job", why="this site's policy does not allow it")
        return user

    def job_ended(self, admitted: Admitted, *, code: str = "", detail: str = "") -> None:
        """Record how a job ended that was admitted here.

        Args:
            admitted: the job.
            code: of what went wrong; empty: nothing did.
            detail: more about it.
        """
        self._audit.record_end(
            user=admitted.submitter.name,
            role=admitted.submitter.role,
            action=f"submit_job {admitted.job_id}",
            address=self._kit.host,
            reference=admitted.reference,
            code=code,
            detail=detail,
        )

    def stop(self, wish: pb.StopSite) -> tls.Peer:
        """Judge a person's wish that this site stops or starts again; returns whose it is.

        Raises:
            SignatureRefused: nobody signed it; else as in `abort`.
            AuthorizationRefused: this site's policy does not let that person do it.
        """
        action = "restart" if wish.restart else "shutdown"
        target = self._kit.name
        wanted = tuple(
            signing.stop_arguments(one, is_forced=forced) for one in (target, ALL_SITES) for forced in (False, True)
        )
        user = self._command(wish.command, action=action, wanted=wanted)
        if not self.may(user, action, action=action, reference=_reference(wish.command)):
            raise AuthorizationRefused(
                f"{user.name} may not {action} {target}", why="this site's policy does not allow it"
            )
        return user

    def question_of(self, envelope: bytes) -> tuple[tls.Peer, CommandStatement]:
        """Return who asks this site something, and what; whether it answers is for `may` to say.

        Raises:
            SignatureRefused: nobody signed it, it is old or was asked before, is for others, or is no question.
        """
        user, name = tls.Peer(name="", org="", role=""), "question"
        try:
            signed = self._verified(envelope, name)
            user, statement = signed.signer, signed.statement
            if not isinstance(statement, CommandStatement):
                raise _refused(f"{user.name} signed a job")
            name = statement.command
            if name not in questions.QUESTIONS:
                raise _refused(f"{user.name} signed {name}, which is no question")
            if not targets.means(statement.arguments.get(questions.TARGET, ""), self._kit.name):
                raise _refused(f"{user.name} asked others")
            signing.require_recent(statement)
            self._used.note_command(signing.fingerprint(envelope), statement.time, signer=user.serial)
        except SignatureRefused as exc:
            self._refused(user, name, exc, _reference(envelope))
            raise
        return user, statement

    def may(
        self,
        user: tls.Peer,
        right: str,
        *,
        action: str,
        submitter: tls.Peer | None = None,
        detail: str = "",
        reference: str = "",
    ) -> bool:
        """Ask the site's policy, and record the answer.

        Args:
            user: who wants it.
            right: as `authorization` knows it.
            action: as it stands in the log.
            submitter: whose job it is; None: the user's.
            detail: for the log, when it is allowed.
            reference: for the log, of what was signed.
        """
        decision = self._policy.current().explain(self._request(user, right, submitter))
        self._record(
            user,
            action,
            allowed=decision.allowed,
            detail=detail if decision.allowed else decision.rule,
            code="" if decision.allowed else AuthorizationRefused.error_code,
            reference=reference,
        )
        return decision.allowed

    def ended(self, user: tls.Peer, action: str, *, command: bytes, fault: ClouddeployError | None = None) -> None:
        """Record how a command ended that was allowed here.

        Args:
            user: whose it is.
            action: as it stands in the log.
            command: what was signed.
            fault: why it failed; None: it did not.
        """
        self._audit.record_end(
            user=user.name,
            role=user.role,
            action=action,
            address=self._kit.host,
            reference=_reference(command),
            code="" if fault is None else fault.error_code,
            detail="" if fault is None else str(fault),
        )

    def _request(self, user: tls.Peer, right: str, submitter: tls.Peer | None = None) -> authorization.Request:
        owner = submitter or user
        return authorization.Request(
            user=user, right=right, site_org=self._kit.org, submitter_name=owner.name, submitter_org=owner.org
        )

    def _permit(self, manifest: bytes) -> signing.Permit | None:
        if not manifest:
            if signing.is_required(self._kit):
                raise UnsignedJob(
                    "The job is not signed",
                    why="this site's require_signed_jobs demands it",
                    hint="Submit it with a version that signs.",
                )
            return None
        return signing.permit(
            manifest,
            project=self._kit.project,
            server=self._kit.server_name,
            trusted=self._trusted,
            revoked=self._revoked,
        )

    def _command(self, envelope: bytes, *, action: str, wanted: tuple[dict[str, str], ...]) -> tls.Peer:
        """Return who signed a command; it is good for this once."""
        name = action.partition(" ")[0]
        user = tls.Peer(name="", org="", role="")
        try:
            signed = self._verified(envelope, name)
            user, statement = signed.signer, signed.statement
            if not isinstance(statement, CommandStatement) or statement.command != name:
                raise _refused(f"{user.name} signed something else than {name}")
            if statement.arguments not in wanted:
                raise _refused(f"{user.name} signed {name} for {', '.join(statement.arguments.values())}")
            signing.require_recent(statement)
            self._used.note_command(signing.fingerprint(envelope), statement.time, signer=user.serial)
        except SignatureRefused as exc:
            self._refused(user, action, exc, _reference(envelope))
            raise
        return user

    def _verified(self, envelope: bytes, name: str) -> signing.Signed:
        if not envelope:
            raise _refused(f"the command {name} is not signed")
        return signing.verify(
            envelope,
            project=self._kit.project,
            server=self._kit.server_name,
            trusted=self._trusted,
            revoked=self._revoked,
        )

    def _record(
        self, user: tls.Peer, action: str, *, allowed: bool, detail: str = "", code: str = "", reference: str = ""
    ) -> None:
        self._audit.record(
            user=user.name,
            role=user.role,
            action=action,
            address=self._kit.host,
            allowed=allowed,
            detail=detail,
            code=code,
            reference=reference,
        )

    def _refused(self, user: tls.Peer, action: str, exc: RuntimeFault, reference: str) -> None:
        self._record(user, action, allowed=False, detail=str(exc), code=exc.error_code, reference=reference)

    def _require_study(self, study: str) -> None:
        if self._studies is not None and named(study) not in self._studies:
            raise AuthorizationRefused(
                f"this site takes no jobs of the study {named(study)}",
                why="allowed_studies of its local/resources.json does not name it",
            )

    def _not_allowed(self, submitter: tls.Peer) -> AuthorizationRefused:
        return AuthorizationRefused(f"this site's policy refuses jobs of {submitter.name}")


def _reference(signed: bytes) -> str:
    """Return what the logs call what was signed; nothing, where it cannot be read."""
    with contextlib.suppress(SignatureRefused):
        return signing.reference(signed)
    return ""


def _compare(said: tls.Peer, signer: tls.Peer) -> None:
    """Refuse a server that names somebody else; it would do so in its own records, too."""
    if (said.name, said.org, said.role) != (signer.name, signer.org, signer.role):
        raise _refused(f"the server calls it a job of {said.name or 'nobody'}, and {signer.name} signed it")


def _compare_study(said: str, signed: str) -> None:
    """Refuse a job that the server brings into another study than the one that it was signed for."""
    if named(said) != named(signed):
        raise _refused(f"the server calls it a job of the study {named(said)}, and {named(signed)} was signed")


def _refused(why: str) -> SignatureRefused:
    return SignatureRefused(
        "The statement does not pass signature verification",
        why=why,
        hint="Ask the project admin; the server may have been taken over.",
    )
