"""The connected clients: registration tokens, their event queues, and who waits for whom."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.wire.federation_pb2 import ServerEvent

log = logging.getLogger("Client")
"""The name is part of the line that the overview page shows."""


def fingerprint(token: str) -> str:
    """Return what a log may show of a token: it identifies, but does not authorise."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]


@dataclass(eq=False)
class Session:
    """One registered client."""

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


class Registry:
    """All sessions of the server; lives in the event loop, so it needs no lock."""

    def __init__(self) -> None:
        self._by_name: dict[str, Session] = {}
        self._by_token: dict[str, Session] = {}
        self._watchers: list[Callable[[Session, bool], None]] = []

    def watch(self, callback: Callable[[Session, bool], None]) -> None:
        """Call `callback(session, joined)` when a client's stream opens or is lost."""
        self._watchers.append(callback)

    def register(self, *, name: str, address: str, active_jobs: set[str], serial: int = 0) -> Session:
        """Give a client a fresh token; a session it had before is ended."""
        old = self._by_name.get(name)
        if old is not None:
            log.info("%s registered again from %s; its session from %s ends", name, address, old.address)
            self._by_token.pop(old.token, None)
            old.outbox.put_nowait(None)
        session = Session(
            name=name,
            address=address,
            token=secrets.token_urlsafe(32),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            jobs=active_jobs,
            serial=serial,
        )
        self._by_name[name] = session
        self._by_token[session.token] = session
        log.info(
            "Client: New client %s@%s joined. Sent token: %s.  Total clients: %d",
            name,
            address,
            fingerprint(session.token),
            len(self._by_name),
            extra={"site": name},
        )
        return session

    def authorise(self, token: str, *, name: str) -> Session | None:
        """Return the session of a token if the certificate's name is the one that got it."""
        session = self._by_token.get(token)
        return session if session is not None and session.name == name else None

    def opened(self, session: Session) -> None:
        """Note that the client listens now."""
        session.is_streaming = True
        for watcher in self._watchers:
            watcher(session, True)

    def closed(self, session: Session) -> None:
        """Forget a client whose stream ended, unless it registered again meanwhile."""
        session.is_streaming = False
        if self._by_name.get(session.name) is session:
            del self._by_name[session.name]
            self._by_token.pop(session.token, None)
            log.warning("Client %s is gone. Total clients: %d", session.name, len(self._by_name))
            for watcher in self._watchers:
                watcher(session, False)

    def find(self, name: str) -> Session | None:
        """Return the client's session if it listens."""
        session = self._by_name.get(name)
        return session if session is not None and session.is_streaming else None

    def connected(self) -> list[Session]:
        """Return every client that listens, by name."""
        return sorted((s for s in self._by_name.values() if s.is_streaming), key=lambda s: s.name)

    def all(self) -> list[Session]:
        """Return every session, listening or not."""
        return list(self._by_name.values())

    def end(self, session: Session) -> None:
        """End a client's stream and take its token away at once."""
        self._by_token.pop(session.token, None)
        session.outbox.put_nowait(None)

    def end_all(self) -> None:
        """End every stream; the clients come back when a server answers again."""
        for session in self._by_name.values():
            session.outbox.put_nowait(None)
