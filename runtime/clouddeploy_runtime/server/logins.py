"""The people who are logged in at this server: one table of sessions, of which a token in each call names one."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import AuthenticationRefused, NoSession, SessionExpired
from clouddeploy_runtime.server import tokens
from clouddeploy_runtime.server.calls import Call, Command
from clouddeploy_runtime.studies import DEFAULT, InvalidStudyName, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

IDLE_S = 1800.0
"""A session that nobody used for so long ends; the reference's value."""
LIFE_S = 12 * 3600.0
"""After so long a token is worth nothing; who holds the key logs in again without noticing."""
_MAX_OF_ONE = 20
"""Sessions of one person; a further one takes the place of the one that was not used for longest. Guessed."""
_MAX_LOGINS = 1000
_MAX_ENDED = 1000
"""So many ended ones are told why; who comes later is a stranger."""


@dataclass(eq=False)
class Login:
    """One session of one person."""

    peer: Peer
    """As the certificate says."""
    role: str
    """In this study: what the policy is asked about."""
    study: str
    address: str
    since: str
    """ISO 8601."""
    until: float
    """When its token ends, on the table's clock."""
    used: float
    token: str = field(repr=False)

    @property
    def name(self) -> str:
        """What a log may show of the token."""
        return tokens.fingerprint(self.token)

    @property
    def user(self) -> Peer:
        """Who asks, with the role that counts here."""
        return replace(self.peer, role=self.role)


class Logins:
    """The table; lives in the event loop, so it needs no lock. A restart of the server empties it.

    Args:
        admit: judges who may log in to which study, and returns the role there; raises `AuthenticationRefused`. None:
            there is the study `default` alone, for everybody.
        idle_s: after so long without a call a session ends.
        life_s: the longest life of a token.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        admit: Callable[[Peer, str], str] | None = None,
        idle_s: float = IDLE_S,
        life_s: float = LIFE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.admit = admit or default_only
        self._idle_s = idle_s
        self._life_s = min(life_s, LIFE_S)
        self._clock = clock
        self._open: dict[str, Login] = {}
        self._ended: dict[str, tuple[Login, str]] = {}
        self._unsaid: list[tuple[Login, str]] = []

    def open(self, peer: Peer, *, study: str, address: str, valid_s: float) -> Login:
        """Let a person in whose certificate was proven.

        Args:
            peer: who it is.
            study: which one to work in.
            address: where it comes from.
            valid_s: how long the certificate is still valid.

        Raises:
            AuthenticationRefused: it is no person, or not one of this study.
        """
        if not peer.role:
            raise _refused(peer, f"{peer.name} is no person")
        if study != DEFAULT:
            try:
                check_name(study)
            except InvalidStudyName as exc:
                raise _refused(peer, str(exc), code="AUTH_INVALID_STUDY_NAME") from exc
        role = self.admit(peer, study)
        now = self._clock()
        login = Login(
            peer=peer,
            role=role,
            study=study,
            address=address,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            until=now + min(self._life_s, valid_s),
            used=now,
            token=tokens.new(),
        )
        self._make_room(peer)
        self._open[login.token] = login
        log.info("Created user session for %s (%s, study %s)", peer.name, login.name, study)
        return login

    def _make_room(self, peer: Peer) -> None:
        """Forget a session where there are too many, the person's own before anybody else's; it comes back if used."""
        own = [one for one in self._open.values() if one.peer.name == peer.name]
        if len(own) >= _MAX_OF_ONE or len(self._open) >= _MAX_LOGINS:
            rivals = own if len(own) >= _MAX_OF_ONE else list(self._open.values())
            oldest = min(rivals, key=lambda one: one.used)
            del self._open[oldest.token]
            self._unsaid.append((oldest, "it gave way to a newer one"))

    def of(self, token: str) -> Login:
        """Return the session of a token, which is used now.

        Raises:
            NoSession: there is none; who holds the key may log in again.
            SessionExpired: it was ended.
        """
        login, now = self._open.get(token), self._clock()
        if login is not None and now - login.used >= self._idle_s:
            self.end(login, self._idle)
            login = None
        elif login is not None and now >= login.until:
            del self._open[token]
            self._unsaid.append((login, "its time was over"))
            login = None
        if login is not None:
            login.used = now
            return login
        if token in self._ended:
            raise SessionExpired("The session has ended", why=self._ended[token][1], hint="Log in again.")
        raise NoSession(
            "The server does not know who calls",
            why="there is no session of this token",
            hint="Connect again, with the version that the server has.",
        )

    @property
    def _idle(self) -> str:
        return f"it was not used for {self._idle_s:g} s"

    def require_open(self, login: Login) -> None:
        """Refuse who is not logged in any more; one who has only made room for another session still is.

        Raises:
            SessionExpired: the session was ended.
        """
        if login.token in self._ended:
            raise SessionExpired("The session has ended", why=self._ended[login.token][1], hint="Log in again.")

    def was(self, token: str) -> Login | None:
        """Return a session that was ended."""
        return self._ended.get(token, (None, ""))[0]

    def end(self, login: Login, why: str) -> None:
        """End a session for good."""
        if self._open.pop(login.token, None) is None:
            return
        while len(self._ended) >= _MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[login.token] = (login, why)
        self._unsaid.append((login, why))
        log.info("The session %s of %s has ended: %s", login.name, login.peer.name, why)

    def end_where(self, condition: Callable[[Login], bool], why: str) -> int:
        """End every session for which a condition holds; returns how many."""
        doomed = [login for login in self._open.values() if condition(login)]
        for login in doomed:
            self.end(login, why)
        return len(doomed)

    def expire(self) -> None:
        """End what nobody uses."""
        now = self._clock()
        self.end_where(lambda login: now - login.used >= self._idle_s, self._idle)

    def all(self) -> list[Login]:
        """Return the open sessions, oldest first."""
        return list(self._open.values())

    def take_ended(self) -> list[tuple[Login, str]]:
        """Return what ended since the last call, and why: for the audit log."""
        taken, self._unsaid = self._unsaid, []
        return taken

    def commands(self) -> Mapping[str, Command]:
        """Return the commands about sessions."""
        return {
            "list_sessions": Command("list_sessions", self._list_sessions),
            "end_sessions": Command("end_sessions", self._end_sessions, is_signed=True, subject="user"),
        }

    async def _list_sessions(self, _call: Call) -> Any:
        now = self._clock()
        return [
            {
                "session": login.name,
                "user": login.peer.name,
                "org": login.peer.org,
                "role": login.role,
                "study": login.study,
                "address": login.address,
                "since": login.since,
                "idle_s": round(now - login.used, 1),
            }
            for login in self.all()
        ]

    async def _end_sessions(self, call: Call) -> Any:
        """End the sessions of a person, or the one that is named."""
        user, name = call.text("user"), call.text("session")
        count = self.end_where(
            lambda login: login.peer.name == user and name in {"", login.name}, f"ended by {call.peer.name}"
        )
        return {"ended": count}


def default_only(peer: Peer, study: str) -> str:
    """Admit everybody to the study `default`, where no other is set up.

    Raises:
        AuthenticationRefused: it is another study.
    """
    if study != DEFAULT:
        raise _refused(peer, f"this server has no study {study!r}", code="AUTH_STUDY_NOT_CONFIGURED")
    return peer.role


def _refused(peer: Peer, why: str, *, code: str = "") -> AuthenticationRefused:
    return AuthenticationRefused(
        f"{peer.name} may not log in", why=why, hint="Use a person's kit, and a study it is a member of.", code=code
    )
