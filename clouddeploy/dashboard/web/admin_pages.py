"""Pages on the project and everybody in it: settings, people, sites, certificates, the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy.dashboard import approvals, audit_pages, listing, people, rules, second_factor, settings, sites, tables
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import Invalid
from clouddeploy.dashboard.rules import INVITABLE, Action, Approval, Role
from clouddeploy.dashboard.web.asking import Archive, Ask, Page, Redirect
from clouddeploy.dashboard.web.open_pages import field
from clouddeploy.dashboard.web.rendering import kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy.dashboard.desk import Visit

_ENTRIES = 50
_DECISIONS = {"approve": Approval.APPROVED, "deny": Approval.DENIED}
_MAX_TOGETHER = 1000


def project(ask: Ask) -> Page:
    """Shows the project's settings."""
    with ask.visit() as visit:
        visit.require(Action.PROJECT_VIEW)
        return Page("project.html", {"project": project_of(visit.db), "fixed": rules.FROZEN_MAY_CHANGE})


def change_project(ask: Ask) -> Redirect:
    """Changes the settings."""
    names = ("short_name", "title", "description", "app_location", "starting_date", "end_date", "server")
    given = ask.body or {}
    changes: dict[str, Any] = {name: field(ask, name) for name in names if name in given}
    if "server_port" in given:
        changes["server_port"] = _number(ask, "server_port")
    if "server_hosts" in given:
        changes["server_hosts"] = field(ask, "server_hosts").replace(",", " ").split()
    changes["public"] = field(ask, "public") == "yes"
    changes["require_second_factor"] = field(ask, "require_second_factor") == "yes"
    with ask.visit() as visit:
        before = project_of(visit.db)
        if changes.get("short_name") == before.short_name == "":
            del changes["short_name"]
        settings.change(visit, changes)
    return Redirect("/project")


def freeze(ask: Ask) -> Redirect:
    """Freezes the project."""
    if field(ask, "sure") != "yes":
        raise Invalid("the project was not frozen", why="it was not confirmed", hint="tick the box: it is for good")
    with ask.visit() as visit:
        settings.change(visit, {}, freeze=True)
    return Redirect("/project")


def users(ask: Ask) -> Page:
    """Shows the people."""
    return _users(ask)


def _users(ask: Ask, **more: Any) -> Page:
    with ask.visit() as visit:
        found = people.find(visit, ask.wanted)
        values = {
            "found": found,
            "mark": approvals.digest,
            "with_factor": second_factor.among(visit.db, [one.id for one in found.rows]),
            "invitable": sorted(INVITABLE.get(visit.me.role, ())),
            "roles": [role.value for role in reversed(Role)],
        }
        return Page("users.html", {**values, "link": "", **more})


def decide_users(ask: Ask) -> Redirect:
    """Approves or denies people, or deletes them."""

    def decide(visit: Visit, one: int, approval: Approval, seen: tuple[str]) -> None:
        people.change(visit, one, {"approval_state": int(approval)}, seen=seen)

    return _decide(ask, "/users", decide, people.remove)


def edit_user(ask: Ask) -> Redirect:
    """Changes somebody's organisation and role while they wait."""
    given = {name: field(ask, name) for name in ("role", "organization")}
    if given["role"] not in set(Role):
        raise Invalid("the role is refused", why="there is no such role", hint="choose one of the list")
    with ask.visit() as visit:
        people.change(visit, ask.id, given)
    return Redirect("/users" + kept(ask.query))


def invite(ask: Ask) -> Page:
    """Makes an invitation and shows its link, once."""
    role = field(ask, "role")
    if role not in set(Role):
        raise Invalid("the role is refused", why="there is no such role", hint="choose one of the list")
    with ask.visit() as visit:
        secret = people.invite(visit, role=Role(role), org=field(ask, "organization"), email=field(ask, "email"))
    return _users(ask, link=f"/sign-up?invitation={secret}")


def site_list(ask: Ask) -> Page:
    """Shows the sites: all, or while one waits for approval those of one's organisation."""
    with ask.visit() as visit:
        is_approved = visit.me.approval.is_approved
        found = sites.find(visit, ask.wanted) if is_approved else sites.own(visit, ask.wanted)
        editable = {one.id for one in found.rows if rules.may(visit.me, Action.SITE_EDIT, _target(one))}
        return Page("sites.html", {"found": found, "editable": editable, "mark": approvals.digest})


def _target(site: Any) -> rules.Target:
    return rules.Target(site.organization_id, site.creator_id)


