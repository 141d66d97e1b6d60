"""The second factor: codes of an authenticator (RFC 6238) and recovery codes, each good for one time."""

from __future__ import annotations

import base64
import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor import InvalidToken as WrongCode
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from sqlalchemy import delete, func, select, update

from clouddeploy.dashboard import key_file, model, people, rules
from clouddeploy.dashboard.errors import Conflict, DashboardError, Forbidden
from clouddeploy.dashboard.rules import Action, Role, Scope, Target

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from sqlalchemy.orm import Session

    from clouddeploy.dashboard.desk import Desk, Visit

STEP_S = 30
DIGITS = 6
_SLACK = 1
"""Steps before and after: a telephone's clock is not ours, and typing takes time (RFC 6238 §5.2)."""
_SECRET_BYTES = 20
"""RFC 4226 §4: 160 bits."""
RECOVERY_CODES = 10
_RECOVERY_BYTES = 10
_KEY = "second_factor.key"


@dataclass(frozen=True)
class Offer:
    """What an authenticator is told.

    Attributes:
        secret: to type, in base32.
        url: the same as an `otpauth:` address, which a picture can hold.
    """

    secret: str
    url: str

    @property
    def picture(self) -> str:
        """The address as a QR code, SVG for a page."""
        import segno  # noqa: PLC0415 - only here

        made = segno.make(self.url, micro=False)
        return str(made.svg_inline(scale=5, border=4, light="#fff", dark="#000", title="QR code for an authenticator"))


def has(db: Session, user_id: int) -> bool:
    """Tells whether somebody must show a code."""
    found = db.get(model.SecondFactor, user_id)
    return found is not None and found.confirmed_at is not None


def among(db: Session, user_ids: Collection[int]) -> frozenset[int]:
    """Returns which of some people have a second factor."""
    query = select(model.SecondFactor.user_id).where(model.SecondFactor.confirmed_at.is_not(None))
    return frozenset(db.scalars(query.where(model.SecondFactor.user_id.in_(user_ids))))


def is_lacking(db: Session, user: model.User) -> bool:
    """Tells whether the project demands a second factor of somebody who has none."""
    if user.role != Role.PROJECT_ADMIN:
        return False
    project = db.get(model.Project, model.ONLY)
    return project is not None and project.needs_second_factor and not has(db, user.id)


def recovery_left(db: Session, user_id: int) -> int:
    """Returns how many recovery codes somebody has left."""
    query = select(func.count(model.RecoveryCode.id)).where(model.RecoveryCode.user_id == user_id)
    return int(db.scalar(query) or 0)


def offer(visit: Visit) -> Offer:
    """Returns a new secret for the one who asks; it counts once they showed a code of it.

    Raises:
        Conflict: they have a second factor.
        ProofNeeded: they must type their password again first.
    """
    me = _me(visit)
    if has(visit.db, me.id):
        raise Conflict("there is a second factor", why="only one is possible", hint="remove it first")
    raw = secrets.token_bytes(_SECRET_BYTES)
    found = visit.db.get(model.SecondFactor, me.id)
    if found is None:
        found = model.SecondFactor(user_id=me.id, last_step=0)
        visit.db.add(found)
    found.secret = _vault(visit.desk.folder).encrypt(raw).decode()
    visit.db.flush()
    return _offer(raw, me.email)


def offered(visit: Visit) -> Offer | None:
    """Returns the secret that the one who asks was offered and has not shown a code of yet."""
    me = visit.me
    found = visit.db.get(model.SecondFactor, me.id)
    if found is None or found.confirmed_at is not None:
        return None
    return _offer(_opened(visit.desk, found), me.email)


def confirm(visit: Visit, code: str) -> list[str]:
    """Turns the second factor on; returns the recovery codes, which are told once.

    Every session ends, and every token: who knew the password alone may have opened or made them.

    Raises:
        Conflict: none was offered, or it is on.
        Forbidden: the code is not right.
    """
    me = _me(visit)
    found = visit.db.get(model.SecondFactor, me.id)
    if found is None or found.confirmed_at is not None:
        raise Conflict("there is nothing to confirm", why="no second factor was offered", hint="set one up")
    _demand(visit, code)
    found.confirmed_at = visit.desk.now()
    _end_logins(visit, me.id)
    visit.note(Action.FACTOR_EDIT.value, detail="on")
    return _new_codes(visit, me.id)


def renew(visit: Visit, code: str) -> list[str]:
    """Returns new recovery codes; the old ones are worthless from then on, and every session ends.

    Tokens go on: no recovery code can make one that is not seen at the account.

    Raises:
        Forbidden: the code is not right.
    """
    me = _me(visit)
    _demand(visit, code)
    _end_logins(visit, me.id, keep_tokens=True)
    visit.note(Action.FACTOR_EDIT.value, detail="new recovery codes")
    return _new_codes(visit, me.id)


def remove(visit: Visit, code: str) -> None:
    """Turns the second factor of the one who asks off; every session ends, and every token.

    Raises:
        Forbidden: the code is not right.
    """
    me = _me(visit)
    _demand(visit, code)
    forget(visit.db, me.id)
    _end_logins(visit, me.id)
    visit.note(Action.FACTOR_EDIT.value, detail="off")


