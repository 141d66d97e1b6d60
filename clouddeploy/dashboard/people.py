"""People: invitations, sign-up, and what becomes of their accounts."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select, update

from clouddeploy.dashboard import approvals, listing, logins, model, passwords, rules
from clouddeploy.dashboard.database import organization, project_of
from clouddeploy.dashboard.errors import Conflict, Forbidden, Invalid, NotFound
from clouddeploy.dashboard.rules import Action, Approval, Role, Scope, Target

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from clouddeploy.dashboard.desk import Desk, Visit
    from clouddeploy.dashboard.listing import Page, Wanted

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
_ORG = re.compile(r"[A-Za-z0-9_]{1,64}")
_MAX_EMAIL = 64
"""RFC 5280 appendix A.1, ub-common-name: it stands in a certificate."""
INVITED = timedelta(days=14)
_LINK_BYTES = 24


def seed(desk: Desk, email: str, password: str, org: str, *, hashed: str = "") -> None:
    """Makes the first project admin.

    Args:
        desk: the dashboard.
        email: theirs.
        password: theirs; empty where it was hashed elsewhere.
        org: their organisation.
        hashed: that hash, of a password that was checked.

    Raises:
        Conflict: there is one.
        Invalid: e-mail, password or organisation cannot be used.
    """
    address = checked_email(email)
    if not hashed:
        passwords.check(password, email=address)
    made = hashed or desk.passwords.hash(password)
    with desk.visit() as visit:
        if visit.db.scalar(select(func.count(model.User.id))):
            raise Conflict("there is an admin already", why="the database has accounts", hint="use another folder")
        project_of(visit.db)
        _add(visit, address, made, role=Role.PROJECT_ADMIN, org=org, approval=Approval.SEED)
        visit.note("seed", user=address, detail=org)


def has_any(desk: Desk) -> bool:
    """Tells whether there is an account."""
    with desk.visit() as visit:
        return bool(visit.db.scalar(select(func.count(model.User.id))))


def invite(visit: Visit, *, role: Role, org: str, email: str = "") -> str:
    """Returns what a link must have so that one person can sign up; it is told once.

    Raises:
        Forbidden: the inviter may not give this role, or not for this organisation.
    """
    me = visit.me
    known = visit.db.scalar(select(model.Organization).where(model.Organization.name == org))
    target = Target(organization_id=known.id if known is not None else None)
    visit.require(Action.INVITE, target)
    rules.check_invitation(me.role, role)
    secret = secrets.token_urlsafe(_LINK_BYTES)
    visit.db.add(
        model.Invitation(
            digest=logins.digest(secret),
            email=checked_email(email) if email else "",
            role=role.value,
            organization=checked_org(org),
            inviter_id=me.id,
            expires_at=visit.desk.now() + INVITED,
        )
    )
    visit.note(Action.INVITE.value, detail=f"{email or 'anybody'}, {role.value} of {org}")
    return secret


def invitation(visit: Visit, secret: str) -> model.Invitation:
    """Returns the invitation of a link.

    Raises:
        Forbidden: there is none, it was used, or its time is over.
    """
    found = visit.db.scalar(select(model.Invitation).where(model.Invitation.digest == logins.digest(secret)))
    if found is None or found.used_at is not None or found.expires_at <= visit.desk.now():
        raise _not_valid()
    return found


def _use(visit: Visit, found: model.Invitation) -> None:
    # One statement, so that of two who come at once only one gets in.
    first = update(model.Invitation).where(model.Invitation.id == found.id, model.Invitation.used_at.is_(None))
    if visit.db.execute(first.values(used_at=visit.desk.now())).rowcount != 1:  # type: ignore[attr-defined]
        raise _not_valid()


def _not_valid() -> Forbidden:
    return Forbidden("the invitation is not valid", why="it was used, or its time is over", hint="ask for another one")


def sign_up(desk: Desk, asked: Mapping[str, str], *, address: str) -> model.User:
    """Makes an account that waits for its approval.

    Args:
        desk: the dashboard.
        asked: email, password, name, description, organization, role, and invitation when there is one. What an
            invitation says counts, whatever is asked.
        address: from where.

    Raises:
        Forbidden: nobody can sign up now.
        Conflict: the e-mail address has an account.
        Invalid: a value cannot be used.
    """
    email = checked_email(asked["email"])
    passwords.check(asked["password"], email=email)
    taken = desk.attempts.taken(address=address)
    desk.attempts.check(taken)
    # Each one counts, also what is refused: accounts are neither made nor found out about in bulk, and the audit log,
    # which has what was refused, is not filled by strangers.
    desk.attempts.counted(desk.attempts.sign_up(address=address))
    with desk.visit(address=address) as visit:
        _admitted(visit, asked, email)  # before 0.1 s are spent on a hash
    made = desk.passwords.hash(asked["password"])
    with desk.visit(address=address) as visit:
        role, org, found = _admitted(visit, asked, email)
        if visit.db.scalar(select(model.User.id).where(model.User.email == email)) is not None:
            desk.attempts.counted(taken)  # many that came at once are not told either
            raise Conflict("the account cannot be made", why="the e-mail address has one", hint="log in instead")
        if found is not None:
            _use(visit, found)
        user = _add(visit, email, made, role=role, org=org, approval=Approval.PENDING)
        user.name, user.description = asked.get("name", ""), asked.get("description", "")
        visit.note("sign_up", user=email, detail=f"{role.value} of {org}")
        return user


def _admitted(visit: Visit, asked: Mapping[str, str], email: str) -> tuple[Role, str, model.Invitation | None]:
    """Returns role and organisation of somebody who may sign up, and their invitation."""
    secret = asked.get("invitation", "")
    found = invitation(visit, secret) if secret else None
    role = Role(found.role if found is not None else asked["role"])
    org = checked_org(found.organization if found is not None else asked["organization"])
    if found is not None and found.email and found.email != email:
        raise Forbidden("the invitation is not for this address", why="it names another one", hint="ask for one")
    is_public = project_of(visit.db).is_public
    try:
        rules.check_sign_up(is_public=is_public, is_invited=found is not None, role=role)
    except Forbidden as error:
        visit.note("sign_up", allowed=False, user=email, detail=str(error), code=error.error_code)
        raise
    return role, org, found


def find(visit: Visit, wanted: Wanted) -> Page[model.User]:
    """Returns one page of the people whom the one who asks may see: all, or their own organisation's."""
    me = visit.require(Action.USER_LIST)
    query = select(model.User).join(model.Organization)
    if rules.reach(me, Action.USER_LIST) is not rules.Reach.ANY:
        query = query.where(model.User.organization_id == me.organization_id)
    return listing.page(
        visit.db,
        query,
        wanted,
        searched=[model.User.email, model.User.name, model.Organization.name],
        state=model.User.approval_state,
        order=[model.User.id],
    )


