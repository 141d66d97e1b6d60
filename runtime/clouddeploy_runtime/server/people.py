"""The calls of people: submit, ask, command, download; each checked against the policy and audited."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from clouddeploy_runtime import authorization, tls
from clouddeploy_runtime.errors import (
    AuthorizationRefused,
    ClouddeployError,
    InvalidCommand,
    JobNotFound,
    RuntimeFault,
    ServerBusy,
    SessionExpired,
)
from clouddeploy_runtime.server import endings
from clouddeploy_runtime.server.calls import Call
from clouddeploy_runtime.server.refusals import refuse
from clouddeploy_runtime.server.statements import Statements
from clouddeploy_runtime.server.studies import JOB_RIGHTS
from clouddeploy_runtime.signing import SignatureRefused, UnsignedJob
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from clouddeploy_runtime.audit import AuditLog
    from clouddeploy_runtime.jobs import JobInfo
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.commands import Commands
    from clouddeploy_runtime.server.gate import Gate
    from clouddeploy_runtime.server.logins import Login
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.server.submissions import Submissions
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

_WATCH_S = 60.0
"""Who watches a job asks over and over: one allowed look at a job is recorded in so long, of each person."""
_MAX_WATCHES = 10_000
_MAX_SUBJECT = 80
_DOWNLOADS = 4
"""At a time; each holds its archive on the disk, for as long as whoever fetches it likes. Guessed."""
_DOWNLOADS_OF_ONE = 3
"""So nobody keeps the others from theirs."""
_SIGNED = "signed"
"""In a command: what the asker signed, base64; the other members are the command and its arguments."""
_NOBODY = tls.Peer(name="", org="", role="")


class PeopleCalls:
    """Handlers of the service `rpc.ADMIN`."""

    def __init__(
        self,
        kit: Kit,
        *,
        store: JobStore,
        scheduler: Scheduler,
        submissions: Submissions,
        commands: Commands,
        audit: AuditLog,
        gate: Gate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kit = kit
        self._store = store
        self._scheduler = scheduler
        self._submissions = submissions
        self._commands = commands
        self._audit = audit
        self._gate = gate
        self._clock = clock
        self._policy = authorization.PolicyFile(kit.local)
        self._statements = Statements(kit)
        self._watches: dict[tuple[str, str, str, str], float] = {}
        self._downloads: list[str] = []
        """Who fetches a result now, once for each."""

    def handler(self) -> Any:
        """Return the generic handler to add to a server."""
        return grpc.method_handlers_generic_handler(
            rpc.ADMIN,
            {
                **self._gate.handlers(),
                "Challenge": grpc.unary_unary_rpc_method_handler(self.challenge),
                "Submit": grpc.stream_unary_rpc_method_handler(self.submit),
                "Command": grpc.unary_unary_rpc_method_handler(self.command),
                "DownloadJob": grpc.unary_stream_rpc_method_handler(self.download_job),
            },
        )

    async def _login_of(self, context: Any, action: str) -> Login:
        """Return in whose session a call is; who uses one that was ended is recorded.

        Raises:
            NoSession: nobody knows who asks; that is only counted.
            SessionExpired: it was ended.
        """
        try:
            return self._gate.login_of(context)
        except SessionExpired as exc:
            if (login := self._gate.ended_login(context)) is not None:
                await self._record(context, login.user, action, refusal=exc)
            raise

    async def _check(
        self,
        context: Any,
        right: str,
        *,
        job_id: str | None = None,
        subject: str = "",
        is_watching: bool = False,
        is_passed_on: bool = False,
        reference: str = "",
    ) -> Login:
        """Return in whose session it is asked, if the policy lets them; the answer is in the audit log either way.

        What is passed on takes a role here, and the right where it is answered. The policy file is read for each
        command, so that an edit holds from then on.

        Raises:
            NoSession, SessionExpired: as in `_login_of`.
            AuthorizationRefused: they may not.
            JobNotFound: it is about no job that there is; who has no role here is not told that.
        """
        action = f"{right} {job_id or subject}".strip()
        login = await self._login_of(context, action)
        peer = login.user if job_id is not None or right in JOB_RIGHTS else login.peer
        policy = self._policy.current()
        revoked = self._gate.problem(peer)
        try:
            info = self._store.get_in(login.study, job_id) if job_id is not None else None
        except JobNotFound as exc:
            if peer.role and not revoked:
                await self._record(context, peer, action, refusal=exc, reference=reference)
                raise
            info = None
        decision = policy.explain(self._request(peer, right, info))
        may = is_passed_on or decision.allowed
        allowed = not revoked and bool(peer.role) and may
        refusal = None
        if not allowed:
            why = f"the server's policy does not allow it: {decision.rule}"
            refusal = AuthorizationRefused(
                f"{peer.name} may not {right}",
                why=revoked or policy.problem or why,
                hint="The project admin can change local/authorization.json at the server.",
            )
        if refusal is not None or not (is_watching and self._was_seen(login, right, job_id or "")):
            await self._record(context, peer, action, refusal=refusal, reference=reference)
        if refusal is not None:
            raise refusal
        return login

    async def _record(
        self, context: Any, peer: Peer, action: str, *, refusal: ClouddeployError | None = None, reference: str = ""
    ) -> None:
        """Write an answer down before it is given; in a thread, since the disk may be slow."""
        await asyncio.to_thread(
            self._audit.record,
            user=peer.name,
            role=peer.role,
            action=action,
            address=tls.address_of(context.peer()),
            allowed=refusal is None,
            detail="" if refusal is None else str(refusal),
            code="" if refusal is None else refusal.error_code,
            reference=reference,
        )

    def _ended(
        self, context: Any, login: Login, action: str, *, reference: str, is_change: bool
    ) -> contextlib.AbstractAsyncContextManager[endings.Ending]:
        return endings.recorded(
            self._audit,
            login,
            action=action,
            address=tls.address_of(context.peer()),
            reference=reference,
            is_change=is_change,
        )

    def _request(self, peer: Peer, right: str, info: JobInfo | None) -> authorization.Request:
        return authorization.Request(
            user=peer,
            right=right,
            site_org=self._kit.org,
            submitter_name=info.submitter if info else "",
            submitter_org=info.submitter_org if info else "",
        )

    def _may_bring_code(self, peer: Peer) -> bool:
        """Tell whether this person's jobs may bring code to the server: his own jobs, so he is the submitter."""
        request = authorization.Request(
            user=peer, right="byoc", site_org=self._kit.org, submitter_name=peer.name, submitter_org=peer.org
        )
        return self._policy.current().permits(request)

    def _was_seen(self, login: Login, right: str, job_id: str) -> bool:
        """Tell whether the same look in the same session was recorded within the minute.

        Not of the same person: two sessions may come from two places, and one of them need not be that person's.
        """
        now, key = self._clock(), (login.name, login.study, right, job_id)
        if now - self._watches.get(key, -_WATCH_S) < _WATCH_S:
            return True
        if len(self._watches) >= _MAX_WATCHES:
            self._watches.clear()
        self._watches[key] = now
        return False

    async def challenge(self, _request: bytes, context: Any) -> bytes:
        """Give a person a number to sign with."""
        try:
            peer = (await self._login_of(context, "challenge")).peer
            if problem := self._gate.problem(peer):
                refusal = AuthorizationRefused(f"{peer.name} may not sign", why=problem, hint="Ask a project admin.")
                await self._record(context, peer, "challenge", refusal=refusal)
                raise refusal
        except ClouddeployError as exc:
            await refuse(context, exc)
            raise
        return self._statements.issue(peer).encode()

    async def submit(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Keep a job folder that comes as the chunks of a zip; returns its id."""
        metadata = dict(context.invocation_metadata() or ())
        token = str(metadata.get(rpc.SUBMIT_TOKEN_KEY, ""))
        peer, reference, is_signed = _NOBODY, "", rpc.SIGNED_KEY in metadata
        try:
            await self._login_of(context, "submit_job")  # who is not logged in is not listened to
            signed, requests = await endings.first_of(requests) if is_signed else (b"", requests)
            reference = endings.reference_of(signed)
            login = await self._check(context, "submit_job", reference=reference)
            peer = login.peer
            if not is_signed:
                self._accept_unsigned(peer)
            async with self._ended(context, login, "submit_job", reference=reference, is_change=True) as ending:
                info = await self._submissions.take(
                    requests,
                    peer,
                    token=token,
                    study=login.study,
                    may_bring_code=self._may_bring_code(login.user),
                    verify=partial(self._statements.job, peer=peer) if is_signed else None,
                    require_session=partial(self._gate.logins.require_open, login),
                )
                ending.detail = f"job {info.job_id}"
        except (SignatureRefused, UnsignedJob) as exc:
            await self._note_refusal(context, peer, "submit_job", exc, reference=reference)
            await refuse(context, exc)
            raise
        except ClouddeployError as exc:
            await refuse(context, exc)
            raise
        self._scheduler.wake()
        return info.job_id.encode()

    def _accept_unsigned(self, peer: Peer) -> None:
        if self._statements.is_required:
            raise UnsignedJob(
                "The job is not signed",
                why="this server's require_signed_jobs demands it",
                hint="Submit it with a version that signs.",
            )
        log.warning("%s submits a job that is not signed", peer.name)

    async def _note_refusal(
        self, context: Any, peer: Peer, action: str, exc: ClouddeployError, *, reference: str
    ) -> None:
        """Record that what the policy allowed fell through for its signature."""
        log.warning("Refused %s of %s: %s (%s)", action, peer.name, exc, exc.error_code)
        await self._record(context, peer, action, refusal=exc, reference=reference)

    async def command(self, request: bytes, context: Any) -> bytes:
        """Answer one command, JSON in and out."""
        try:
            return msgspec.json.encode(await self._command(request, context))
        except ClouddeployError as exc:
            await refuse(context, exc)
            raise

    async def _command(self, request: bytes, context: Any) -> Any:
        document = _parsed(request)
        name = str(document.get("command", ""))
        job_id = str(document.get("job_id", ""))
        peer = (await self._login_of(context, name)).user
        if not name and not document:
            unreadable = InvalidCommand("The command cannot be read", why="it is no JSON object")
            await self._record(context, peer, "unreadable", refusal=unreadable)
            raise unreadable
        if name == "update_crl":
            return await self._update_crl(str(document.get("crl", "")), context)
        if name == "logout":
            return await self._logout(context)
        command = self._commands.table.get(name)
        if command is None:
            unknown = InvalidCommand(
                f"There is no command {name[:100]!r}",
                why="this server is of another version, perhaps",
                hint="Install the same version at both ends.",
            )
            await self._record(context, peer, name, refusal=unknown)
            raise unknown
        signed = _envelope(document.pop(_SIGNED, ""))
        reference = endings.reference_of(signed)
        subject = str(document.get(command.subject, ""))[:_MAX_SUBJECT] if command.subject else ""
        login = await self._check(
            context,
            command.right,
            job_id=job_id if command.is_for_job else None,
            subject=subject,
            is_watching=command.is_watching,
            is_passed_on=command.is_passed_on,
            reference=reference,
        )
        peer = login.peer
        action = f"{command.right} {job_id if command.is_for_job else subject}".strip()
        if command.is_signed:
            arguments = {key: value for key, value in document.items() if key != "command"}
            try:
                self._statements.command(signed, peer, name=name, arguments=arguments)
            except SignatureRefused as exc:
                await self._note_refusal(context, peer, action, exc, reference=reference)
                raise
        may_bring_code = command.needs_code_right and self._may_bring_code(login.user)
        call = Call(
            peer=peer,
            job_id=job_id,
            arguments=document,
            may_bring_code=may_bring_code,
            signed=signed,
            study=login.study,
            role=login.role,
        )
        is_change = command.is_signed and not command.is_passed_on
        async with self._ended(context, login, action, reference=reference, is_change=is_change):
            return await command.handle(call)

    async def _logout(self, context: Any) -> Any:
        """End the session that asks for it, once that is recorded."""
        login = self._gate.login_of(context)
        await self._record(context, login.user, "logout")
        self._gate.logins.end(login, "logged out")
        return {}

    async def _update_crl(self, pem: str, context: Any) -> Any:
        """Take a list of revoked certificates; any admin may bring it, since the project's authority signed it."""
        login, action, reference = self._gate.login_of(context), "update_crl", endings.reference_of(b"")
        peer, refusal = login.user, None
        if problem := self._gate.problem(peer):
            refusal = AuthorizationRefused(f"{peer.name} may not {action}", why=problem, hint="Ask a project admin.")
        await self._record(context, peer, action, refusal=refusal, reference=reference)
        if refusal is not None:
            raise refusal
        async with self._ended(context, login, action, reference=reference, is_change=True) as ending:
            is_newer = self._gate.adopt(pem.encode())
            ending.detail = f"list {self._gate.number}{'' if is_newer else ', which is no newer one'}"
            return {"is_newer": is_newer, "number": self._gate.number}

    async def download_job(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream a zip of a finished job, its digest in the trailing metadata."""
        job_id = request.decode("utf-8", "replace")
        try:
            reference = endings.reference_of(b"")
            login = await self._check(context, "download_job", job_id=job_id, reference=reference)
            ended = self._ended(context, login, f"download_job {job_id}", reference=reference, is_change=True)
            async with ended:
                info = self._store.finished(job_id).seen_by(login.peer.name)
                async for chunk in self._archive(info, login.peer.name, context):
                    yield chunk
        except OSError as exc:
            fault = RuntimeFault("The result cannot be packed", why=str(exc), hint="Look at the server's disk.")
            await refuse(context, fault)
        except ClouddeployError as exc:
            await refuse(context, exc)
            raise

    async def _archive(self, info: JobInfo, user: str, context: Any) -> AsyncIterator[bytes]:
        with self._one_download(user), tempfile.TemporaryFile(dir=self._store.root) as file:
            await asyncio.to_thread(self._store.write_archive, info, file)
            whole = hashlib.sha256()
            file.seek(0)
            while chunk := await asyncio.to_thread(file.read, rpc.CHUNK_BYTES):
                whole.update(chunk)
                yield chunk
            context.set_trailing_metadata(((rpc.SHA256_KEY, whole.hexdigest()),))

    @contextlib.contextmanager
    def _one_download(self, user: str) -> Iterator[None]:
        own = self._downloads.count(user)
        if len(self._downloads) >= _DOWNLOADS or own >= _DOWNLOADS_OF_ONE:
            why = f"{len(self._downloads)} are fetched, {own} of them by {user}"
            raise ServerBusy("The server packs no more results just now", why=why, hint="Wait.")
        self._downloads.append(user)
        try:
            yield
        finally:
            self._downloads.remove(user)


def _parsed(request: bytes) -> dict[str, Any]:
    """Return a command; empty: it is none, which only who has a session is told."""
    try:
        return msgspec.json.decode(request, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _envelope(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b"?"  # which is no statement
