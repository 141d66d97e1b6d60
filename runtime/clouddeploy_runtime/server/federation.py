"""The calls of the registered sites: listen, download a task's tensors, upload the result."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
from google.protobuf.message import DecodeError

from clouddeploy_runtime.errors import BlobCorrupt, printable
from clouddeploy_runtime.job.buffers import NoBuffer
from clouddeploy_runtime.job.messages import Delivery
from clouddeploy_runtime.server.tally import Way
from clouddeploy_runtime.server.uploads import Superseded
from clouddeploy_runtime.wire import blobs, rpc
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from clouddeploy_runtime.server.registration import Registration
    from clouddeploy_runtime.server.running import RunningJob
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry, Session

log = logging.getLogger(__name__)

_HANG_UP_S = 1.0
"""So long a site that reads may take to hear that its session ends; the call of one that does not is cut."""
_MAX_REASON = 2000
_MAX_LOG_TAIL = 4000
"""What a site says goes into records, logs and answers: bounded, and without signs that would steer a terminal."""
_MAX_OFFER_BYTES = 16 << 10
_MAX_RESERVATION = 1000

_UNREADABLE = (msgspec.MsgspecError, RecursionError)
"""What msgspec raises for what others sent: the second for what is nested without end."""


class _Wanted(msgspec.Struct):
    blob: str
    offset: int = 0


class FederationCalls:
    """Handlers of the service `rpc.FEDERATION`."""

    def __init__(
        self,
        registration: Registration,
        registry: Registry,
        scheduler: Scheduler,
        *,
        answered: Callable[[Session, pb.SiteAnswer], None] | None = None,
    ) -> None:
        self._registration = registration
        self._registry = registry
        self._scheduler = scheduler
        self._answered = answered

    def handler(self) -> Any:
        """Return the generic handler to add to a server."""
        return grpc.method_handlers_generic_handler(
            rpc.FEDERATION,
            {
                **self._registry.tally.counted(self._registration.handlers()),
                "Session": grpc.stream_stream_rpc_method_handler(
                    self.session,
                    response_serializer=pb.ServerEvent.SerializeToString,
                ),
                "Download": grpc.unary_stream_rpc_method_handler(self.download),
                "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
                "Received": grpc.unary_unary_rpc_method_handler(self.received),
            },
        )

    async def session(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[pb.ServerEvent]:
        """Push events to a site for as long as it listens."""
        session, _ = await self._registration.authorise(context)
        if session.is_streaming:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this session has its stream; register again")
            raise AssertionError  # abort always raises
        session.is_streaming = True
        reader = asyncio.create_task(self._read(session, requests))
        reader.add_done_callback(partial(_report, session.name))
        session.hang_up = partial(_hang_up, reader, asyncio.current_task())
        try:
            self._registry.hand_over(session)
            yield pb.ServerEvent(heartbeat=pb.Heartbeat())
            self._registry.handed_over(session)
            self._registry.opened(session)
            while (event := await session.outbox.get()) is not None:
                if event.HasField("heartbeat"):
                    session.is_beating = False
                self._registry.hand_over(session)
                yield event
                self._registry.handed_over(session)
        finally:
            session.hang_up = None
            reader.cancel()
            self._registry.closed(session)

    async def _read(self, session: Session, requests: AsyncIterator[bytes]) -> None:
        stream = aiter(requests)
        try:
            while True:
                message = await asyncio.wait_for(anext(stream), self._registration.silence_s)
                self._registry.hear(session)
                await self._handle(session, pb.ClientEvent.FromString(message))
                if session.is_overfull:
                    log.warning("Client %s does not take what it is sent; its session ends", session.name)
                    return
        except StopAsyncIteration:
            pass  # the site hung up
        except TimeoutError:
            log.warning("Client %s was silent for %d s", session.name, self._registration.silence_s)
        except grpc.RpcError as exc:
            log.info("The stream of %s broke: %s", session.name, exc)
        except DecodeError:
            log.warning("Client %s sent what is no message; its session ends", session.name)
        finally:
            self._registry.end(session)

    async def _handle(self, session: Session, event: pb.ClientEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "heartbeat":
            if not session.is_beating:
                session.is_beating = True
                session.outbox.put_nowait(pb.ServerEvent(heartbeat=pb.Heartbeat()))
        elif kind == "job_ended":
            self._job_ended(session, event.job_ended)
        elif kind == "task_failed":
            job = self._scheduler.find(event.task_failed.job_id)
            if job is not None and session.name in job.sites:
                failed = event.task_failed
                job.task_failed(session.name, failed.task_id, _said(failed.reason), task_checksum=failed.task_checksum)
        elif kind == "job_deployed":
            job = self._scheduler.find(event.job_deployed.job_id)
            if job is not None and session.name in job.sites:
                deployed = event.job_deployed
                job.deployed(session.name, _said(deployed.reason), scope=_said(deployed.scope))
        elif kind == "resources":
            self._scheduler.resources(session.name, _bounded(event.resources))
        elif kind == "site_answer" and self._answered is not None:
            self._answered(session, event.site_answer)

    def _job_ended(self, session: Session, event: pb.JobEnded) -> None:
        job = self._scheduler.find(event.job_id)
        session.jobs.discard(event.job_id)
        if job is not None and session.name in job.sites:
            reason, _, tail = event.reason.partition("\n")
            text = "\n".join(filter(None, (_said(reason), printable(tail[-_MAX_LOG_TAIL:])[-_MAX_LOG_TAIL:])))
            job.site_ended(session.name, text, is_crash=event.crashed)
            self._scheduler.wake()  # the site's resources are free
        elif event.job_id not in session.has_freed and self._scheduler.took_part(session.name, event.job_id):
            session.has_freed.append(event.job_id)
            self._scheduler.wake()

    async def download(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream one blob of a job that the site takes part in, from an offset on."""
        session, metadata = await self._registration.authorise(context)
        try:
            wanted = msgspec.json.decode(request, type=_Wanted)
        except _UNREADABLE as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
            raise AssertionError from exc  # abort always raises
        job = self._scheduler.find(str(metadata.get(rpc.JOB_KEY, "")))
        if job is not None and not job.is_packed:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this job is being made ready")
            raise AssertionError  # abort always raises
        blob = job.blob(session.name, wanted.blob) if job is not None and session.name in job.sites else None
        if blob is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is nothing of this name for this site")
            raise AssertionError  # abort always raises
        chunks = blobs.send(blob, offset=max(0, wanted.offset))
        note = job.rounds.moved if job is not None and wanted.blob.startswith("task:") else None
        async for chunk in self._registry.tally.passing(Way.TO_SITE, session.name, chunks, note=note):
            yield chunk

    async def received(self, request: bytes, context: Any) -> bytes:
        """Tell a site how much of an upload is here, so that it sends the rest alone."""
        session, metadata = await self._registration.authorise(context)
        job = await self._job_of(session, metadata, context)
        return str(await job.received(session.name, await _delivery(request, context))).encode()

    async def upload(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Take a site's result of a task: its header, then the bytes of its parameters."""
        session, metadata = await self._registration.authorise(context)
        job = await self._job_of(session, metadata, context)
        stream = aiter(requests)
        delivery = await _delivery(await anext(stream, b""), context)
        counted = self._registry.tally.passing(Way.FROM_SITE, session.name, stream, note=job.rounds.moved)
        try:
            return (await job.accept(session.name, delivery, counted)).encode()
        except BlobCorrupt as exc:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(exc))
        except Superseded as exc:
            await context.abort(grpc.StatusCode.ABORTED, str(exc))
        except NoBuffer as exc:  # which other sites' updates may give back
            log.warning("The answer of %s finds no room: %s", session.name, exc)
            await context.abort(grpc.StatusCode.INTERNAL, str(exc))
        raise AssertionError  # abort always raises

    async def _job_of(self, session: Session, metadata: Mapping[str, Any], context: Any) -> RunningJob:
        job = self._scheduler.find(str(metadata.get(rpc.JOB_KEY, "")))
        if job is None or session.name not in job.sites:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this job does not run, or not with this site")
            raise AssertionError  # abort always raises
        return job


