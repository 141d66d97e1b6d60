"""A web server of a few pages for monitoring: GET and HEAD, one request for each connection, everything bounded.

It is plain HTTP without authentication, so it listens on this machine alone unless told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from clouddeploy_runtime.errors import AlreadyRunning
from clouddeploy_runtime.kit.kit import is_loopback, join

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 8 << 10
MAX_CONNECTIONS = 32
"""One more ends the oldest: who opens many and says nothing keeps nobody out."""
DEADLINE_S = 5.0
"""For a connection from its first byte to its last; a scrape of a thousand sites is 200 KiB."""
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"


class Reply(NamedTuple):
    """What a page says."""

    status: HTTPStatus
    body: bytes
    kind: str = _TEXT


def document(status: HTTPStatus, body: bytes) -> Reply:
    """Return a page that is JSON."""
    return Reply(status, body, _JSON)


class Endpoint:
    """Answers with pages.

    Args:
        pages: path → what makes the page.
        deadline_s: how long one connection may last.
        most: connections at a time.
    """

    def __init__(
        self,
        pages: Mapping[str, Callable[[], Awaitable[Reply]]],
        *,
        deadline_s: float = DEADLINE_S,
        most: int = MAX_CONNECTIONS,
    ) -> None:
        self._pages = pages
        self._deadline_s = deadline_s
        self._most = most
        self._open: dict[asyncio.Task[None], None] = {}
        """The connections, the oldest first."""
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; returns the port, which is a free one when 0 was asked for.

        Raises:
            AlreadyRunning: the port is taken, or the address is none of this machine.
        """
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=MAX_HEAD_BYTES)
        except OSError as exc:
            raise AlreadyRunning(
                f"Cannot serve metrics at {join(host, port)}",
                why=exc.strerror or str(exc),
                hint="Name another address in CLOUDDEPLOY_METRICS, or in metrics_endpoint of local/resources.json.",
            ) from exc
        found: int = self._server.sockets[0].getsockname()[1]
        log.info("Metrics are served at http://%s/metrics", join(host, found))
        if not is_loopback(host):
            log.warning(
                "Metrics are served at %s without encryption and to everybody who reaches it; they name sites and jobs",
                host,
            )
        return found

    async def close(self) -> None:
        """Stop listening, and end what is open."""
        if self._server is not None:
            self._server.close()
        for one in self._open:
            one.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._most:
            next(iter(self._open)).cancel()
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = None
        task.add_done_callback(partial(self._ended, writer))

    def _ended(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        del self._open[task]
        writer.transport.abort()  # does nothing when it was closed

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self._deadline_s):
                head = await _head(reader)
                if head is not None:
                    writer.write(await self._answer(head))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()

    async def _answer(self, head: bytes) -> bytes:
        """Return the whole answer to a request's head; empty: it was longer than allowed."""
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        page = self._pages.get(target.partition(b"?")[0].decode("ascii", "replace"))
        if not head:
            reply = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif not version.startswith(b"HTTP/1."):
            reply = _plain(HTTPStatus.BAD_REQUEST)
        elif method not in {b"GET", b"HEAD"}:
            reply = _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        elif page is None:
            reply = _plain(HTTPStatus.NOT_FOUND)
        else:
            reply = await _made(page)
        lines = (
            f"HTTP/1.1 {reply.status.value} {reply.status.phrase}",
            f"Content-Type: {reply.kind}",
            f"Content-Length: {len(reply.body)}",
            "Cache-Control: no-store",
            *(("Allow: GET, HEAD",) if reply.status is HTTPStatus.METHOD_NOT_ALLOWED else ()),
            "Connection: close",
        )
        said = "\r\n".join((*lines, "", "")).encode()
        return said if method == b"HEAD" else said + reply.body


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    """Return a request's head; empty when it is too long, None when the other side hung up before its end."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return b""
    except asyncio.IncompleteReadError:
        return None


async def _made(page: Callable[[], Awaitable[Reply]]) -> Reply:
    try:
        return await page()
    except Exception:  # the request's edge: a page that cannot be made is no reason to end anything else
        log.exception("A page for monitoring cannot be made")
        return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _plain(status: HTTPStatus) -> Reply:
    return Reply(status, f"{status.phrase}\n".encode())
