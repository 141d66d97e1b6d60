"""Pages for everybody: the first one, login and sign-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from clouddeploy.dashboard import logins, model, people, settings, sites
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import Invalid
from clouddeploy.dashboard.listing import Wanted
from clouddeploy.dashboard.rules import INVITABLE, Approval, Role
from clouddeploy.dashboard.web.asking import Ask, Page, Redirect

if TYPE_CHECKING:
    from clouddeploy.dashboard.desk import Visit

MAX_TEXT = 5000


def field(ask: Ask, name: str, usual: str = "") -> str:
    """Returns what a field of the form holds, without the spaces around it.

    Raises:
        Invalid: it is longer than anything needs.
    """
    values = (ask.body or {}).get(name, [usual])
    if len(values[0]) > MAX_TEXT:
        raise Invalid(f"{name} is refused", why=f"it has more than {MAX_TEXT} signs")
    found: str = values[0]
    return found if name in {"password", "old_password"} else found.strip()


def home(ask: Ask) -> Page:
    """Shows the project, and either the login or what is to be done next."""
    with ask.visit() as visit:
        project = project_of(visit.db)
        values = {"project": project, "counts": settings.counts(visit.db)}
        if visit.actor is None:
            return Page("home.html", values)
        return Page("overview.html", {**values, "steps": _steps(visit, project)})


def _steps(visit: Visit, project: model.Project) -> list[tuple[str, str, str]]:
    """Returns what the one who asks can do next: what, why, where."""
    me, found = visit.me, []
    if me.lacks_factor:
        return [("Set up your second factor", "The project demands one; nothing else is possible before.", "/account")]
    if not me.approval.is_approved:
        why = "The project admin has to let you in. You can complete your account meanwhile."
        found.append(("Wait for your approval", why, "/account"))
        if me.role is Role.ORG_ADMIN and not sites.own(visit, Wanted(per_page=1)).total:
            found.append(("List your sites", "They are approved together with you.", "/sites"))
        return found
    if me.role is Role.PROJECT_ADMIN:
        return _admin_steps(visit, project)
    if not project.is_frozen:
        found.append(("Wait for the kits", "They are there once the project admin has frozen the project.", "/sites"))
    else:
        found.append(("Download your kit", "And those of your sites, if you have any.", "/downloads"))
    return found


def _admin_steps(visit: Visit, project: model.Project) -> list[tuple[str, str, str]]:
    pending = [
        visit.db.scalar(select(table.id).where(table.approval_state == Approval.PENDING).limit(1)) is not None
        for table in (model.User, model.Site)
    ]
    if not project.short_name or not project.server:
        return [("Describe the project", "It needs a short name and a server before anything else.", "/project")]
    found = []
    if not project.is_public and not project.is_frozen:
        found.append(("Let people sign up", "Make the project public, or invite people one by one.", "/project"))
    if pending[0]:
        found.append(("Approve people", "Somebody has signed up and waits.", "/users?state=pending"))
    if pending[1]:
        found.append(("Approve sites", "Some wait for it.", "/sites?state=pending"))
    if not project.is_frozen:
        why = "Kits can be downloaded from then on. Sites can still be added."
        found.append(("Freeze the project", why, "/project"))
    elif not project.server_downloads:
        found.append(("Download the server's kit", "Everybody else connects to it.", "/downloads"))
    return found


def log_in(ask: Ask) -> Redirect:
    """Opens a session."""
    email, password, code = (field(ask, name) for name in ("email", "password", "code"))
    opened = logins.log_in(ask.desk, email, password, address=ask.address, code=code, device=ask.device)
    if ask.known is not None:
        with ask.visit() as visit:
            logins.log_out(visit, ask.known.login_id)
    return Redirect("/", opened.secret, opened.device)


def log_out(ask: Ask) -> Redirect:
    """Ends the session."""
    with ask.visit() as visit:
        if ask.known is not None:
            logins.log_out(visit, ask.known.login_id)
    return Redirect("/", "")


def sign_up_page(ask: Ask) -> Page:
    """Shows the form, or that nobody can sign up."""
    secret = field(ask, "invitation") or ask.query.get("invitation", "")
    with ask.visit() as visit:
        project = project_of(visit.db)
        found = people.invitation(visit, secret) if secret else None
        orgs = visit.db.scalars(select(model.Organization.name).order_by(model.Organization.name)).all()
        return Page(
            "sign_up.html",
            {
                "project": project,
                "invitation": found,
                "secret": secret,
                "organizations": orgs if project.is_public else [],
                "roles": sorted(INVITABLE[Role.PROJECT_ADMIN]),
                "given": {name: field(ask, name) for name in ("email", "name", "organization", "role", "description")},
            },
        )


def sign_up(ask: Ask) -> Redirect:
    """Makes the account and logs in."""
    asked = {
        name: field(ask, name)
        for name in ("email", "password", "name", "organization", "role", "description", "invitation")
    }
    if not asked["invitation"] and asked["role"] not in set(Role):
        raise Invalid("the role is refused", why="there is no such role", hint="choose one of the list")
    people.sign_up(ask.desk, asked, address=ask.address)
    opened = logins.log_in(ask.desk, asked["email"], asked["password"], address=ask.address)
    return Redirect("/", opened.secret, opened.device)
