"""The calls of the sites: register, listen, download a task's tensors, upload the result."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from clouddeploy_runtime import tls
from clouddeploy_runtime.errors import BlobCorrupt
from clouddeploy_runtime.job.messages import Result
from clouddeploy_runtime.wire import blobs, rpc
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.gate import Gate
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry, Session

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
SILENCE_S = 35.0
"""Three heartbeats and a half: whoever is silent for longer is gone."""


class FederationCalls:
    """Handlers of the service `rpc.FEDERATION`."""

    def __init__(self, kit: Kit, registry: Registry, scheduler: Scheduler, gate: Gate) -> None:
        self._kit = kit
        self._gate = gate
        self._registry = registry
        self._scheduler = scheduler

    def handler(self) -> Any:
        """Return the generic handler to add to a server."""
        return grpc.method_handlers_generic_handler(
            rpc.FEDERATION,
            {
                **self._gate.handlers(),
                "Register": grpc.unary_unary_rpc_method_handler(
                    self.register,
                    request_deserializer=pb.RegisterRequest.FromString,
                    response_serializer=pb.RegisterReply.SerializeToString,
                ),
                "Session": grpc.stream_stream_rpc_method_handler(
                    self.session,
                    request_deserializer=pb.ClientEvent.FromString,
                    response_serializer=pb.ServerEvent.SerializeToString,
                ),
                "Download": grpc.unary_stream_rpc_method_handler(self.download),
                "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            },
        )

    async def register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterReply:
        """Give a site its token; only the certificate says who it is."""
        peer = tls.peer_of(context.auth_context())
        problem = self._gate.problem(peer)
        if problem:
            pass
        elif peer is None or peer.name != request.name or peer.name == self._kit.server_name:
            problem = f"the certificate is not that of {request.name!r}"
        elif peer.role:
            problem = "an admin's certificate cannot register a site"
        elif request.project != self._kit.project:
            problem = f"this server runs the project {self._kit.project!r}, not {request.project!r}"
        if peer is None or problem:
            log.warning("Refused the registration of %r from %s: %s", request.name, context.peer(), problem)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)
            raise AssertionError  # abort always raises
        session = self._registry.register(
            name=peer.name,
            address=tls.address_of(context.peer()),
            active_jobs=set(request.active_jobs),
            serial=peer.serial,
        )
        return pb.RegisterReply(token=session.token, heartbeat_s=HEARTBEAT_S)

    async def _authorise(self, context: Any) -> tuple[Session, dict[str, Any]]:
        metadata = dict(context.invocation_metadata() or ())
        peer = tls.peer_of(context.auth_context())
        problem = self._gate.problem(peer)
        if problem:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)
            raise AssertionError  # abort always raises
        token = str(metadata.get(rpc.TOKEN_KEY, ""))
        session = self._registry.authorise(token, name=peer.name) if peer is not None else None
        if session is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not known here; register again")
            raise AssertionError  # abort always raises
        return session, metadata

    async def session(self, requests: AsyncIterator[pb.ClientEvent], context: Any) -> AsyncIterator[pb.ServerEvent]:
        """Push events to a site for as long as it listens."""
        session, _ = await self._authorise(context)
        reader = asyncio.create_task(self._read(session, requests))
        try:
            yield pb.ServerEvent(heartbeat=pb.Heartbeat())
            self._registry.opened(session)
            while (event := await session.outbox.get()) is not None:
                yield event
        finally:
            reader.cancel()
            self._registry.closed(session)

    async def _read(self, session: Session, requests: AsyncIterator[pb.ClientEvent]) -> None:
        stream = aiter(requests)
        try:
            while True:
                event = await asyncio.wait_for(anext(stream), SILENCE_S)
                await self._handle(session, event)
        except StopAsyncIteration:
            pass  # the site hung up
        except TimeoutError:
            log.warning("Client %s was silent for %d s", session.name, SILENCE_S)
        except grpc.RpcError as exc:
            log.info("The stream of %s broke: %s", session.name, exc)
        finally:
            session.outbox.put_nowait(None)

    async def _handle(self, session: Session, event: pb.ClientEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "heartbeat":
            session.outbox.put_nowait(pb.ServerEvent(heartbeat=pb.Heartbeat()))
        elif kind == "job_ended":
            job = self._scheduler.find(event.job_ended.job_id)
            session.jobs.discard(event.job_ended.job_id)
            if job is not None and session.name in job.sites:
                await job.site_ended(session.name, event.job_ended.reason)
        elif kind == "task_failed":
            job = self._scheduler.find(event.task_failed.job_id)
            if job is not None and session.name in job.sites:
                await job.task_failed(session.name, event.task_failed.task_id, event.task_failed.reason)

    async def download(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream one blob of a job that the site takes part in, from an offset on."""
        session, metadata = await self._authorise(context)
        wanted = msgspec.json.decode(request, type=dict[str, Any])
        job = self._scheduler.find(str(metadata.get(rpc.JOB_KEY, "")))
        blob = job.blob(str(wanted.get("blob"))) if job is not None and session.name in job.sites else None
        if blob is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is nothing of this name for this site")
            raise AssertionError  # abort always raises
        async for chunk in blobs.send(blob, offset=max(0, int(wanted.get("offset", 0)))):
            yield chunk

    async def upload(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Take a site's result of a task."""
        session, metadata = await self._authorise(context)
        job = self._scheduler.find(str(metadata.get(rpc.JOB_KEY, "")))
        if job is None or session.name not in job.sites:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this job does not run, or not with this site")
            raise AssertionError  # abort always raises
        try:
            result = msgspec.msgpack.decode(metadata.get(rpc.RESULT_KEY, b""), type=Result)
            await job.accept(session.name, result, requests, sha256=str(metadata.get(rpc.SHA256_KEY, "")))
        except BlobCorrupt as exc:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(exc))
        except msgspec.MsgspecError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        return b""