def reset(visit: Visit, user_id: int) -> None:
    """Turns somebody's second factor off who has lost it; their sessions and tokens end.

    Raises:
        Forbidden: only the project admin may, and not with their own.
    """
    user = people.get(visit, user_id, Action.FACTOR_RESET)
    rules.check_scope(visit.me, Scope.ACCOUNT)
    if user.id == visit.me.id:
        raise Forbidden("the second factor stays", why="it is your own", hint="remove it with a code at Account")
    forget(visit.db, user.id)
    _end_logins(visit, user.id)
    visit.note(Action.FACTOR_RESET.value, detail=user.email)


def forget(db: Session, user_id: int) -> None:
    """Turns a second factor off, whoever asks; the caller has made sure that they may."""
    db.execute(delete(model.RecoveryCode).where(model.RecoveryCode.user_id == user_id))
    db.execute(delete(model.SecondFactor).where(model.SecondFactor.user_id == user_id))


def spend(desk: Desk, db: Session, user_id: int, code: str) -> bool:
    """Tells whether a code is right, and makes sure that it is never right again."""
    found = db.get(model.SecondFactor, user_id)
    given = "".join(code.split()).replace("-", "")
    if found is None or not given:
        return False
    if len(given) != DIGITS:
        from clouddeploy.dashboard import logins  # noqa: PLC0415 - which asks this module for codes

        here = (model.RecoveryCode.user_id == user_id, model.RecoveryCode.digest == logins.digest(given.lower()))
        # Looked for first: a wrong one must write nothing, for the failure is counted on another connection.
        is_one = found.confirmed_at is not None and db.scalar(select(model.RecoveryCode.id).where(*here)) is not None
        return is_one and _changed(db, delete(model.RecoveryCode).where(*here))
    step = _step(_opened(desk, found), given, now_s=int(desk.now().timestamp()))
    if step is None or step <= found.last_step:
        return False
    # One statement, so that of two who show the same code at once only one gets in.
    newer = update(model.SecondFactor).where(model.SecondFactor.user_id == user_id, model.SecondFactor.last_step < step)
    return _changed(db, newer.values(last_step=step))


def _step(raw: bytes, code: str, *, now_s: int) -> int | None:
    """Returns of which step a code is; None: of none that counts now."""
    totp = _totp(raw)
    now = now_s // STEP_S
    for step in range(now - _SLACK, now + _SLACK + 1):
        with contextlib.suppress(WrongCode, UnicodeEncodeError):
            totp.verify(code.encode(), step * STEP_S)
            return step
    return None


def _totp(raw: bytes) -> TOTP:
    # SHA-1, as HMAC: authenticators know nothing else, and RFC 6238 names it first.
    return TOTP(raw, DIGITS, SHA1(), STEP_S)  # noqa: S303


def _offer(raw: bytes, email: str) -> Offer:
    url = _totp(raw).get_provisioning_uri(email, "clouddeploy")
    return Offer(base64.b32encode(raw).decode(), url)


def _me(visit: Visit) -> rules.Actor:
    me = visit.require(Action.FACTOR_EDIT, Target(user_id=visit.me.id))
    rules.check_scope(me, Scope.ACCOUNT)
    return me


def _demand(visit: Visit, code: str) -> None:
    """Refuses a code that is not right; each one counts as a failed proof."""
    me, desk = visit.me, visit.desk
    tried = desk.attempts.proof(account=me.email)
    with desk.attempts.trying(tried):
        if spend(desk, visit.db, me.id, code):
            return
        desk.attempts.failed(tried)
    why = "it is wrong, it was used already, or its time is over"
    error = Forbidden("the code is refused", why=why, hint="wait for the next code, and look at the clocks")
    visit.note(Action.FACTOR_EDIT.value, allowed=False, detail=str(error), code=error.error_code)
    raise error


def _new_codes(visit: Visit, user_id: int) -> list[str]:
    from clouddeploy.dashboard import logins  # noqa: PLC0415 - as in `spend`

    visit.db.execute(delete(model.RecoveryCode).where(model.RecoveryCode.user_id == user_id))
    made = [base64.b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode().lower() for _ in range(RECOVERY_CODES)]
    visit.db.add_all(model.RecoveryCode(user_id=user_id, digest=logins.digest(one)) for one in made)
    return [f"{one[:4]}-{one[4:8]}-{one[8:12]}-{one[12:]}" for one in made]


def _end_logins(visit: Visit, user_id: int, *, keep_tokens: bool = False) -> None:
    from clouddeploy.dashboard import logins  # noqa: PLC0415 - as in `spend`

    logins.end_all(visit.db, user_id, keep_tokens=keep_tokens)


def _changed(db: Session, statement: object) -> bool:
    return bool(db.execute(statement).rowcount == 1)  # type: ignore[call-overload]


def _opened(desk: Desk, found: model.SecondFactor) -> bytes:
    try:
        return _vault(desk.folder).decrypt(found.secret.encode())
    except InvalidToken as error:
        raise DashboardError(
            "the second factor cannot be read",
            why=f"{_KEY} in the dashboard's folder is another one",
            hint="restore it from the backup, or: clouddeploy dashboard reset-second-factor",
        ) from error


def _vault(folder: Path) -> Fernet:
    """Returns what opens the secrets; its key is beside the database, so that a copy of the tables is not enough."""
    return Fernet(key_file.read(folder / _KEY, Fernet.generate_key))
