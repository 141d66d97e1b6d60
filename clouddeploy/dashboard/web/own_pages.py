"""Pages of one's own: account, tokens, downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from clouddeploy.dashboard import handing, logins, model, people, rules, second_factor, sites
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import Forbidden, Invalid, NotFound
from clouddeploy.dashboard.rules import Action, Approval, Reach, Scope
from clouddeploy.dashboard.web.asking import Archive, Ask, Page, Redirect
from clouddeploy.dashboard.web.open_pages import field

if TYPE_CHECKING:
    from clouddeploy.dashboard.desk import Visit

_KINDS = frozenset({"user", "client", "server"})


def account(ask: Ask) -> Page:
    """Shows one's own account."""
    return _account(ask)


def _account(ask: Ask, **more: Any) -> Page:
    with ask.visit() as visit:
        user = people.get(visit, visit.me.id)
        values = {"user": user, "tokens": logins.tokens(visit), "scopes": rules.GRANTABLE}
        values["has_factor"] = second_factor.has(visit.db, user.id)
        return Page("account.html", {**values, "token_shown": "", **more})


def change_account(ask: Ask) -> Redirect:
    """Changes name and description."""
    with ask.visit() as visit:
        people.change(visit, visit.me.id, {"name": field(ask, "name")[:200], "description": field(ask, "description")})
    return Redirect("/account")


def change_password(ask: Ask) -> Redirect:
    """Changes the password of somebody who knows the old one; every session and token ends, and a session begins."""
    old, new = field(ask, "old_password"), field(ask, "password")
    with ask.visit() as visit:
        me, user = visit.me, visit.db.get_one(model.User, visit.me.id)
        tried = ask.desk.attempts.proof(account=me.email)
        ask.desk.attempts.check(tried)
        if not ask.desk.passwords.is_right(user.password_hash, old):
            ask.desk.attempts.failed(tried)
            raise Forbidden("the password was not changed", why="the old one is another", hint="try again")
        people.change(visit, me.id, {"password": new}, is_proved=True)
        opened = logins.open_anew(visit)
    ask.desk.attempts.succeeded(tried)
    return Redirect("/account", opened.secret)


def make_token(ask: Ask) -> Page:
    """Makes a token and shows it, once."""
    scopes = (ask.body or {}).get("scopes", [])
    days = field(ask, "days")
    if not set(scopes) <= set(rules.GRANTABLE) or not days.isdecimal() or not field(ask, "name"):
        raise Invalid("the token is refused", why="it needs a name, what it may do and for how many days")
    with ask.visit() as visit:
        opened = logins.make_token(visit, field(ask, "name")[:100], scopes=map(Scope, scopes), days=int(days[:9]))
    return _account(ask, token_shown=opened.secret)


def delete_token(ask: Ask) -> Redirect:
    """Deletes one of one's own tokens."""
    with ask.visit() as visit:
        logins.delete_token(visit, ask.id)
    return Redirect("/account")


def downloads(ask: Ask) -> Page:
    """Shows what the one who asks may download, and when that was done before."""
    return _downloads(ask)


def _downloads(ask: Ask, **more: Any) -> Page:
    with ask.visit() as visit:
        project = project_of(visit.db)
        rows = _rows(visit, project, ask) if visit.me.approval.is_approved else []
        is_ready = project.is_frozen and visit.me.approval.is_approved
        values = {"project": project, "rows": rows, "is_ready": is_ready}
        return Page("downloads.html", {**values, "prepared": None, **more})


def _rows(visit: Visit, project: model.Project, ask: Ask) -> list[dict[str, Any]]:
    me = visit.me
    found = [_row(visit, "user", me.id, me.email, "your kit, for the console")]
    if rules.may(me, Action.SERVER_KIT) and project.server:
        found.insert(0, _row(visit, "server", model.ONLY, project.server, "the server"))
    if rules.reach(me, Action.SITE_KIT) is not Reach.NOBODY:
        listed = sites.own(visit, ask.wanted)
        found += [
            _row(visit, "client", one.id, one.name, f"site of {one.organization.name}")
            for one in listed.rows
            if Approval(one.approval_state).is_approved
        ]
    return found


def _row(visit: Visit, kind: str, subject_id: int, name: str, text: str) -> dict[str, Any]:
    last = visit.db.scalar(
        select(model.Download).where(model.Download.subject == name).order_by(model.Download.id.desc()).limit(1)
    )
    return {"kind": kind, "id": subject_id, "name": name, "text": text, "last": last}


def prepare(ask: Ask) -> Page:
    """Makes an archive and shows its code, once."""
    with ask.visit() as visit:
        made = handing.prepare(visit, _kind(ask), ask.id)
    return _downloads(ask, prepared=made)


def take(ask: Ask) -> Archive:
    """Sends an archive that lies ready."""
    with ask.visit() as visit:
        taken = handing.take(visit, ask.path["ticket"])
    return Archive(taken.content, taken.filename)


def enrol(ask: Ask) -> Archive:
    """Answers an uploaded request."""
    if not ask.upload:
        raise Invalid("there is no request", why="no file was chosen", hint="choose NAME.request.zip")
    with ask.visit() as visit:
        answer = handing.enrol(visit, _kind(ask), ask.id, ask.upload)
    return Archive(answer.archive, "signed.zip", {"X-Rootca-Fingerprint": answer.rootca_fingerprint})


def reissue(ask: Ask) -> Redirect:
    """Revokes a kit; the next download has another key."""
    if field(ask, "sure") != "yes":
        raise Invalid("nothing was revoked", why="it was not confirmed", hint="tick the box: the kit in use ends")
    with ask.visit() as visit:
        handing.reissue(visit, _kind(ask), ask.id)
    return Redirect("/downloads")


def _kind(ask: Ask) -> str:
    kind = ask.path.get("kind", "")
    if kind not in _KINDS:
        raise NotFound("there is no such kit", why="it is that of a user, a client or the server")
    return kind
