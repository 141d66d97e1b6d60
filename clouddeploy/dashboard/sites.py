"""Sites: who makes one, what may be changed, what approval and denial mean for their kits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from clouddeploy.dashboard import approvals, listing, model, people, rules
from clouddeploy.dashboard.database import organization, project_of
from clouddeploy.dashboard.errors import Conflict, Invalid, NotFound
from clouddeploy.dashboard.rules import Action, Approval, Target

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from clouddeploy.dashboard.desk import Visit
    from clouddeploy.dashboard.listing import Page, Wanted

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


def create(visit: Visit, asked: Mapping[str, Any]) -> model.Site:
    """Makes a site of the organisation of the one who asks; it waits for its approval.

    Args:
        visit: the request.
        asked: name, description, num_of_gpus, mem_per_gpu_in_gib, and organization, which must be their own.

    Raises:
        Forbidden: it would be another organisation's, or their role makes no sites.
        Conflict: the name is taken.
    """
    me = visit.me
    org = asked.get("organization") or me.organization
    known = visit.db.scalar(select(model.Organization).where(model.Organization.name == org))
    visit.require(Action.SITE_CREATE, Target(known.id if known is not None else None))
    name = checked_name(asked["name"])
    _check_free(visit, name)
    site = model.Site(
        name=name,
        description=asked.get("description", ""),
        organization=visit.db.get_one(model.Organization, me.organization_id),
        creator=visit.db.get_one(model.User, me.id),
        num_of_gpus=asked.get("num_of_gpus", 0),
        mem_per_gpu_in_gib=asked.get("mem_per_gpu_in_gib", 0.0),
        approval_state=Approval.PENDING,
        created_at=visit.desk.now(),
    )
    visit.db.add(site)
    visit.db.flush()
    visit.note(Action.SITE_CREATE.value, detail=f"{name} of {me.organization}")
    return site


def find(visit: Visit, wanted: Wanted) -> Page[model.Site]:
    """Returns one page of all sites."""
    visit.require(Action.SITE_LIST)
    return _page(visit, select(model.Site).join(model.Organization), wanted)


def own(visit: Visit, wanted: Wanted) -> Page[model.Site]:
    """Returns one page of the sites of the organisation of the one who asks; of those they made, while they wait."""
    me, query = visit.me, select(model.Site).join(model.Organization)
    is_ours = model.Site.organization_id == me.organization_id
    return _page(visit, query.where(is_ours if me.approval.is_approved else model.Site.creator_id == me.id), wanted)


def get(visit: Visit, site_id: int, action: Action = Action.SITE_LIST, *, is_held: bool = False) -> model.Site:
    """Returns a site with which the one who asks may do this; `is_held` as with people.

    Raises:
        NotFound: there is none of this id.
        Forbidden: it is not theirs to do this with.
    """
    site = visit.db.get(model.Site, site_id, with_for_update={"of": model.Site} if is_held else None)
    if is_held and site is not None:
        visit.db.expire(site, ["organization", "creator"])  # as with people
    if site is None and rules.reach(visit.me, action) is rules.Reach.ANY:
        raise NotFound(f"there is no site {site_id}", hint="see the list of sites")
    visit.require(action, Target(site.organization_id, site.creator_id) if site is not None else Target())
    if site is None:
        raise NotFound(f"there is no site {site_id}", hint="see the list of sites")
    return site


def change(
    visit: Visit, site_id: int, changes: Mapping[str, Any], *, seen: Collection[str] | None = None
) -> model.Site:
    """Changes a site.

    Args:
        visit: the request.
        site_id: which.
        changes: name, description, num_of_gpus, mem_per_gpu_in_gib; for the project admin organization and
            approval_state too.
        seen: digests of what the one who asks has seen, see `approvals`; an approval needs one.

    Raises:
        Forbidden: the one who asks may not.
        Changed, DigestNeeded: what would be changed or approved is not what was seen.
        Conflict: the site is approved, and stays what it was approved as.
    """
    site = get(visit, site_id, Action.SITE_EDIT, is_held=True)
    if {"organization", "approval_state"} & set(changes):
        visit.require(Action.SITE_APPROVE)
    approvals.check(site, changes=changes, seen=seen)
    approval, before = Approval(site.approval_state), {"name": site.name, "organization": site.organization.name}
    rules.check_site_change({key for key in before if changes.get(key, before[key]) != before[key]}, approval)
    if changes.get("name", site.name) != site.name:
        _check_free(visit, checked_name(changes["name"]))
        site.name = changes["name"]
    for key in ("description", "num_of_gpus", "mem_per_gpu_in_gib"):
        if key in changes:
            setattr(site, key, changes[key])
    if changes.get("organization", before["organization"]) != before["organization"]:
        site.organization = organization(visit.db, people.checked_org(changes["organization"]))
    if "approval_state" in changes and changes["approval_state"] != approval:
        _decide(visit, site, rules.check_approval(approval, changes["approval_state"]))
    visit.note(Action.SITE_EDIT.value, detail=f"{site.name}: {', '.join(sorted(changes))}")
    visit.db.flush()
    return site


def remove(visit: Visit, site_id: int, *, seen: Collection[str] | None = None) -> None:
    """Deletes a site that is not approved.

    Raises:
        Conflict: it is.
        Changed: it is another than what was seen.
    """
    site = get(visit, site_id, Action.SITE_DELETE, is_held=True)
    approvals.check(site, changes={}, seen=seen)
    rules.check_deletion(site.name, Approval(site.approval_state))
    visit.db.delete(site)
    visit.note(Action.SITE_DELETE.value, detail=site.name)


def checked_name(name: str) -> str:
    """Returns the name of a site.

    Raises:
        Invalid: it cannot stand in a certificate.
    """
    if _NAME.fullmatch(name) is None:
        why = "letters, digits, underscores and hyphens are allowed, at most 64, no hyphen first"
        raise Invalid(f"the name {name[:70]!r} is refused", why=why)
    return name


def _check_free(visit: Visit, name: str) -> None:
    taken = visit.db.scalar(select(model.Site.id).where(model.Site.name == name))
    if taken is not None or name == project_of(visit.db).server:
        raise Conflict(f"the name {name} is taken", hint="choose another one")


def _decide(visit: Visit, site: model.Site, after: Approval) -> None:
    site.approval_state = after
    if after is Approval.DENIED:
        visit.desk.kits.revoke(project_of(visit.db).short_name, site.name, reason="privilege_withdrawn")
    visit.note(Action.SITE_APPROVE.value, detail=f"{site.name}: {after.name.lower()}")


def _page(visit: Visit, query: Any, wanted: Wanted) -> Page[model.Site]:
    return listing.page(
        visit.db,
        query,
        wanted,
        searched=[model.Site.name, model.Organization.name],
        state=model.Site.approval_state,
        order=[model.Site.id],
    )
