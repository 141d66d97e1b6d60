"""Pages of one's own: account, tokens, downloads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clouddeploy.dashboard import handing, logins, model, people, rules, second_factor, sites
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import Forbidden, Invalid, NotFound
from clouddeploy.dashboard.rules import Action, Reach, Scope
from clouddeploy.dashboard.web.asking import Archive, Ask, Page, Redirect
from clouddeploy.dashboard.web.open_pages import field
from clouddeploy.dashboard.web.rendering import kept

if TYPE_CHECKING:
    from clouddeploy.dashboard.desk import Visit
    from clouddeploy.dashboard.listing import Page as PartOf
    from clouddeploy.dashboard.listing import Wanted

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
        # What failed before is not forgotten: codes of the second factor are counted with it, and none was shown.
        tried = ask.desk.attempts.proof(account=me.email)
        with ask.desk.attempts.trying(tried):
            if not ask.desk.passwords.is_right(user.password_hash, old):
                ask.desk.attempts.failed(tried)
                raise Forbidden("the password was not changed", why="the old one is another", hint="try again")
        people.change(visit, me.id, {"password": new}, is_proved=True)
        opened = logins.open_anew(visit)
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
        is_ready = project.is_frozen and visit.me.approval.is_approved
        found = _sites(visit, ask.wanted) if is_ready else None
        rows = _rows(visit, project, found) if is_ready else []
        values = {"project": project, "rows": rows, "found": found, "is_ready": is_ready}
        return Page("downloads.html", {**values, "prepared": None, **more})


def _sites(visit: Visit, wanted: Wanted) -> PartOf[model.Site] | None:
    """Returns one page of the sites whose kits are for the one who asks; None: no site's is."""
    wanted, found = replace(wanted, state="approved"), rules.reach(visit.me, Action.SITE_KIT)
    if found is Reach.NOBODY:
        return None
    return sites.find(visit, wanted) if found is Reach.ANY else sites.own(visit, wanted)


def _rows(visit: Visit, project: model.Project, found: PartOf[model.Site] | None) -> list[dict[str, Any]]:
    """Returns the kits of one page: before those of sites, on the first page of all, the server's and one's own."""
    me, rows = visit.me, []
    if found is None or (found.wanted.page == 1 and not found.wanted.search):
        if rules.may(me, Action.SERVER_KIT) and project.server:
            rows.append(("server", model.ONLY, project.server, "The server"))
        rows.append(("user", me.id, me.email, "Your kit, for the console"))
    listed = found.rows if found is not None else ()
    rows += [("client", one.id, one.name, f"Site of {one.organization.name}") for one in listed]
    last = handing.newest(visit, [name for _, _, name, _ in rows])
    return [
        {"kind": kind, "id": subject_id, "name": name, "text": text, "last": last.get(name)}
        for kind, subject_id, name, text in rows
    ]


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
        is_somebody_else = _kind(ask) == "user" and ask.id != visit.me.id
    return Redirect("/users" if is_somebody_else else "/downloads" + kept(ask.query))


def _kind(ask: Ask) -> str:
    kind = ask.path.get("kind", "")
    if kind not in _KINDS:
        raise NotFound("there is no such kit", why="it is that of a user, a client or the server")
    return kind
