"""Blobs between a site and its server, repeated across lost connections."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from clouddeploy_runtime.errors import BlobCorrupt, ConnectionFailed
from clouddeploy_runtime.wire import blobs, rpc

if TYPE_CHECKING:
    from clouddeploy_runtime.job.messages import Result

log = logging.getLogger(__name__)

_ATTEMPTS = 6
_RETRY_S = 1.0
_REPEAT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNAUTHENTICATED,  # the agent registers again meanwhile
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.CANCELLED,
    }
)


class Transfer:
    """Uses whatever channel and token the agent has at the time of each attempt."""

    def __init__(self) -> None:
        self._channel: Any = None
        self._token = ""
        self._ready = asyncio.Event()

    def connected(self, channel: Any, token: str) -> None:
        """Use this connection from now on."""
        self._channel, self._token = channel, token
        self._ready.set()

    def disconnected(self) -> None:
        """Hold transfers until the next connection."""
        self._ready.clear()

    async def fetch_bytes(self, job_id: str, blob: str, *, size: int, sha256: str) -> bytes:
        """Download a small blob."""
        content = bytearray(size)
        await self.fetch(job_id, blob, into=memoryview(content), sha256=sha256)
        return bytes(content)

    async def fetch(self, job_id: str, blob: str, *, into: memoryview, sha256: str) -> None:
        """Download a blob into a buffer of its size; a broken transfer goes on where it stopped.

        Raises:
            ConnectionFailed: it did not work within the attempts.
            BlobCorrupt: it came complete, but is not what the server announced.
        """
        position = 0
        for attempt in range(_ATTEMPTS):
            await self._ready.wait()
            request = msgspec.json.encode({"blob": blob, "offset": position})
            call = self._channel.unary_stream(rpc.DOWNLOAD)(request, metadata=self._metadata(job_id))
            try:
                async for chunk in call:
                    end = position + len(chunk)
                    if end > len(into):
                        raise BlobCorrupt("A blob is longer than announced", why=f"{len(into)} bytes were announced")
                    into[position:end] = chunk
                    position = end
            except grpc.RpcError as exc:
                await self._pause(exc, attempt)
                continue
            await asyncio.to_thread(blobs.check, into, received=position, sha256=sha256)
            return
        raise ConnectionFailed(f"Cannot download {blob}", why=f"{_ATTEMPTS} attempts failed")

    async def send(self, job_id: str, result: Result, view: memoryview) -> None:
        """Upload a result; the server takes it once, however often it is sent.

        Raises:
            ConnectionFailed: it did not work within the attempts.
        """
        digest = await asyncio.to_thread(lambda: hashlib.sha256(view).hexdigest())
        extra = (
            (rpc.RESULT_KEY, msgspec.msgpack.encode(result)),
            (rpc.SIZE_KEY, str(len(view))),
            (rpc.SHA256_KEY, digest),
        )
        for attempt in range(_ATTEMPTS):
            await self._ready.wait()
            call = self._channel.stream_unary(rpc.UPLOAD)(blobs.send(view), metadata=(*self._metadata(job_id), *extra))
            try:
                await call
            except grpc.RpcError as exc:
                if exc.code() is grpc.StatusCode.NOT_FOUND:
                    log.info("Job %s does not take results any more", job_id)
                    return
                await self._pause(exc, attempt)
                continue
            return
        raise ConnectionFailed(f"Cannot upload the result of task {result.task_id}", why=f"{_ATTEMPTS} attempts failed")

    def _metadata(self, job_id: str) -> tuple[tuple[str, str], ...]:
        return ((rpc.TOKEN_KEY, self._token), (rpc.JOB_KEY, job_id))

    async def _pause(self, exc: Any, attempt: int) -> None:
        if exc.code() not in _REPEAT:
            raise ConnectionFailed("The server refused a transfer", why=f"{exc.code().name}: {exc.details()}") from exc
        log.info("A transfer broke (%s), attempt %d of %d", exc.code().name, attempt + 1, _ATTEMPTS)
        await asyncio.sleep(_RETRY_S)
