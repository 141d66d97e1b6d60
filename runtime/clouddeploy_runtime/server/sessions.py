"""The connected clients: registration tokens, their event queues, and who waits for whom."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime.server import tokens
from clouddeploy_runtime.server.tally import Tally
from clouddeploy_runtime.server.tokens import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.tls import Peer
    from clouddeploy_runtime.wire.federation_pb2 import ServerEvent

log = logging.getLogger("Client")
"""The name is part of the line that the overview page shows."""

CLIENT = "client"
RELAY = "relay"
MAX_WAITING = 1000
"""Events for a site that does not take them: it gets one or two for each round of its jobs. Guessed."""


MAX_FREED = 100


@dataclass(eq=False)
class Session:
    """One registered client or relay."""

    name: str
    address: str
    token: str = field(repr=False)
    since: str
    serial: int = 0
    """Of the certificate that it registered with."""
    outbox: asyncio.Queue[ServerEvent | None] = field(default_factory=asyncio.Queue, repr=False)
    """Events for the client; None ends the stream."""
    is_streaming: bool = False
    jobs: set[str] = field(default_factory=set)
    peer: Peer | None = None
    """Who it has proven to be."""
    kind: str = CLIENT
    instance: str = ""
    """Of the site's process."""
    connection: str = ""
    """The one that it registered over, as gRPC names it; empty: any will do."""
    heard: float = 0.0
    """When it last said something, on the registry's clock."""
    stuck_since: float | None = None
    """Since when the connection does not take an event, on the registry's clock; None: it takes them."""
    is_beating: bool = False
    """Whether the answer to a heartbeat waits already: one says as much as many."""
    was_announced: bool = False
    """Whether the watchers were told that it joined."""
    has_freed: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_FREED))
    """Jobs that ended at the server and then at this site, the last ones: a site says it of each for a while alone."""
    hang_up: Callable[[], None] | None = field(default=None, repr=False)
    """Ends its stream, whether it reads or not; None: there is none."""

    @property
    def is_overfull(self) -> bool:
        """Whether more waits for it than for any site that reads."""
        return self.outbox.qsize() > MAX_WAITING


