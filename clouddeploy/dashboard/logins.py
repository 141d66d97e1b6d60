"""Who is it: passwords, sessions of browsers, and tokens of programs. What they show is stored as a digest only."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update

from clouddeploy.dashboard import devices, model, rules, second_factor
from clouddeploy.dashboard.errors import CodeNeeded, Forbidden, Invalid, NotFound, Unauthenticated
from clouddeploy.dashboard.rules import Action, Actor, Approval, Role, Scope, Target

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy.orm import Session

    from clouddeploy.dashboard.attempts import Keys
    from clouddeploy.dashboard.desk import Desk, Visit

IDLE = timedelta(minutes=30)
"""A browser's session ends when nobody used it for so long."""
LONGEST = timedelta(hours=12)
"""And after this in any case."""
PROVED = timedelta(minutes=15)
"""So long after the password was typed in a browser it counts for what is sensitive."""
API = timedelta(minutes=30)
"""As the reference's tokens of POST /login."""
MAX_TOKEN_DAYS = 365
MAX_TOKENS = 50
TOKEN_PREFIX = "cdd_"  # noqa: S105 - so that scanners for leaked secrets know it
_BYTES = 32
_SEEN_EVERY = timedelta(minutes=1)
"""So often at most it is noted that somebody is there: not every picture is a write."""


@dataclass(frozen=True)
class Opened:
    """A login that was just made.

    Attributes:
        secret: what the browser or the program shows from now on; told once.
        actor: who it is.
        form_token: of a browser's session.
        expires_at: when it ends, whatever is done with it.
        device: what the browser shows from now on so that it is known again; told once.
    """

    secret: str
    actor: Actor
    form_token: str
    expires_at: datetime
    device: str = ""


@dataclass(frozen=True)
class Known:
    """Who shows a secret."""

    login_id: int
    actor: Actor
    form_token: str
    is_browser: bool = False


def digest(secret: str) -> str:
    """Returns what is stored of a secret. It is random and long, so a plain hash keeps it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def actor_of(
    user: model.User, scopes: Iterable[Scope] = Scope, *, is_fresh: bool = True, lacks_factor: bool = False
) -> Actor:
    """Returns a person as the rules see them."""
    return Actor(
        id=user.id,
        email=user.email,
        role=Role(user.role),
        organization_id=user.organization_id,
        organization=user.organization.name,
        approval=Approval(user.approval_state),
        scopes=frozenset(scopes),
        is_fresh=is_fresh,
        lacks_factor=lacks_factor,
    )


def log_in(
    desk: Desk, email: str, password: str, *, address: str, kind: str = "browser", code: str = "", device: str = ""
) -> Opened:
    """Opens a session for somebody who knows the password; an old one is not taken over.

    A wrong e-mail, a wrong password and a denied account get the same answer after the same time.

    Args:
        desk: the dashboard.
        email: what was typed.
        password: what was typed.
        address: from where.
        kind: browser or api.
        code: of the second factor; or a recovery code.
        device: what the browser shows so that it is known again.

    Raises:
        TooMany: too many failures before.
        CodeNeeded: it is them, and they have a second factor.
        Unauthenticated: it is not them, or they were denied.
    """
    account = email.strip().lower()
    tried = desk.attempts.login(
        account=account, address=address, device=devices.recognised(desk, device, account) if device else ""
    )
    with desk.attempts.trying(tried):
        try:
            opened = _logged_in(desk, account, password, address=address, kind=kind, code=code)
        except Unauthenticated as error:
            # After the transaction, for tries are counted on a connection of their own.
            _refused(desk, account, address, error, tried)
            raise
        desk.attempts.succeeded(tried)
    return welcomed(desk, opened, address=address)


def _logged_in(desk: Desk, account: str, password: str, *, address: str, kind: str, code: str) -> Opened:
    with desk.visit(address=address) as visit:
        user = visit.db.scalar(select(model.User).where(model.User.email == account))
        known = user.password_hash if user is not None else None
    is_right = desk.passwords.is_right(known, password)  # outside: 0.1 s during which nothing is held
    with desk.visit(address=address) as visit:
        user = visit.db.get(model.User, user.id) if user is not None else None
        if user is None or not is_right or user.password_hash != known or user.approval_state < 0:
            raise Unauthenticated("login refused", why="e-mail and password do not belong together", hint="try again")
        _check_code(visit, user, code)
        if desk.passwords.is_worn(user.password_hash):
            user.password_hash = desk.passwords.hash(password)
        visit.note("login", user=account, detail=kind)
        return _open(visit, user, kind=kind, lasts=LONGEST if kind == "browser" else API, scopes=Scope)


def welcomed(desk: Desk, opened: Opened, *, address: str) -> Opened:
    """Returns a session with what its browser is known by; from now on so is the address.

    To be called after the transaction in which the session was opened.
    """
    account = opened.actor.email
    desk.attempts.remember(account=account, address=address)
    return replace(opened, device=devices.issue(desk, account))


def open_browser(visit: Visit, user: model.User) -> Opened:
    """Opens a browser's session for somebody of whom it is certain who they are."""
    return _open(visit, user, kind="browser", lasts=LONGEST, scopes=Scope)


