"""What every request needs, opened once: the database, the kits, the audit log, passwords, tries, the clock."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError, printable

from clouddeploy.dashboard import rules
from clouddeploy.dashboard.brought import Brought
from clouddeploy.dashboard.errors import Unauthenticated
from clouddeploy.dashboard.live import Live
from clouddeploy.dashboard.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from clouddeploy_runtime.audit import AuditLog
    from sqlalchemy.orm import Session

    from clouddeploy.dashboard.attempts import Attempts
    from clouddeploy.dashboard.database import Database
    from clouddeploy.dashboard.kits import Kits
    from clouddeploy.dashboard.passwords import Passwords
    from clouddeploy.dashboard.rules import Action, Actor, Target


@dataclass(frozen=True)
class Desk:
    """The dashboard without its network side."""

    folder: Path
    database: Database
    kits: Kits
    audit: AuditLog
    passwords: Passwords
    attempts: Attempts
    now: Callable[[], datetime]
    turn: RLock = field(default_factory=RLock)
    """Held by requests that decide who is in or hand something out, so that nobody gets a kit while being denied."""

    live: Live = field(default_factory=Live)
    """The running federation as it was last seen."""
    runs: Runs = field(default_factory=Runs)
    """Runs of deployments."""
    brought: Brought = field(default_factory=Brought)
    """Which revocations the running server has."""

    @contextmanager
    def visit(self, actor: Actor | None = None, *, address: str = "") -> Iterator[Visit]:
        """Yields what one request does; its changes are kept when the context ends well, else none."""
        with self.database.begin() as db:
            yield Visit(self, db, actor, address)


@dataclass(frozen=True)
class Visit:
    """One request: who asks from where, within one transaction."""

    desk: Desk
    db: Session
    actor: Actor | None
    address: str

    @property
    def me(self) -> Actor:
        """Who asks.

        Raises:
            Unauthenticated: nobody is logged in.
        """
        if self.actor is None:
            raise Unauthenticated("nobody is logged in", hint="log in first")
        return self.actor

    def require(self, action: Action, target: Target | None = None) -> Actor:
        """Returns who asks, if they may do this; a refusal is recorded.

        Raises:
            Forbidden: they may not, or the token that they use may not.
            ProofNeeded: they must type their password again first.
        """
        try:
            rules.require(self.me, action, target)
            rules.check_token(self.me, action)
            rules.check_proof(self.me, action)
        except ClouddeployError as error:
            self.note(action.value, allowed=False, detail=str(error), code=error.error_code)
            raise
        return self.me

    def note(self, action: str, *, detail: str = "", allowed: bool = True, code: str = "", user: str = "") -> None:
        """Records what is done or was refused; what cannot be recorded is not done.

        Raises:
            AuditUnwritable: the log cannot be written.
        """
        actor = self.actor
        self.desk.audit.record(
            user=user or (actor.email if actor else ""),
            role=actor.role.value if actor else "",
            action=action,
            address=self.address,
            allowed=allowed,
            detail=printable(detail),
            code=code,
        )