def create_site(ask: Ask) -> Redirect:
    """Makes a site of one's own organisation."""
    asked = {"name": field(ask, "name"), "description": field(ask, "description"), **_capacity(ask)}
    with ask.visit() as visit:
        sites.create(visit, asked)
    return Redirect("/sites")


def edit_site(ask: Ask) -> Redirect:
    """Changes a site."""
    changes: dict[str, Any] = {"description": field(ask, "description"), **_capacity(ask)}
    if field(ask, "name"):
        changes["name"] = field(ask, "name")
    with ask.visit() as visit:
        sites.change(visit, ask.id, changes)
    return Redirect("/sites" + kept(ask.query))


def decide_sites(ask: Ask) -> Redirect:
    """Approves or denies sites, or deletes them."""

    def decide(visit: Visit, one: int, approval: Approval, seen: tuple[str]) -> None:
        sites.change(visit, one, {"approval_state": int(approval)}, seen=seen)

    return _decide(ask, "/sites", decide, sites.remove)


def users_csv(ask: Ask) -> Archive:
    """Sends the people whom the search finds as a table."""
    with ask.visit() as visit:
        return _table("people.csv", tables.users(visit, ask.wanted))


def sites_csv(ask: Ask) -> Archive:
    """Sends the sites that the search finds as a table."""
    with ask.visit() as visit:
        return _table("sites.csv", tables.site_list(visit, ask.wanted))


def _table(filename: str, text: str) -> Archive:
    return Archive(text.encode(errors="replace"), filename, media_type="text/csv; charset=utf-8")


def certificates(ask: Ask) -> Page:
    """Shows every certificate, what ends first first."""
    with ask.visit() as visit:
        visit.require(Action.AUDIT_VIEW)
        made = ask.desk.kits.certificates(project_of(visit.db).short_name)
    found = listing.part(made, ask.wanted, said=lambda one: [one.name, one.org])
    return Page("certificates.html", {"found": found, "brought": ask.desk.brought})


def audit(ask: Ask) -> Page:
    """Shows the newest entries of the audit log."""
    with ask.visit() as visit:
        visit.require(Action.AUDIT_VIEW)
    wanted = ask.wanted
    path = ask.desk.folder / audit_pages.LOG
    rows = audit_pages.newest(path, count=_ENTRIES + 1, skip=(wanted.page - 1) * _ENTRIES, search=wanted.search)
    return Page("audit.html", {"rows": rows[:_ENTRIES], "has_more": len(rows) > _ENTRIES, "number": wanted.page})


def _decide(
    ask: Ask,
    back: str,
    decide: Callable[[Visit, int, Approval, tuple[str]], object],
    remove: Callable[..., object],
) -> Redirect:
    """Does the same with each one that was ticked, as the page showed it; all or none."""
    what, ticked = field(ask, "decision"), (ask.body or {}).get("ids", [])
    shown = dict(one.partition("-")[::2] for one in ticked)
    if not 0 < len(shown) <= _MAX_TOGETHER or not all(one.isascii() and one.isdecimal() for one in shown):
        raise Invalid("nothing was done", why="nothing was ticked", hint="tick the rows that are meant")
    if what not in {*_DECISIONS, "delete"}:
        raise Invalid("nothing was done", why="it says neither approve, deny nor delete")
    with ask.visit() as visit:
        for one, digest in shown.items():
            if what == "delete":
                remove(visit, int(one[:9]), seen=(digest,))
            else:
                decide(visit, int(one[:9]), _DECISIONS[what], (digest,))
    return Redirect(back + kept(ask.query))


def _capacity(ask: Ask) -> dict[str, Any]:
    gpus, memory = _number(ask, "num_of_gpus"), field(ask, "mem_per_gpu_in_gib") or "0"
    try:
        gib = float(memory)
    except ValueError:
        gib = -1
    if not (0 <= gpus <= 1000 and 0 <= gib <= 1_000_000):  # noqa: PLR2004 - as in the project file
        raise Invalid("the capacity is refused", why="up to 1000 GPUs of up to 1000000 GiB each are possible")
    return {"num_of_gpus": gpus, "mem_per_gpu_in_gib": gib}


def _number(ask: Ask, name: str) -> int:
    given = field(ask, name) or "0"
    if not (given.isascii() and given.isdecimal() and len(given) <= 9):  # noqa: PLR2004 - digits
        raise Invalid(f"{name} is refused", why="it is no number")
    return int(given)
