"""The calls of people: submit, ask, command, download; each checked against the policy and audited."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from clouddeploy_runtime import authorization, jobs, tls
from clouddeploy_runtime.errors import AuthorizationRefused, ClouddeployError, InvalidJob, JobNotFound
from clouddeploy_runtime.revocation import RevocationFault
from clouddeploy_runtime.wire import blobs, rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from clouddeploy_runtime.audit import AuditLog
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.gate import Gate
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

_MAX_ARCHIVE_BYTES = 512 << 20
_STATUS: Mapping[type[ClouddeployError], grpc.StatusCode] = {
    AuthorizationRefused: grpc.StatusCode.PERMISSION_DENIED,
    JobNotFound: grpc.StatusCode.NOT_FOUND,
    InvalidJob: grpc.StatusCode.INVALID_ARGUMENT,
    RevocationFault: grpc.StatusCode.INVALID_ARGUMENT,
}
_RIGHTS = {
    "list_jobs": "list_jobs",
    "job_meta": "get_job_meta",
    "abort_job": "abort_job",
    "system_status": "check_status",
    "shutdown": "shutdown",
}
"""Command → the right it needs."""


class PeopleCalls:
    """Handlers of the service `rpc.ADMIN`."""

    def __init__(
        self,
        kit: Kit,
        *,
        store: JobStore,
        scheduler: Scheduler,
        registry: Registry,
        audit: AuditLog,
        gate: Gate,
        shutdown: Callable[[], None],
    ) -> None:
        self._kit = kit
        self._store = store
        self._scheduler = scheduler
        self._registry = registry
        self._audit = audit
        self._gate = gate
        self._shutdown = shutdown

    def handler(self) -> Any:
        """Return the generic handler to add to a server."""
        return grpc.method_handlers_generic_handler(
            rpc.ADMIN,
            {
                **self._gate.handlers(),
                "Submit": grpc.stream_unary_rpc_method_handler(self.submit),
                "Command": grpc.unary_unary_rpc_method_handler(self.command),
                "DownloadJob": grpc.unary_stream_rpc_method_handler(self.download_job),
            },
        )

    def _check(self, context: Any, right: str, *, job_id: str = "") -> Peer:
        """Return who asks, if the policy lets them; the answer is in the audit log either way.

        The policy file is read for each command, so that an edit holds from then on.
        """
        peer = tls.peer_of(context.auth_context()) or tls.Peer(name="", org="", role="")
        info = self._store.get(job_id) if job_id else None
        policy = authorization.load(self._kit.local)
        request = authorization.Request(
            user=peer,
            right=right,
            site_org=self._kit.org,
            submitter_name=info.submitter if info else "",
            submitter_org=info.submitter_org if info else "",
        )
        revoked = self._gate.problem(peer)
        allowed = not revoked and bool(peer.role) and policy.permits(request)
        self._audit.record(
            user=peer.name,
            role=peer.role,
            action=f"{right} {job_id}".strip(),
            address=tls.address_of(context.peer()),
            allowed=allowed,
            detail="" if allowed else revoked or policy.problem,
        )
        if not allowed:
            raise AuthorizationRefused(
                f"{peer.name} may not {right}",
                why=revoked or policy.problem or f"the server's policy does not give the role {peer.role!r} this right",
                hint="The project admin can change local/authorization.json at the server.",
            )
        return peer

    async def submit(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Keep a job folder that comes as the chunks of a zip; returns its id."""
        try:
            peer = self._check(context, "submit_job")
            archive = bytearray()
            async for chunk in requests:
                archive += chunk
                if len(archive) > _MAX_ARCHIVE_BYTES:
                    raise InvalidJob("The job is too large", why=f"its archive exceeds {_MAX_ARCHIVE_BYTES} bytes")
            info = await asyncio.to_thread(self._store.add, bytes(archive), peer)
        except ClouddeployError as exc:
            await _refuse(context, exc)
            raise
        log.info("Job %s (%s) was submitted by %s", info.job_id, info.name, peer.name, extra={"job": info.job_id})
        self._scheduler.wake()
        return info.job_id.encode()

    async def command(self, request: bytes, context: Any) -> bytes:
        """Answer one command, JSON in and out."""
        try:
            return msgspec.json.encode(await self._command(request, context))
        except ClouddeployError as exc:
            await _refuse(context, exc)
            raise

    async def _command(self, request: bytes, context: Any) -> Any:
        try:
            document = msgspec.json.decode(request, type=dict[str, Any])
        except msgspec.MsgspecError as exc:
            raise InvalidJob("The command cannot be read", why=str(exc)) from exc
        name = str(document.get("command", ""))
        job_id = str(document.get("job_id", ""))
        if name == "update_crl":
            return self._update_crl(str(document.get("crl", "")), context)
        if name not in _RIGHTS:
            raise InvalidJob(f"There is no command {name!r}", why="this server is of another version, perhaps")
        if name in {"job_meta", "abort_job"}:
            self._store.get(job_id)  # refuses an unknown id, the empty one too
        peer = self._check(context, _RIGHTS[name], job_id=job_id)
        if name == "list_jobs":
            return [asdict(info) for info in self._store.all()]
        if name == "job_meta":
            return asdict(self._store.get(job_id))
        if name == "abort_job":
            await self._scheduler.abort(job_id, reason=f"aborted by {peer.name}")
            return {}
        if name == "shutdown":
            self._shutdown()
            return {}
        return self._system_status()

    def _update_crl(self, pem: str, context: Any) -> Any:
        """Take a list of revoked certificates; any admin may bring it, since the project's authority signed it."""
        peer = tls.peer_of(context.auth_context()) or tls.Peer(name="", org="", role="")
        problem = self._gate.problem(peer) or ("" if peer.role else "only an admin may bring one")
        self._audit.record(
            user=peer.name,
            role=peer.role,
            action="update_crl",
            address=tls.address_of(context.peer()),
            allowed=not problem,
            detail=problem,
        )
        if problem:
            raise AuthorizationRefused(f"{peer.name} may not update_crl", why=problem, hint="Ask a project admin.")
        return {"is_newer": self._gate.adopt(pem.encode()), "number": self._gate.number}

    def _system_status(self) -> dict[str, Any]:
        clients = [
            {"name": s.name, "address": s.address, "connected_since": s.since, "jobs": sorted(s.jobs)}
            for s in self._registry.connected()
        ]
        return {"server": self._kit.server_name, "clients": clients}

    async def download_job(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream a zip of what the job's controller left, its digest in the trailing metadata."""
        job_id = request.decode("utf-8", "replace")
        try:
            self._store.get(job_id)
            self._check(context, "download_job", job_id=job_id)
        except ClouddeployError as exc:
            await _refuse(context, exc)
            raise
        folder = self._store.run_folder(job_id)
        archive = await asyncio.to_thread(jobs.pack, folder)
        context.set_trailing_metadata(((rpc.SHA256_KEY, hashlib.sha256(archive).hexdigest()),))
        async for chunk in blobs.send(archive):
            yield chunk


async def _refuse(context: Any, exc: ClouddeployError) -> None:
    """End a call with an error that the admin session turns back into the same class."""
    code = _STATUS.get(type(exc), grpc.StatusCode.INTERNAL)
    document = msgspec.json.encode({"what": exc.what, "why": exc.why, "hint": exc.hint}).decode()
    await context.abort(code, document, ((rpc.ERROR_KEY, exc.error_code),))
