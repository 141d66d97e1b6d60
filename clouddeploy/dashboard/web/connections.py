"""Who may hold a connection: so many of one address, and nobody who does not say what they want, or take what they got.

uvicorn has no deadline for a request: its `timeout_keep_alive` begins after an answer, and any byte ends it. Nor does
it count a connection before TLS is spoken. So connections are counted where they are accepted, and each part of a
request has a deadline that does not move while bytes drip in.

Nor has it one for an answer. How much of it was taken is known where it is sent, by the socket: between that and an
answer are buffers of asyncio, two of them with TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from clouddeploy.dashboard.attempts import place_of
from clouddeploy.dashboard.web.addresses import is_among

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.applications import Starlette

    from clouddeploy.dashboard.identity import Identity
    from clouddeploy.dashboard.web.addresses import Network

log = logging.getLogger(__name__)

_GRACE_S = 3
"""For requests that are under way when it is to end; a browser that only keeps its connection takes as long."""
_WARN_EVERY_S = 60.0
_LOOK_S = 1.0
_TICKS = 10
"""uvicorn's, of 0.1 s, from one look at who is too slow to the next."""
_REFUSED_AT_ONCE = 100
"""Then requests get their turn, however fast connections come that are refused."""
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 (RFC 9325 §4.2); uvicorn's default are those with CBC and SHA-1. TLS 1.3 has its own."""
_NO_LINGER = struct.pack("ii", 1, 0)
"""Whoever is cut off does not get what the system still holds for them."""
_SAID = b"the request is refused: it came too slowly; send it at once\n"
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain\r\ncache-control: no-store\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_SAID), _SAID)
)


@dataclass(frozen=True)
class Bounds:
    """How many connections there may be, and how long each may take over what.

    Attributes:
        per_address: connections of one address, of IPv6 a network /64; behind a trusted proxy, requests under way. A
            hospital has one address for everybody in it, and a browser opens up to six.
        in_all: connections at once; a process may usually have 1024 open files.
        handshake_s: seconds for TLS.
        head_s: seconds for a request's head, from the connection or the answer before.
        body_s: seconds for what follows the head; 2 MiB in it are 35 kB/s.
        answer_s: seconds for the next `answer_bytes` of an answer, or for what is left of it.
        answer_bytes: 1 MiB in 60 s are 17 kB/s, less than the slowest line over which kits are fetched.
    """

    per_address: int = 100
    in_all: int = 500
    handshake_s: float = 10.0
    head_s: float = 10.0
    body_s: float = 60.0
    answer_s: float = 60.0
    answer_bytes: int = 1 << 20


class Listener(socket.socket):
    """A listening socket that takes no more connections of one address than it may have."""

    def limit(self, bounds: Bounds, proxies: tuple[Network, ...] = ()) -> None:
        """Sets what is taken; to be called before the first connection.

        Args:
            bounds: how many.
            proxies: networks whose addresses stand for many people, so that only `in_all` counts for them.
        """
        self._bounds, self._proxies = bounds, proxies
        self._held: Counter[str] = Counter()
        self._open: dict[int, _Counted] = {}
        self._warned_at = float("-inf")

    def accept(self) -> tuple[socket.socket, Any]:
        """Returns the next connection that may stay; others are closed at once.

        Raises:
            BlockingIOError: none waits, or many were refused and others are to have their turn.
        """
        for _ in range(_REFUSED_AT_ONCE):
            connection, peer = super().accept()
            place = place_of(peer[0])
            if self._may(peer[0], place):
                self._held[place] += 1
                taken = _Counted(connection.family, connection.type, connection.proto, connection.detach())
                number = taken.fileno()
                taken.closed = lambda place=place, number=number: self._release(place, number)
                self._open[number] = taken
                return taken, peer
            connection.close()
            self._warn(place)
        raise BlockingIOError

    def is_behind(self, number: int) -> bool:
        """Tells whether somebody has not taken yet all that was sent to them.

        Args:
            number: of the connection, the system's.
        """
        return number in self._open and self._open[number].is_behind

    def cut_slow(self) -> None:
        """Ends connections over which an answer is taken too slowly."""
        for one in self._open.values():
            if one.is_too_slow(self._bounds):
                with contextlib.suppress(OSError):  # it has just ended by itself
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    one.shutdown(socket.SHUT_RDWR)  # asyncio finds out, and closes it

    def _may(self, address: str, place: str) -> bool:
        # Nobody has more than what is left for all others, so that many addresses together do not take all either
        # (Choudhury and Hahne 1998, "Dynamic queue length thresholds").
        left = self._bounds.in_all - self._held.total()
        is_proxy = is_among(address, self._proxies)
        return left > 0 if is_proxy else self._held[place] < min(self._bounds.per_address, left)

    def _release(self, place: str, number: int) -> None:
        del self._open[number]
        self._held[place] -= 1
        if self._held[place] <= 0:
            del self._held[place]

    def _warn(self, place: str) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            log.warning(
                "a connection of %s is refused: it has %d, and there are %d", place, self._held[place],
                self._held.total(),
            )  # fmt: skip