def open_anew(visit: Visit) -> Opened:
    """Opens a session for the one who asks, in place of theirs, which has ended with all others.

    With a second factor it counts for what is sensitive only if theirs did: no code was shown for it.
    """
    opened = open_browser(visit, visit.db.get_one(model.User, visit.me.id))
    if not visit.me.is_fresh and second_factor.has(visit.db, visit.me.id):
        stale = update(model.Login).where(model.Login.digest == digest(opened.secret))
        visit.db.execute(stale.values(proved_at=visit.desk.now() - PROVED - _SEEN_EVERY))
    return opened


def prove(desk: Desk, login: Known, password: str, *, address: str, code: str = "") -> None:
    """Notes that whoever uses a session has just shown again who they are.

    Raises:
        TooMany: too many failures before.
        Forbidden: password or code are not right.
    """
    account = login.actor.email
    tried = desk.attempts.proof(account=account)
    with desk.attempts.trying(tried):
        try:
            _proved(desk, login, password, address=address, code=code)
        except Unauthenticated as error:
            _refused(desk, account, address, error, tried, action="prove")
            raise Forbidden(error.what, why=error.why, hint=error.hint) from error
        desk.attempts.succeeded(tried)


def _proved(desk: Desk, login: Known, password: str, *, address: str, code: str) -> None:
    with desk.visit(login.actor, address=address) as visit:
        known = visit.db.get_one(model.User, login.actor.id).password_hash
    is_right = desk.passwords.is_right(known, password)
    with desk.visit(login.actor, address=address) as visit:
        user = visit.db.get_one(model.User, login.actor.id)
        if not is_right or user.password_hash != known:
            raise Unauthenticated("it is not certain that it is you", why="the password is another", hint="try again")
        _check_code(visit, user, code)
        visit.db.get_one(model.Login, login.login_id).proved_at = desk.now()
        visit.note("prove")


def _check_code(visit: Visit, user: model.User, code: str) -> None:
    if not second_factor.has(visit.db, user.id):
        return
    if not code.strip():
        raise CodeNeeded(
            "a code is needed", why="the account has a second factor", hint="the authenticator shows it, with 6 digits"
        )
    if not second_factor.spend(visit.desk, visit.db, user.id, code):
        why = "it is wrong, it was used already, or its time is over"
        raise Unauthenticated("the code is refused", why=why, hint="wait for the next code, and look at the clocks")


def _refused(
    desk: Desk, account: str, address: str, error: Unauthenticated, tried: Keys, *, action: str = "login"
) -> None:
    with desk.visit(address=address) as visit:
        visit.note(action, allowed=False, user=account[:100], code=error.error_code)
    if not isinstance(error, CodeNeeded):
        desk.attempts.failed(tried)


def known(desk: Desk, secret: str, *, kinds: Iterable[str], is_use: bool = True) -> Known | None:
    """Returns who shows a secret; None when it is nobody, not any more, or somebody who was denied since.

    A page that keeps itself up to date is no use: whoever went away would stay logged in before it.
    """
    now = desk.now()
    with desk.database.begin() as db:
        login = db.scalar(select(model.Login).where(model.Login.digest == digest(secret)))
        if login is None or login.kind not in kinds:
            return None
        is_idle = login.kind == "browser" and now - login.seen_at > IDLE
        user = db.get(model.User, login.user_id)
        if user is None or is_idle or login.expires_at <= now or user.approval_state < 0:
            db.delete(login)
            return None
        if is_use and now - login.seen_at >= _SEEN_EVERY:
            login.seen_at = now
        actor = actor_of(
            user,
            # A person has all of them, also those that there were not yet when they logged in.
            map(Scope, login.scopes.split()) if login.kind == "token" else Scope,
            # Only a browser is left alone: a program has what it needs, for as long as its token lasts.
            is_fresh=login.kind != "browser" or now - (login.proved_at or login.created_at) <= PROVED,
            lacks_factor=second_factor.is_lacking(db, user),
        )
        return Known(login.id, actor, login.form_token, is_browser=login.kind == "browser")


