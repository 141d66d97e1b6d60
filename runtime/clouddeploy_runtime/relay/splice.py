"""Passes TCP connections on, byte by byte.

TLS goes through from the client to the server, so a relay can neither read nor change what they say to each other, nor
speak for anybody; it needs no key for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

log = logging.getLogger(__name__)

_BLOCK_BYTES = 256 * 1024
_CONNECT_S = 10.0
MAX_CONNECTIONS = 2000
"""Each holds two descriptors; beyond, new ones are turned away."""


class Splice:
    """Listens, and connects each who comes to the same other end.

    Args:
        host: of the other end.
        port: of the other end.
        max_connections: that there may be at a time.
    """

    def __init__(self, host: str, port: int, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self._there = (host, port)
        self._max = max_connections
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._server is None:
            raise ValueError("it does not listen")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._open)

    async def listen(self, host: str | None, port: int) -> None:
        """Begin.

        Args:
            host: the address to listen on; None: all.
            port: 0 for any free one.

        Raises:
            OSError: the port is taken, or is none for this user.
        """
        self._server = await asyncio.start_server(self._accepted, host, port, limit=_BLOCK_BYTES)

    async def close(self) -> None:
        """Listen no more, and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(0)  # what was cut is closed in the loop's next turn

    async def _accepted(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= self._max:
            log.warning("A connection was turned away: there are %d", len(self._open))
            near_out.transport.abort()
            return
        self._open.add(task)
        try:
            await self._pass_on(near, near_out)
        except asyncio.CancelledError:
            near_out.transport.abort()
        finally:
            self._open.discard(task)

    async def _pass_on(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        try:
            far, far_out = await asyncio.wait_for(
                asyncio.open_connection(*self._there, limit=_BLOCK_BYTES), timeout=_CONNECT_S
            )
        except (OSError, TimeoutError) as exc:
            log.warning("%s:%d does not answer: %s", *self._there, exc or "no answer in time")
            near_out.transport.abort()
            return
        for out in (near_out, far_out):
            # Each is somebody's idle session: without a probe a peer that is gone would be kept for ever.
            out.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        pumps = [asyncio.ensure_future(_pump(near, far_out)), asyncio.ensure_future(_pump(far, near_out))]
        try:
            await asyncio.gather(*pumps)
        except OSError:
            pass  # one end broke; both go
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            near_out.transport.abort()
            far_out.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while block := await source.read(_BLOCK_BYTES):
        sink.write(block)
        await sink.drain()  # a slow reader slows the writer, and nothing piles up here
    with contextlib.suppress(OSError):
        sink.write_eof()
