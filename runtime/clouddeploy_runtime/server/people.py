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
    InvalidJob,
    InvalidTarget,
    JobNotFinished,
    JobNotFound,
    NoSession,
    RuntimeFault,
    ServerBusy,
    SubmitTokenConflict,
    SubmitTokenJobDeleted,
)
from clouddeploy_runtime.revocation import RevocationFault
from clouddeploy_runtime.server.calls import Call
from clouddeploy_runtime.server.statements import Statements
from clouddeploy_runtime.signing import NonceUnknown, SignatureRefused, UnsignedJob
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from clouddeploy_runtime.audit import AuditLog
    from clouddeploy_runtime.jobs import JobInfo
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.commands import Commands
    from clouddeploy_runtime.server.gate import Gate
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.server.submissions import Submissions
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

_WATCH_S = 60.0
"""Who watches a job asks over and over: one allowed look at a job is recorded in so long, of each person."""
_MAX_WATCHES = 10_000
_DOWNLOADS = 4
"""At a time; each holds its archive on the disk. Guessed."""
_MAX_WHY = 2000
"""An error travels in the call's headers, which may be 8 KiB long."""
_STATUS: Mapping[type[ClouddeployError], grpc.StatusCode] = {
    NoSession: grpc.StatusCode.UNAUTHENTICATED,
    AuthorizationRefused: grpc.StatusCode.PERMISSION_DENIED,
    JobNotFound: grpc.StatusCode.NOT_FOUND,
    InvalidJob: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidCommand: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidTarget: grpc.StatusCode.NOT_FOUND,
    JobNotFinished: grpc.StatusCode.FAILED_PRECONDITION,
    SubmitTokenConflict: grpc.StatusCode.ALREADY_EXISTS,
    SubmitTokenJobDeleted: grpc.StatusCode.ALREADY_EXISTS,
    ServerBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RevocationFault: grpc.StatusCode.INVALID_ARGUMENT,
    NonceUnknown: grpc.StatusCode.FAILED_PRECONDITION,
    SignatureRefused: grpc.StatusCode.PERMISSION_DENIED,
    UnsignedJob: grpc.StatusCode.PERMISSION_DENIED,
}
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
        self._statements = Statements(kit)
        self._watches: dict[tuple[str, str, str], float] = {}
        self._downloads = 0

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

    async def _check(self, context: Any, right: str, *, job_id: str | None = None, is_watching: bool = False) -> Peer:
        """Return who asks, if the policy lets them; the answer is in the audit log either way.

        The policy file is read for each command, so that an edit holds from then on.

        Raises:
            NoSession: nobody knows who asks; that is only counted.
            AuthorizationRefused: they may not.
            JobNotFound: it is about no job that there is; who has no role here is not told that.
        """
        peer = self._gate.person(context)
        policy = authorization.load(self._kit.local)
        revoked = self._gate.problem(peer)
        action = f"{right} {job_id or ''}".strip()
        try:
            info = self._store.get(job_id) if job_id is not None else None
        except JobNotFound as exc:
            if peer.role and not revoked:
                await self._record(context, peer, action, refusal=str(exc))
                raise
            info = None
        allowed = not revoked and bool(peer.role) and policy.permits(self._request(peer, right, info))
        if not (allowed and is_watching and self._was_seen(peer, right, job_id or "")):
            why = revoked or policy.problem or "the policy does not allow it"
            await self._record(context, peer, action, refusal="" if allowed else why)
        if not allowed:
            raise AuthorizationRefused(
                f"{peer.name} may not {right}",
                why=revoked or policy.problem or f"the server's policy does not give the role {peer.role!r} this right",
                hint="The project admin can change local/authorization.json at the server.",
            )
        return peer

    async def _record(self, context: Any, peer: Peer, action: str, *, refusal: str = "") -> None:
        """Write an answer down before it is given; in a thread, since the disk may be slow."""
        await asyncio.to_thread(
            self._audit.record,
            user=peer.name,
            role=peer.role,
            action=action,
            address=tls.address_of(context.peer()),
            allowed=not refusal,
            detail=refusal,
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
        return authorization.load(self._kit.local).permits(request)

    def _was_seen(self, peer: Peer, right: str, job_id: str) -> bool:
        """Tell whether the same look of the same person was recorded within the minute."""
        now, key = self._clock(), (peer.name, right, job_id)
        if now - self._watches.get(key, -_WATCH_S) < _WATCH_S:
            return True
        if len(self._watches) >= _MAX_WATCHES:
            self._watches.clear()
        self._watches[key] = now
        return False

    async def challenge(self, _request: bytes, context: Any) -> bytes:
        """Give a person a number to sign with."""
        try:
            peer = self._gate.person(context)
            if problem := self._gate.problem(peer) or ("" if peer.role else "only people sign"):
                raise AuthorizationRefused(f"{peer.name} may not sign", why=problem, hint="Ask a project admin.")
        except ClouddeployError as exc:
            await _refuse(context, exc)
            raise
        return self._statements.issue(peer).encode()

    async def submit(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Keep a job folder that comes as the chunks of a zip; returns its id."""
        metadata = dict(context.invocation_metadata() or ())
        token = str(metadata.get(rpc.SUBMIT_TOKEN_KEY, ""))
        peer = _NOBODY
        try:
            peer = await self._check(context, "submit_job")
            if rpc.SIGNED_KEY not in metadata:
                self._accept_unsigned(peer)
            info = await self._submissions.take(
                requests,
                peer,
                token=token,
                may_bring_code=self._may_bring_code(peer),
                verify=partial(self._statements.job, peer=peer) if rpc.SIGNED_KEY in metadata else None,
            )
        except (SignatureRefused, UnsignedJob) as exc:
            await self._note_refusal(context, peer, "submit_job", exc)
            await _refuse(context, exc)
            raise
        except ClouddeployError as exc:
            await _refuse(context, exc)
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

    async def _note_refusal(self, context: Any, peer: Peer, action: str, exc: ClouddeployError) -> None:
        """Record that what the policy allowed fell through for its signature."""
        log.warning("Refused %s of %s: %s (%s)", action, peer.name, exc, exc.error_code)
        await self._record(context, peer, action, refusal=str(exc))

    async def command(self, request: bytes, context: Any) -> bytes:
        """Answer one command, JSON in and out."""
        try:
            return msgspec.json.encode(await self._command(request, context))
        except ClouddeployError as exc:
            await _refuse(context, exc)
            raise

    async def _command(self, request: bytes, context: Any) -> Any:
        peer = self._gate.person(context)
        try:
            document = msgspec.json.decode(request, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise InvalidCommand("The command cannot be read", why=str(exc)) from exc
        name = str(document.get("command", ""))
        job_id = str(document.get("job_id", ""))
        if name == "update_crl":
            return await self._update_crl(str(document.get("crl", "")), context)
        command = self._commands.table.get(name)
        if command is None:
            await self._record(context, peer, name, refusal="there is no such command")
            raise InvalidCommand(
                f"There is no command {name[:100]!r}",
                why="this server is of another version, perhaps",
                hint="Install the same version at both ends.",
            )
        peer = await self._check(
            context, command.right, job_id=job_id if command.is_for_job else None, is_watching=command.is_watching
        )
        signed = _envelope(document.pop(_SIGNED, ""))
        if command.is_signed:
            arguments = {key: value for key, value in document.items() if key != "command"}
            try:
                self._statements.command(signed, peer, name=name, arguments=arguments)
            except SignatureRefused as exc:
                await self._note_refusal(context, peer, f"{command.right} {job_id}".strip(), exc)
                raise
        may_bring_code = command.needs_code_right and self._may_bring_code(peer)
        call = Call(peer=peer, job_id=job_id, arguments=document, may_bring_code=may_bring_code, signed=signed)
        return await command.handle(call)

    async def _update_crl(self, pem: str, context: Any) -> Any:
        """Take a list of revoked certificates; any admin may bring it, since the project's authority signed it."""
        peer = self._gate.person(context)
        problem = self._gate.problem(peer) or ("" if peer.role else "only an admin may bring one")
        await self._record(context, peer, "update_crl", refusal=problem)
        if problem:
            raise AuthorizationRefused(f"{peer.name} may not update_crl", why=problem, hint="Ask a project admin.")
        return {"is_newer": self._gate.adopt(pem.encode()), "number": self._gate.number}

    async def download_job(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream a zip of a finished job, its digest in the trailing metadata."""
        job_id = request.decode("utf-8", "replace")
        try:
            peer = await self._check(context, "download_job", job_id=job_id)
            info = self._store.finished(job_id).seen_by(peer.name)
            with self._one_download(), tempfile.TemporaryFile(dir=self._store.root) as file:
                await asyncio.to_thread(self._store.write_archive, info, file)
                whole = hashlib.sha256()
                file.seek(0)
                while chunk := await asyncio.to_thread(file.read, rpc.CHUNK_BYTES):
                    whole.update(chunk)
                    yield chunk
                context.set_trailing_metadata(((rpc.SHA256_KEY, whole.hexdigest()),))
        except OSError as exc:
            fault = RuntimeFault("The result cannot be packed", why=str(exc), hint="Look at the server's disk.")
            await _refuse(context, fault)
        except ClouddeployError as exc:
            await _refuse(context, exc)
            raise

    @contextlib.contextmanager
    def _one_download(self) -> Iterator[None]:
        if self._downloads >= _DOWNLOADS:
            raise ServerBusy("The server packs no more results just now", why=f"{_DOWNLOADS} are fetched", hint="Wait.")
        self._downloads += 1
        try:
            yield
        finally:
            self._downloads -= 1


def _envelope(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b"?"  # which is no statement


async def _refuse(context: Any, exc: ClouddeployError) -> None:
    """End a call with an error that the admin session turns back into the same class."""
    code = next((code for kind, code in _STATUS.items() if isinstance(exc, kind)), grpc.StatusCode.INTERNAL)
    document = msgspec.json.encode({"what": exc.what[:_MAX_WHY], "why": exc.why[:_MAX_WHY], "hint": exc.hint}).decode()
    await context.abort(code, document, ((rpc.ERROR_KEY, exc.error_code),))