def log_out(visit: Visit, login_id: int) -> None:
    """Ends a session or a token of the one who asks."""
    visit.db.execute(delete(model.Login).where(model.Login.id == login_id, model.Login.user_id == visit.me.id))
    visit.note("logout")


def end_all(db: Session, user_id: int, *, keep_tokens: bool = False) -> None:
    """Ends every session and token of somebody, as after a change of the password; also what asked for it.

    Args:
        db: of a transaction.
        user_id: whose.
        keep_tokens: whether tokens for automation go on.
    """
    ended = delete(model.Login).where(model.Login.user_id == user_id)
    db.execute(ended.where(model.Login.kind != "token") if keep_tokens else ended)


def make_token(visit: Visit, name: str, *, scopes: Iterable[Scope], days: int) -> Opened:
    """Makes a token for automation; it may do no more than its owner.

    Raises:
        Forbidden: the one who asks is a token, or wants one for what only people may.
        Invalid: the time or the number of tokens is out of bounds.
    """
    me = visit.require(Action.TOKEN_EDIT, Target(user_id=visit.me.id))
    rules.check_scope(me, Scope.ACCOUNT)
    wanted = sorted(set(scopes) - {Scope.ACCOUNT})
    if not wanted:
        raise Invalid("the token is refused", why="it would be good for nothing", hint="read, write or kits")
    if not 1 <= days <= MAX_TOKEN_DAYS:
        raise Invalid("the token is refused", why=f"{days} days are not in 1 to {MAX_TOKEN_DAYS}")
    if len(tokens(visit)) >= MAX_TOKENS:
        raise Invalid("no further token", why=f"there are {MAX_TOKENS}", hint="delete one that is not used any more")
    user = visit.db.get_one(model.User, me.id)
    visit.note("make_token", detail=f"{name}: {' '.join(wanted)}, {days} days")
    return _open(visit, user, kind="token", lasts=timedelta(days=days), scopes=wanted, name=name)


def tokens(visit: Visit) -> list[model.Login]:
    """Returns the tokens of the one who asks, the newest first."""
    query = select(model.Login).where(model.Login.user_id == visit.me.id, model.Login.kind == "token")
    return list(visit.db.scalars(query.order_by(model.Login.id.desc())))


def delete_token(visit: Visit, token_id: int) -> None:
    """Deletes a token of the one who asks.

    Raises:
        NotFound: they have none of this id.
    """
    me = visit.require(Action.TOKEN_EDIT, Target(user_id=visit.me.id))
    rules.check_scope(me, Scope.ACCOUNT)
    found = visit.db.get(model.Login, token_id)
    if found is None or found.kind != "token" or found.user_id != me.id:
        raise NotFound(f"there is no token {token_id}", hint="see your tokens")
    visit.db.delete(found)
    visit.note("delete_token", detail=found.name)


def _open(
    visit: Visit, user: model.User, *, kind: str, lasts: timedelta, scopes: Iterable[Scope], name: str = ""
) -> Opened:
    now, given = visit.desk.now(), list(scopes)
    visit.db.execute(delete(model.Login).where(model.Login.expires_at <= now))
    secret = secrets.token_urlsafe(_BYTES)
    if kind != "browser":
        secret = TOKEN_PREFIX + secret
    login = model.Login(
        digest=digest(secret),
        kind=kind,
        user_id=user.id,
        name=name,
        scopes=" ".join(given),
        form_token=secrets.token_urlsafe(_BYTES),
        created_at=now,
        seen_at=now,
        expires_at=now + lasts,
    )
    visit.db.add(login)
    return Opened(secret, actor_of(user, given), login.form_token, login.expires_at)