def get(visit: Visit, user_id: int, action: Action = Action.USER_VIEW, *, is_held: bool = False) -> model.User:
    """Returns somebody whom the one who asks may do this with.

    Args:
        visit: the request.
        user_id: whom.
        action: what.
        is_held: keep others who want to change them waiting until the request ends, where the database can.

    Raises:
        NotFound: there is nobody of this id, or they may not even know that there is.
    """
    user = visit.db.get(model.User, user_id, with_for_update={"of": model.User} if is_held else None)
    if is_held and user is not None:
        # PostgreSQL reads the row anew after waiting for it, but not what it joined before: that is asked for again.
        visit.db.expire(user, ["organization"])
    target = Target(user.organization_id, user.id) if user is not None else Target()
    if user is None and rules.reach(visit.me, action) is rules.Reach.ANY:
        raise NotFound(f"there is no user {user_id}", hint="see the list of users")
    visit.require(action, target)  # who is not there is refused like who is another's
    if user is None:
        raise NotFound(f"there is no user {user_id}", hint="see the list of users")
    return user


def of_email(visit: Visit, email: str) -> model.User:
    """Returns the account of an address; for who has the dashboard's folder, and so may do everything.

    Raises:
        NotFound: there is none.
    """
    user = visit.db.scalar(select(model.User).where(model.User.email == checked_email(email)))
    if user is None:
        raise NotFound(f"nobody has the address {email}", hint="see the page People")
    return user


def known_or_invited(visit: Visit, email: str, *, name: str) -> model.User | None:
    """Returns the account of an address that somebody else vouches for; made when an invitation names the address.

    Args:
        visit: the request; nobody is logged in yet.
        email: verified by who vouches.
        name: of the person.
    """
    user = visit.db.scalar(select(model.User).where(model.User.email == email))
    if user is not None:
        return user
    found = visit.db.scalar(
        select(model.Invitation)
        .where(
            model.Invitation.email == email,
            model.Invitation.used_at.is_(None),
            model.Invitation.expires_at > visit.desk.now(),
        )
        .order_by(model.Invitation.id.desc())
        .limit(1)
    )
    if found is None:
        return None
    _use(visit, found)
    nobodys = visit.desk.passwords.hash(passwords.made())  # no password gets in
    user = _add(visit, email, nobodys, role=Role(found.role), org=found.organization, approval=Approval.PENDING)
    user.name = name
    visit.note("sign_up", user=email, detail=f"{found.role} of {found.organization}, vouched for by the login provider")
    return user


