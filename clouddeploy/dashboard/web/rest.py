"""The REST interface: one table of what can be called, and a function for each row."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from clouddeploy.dashboard import audit_pages, handing, listing, logins, model, people, settings, sites
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import NotFound
from clouddeploy.dashboard.rules import Action, Scope
from clouddeploy.dashboard.web import rest_deployments, rest_live, shapes
from clouddeploy.dashboard.web.asking import Archive, Ask, Reply
from clouddeploy.dashboard.web.calls import Call

if TYPE_CHECKING:
    from clouddeploy.dashboard.desk import Visit

PREFIXES = ("/api/v1", "/nvflare-dashboard/api/v1")
"""Ours, and the reference's."""
_FLAG_NAMES = {"server1": "server", "server_host_names": "server_hosts"}
MAX_ENTRIES = 200


def _login(ask: Ask) -> Reply:
    opened = logins.log_in(
        ask.desk, ask.body.email, ask.body.password, address=ask.address, kind="api", code=ask.body.code
    )
    who = shapes.WhoOut(id=opened.actor.id, email=opened.actor.email, role=opened.actor.role.value)
    return Reply(shapes.LoginOut(user=who, access_token=opened.secret, expires_at=opened.expires_at))


def _logout(ask: Ask) -> Reply:
    with ask.visit() as visit:
        if ask.known is not None:
            logins.log_out(visit, ask.known.login_id)
    return Reply(shapes.Done())


def _project(ask: Ask) -> Reply:
    with ask.visit() as visit:
        return _told(visit)


def _told(visit: Visit) -> Reply:
    project = project_of(visit.db)
    if visit.actor is None and not project.is_public:
        # Whoever was not invited need not know who works on what.
        hidden = shapes.ProjectOut(public=False, frozen=project.is_frozen, title=project.title)
        return Reply(shapes.ProjectReply(project=hidden))
    return Reply(shapes.ProjectReply(project=shapes.ProjectOut.of(project, settings.counts(visit.db))))


def _change_project(ask: Ask) -> Reply:
    asked = ask.body.changes()
    freeze = asked.pop("frozen", None)
    with ask.visit() as visit:
        changes = {_FLAG_NAMES.get(key, key): value for key, value in asked.items()}
        project = project_of(visit.db)
        if freeze is False and project.is_frozen:
            visit.require(Action.PROJECT_FREEZE)
            settings.refuse_thaw()
        settings.change(visit, changes, freeze=bool(freeze))
        return _told(visit)


def _organizations(ask: Ask) -> Reply:
    with ask.visit() as visit:
        is_shown = visit.actor is not None or project_of(visit.db).is_public
        rows = visit.db.scalars(select(model.Organization).order_by(model.Organization.name)) if is_shown else ()
        found = listing.part(rows, ask.wanted, said=lambda one: [one.name])
        shown = [shapes.OrganizationOut(id=one.id, name=one.name) for one in found.rows]
    return Reply(shapes.OrganizationsReply(client_list=shown, org_list=shown, paging=shapes.PageOut.of(found)))


def _sign_up(ask: Ask) -> Reply:
    user = people.sign_up(ask.desk, ask.body.model_dump(mode="json"), address=ask.address)
    return _user_reply(user, 201)


def _users(ask: Ask) -> Reply:
    with ask.visit() as visit:
        found = people.find(visit, ask.wanted)
        rows = [shapes.UserOut.of(one) for one in found.rows]
    return Reply(shapes.UsersReply(user_list=rows, paging=shapes.PageOut.of(found)))


def _user(ask: Ask) -> Reply:
    with ask.visit() as visit:
        return _user_reply(people.get(visit, ask.id))


def _user_reply(user: model.User, status: int = 200) -> Reply:
    told = shapes.UserOut.of(user)
    return Reply(shapes.UserReply(user=told), status, {"etag": f'"{told.digest}"'})


def _change_user(ask: Ask) -> Reply:
    changes, known = ask.body.changes(), ask.known
    with ask.visit() as visit:
        reply = _user_reply(people.change(visit, ask.id, changes, seen=ask.seen))
        # A script of ours goes on in a new session, as the page does; a program logs in with what it knows.
        is_ended = "password" in changes and ask.id == visit.me.id
        if is_ended and known is not None and known.is_browser:
            return replace(reply, session=logins.open_anew(visit).secret)
        return reply


def _delete_user(ask: Ask) -> Reply:
    with ask.visit() as visit:
        people.remove(visit, ask.id, seen=ask.seen)
    return Reply(shapes.Done())