async def _delivery(header: bytes, context: Any) -> Delivery:
    try:
        return msgspec.msgpack.decode(header, type=Delivery)
    except _UNREADABLE as exc:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        raise AssertionError from exc  # abort always raises


def _said(text: str) -> str:
    """Return on one line what a site gives as a reason."""
    return printable(text[:_MAX_REASON]).replace("\n", " ")[:_MAX_REASON]


def _bounded(answer: pb.Resources) -> pb.Resources:
    """Return a site's answer, whose reservation comes back to it as it is, or not at all."""
    answer.reason = _said(answer.reason)
    if len(answer.reservation) > _MAX_RESERVATION:
        answer.reservation, answer.reason = "", f"its reservation is longer than {_MAX_RESERVATION} signs"
    if len(answer.offer) > _MAX_OFFER_BYTES:
        answer.offer = b""
    return answer


def _hang_up(reader: asyncio.Task[None], stream: asyncio.Task[None] | None) -> None:
    """End both directions of a site's stream: one that reads gets a moment to hear of it."""
    reader.cancel()
    if stream is not None:
        asyncio.get_running_loop().call_later(_HANG_UP_S, stream.cancel)


def _report(name: str, reader: asyncio.Task[None]) -> None:
    """Log what ended a site's stream by a defect; the site connects again."""
    if not reader.cancelled() and reader.exception() is not None:
        log.error("What %s said could not be handled", name, exc_info=reader.exception())
