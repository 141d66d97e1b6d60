"""The answers of sites on their way in, straight into shared memory; one that was cut goes on where it stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.wire import blobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from clouddeploy_runtime.job.buffers import Buffer, BufferPool
    from clouddeploy_runtime.job.messages import Delivery

log = logging.getLogger(__name__)

TOGETHER_BYTES = 1 << 30
"""Updates that come in at the same time take no more memory than this. On a fast line they do not come sooner all at
once than one after the other."""
TURN_S, TURN_BYTES_S = 5.0, 100e6
"""So long one waits for its turn, or as long as it takes itself at this speed; a site on a slow line must not hold up
the others for longer."""


class Superseded(RuntimeFault):
    """A newer upload of the same result replaced this one, or the part before it is not here any more."""

    error_code = "SUPERSEDED"


@dataclass(eq=False)
class _Upload:
    """One site's answer to one task, as far as it has come."""

    checksum: str
    buffer: Buffer | None = None
    landing: blobs.Landing | None = None
    receiving: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        return 0 if self.landing is None else self.landing.position

    def release(self) -> None:
        buffer, self.buffer, self.landing = self.buffer, None, None
        if buffer is not None:
            buffer.release()


class Uploads:
    """The uploads of one job.

    What has come of a cut one stays in its buffer until its task is closed or its site has failed: gigabytes that came
    over a slow line are not sent twice.

    Args:
        job_id: the job's.
        pool: where updates go; the controller maps its buffers.
    """

    def __init__(self, job_id: str, pool: BufferPool) -> None:
        self._job_id = job_id
        self._pool = pool
        self._known: dict[tuple[str, str], _Upload] = {}
        """By task and site: the upload that counts, which is the newest; the one before may be a dead connection's."""
        self._freed = asyncio.Event()
        pool.on_free = self._freed.set

    async def position(self, site: str, delivery: Delivery) -> int:
        """Return how many bytes of an answer are here; whatever still comes of it by an older call ends."""
        upload = self._known.get((delivery.result.task_id, site))
        if upload is None or upload.checksum != delivery.checksum:
            return 0
        await _ended(upload)
        return upload.position

    async def receive(self, site: str, delivery: Delivery, stream: AsyncIterable[bytes]) -> Buffer | None:
        """Return a buffer with what came, whole and checked; the caller releases it. None: the answer is empty.

        Raises:
            BlobCorrupt: what came is not what was announced; the site sends it again.
            Superseded: the site has begun to send it again meanwhile.
            NoBuffer: there is no room.
        """
        if not delivery.result.size:
            await blobs.receive(stream, blobs.Landing(memoryview(b"")))
            return None
        key = delivery.result.task_id, site
        upload = await self._taken_up(key, delivery)
        receiving = upload.receiving = asyncio.ensure_future(self._fill(upload, delivery, stream))
        try:
            await asyncio.wait({receiving})
        except asyncio.CancelledError:
            receiving.cancel()  # what has come stays for the next attempt
            raise
        if receiving.cancelled():
            raise Superseded("An upload was replaced by a newer one")
        if receiving.exception() is not None:
            if self._known.get(key) is upload:
                self.drop(*key)
            receiving.result()
        buffer, upload.buffer = upload.buffer, None
        if self._known.get(key) is upload:
            del self._known[key]
        return buffer

    def drop(self, task_id: str, site: str | None = None) -> None:
        """Forget what has come of a task, of one site or of all; whoever still sends is told."""
        for key in [key for key in self._known if key[0] == task_id and site in {None, key[1]}]:
            upload = self._known.pop(key)
            if upload.receiving is None or upload.receiving.done():
                upload.release()
            else:
                upload.receiving.add_done_callback(partial(_release, upload))
                upload.receiving.cancel()

    async def _taken_up(self, key: tuple[str, str], delivery: Delivery) -> _Upload:
        """Return the upload that goes on, or a new one; the one before it ends."""
        older = self._known.get(key)
        if older is not None and older.receiving is not None and not older.receiving.done():
            log.info("A new upload of %s replaces the one before", key[1], extra={"job": self._job_id, "site": key[1]})
            await _ended(older)
        is_here = older is not None and older.checksum == delivery.checksum and older.position == delivery.offset
        if older is not None and is_here and self._known.get(key) is older:
            return older
        if delivery.offset:
            raise Superseded("The part before is not here", why=f"an upload was to go on at byte {delivery.offset}")
        self.drop(*key)
        new = self._known[key] = _Upload(delivery.checksum)
        return new

    async def _fill(self, upload: _Upload, delivery: Delivery, stream: AsyncIterable[bytes]) -> None:
        if upload.buffer is None:
            await self._turn(delivery.result.size)
            upload.buffer = await self._pool.obtain(delivery.result.size)
            upload.landing = blobs.Landing(upload.buffer.view[: delivery.result.size])
        landing = upload.landing
        assert landing is not None  # noqa: S101 - made with its buffer
        await blobs.receive(stream, landing)
        landing.check(delivery.checksum)

    async def _turn(self, size: int) -> None:
        """Wait until updates that came before leave room, but not for ever: then this one may become a file."""
        most = min(TOGETHER_BYTES, self._pool.budget_bytes or TOGETHER_BYTES)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(TURN_S, size / TURN_BYTES_S)):
                while (held := self._pool.in_use) and held + size > most:
                    self._freed.clear()
                    await self._freed.wait()


def _release(upload: _Upload, _: asyncio.Future[None]) -> None:
    upload.release()


async def _ended(upload: _Upload) -> None:
    if upload.receiving is not None and not upload.receiving.done():
        upload.receiving.cancel()
        await asyncio.wait({upload.receiving})