class _Counted(socket.socket):
    """A connection that tells, once, that it is closed; and knows how fast what is sent is taken."""

    closed: Callable[[], None] | None = None
    _behind_since: float | None = None
    _taken = 0

    def close(self) -> None:
        super().close()
        told, self.closed = self.closed, None
        if told is not None:
            told()

    def send(self, data: Any, flags: int = 0, /) -> int:
        return self._noted(memoryview(data).nbytes, lambda: super(_Counted, self).send(data, flags))

    def sendmsg(self, buffers: Iterable[Any], *given: Any) -> int:  # asyncio's from Python 3.12 on
        parts = list(buffers)
        size = sum(memoryview(part).nbytes for part in parts)
        return self._noted(size, lambda: super(_Counted, self).sendmsg(parts, *given))

    def _noted(self, size: int, send: Callable[[], int]) -> int:
        taken = 0
        try:
            taken = send()
        finally:
            if taken >= size:
                self._behind_since, self._taken = None, 0
            elif self._behind_since is None:
                self._behind_since, self._taken = time.monotonic(), 0
            else:
                self._taken += taken
        return taken

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be taken."""
        return self._behind_since is not None

    def is_too_slow(self, bounds: Bounds) -> bool:
        """Tells whether what waits has waited for too long; begins the next part when enough was taken in time."""
        now = time.monotonic()
        if self._behind_since is None or now - self._behind_since < bounds.answer_s:
            return False
        if self._taken < bounds.answer_bytes:
            return True
        self._behind_since, self._taken = now, 0
        return False


class _Patient:
    """A transport that is closed when all was taken.

    asyncio's for TLS drops what was not within the time for TLS's own end (`ssl_shutdown_timeout`).

    Args:
        transport: asyncio's.
        is_behind: tells whether something waits to be taken.
        loop: of events.
    """

    def __init__(
        self, transport: asyncio.Transport, is_behind: Callable[[], bool], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport, self._is_behind, self._loop = transport, is_behind, loop
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        """Everything else is asyncio's."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Tells whether it is closed, or will be."""
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        """Closes it, now or later; nothing is read any more."""
        self._is_closing = True
        if self._transport.is_closing():
            return
        if self._is_behind():
            self._transport.pause_reading()
            self._loop.call_later(_LOOK_S, self.close)
        else:
            self._transport.close()


class DeadlineProtocol(H11Protocol):
    """uvicorn's protocol, with an end to waiting for a head or a body.

    Args:
        bounds: how long.
        is_behind: tells of a connection's number whether something waits to be taken.
        given: what uvicorn's has.
    """

    def __init__(self, *, bounds: Bounds, is_behind: Callable[[int], bool], **given: Any) -> None:
        super().__init__(**given)
        self._is_number_behind, self._number = is_behind, -1
        self._waits = {h11.IDLE: bounds.head_s, h11.SEND_BODY: bounds.body_s}
        self._awaited: tuple[object, object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first head."""
        self._number = transport.get_extra_info("socket").fileno()
        super().connection_made(_Patient(transport, self._is_behind, self.loop))  # type: ignore[arg-type]
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes what has come; waits for what has not."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begins to wait for the next head."""
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        """Does nothing: after an answer the next head has its deadline, which waits until the answer is taken."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits for nothing any more."""
        self._stop()
        super().connection_lost(exc)

    def _is_behind(self) -> bool:
        return self._is_number_behind(self._number)

    def _watch(self) -> None:
        awaited = (self.conn.their_state, self.cycle)
        if awaited == self._awaited:
            return  # its deadline stays where it is, however much drips in
        self._awaited = awaited
        self._stop()
        seconds = self._waits.get(self.conn.their_state)
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._cut)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        """Ends a connection that took too long; says so to who has begun to ask and has no answer yet."""
        if self.transport.is_closing():
            return
        if self._is_behind():  # for whom an answer still comes; `Listener.cut_slow` ends it
            self._timer = self.loop.call_later(_LOOK_S, self._cut)
            return
        is_asking = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        if is_asking and self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.write(_TOO_SLOW)
        if self.cycle is not None:
            self.cycle.disconnected = True  # what is answered from now on would follow ours
            self.cycle.message_event.set()
        self.transport.close()


class Server(uvicorn.Server):
    """Serves an application; has a deadline for everything that somebody may take their time over.

    Args:
        app: what answers.
        begin: called once it listens.
        bounds: of connections.
        identity: what HTTPS needs; None: without.
    """

    def __init__(self, app: Starlette, begin: Callable[[], None], *, bounds: Bounds, identity: Identity | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ssl_certfile=str(identity.cert) if identity else None,
                ssl_keyfile=str(identity.key) if identity else None,
                ssl_ciphers=_CIPHERS,
                loop="asyncio",  # another one would accept past `Listener`
                ws="none",
                lifespan="off",
                access_log=False,  # an invitation stands in an address
                server_header=False,
                proxy_headers=False,  # see web.addresses, which believes trusted proxies only
                timeout_graceful_shutdown=_GRACE_S,
                log_config=None,
                log_level=logging.ERROR,  # a warning for each request that is none fills the log
            )
        )
        self._begin = begin
        self._bounds = bounds
        self._listeners: list[Listener] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens; in uvicorn's place, which gives TLS 60 s and its end 30 s."""
        await self.lifespan.startup()
        seconds = self._bounds.handshake_s if self.config.ssl is not None else None
        loop = asyncio.get_running_loop()
        self._listeners = [one for one in sockets or () if isinstance(one, Listener)]
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=one,
                ssl=self.config.ssl,
                backlog=self.config.backlog,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
            for one in sockets or ()
        ]
        self.started = True
        self._begin()

    async def on_tick(self, counter: int) -> bool:
        """Ends who is too slow; tells whether the server is to end."""
        if counter % _TICKS == 0:
            for one in self._listeners:
                one.cut_slow()
        return await super().on_tick(counter)

    def _protocol(self) -> DeadlineProtocol:
        return DeadlineProtocol(
            bounds=self._bounds,
            is_behind=lambda number: any(one.is_behind(number) for one in self._listeners),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
