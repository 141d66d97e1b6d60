"""The calls of the registered sites: listen, download a task's tensors, upload the result."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from clouddeploy_runtime.errors import BlobCorrupt
from clouddeploy_runtime.job.messages import Delivery
from clouddeploy_runtime.server.open_tasks import Superseded
from clouddeploy_runtime.wire import blobs, rpc
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clouddeploy_runtime.server.registration import Registration
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry, Session

log = logging.getLogger(__name__)


class _Wanted(msgspec.Struct):
    blob: str
    offset: int = 0


class FederationCalls:
    """Handlers of the service `rpc.FEDERATION`."""

    def __init__(self, registration: Registration, registry: Registry, scheduler: Scheduler) -> None:
        self._registration = registration
        self._registry = registry
        self._scheduler = scheduler

    def handler(self) -> Any:
        """Return the generic handler to add to a server."""
        return grpc.method_handlers_generic_handler(
            rpc.FEDERATION,
            {
                **self._registration.handlers(),
                "Session": grpc.stream_stream_rpc_method_handler(
                    self.session,
                    request_deserializer=pb.ClientEvent.FromString,
                    response_serializer=pb.ServerEvent.SerializeToString,
                ),
                "Download": grpc.unary_stream_rpc_method_handler(self.download),
                "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            },
        )

    async def session(self, requests: AsyncIterator[pb.ClientEvent], context: Any) -> AsyncIterator[pb.ServerEvent]:
        """Push events to a site for as long as it listens."""
        session, _ = await self._registration.authorise(context)
        if session.is_streaming:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this session has its stream; register again")
            raise AssertionError  # abort always raises
        session.is_streaming = True
        reader = asyncio.create_task(self._read(session, requests))
        reader.add_done_callback(partial(_report, session.name))
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
                event = await asyncio.wait_for(anext(stream), self._registration.silence_s)
                self._registry.hear(session)
                await self._handle(session, event)
        except StopAsyncIteration:
            pass  # the site hung up
        except TimeoutError:
            log.warning("Client %s was silent for %d s", session.name, self._registration.silence_s)
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
                job.site_ended(session.name, event.job_ended.reason, is_crash=event.job_ended.crashed)
            self._scheduler.wake()  # the site's resources are free
        elif kind == "task_failed":
            job = self._scheduler.find(event.task_failed.job_id)
            if job is not None and session.name in job.sites:
                job.task_failed(session.name, event.task_failed.task_id, event.task_failed.reason)
        elif kind == "job_deployed":
            job = self._scheduler.find(event.job_deployed.job_id)
            if job is not None and session.name in job.sites:
                job.deployed(session.name, event.job_deployed.reason)
        elif kind == "resources":
            self._scheduler.resources(session.name, event.resources)

    async def download(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream one blob of a job that the site takes part in, from an offset on."""
        session, metadata = await self._registration.authorise(context)
        try:
            wanted = msgspec.json.decode(request, type=_Wanted)
        except msgspec.MsgspecError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
            raise AssertionError from exc  # abort always raises
        job = self._scheduler.find(str(metadata.get(rpc.JOB_KEY, "")))
        blob = job.blob(session.name, wanted.blob) if job is not None and session.name in job.sites else None
        if blob is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is nothing of this name for this site")
            raise AssertionError  # abort always raises
        async for chunk in blobs.send(blob, offset=max(0, wanted.offset)):
            yield chunk

    async def upload(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Take a site's result of a task: its header, then the bytes of its parameters."""
        session, metadata = await self._registration.authorise(context)
        job = self._scheduler.find(str(metadata.get(rpc.JOB_KEY, "")))
        if job is None or session.name not in job.sites:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this job does not run, or not with this site")
            raise AssertionError  # abort always raises
        stream = aiter(requests)
        try:
            delivery = msgspec.msgpack.decode(await anext(stream, b""), type=Delivery)
            return (await job.accept(session.name, delivery, stream)).encode()
        except BlobCorrupt as exc:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(exc))
        except Superseded as exc:
            await context.abort(grpc.StatusCode.ABORTED, str(exc))
        except msgspec.MsgspecError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        raise AssertionError  # abort always raises


def _report(name: str, reader: asyncio.Task[None]) -> None:
    """Log what ended a site's stream by a defect; the site connects again."""
    if not reader.cancelled() and reader.exception() is not None:
        log.error("What %s said could not be handled", name, exc_info=reader.exception())