def _create_site(ask: Ask) -> Reply:
    with ask.visit() as visit:
        return _site_reply(sites.create(visit, _flat(ask.body.changes())), 201)


def _sites(ask: Ask) -> Reply:
    with ask.visit() as visit:
        found = sites.find(visit, ask.wanted)
        rows = [shapes.SiteOut.of(one) for one in found.rows]
    return Reply(shapes.SitesReply(client_list=rows, paging=shapes.PageOut.of(found)))


def _site(ask: Ask) -> Reply:
    with ask.visit() as visit:
        return _site_reply(sites.get(visit, ask.id))


def _site_reply(site: model.Site, status: int = 200) -> Reply:
    told = shapes.SiteOut.of(site)
    return Reply(shapes.SiteReply(client=told), status, {"etag": f'"{told.digest}"'})


def _change_site(ask: Ask) -> Reply:
    with ask.visit() as visit:
        return _site_reply(sites.change(visit, ask.id, _flat(ask.body.changes()), seen=ask.seen))


def _delete_site(ask: Ask) -> Reply:
    with ask.visit() as visit:
        sites.remove(visit, ask.id, seen=ask.seen)
    return Reply(shapes.Done())


def _flat(changes: dict[str, Any]) -> dict[str, Any]:
    """Returns what a site's body says, its capacity beside the rest."""
    capacity = changes.pop("capacity", {})
    if "mem_per_gpu_in_GiB" in capacity:
        capacity["mem_per_gpu_in_gib"] = capacity.pop("mem_per_gpu_in_GiB")
    return {**changes, **capacity}


def _subject_id(ask: Ask, kind: str) -> int:
    if kind == "server" and ask.id != model.ONLY:
        raise NotFound(f"there is no server {ask.id}", hint=f"the one server is {model.ONLY}")
    return ask.id


def _blob(kind: str, ask: Ask) -> Archive:
    pin = ask.body.pin or ""
    with ask.visit() as visit:
        made = handing.prepare(visit, kind, _subject_id(ask, kind), code=pin)
        visit.db.flush()
        taken = handing.take(visit, made.ticket)
    return Archive(taken.content, taken.filename, {} if pin else {"X-Kit-Code": made.code})


def _enrolment(kind: str, ask: Ask) -> Archive:
    with ask.visit() as visit:
        answer = handing.enrol(visit, kind, _subject_id(ask, kind), ask.upload)
    headers = {
        "X-Rootca-Fingerprint": answer.rootca_fingerprint,
        "X-Public-Key-Sha256": answer.public_key_sha256,
    }
    return Archive(answer.archive, "signed.zip", headers)


def _reissue(kind: str, ask: Ask) -> Reply:
    with ask.visit() as visit:
        return Reply(shapes.ReissueReply(revoked=handing.reissue(visit, kind, _subject_id(ask, kind))))


def _invite(ask: Ask) -> Reply:
    with ask.visit() as visit:
        secret = people.invite(visit, role=ask.body.role, org=ask.body.organization, email=ask.body.email)
    return Reply(shapes.InvitationReply(invitation=secret, path=f"/sign-up?invitation={secret}"), 201)


def _tokens(ask: Ask) -> Reply:
    with ask.visit() as visit:
        visit.require(Action.TOKEN_EDIT)
        found = listing.part(logins.tokens(visit), ask.wanted, said=lambda one: [one.name])
        rows = [shapes.TokenOut.of(one) for one in found.rows]
    return Reply(shapes.TokensReply(token_list=rows, paging=shapes.PageOut.of(found)))


def _make_token(ask: Ask) -> Reply:
    with ask.visit() as visit:
        opened = logins.make_token(visit, ask.body.name, scopes=map(Scope, ask.body.scopes), days=ask.body.days)
    return Reply(shapes.TokenReply(token=opened.secret, expires_at=opened.expires_at), 201)


def _delete_token(ask: Ask) -> Reply:
    with ask.visit() as visit:
        logins.delete_token(visit, ask.id)
    return Reply(shapes.Done())


def _certificates(ask: Ask) -> Reply:
    with ask.visit() as visit:
        visit.require(Action.AUDIT_VIEW)
        made = ask.desk.kits.certificates(project_of(visit.db).short_name)
    found = listing.part(made, ask.wanted, said=lambda one: [one.name, one.org])
    rows = [shapes.CertificateOut(**asdict(one)) for one in found.rows]
    return Reply(shapes.CertificatesReply(certificate_list=rows, paging=shapes.PageOut.of(found)))


