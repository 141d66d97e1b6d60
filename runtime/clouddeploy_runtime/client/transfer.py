"""Blobs between a site and its server, repeated across lost connections."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from clouddeploy_runtime.errors import BlobCorrupt, ConnectionFailed, RuntimeFault
from clouddeploy_runtime.job.messages import Delivery, Receipt
from clouddeploy_runtime.wire import blobs, rpc

if TYPE_CHECKING:
    from clouddeploy_runtime.job.messages import Result

log = logging.getLogger(__name__)

_ATTEMPTS = 6
"""How often a transfer is tried that fails although the connection is there."""
_RETRY_S = 1.0
_LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNAUTHENTICATED,  # the agent registers again meanwhile
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,  # another upload of the same result came in between
    }
)
"""The connection's trouble, not the transfer's: repeated for as long as the job runs here."""
_REPEAT = frozenset({grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})

_BROKEN = (grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError)
"""A channel that is closed cancels its calls, and so whoever waits for them; a new call on it is wrong usage."""


class Gone(RuntimeFault):
    """The server has nothing of this name, or runs this job no more."""

    error_code = "GONE"


class Transfer:
    """Uses whatever channel and token the agent has at the time of each attempt.

    Attributes:
        connections: how many there have been.
    """

    def __init__(self) -> None:
        self._channel: Any = None
        self._token = ""
        self._ready = asyncio.Event()
        self.connections = 0

    def connected(self, channel: Any, token: str) -> None:
        """Use this connection from now on."""
        self._channel, self._token = channel, token
        self.connections += 1
        self._ready.set()

    def disconnected(self) -> None:
        """Hold transfers until the next connection; who waits for one may be cancelled."""
        self._ready.clear()

    async def fetch_bytes(self, job_id: str, blob: str, *, size: int, checksum: str) -> bytes:
        """Download a small blob; see `fetch`."""
        content = bytearray(size)
        await self.fetch(job_id, blob, into=memoryview(content), checksum=checksum)
        return bytes(content)

    async def fetch(self, job_id: str, blob: str, *, into: memoryview, checksum: str) -> None:
        """Download a blob into a buffer of its size; a broken transfer goes on where it stopped.

        Raises:
            Gone: the server has no such blob for this site.
            ConnectionFailed: it did not work within the attempts.
            BlobCorrupt: it came complete, but is not what the server announced.
        """
        landing, failures = blobs.Landing(into), 0
        is_pieced = False
        while True:
            await self._ready.wait()
            is_pieced = is_pieced or landing.position > 0
            request = msgspec.json.encode({"blob": blob, "offset": landing.position})
            call = self._channel.unary_stream(rpc.DOWNLOAD)(request, metadata=self._metadata(job_id))
            try:
                await blobs.receive(call, landing)
                landing.check(checksum)
            except BlobCorrupt as exc:
                if not is_pieced:
                    raise
                log.info("%s is fetched from its beginning: its parts do not fit together (%s)", blob, exc)
                landing.restart()
                is_pieced = False
            except _BROKEN as exc:
                failures = await self._pause(exc, failures, f"download {blob}")
            else:
                return

    async def send(self, job_id: str, result: Result, view: memoryview, *, task_checksum: str) -> Receipt:
        """Upload a result; the server takes it once, however often it is sent, and of a cut one only what is missing.

        Args:
            job_id: the job it is of.
            result: goes first.
            view: the bytes of its parameters; they must stay as they are until this returns.
            task_checksum: of the parameters that it answers.

        Raises:
            Gone: the server does not run the job any more.
            ConnectionFailed: it did not work within the attempts.
        """
        checksum = await asyncio.to_thread(blobs.checksum, view)
        delivery = Delivery(result, checksum, task_checksum)
        is_again, failures = False, 0
        while True:
            await self._ready.wait()
            try:
                delivery.offset = await self._received(job_id, delivery) if is_again else 0
                content = blobs.send(view, offset=delivery.offset, header=msgspec.msgpack.encode(delivery))
                call = self._channel.stream_unary(rpc.UPLOAD)(content, metadata=self._metadata(job_id))
                return Receipt((await call).decode())
            except _BROKEN as exc:
                is_again = True
                failures = await self._pause(exc, failures, f"upload the result of task {result.task_id}")

    async def _received(self, job_id: str, delivery: Delivery) -> int:
        """Return how much of an upload the server has."""
        call = self._channel.unary_unary(rpc.RECEIVED)(
            msgspec.msgpack.encode(delivery), metadata=self._metadata(job_id)
        )
        position = int(await call)
        if position:
            log.info("The result of task %s goes on at byte %d", delivery.result.task_id, position)
        return position

    def _metadata(self, job_id: str) -> tuple[tuple[str, str], ...]:
        return ((rpc.TOKEN_KEY, self._token), (rpc.JOB_KEY, job_id))

    async def _pause(self, exc: Any, failures: int, what: str) -> int:
        """Wait before the next attempt; returns how many have failed for another cause than the connection's."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise exc
        code, details = grpc.StatusCode.CANCELLED, "the connection was closed"
        if isinstance(exc, grpc.RpcError):
            code, details = exc.code(), exc.details()
        if code is grpc.StatusCode.NOT_FOUND:
            raise Gone(f"Cannot {what}", why=details) from exc
        if code not in _LOST | _REPEAT:
            raise ConnectionFailed(f"Cannot {what}", why=f"the server answers {code.name}: {details}") from exc
        failures += code in _REPEAT
        if failures >= _ATTEMPTS:
            raise ConnectionFailed(f"Cannot {what}", why=f"{failures} attempts failed, {code.name}: {details}") from exc
        log.info("Cannot %s just now (%s: %s)", what, code.name, details)
        await asyncio.sleep(_RETRY_S)
        return failures