class Registry:
    """All sessions of the server; lives in the event loop, so it needs no lock.

    Args:
        clock: seconds that only grow.

    Attributes:
        tally: what has passed between the server and these sites.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.tally = Tally(clock)
        self._by_name: dict[str, Session] = {}
        self._by_token: dict[str, Session] = {}
        self._lost: dict[str, Session] = {}
        self._watchers: list[Callable[[Session, bool], None]] = []

    def watch(self, callback: Callable[[Session, bool], None]) -> None:
        """Call `callback(session, joined)` when a client's stream opens or is lost."""
        self._watchers.append(callback)

    def register(
        self,
        *,
        name: str,
        address: str,
        active_jobs: set[str],
        serial: int = 0,
        peer: Peer | None = None,
        kind: str = CLIENT,
        instance: str = "",
        connection: str = "",
    ) -> Session:
        """Give a client a fresh token; a session it had before is ended."""
        old = self._by_name.get(name)
        if old is not None:
            log.info("%s registered again from %s; its session from %s ends", name, address, old.address)
            self._remove(old)
        session = Session(
            name=name,
            address=address,
            token=tokens.new(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            jobs=active_jobs,
            serial=serial,
            peer=peer,
            kind=kind,
            instance=instance,
            connection=connection,
            heard=self._clock(),
        )
        self._lost.pop(name, None)
        self._by_name[name] = session
        self._by_token[session.token] = session
        self.tally.registrations += 1
        if kind == RELAY:
            log.info("The relay %s@%s joined", name, address)
            return session
        log.info(
            "Client: New client %s@%s joined. Sent token: %s.  Total clients: %d",
            name,
            address,
            fingerprint(session.token),
            self._total(),
            extra={"site": name},
        )
        return session

    def authorise(self, token: str, *, name: str) -> Session | None:
        """Return the session of a token if the certificate's name is the one that got it."""
        session = self._by_token.get(token)
        return session if session is not None and session.name == name else None

    def holder(self, token: str) -> Peer | None:
        """Return who got a token, as proven when it was given out."""
        session = self._by_token.get(token)
        return session.peer if session is not None else None

    def opened(self, session: Session) -> None:
        """Note that the client listens now; one that has been ended meanwhile does not count."""
        if self._by_name.get(session.name) is not session:
            return
        session.is_streaming = True
        self.hear(session)
        self._announce(session, joined=True)

    def hear(self, session: Session) -> None:
        """Note that the client said something."""
        session.heard = self._clock()

    def silent_s(self, session: Session) -> float:
        """Return how long ago the client said something."""
        return max(0.0, self._clock() - session.heard)

    def hand_over(self, session: Session) -> None:
        """Note that its connection is to take an event, until `handed_over`."""
        session.stuck_since = self._clock()

    def handed_over(self, session: Session) -> None:
        """Note that the connection has taken it."""
        session.stuck_since = None

    def closed(self, session: Session) -> None:
        """Take a client off the list whose stream ended, unless it registered again or was ended before."""
        session.is_streaming = False
        if self._by_name.get(session.name) is not session:
            return
        self._remove(session)
        if session.kind == RELAY:
            log.warning("The relay %s is gone", session.name)
            return
        log.warning("Client %s is gone. Total clients: %d", session.name, self._total(), extra={"site": session.name})

    @property
    def longest_silence_s(self) -> float:
        """How long ago the connected client that has been silent for longest was heard; 0 without any."""
        return max((self._clock() - session.heard for session in self.connected()), default=0.0)

    def find(self, name: str) -> Session | None:
        """Return the client's session if it listens."""
        session = self._by_name.get(name)
        return session if session is not None and session.is_streaming and session.kind == CLIENT else None

    def session_of(self, name: str) -> Session | None:
        """Return the session of a client or relay, listening or not."""
        return self._by_name.get(name)

    def connected(self) -> list[Session]:
        """Return every client that listens, by name."""
        listening = (s for s in self._by_name.values() if s.is_streaming and s.kind == CLIENT)
        return sorted(listening, key=lambda s: s.name)

    def lost(self) -> list[Session]:
        """Return the last session of every client that went away and is not forgotten yet, by name."""
        return sorted(self._lost.values(), key=lambda s: s.name)

    def all(self) -> list[Session]:
        """Return every session, listening or not."""
        return list(self._by_name.values())

    def forget(self, before: float) -> list[str]:
        """Forget the clients that went away and were not heard of since a time; returns their names."""
        names = [name for name, session in self._lost.items() if session.heard < before]
        for name in names:
            del self._lost[name]
        return names

    def end(self, session: Session) -> None:
        """End a client's stream and take its token away, both at once: one that does not read would never end."""
        if self._by_name.get(session.name) is session:
            was_listening = session.is_streaming
            self._remove(session)
            if was_listening and session.kind == CLIENT:
                log.warning("Client %s is gone. Total clients: %d", session.name, self._total())

    def end_all(self) -> None:
        """End every stream; the clients come back when a server answers again."""
        for session in self._by_name.values():
            session.outbox.put_nowait(None)

    def _remove(self, session: Session) -> None:
        """Forget a session, however far it came; who was told that its client joined learns that it left."""
        del self._by_name[session.name]
        self._by_token.pop(session.token, None)
        session.is_streaming = False
        if session.kind == CLIENT:
            self._lost[session.name] = session
        self._announce(session, joined=False)
        hang_up, session.hang_up = session.hang_up, None  # else it would keep the call it ends
        if hang_up is not None:
            hang_up()
        session.outbox.put_nowait(None)

    def _announce(self, session: Session, *, joined: bool) -> None:
        if session.kind == CLIENT and session.was_announced is not joined:
            session.was_announced = joined
            for watcher in self._watchers:
                watcher(session, joined)

    def _total(self) -> int:
        return sum(session.kind == CLIENT for session in self._by_name.values())