def change(
    visit: Visit,
    user_id: int,
    changes: Mapping[str, Any],
    *,
    is_proved: bool = False,
    seen: Collection[str] | None = None,
) -> model.User:
    """Changes an account; with another password every session and token of it ends, also what asked for it.

    Args:
        visit: the request.
        user_id: whose.
        changes: name, description, password, and for the project admin role, organization, approval_state.
        is_proved: whether they have just typed the password that there was.
        seen: digests of what the one who asks has seen, see `approvals`; an approval needs one.

    Raises:
        Forbidden: the one who asks may not.
        ProofNeeded: they must type their password again first.
        Changed, DigestNeeded: what would be changed or approved is not what was seen.
        Conflict: the account's state does not allow it.
    """
    user = get(visit, user_id, Action.USER_EDIT, is_held=True)
    if {"role", "organization", "approval_state"} & set(changes):
        visit.require(Action.USER_APPROVE)
    approvals.check(user, changes=changes, seen=seen)
    approval = Approval(user.approval_state)
    moved = {key for key in ("role", "organization") if key in changes and changes[key] != _said(user, key)}
    rules.check_user_change(moved, approval)
    for key in ("name", "description"):
        if key in changes:
            setattr(user, key, changes[key])
    if "role" in moved:
        visit.require(Action.USER_ROLE)
        user.role = Role(changes["role"]).value
    if "organization" in moved:
        user.organization = organization(visit.db, checked_org(changes["organization"]))
    if "password" in changes:
        rules.check_scope(visit.me, Scope.ACCOUNT)
        if not is_proved:
            visit.require(Action.PASSWORD_EDIT, Target(user.organization_id, user.id))
        passwords.check(changes["password"], email=user.email)
        user.password_hash = visit.desk.passwords.hash(changes["password"])
        logins.end_all(visit.db, user.id)
    is_decided = "approval_state" in changes and changes["approval_state"] != approval
    if user.role == Role.PROJECT_ADMIN and ("role" in moved or (is_decided and changes["approval_state"] > 0)):
        visit.require(Action.ADMIN_MAKE)  # one more who may do everything, by somebody of flesh and blood
        visit.note(Action.ADMIN_MAKE.value, detail=user.email)
    if is_decided:
        _decide(visit, user, rules.check_approval(approval, changes["approval_state"]))
    visit.note(Action.USER_EDIT.value, detail=f"{user.email}: {', '.join(sorted(changes))}")
    return user


def remove(visit: Visit, user_id: int, *, seen: Collection[str] | None = None) -> None:
    """Deletes an account that is not approved, and what it may have been given becomes worthless.

    Raises:
        Conflict: it is approved, or sites were made by it.
        Changed: it is another than what was seen.
    """
    user = get(visit, user_id, Action.USER_DELETE, is_held=True)
    approvals.check(user, changes={}, seen=seen)
    rules.check_deletion(user.email, Approval(user.approval_state))
    made = visit.db.scalar(select(func.count(model.Site.id)).where(model.Site.creator_id == user.id))
    if made:
        raise Conflict(f"{user.email} cannot be deleted", why=f"{made} sites were made by them", hint="delete them")
    logins.end_all(visit.db, user.id)
    visit.db.delete(user)
    visit.note(Action.USER_DELETE.value, detail=user.email)


def checked_email(email: str) -> str:
    """Returns an e-mail address in the form that accounts have.

    Raises:
        Invalid: it is none, or too long for a certificate.
    """
    found = email.strip().lower()
    if len(found) > _MAX_EMAIL or _EMAIL.fullmatch(found) is None or found.endswith(".invalid"):
        why = f"it is no e-mail address of at most {_MAX_EMAIL} signs"
        raise Invalid("the e-mail address is refused", why=why, hint="name@example.com")
    return found


def checked_org(org: str) -> str:
    """Returns the name of an organisation.

    Raises:
        Invalid: it cannot stand in a certificate.
    """
    if _ORG.fullmatch(org) is None:
        raise Invalid(f"the organisation {org[:70]!r} is refused", why="letters, digits and underscores are allowed")
    return org


def _said(user: model.User, key: str) -> str:
    return user.organization.name if key == "organization" else user.role


def _decide(visit: Visit, user: model.User, after: Approval) -> None:
    user.approval_state = after
    if after is Approval.DENIED:
        logins.end_all(visit.db, user.id)
        unused = delete(model.Invitation).where(model.Invitation.used_at.is_(None))
        visit.db.execute(unused.where(model.Invitation.inviter_id == user.id))
        visit.desk.kits.revoke(project_of(visit.db).short_name, user.email, reason="privilege_withdrawn")
    visit.note(Action.USER_APPROVE.value, detail=f"{user.email}: {after.name.lower()}")


def _add(visit: Visit, email: str, password_hash: str, *, role: Role, org: str, approval: Approval) -> model.User:
    user = model.User(
        email=email,
        password_hash=password_hash,
        role=role.value,
        organization=organization(visit.db, checked_org(org)),
        approval_state=approval,
        created_at=visit.desk.now(),
        name="",
        description="",
    )
    visit.db.add(user)
    visit.db.flush()
    return user