def _audit(ask: Ask) -> Reply:
    wanted = ask.wanted
    with ask.visit() as visit:
        visit.require(Action.AUDIT_VIEW)
    count = min(wanted.per_page, MAX_ENTRIES)
    found = audit_pages.newest(
        ask.desk.folder / audit_pages.LOG, count=count, skip=(wanted.page - 1) * count, search=wanted.search
    )
    return Reply(shapes.AuditReply(entry_list=found))


_WRITE, _KITS, _APPROVE = Scope.WRITE, Scope.KITS, Scope.APPROVE


def _kit_calls(folder: str, kind: str) -> tuple[Call, ...]:
    path, zipped = f"/{folder}/{{id}}", None
    return (
        Call(
            "POST", f"{path}/blob", f"Download the kit of a {kind}, once more recorded.", partial(_blob, kind),
            takes=shapes.BlobIn, gives=zipped, scope=_KITS, in_turn=True,
        ),
        Call(
            "POST", f"{path}/enrolment", f"Answer the request of a {kind} that made its own key.",
            partial(_enrolment, kind), gives=zipped, scope=_KITS, in_turn=True, takes_file="application/zip",
        ),
        Call(
            "POST", f"{path}/reissue", f"Revoke what a {kind} has; the next download has a new key.",
            partial(_reissue, kind), gives=shapes.ReissueReply, scope=_KITS, in_turn=True,
        ),
    )  # fmt: skip


CALLS: tuple[Call, ...] = (
    Call("POST", "/login", "Get a token for 30 minutes.", _login, shapes.LoginIn, shapes.LoginOut, is_open=True),
    Call("POST", "/logout", "End the token.", _logout),
    Call("GET", "/project", "The project.", _project, gives=shapes.ProjectReply, is_open=True),
    Call("PATCH", "/project", "Change, publish or freeze the project.", _change_project, shapes.ProjectIn,
         shapes.ProjectReply, scope=_APPROVE, in_turn=True),
    Call("GET", "/organizations", "All organisations.", _organizations, gives=shapes.OrganizationsReply, is_open=True),
    Call("POST", "/users", "Sign up.", _sign_up, shapes.UserIn, shapes.UserReply, is_open=True, status=201),
    Call("GET", "/users", "The people.", _users, gives=shapes.UsersReply),
    Call("GET", "/users/{id}", "Somebody.", _user, gives=shapes.UserReply),
    Call("PATCH", "/users/{id}", "Change or approve somebody.", _change_user, shapes.UserChange, shapes.UserReply,
         scope=_WRITE, in_turn=True, is_conditional=True),
    Call("DELETE", "/users/{id}", "Delete somebody who is not approved.", _delete_user, scope=_WRITE, in_turn=True,
         is_conditional=True),
    *_kit_calls("users", "user"),
    Call("POST", "/clients", "Make a site.", _create_site, shapes.SiteIn, shapes.SiteReply, scope=_WRITE, status=201),
    Call("GET", "/clients", "The sites.", _sites, gives=shapes.SitesReply),
    Call("GET", "/clients/{id}", "A site.", _site, gives=shapes.SiteReply),
    Call("PATCH", "/clients/{id}", "Change or approve a site.", _change_site, shapes.SiteChange, shapes.SiteReply,
         scope=_WRITE, in_turn=True, is_conditional=True),
    Call("DELETE", "/clients/{id}", "Delete a site that is not approved.", _delete_site, scope=_WRITE, in_turn=True,
         is_conditional=True),
    *_kit_calls("clients", "client"),
    *_kit_calls("servers", "server"),
    Call("POST", "/invitations", "Invite one person.", _invite, shapes.InvitationIn, shapes.InvitationReply,
         scope=_APPROVE, status=201),
    Call("GET", "/tokens", "One's own tokens.", _tokens, gives=shapes.TokensReply),
    Call("POST", "/tokens", "Make a token.", _make_token, shapes.TokenIn, shapes.TokenReply, scope=_WRITE, status=201),
    Call("DELETE", "/tokens/{id}", "Delete a token.", _delete_token, scope=_WRITE),
    Call("GET", "/certificates", "Every certificate.", _certificates, gives=shapes.CertificatesReply),
    Call("GET", "/audit", "What was done and refused.", _audit, gives=shapes.AuditReply),
    *rest_live.CALLS,
    *rest_deployments.CALLS,
)  # fmt: skip


def encoded(data: object) -> bytes:
    """Returns JSON as it is sent."""
    return json.dumps(data, separators=(",", ":")).encode()
