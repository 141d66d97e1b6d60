"""The project and its server: what the project admin sets, and the snapshot of it all that kits are made from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, NoReturn

from clouddeploy_runtime.kit.kit import MAX_PORT, is_host
from sqlalchemy import func, select

from clouddeploy.dashboard import model, rules
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.errors import Conflict, Invalid
from clouddeploy.dashboard.kits import Federation, Member
from clouddeploy.dashboard.rules import Action, Approval, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from clouddeploy.dashboard.desk import Visit

_SHORT_NAME = re.compile(r"[A-Za-z0-9_]{1,16}")
_MAX_HOSTS = 20
_COLUMNS = {
    "short_name": "short_name",
    "title": "title",
    "description": "description",
    "app_location": "app_location",
    "starting_date": "starting_date",
    "end_date": "end_date",
    "public": "is_public",
    "server": "server",
    "server_port": "server_port",
    "server_hosts": "server_hosts",
    "require_second_factor": "needs_second_factor",
}
"""What can be changed → its column."""


VIEWER = "viewer@dashboard.invalid"
"""The dashboard itself as a participant, of the role that may only look. Nobody signs up so: RFC 2606 §2."""


@dataclass(frozen=True)
class Counts:
    """How much there is."""

    organizations: int
    users: int
    sites: int


def counts(db: Session) -> Counts:
    """Counts what the first page shows; of people and sites, those that are approved."""

    def count(query: Any) -> int:
        return int(db.scalar(query) or 0)

    return Counts(
        count(select(func.count(model.Organization.id))),
        count(select(func.count(model.User.id)).where(model.User.approval_state >= Approval.APPROVED)),
        count(select(func.count(model.Site.id)).where(model.Site.approval_state >= Approval.APPROVED)),
    )


def change(visit: Visit, changes: Mapping[str, Any], *, freeze: bool = False) -> model.Project:
    """Changes the project, and freezes it when that is asked for.

    Args:
        visit: the request.
        changes: names of `_COLUMNS` → values; what is the same as before is no change.
        freeze: make the certificate authority; what kits depend on stays as it is from then on.

    Raises:
        Conflict: it is frozen, or cannot be frozen yet.
        Invalid: a value cannot be used.
    """
    visit.require(Action.PROJECT_EDIT)
    project = project_of(visit.db)
    visit.db.refresh(project, with_for_update=True)  # whoever else freezes it waits
    real = {key: value for key, value in changes.items() if getattr(project, _COLUMNS[key]) != value}
    rules.check_project_change(real, is_frozen=project.is_frozen)
    for key, value in real.items():
        _check(key, value)
        setattr(project, _COLUMNS[key], value)
    if project.starting_date and project.end_date and project.end_date < project.starting_date:
        raise Invalid("the dates are refused", why="the project ends before it starts")
    clash = select(model.Site.id).where(model.Site.name == project.server)
    if "server" in real and visit.db.scalar(clash) is not None:
        raise Conflict(f"{project.server} is the name of a site already", hint="choose another one for the server")
    if real:
        visit.note(Action.PROJECT_EDIT.value, detail=", ".join(sorted(real)))
    if freeze and not project.is_frozen:
        _freeze(visit, project)
    return project


def refuse_thaw() -> NoReturn:
    """Refuses to take a freeze back.

    Raises:
        Conflict: always: kits that are out there depend on it.
    """
    raise Conflict("a frozen project stays frozen", why="kits depend on it", word="Project is frozen")


def federation(db: Session) -> Federation:
    """Returns what kits are made from: the server, approved sites and approved people."""
    project = project_of(db)
    seed = db.scalar(select(model.User).where(model.User.approval_state == Approval.SEED))
    org = seed.organization.name if seed is not None else ""
    sites = db.scalars(select(model.Site).where(model.Site.approval_state >= Approval.APPROVED).order_by(model.Site.id))
    users = db.scalars(select(model.User).where(model.User.approval_state >= Approval.APPROVED).order_by(model.User.id))
    members = [
        Member("client", one.name, one.organization.name, gpus=one.num_of_gpus, gib_per_gpu=one.mem_per_gpu_in_gib)
        for one in sites
    ]
    members += [Member("admin", one.email, one.organization.name, role=one.role) for one in users]
    members.append(Member("admin", VIEWER, org, role=Role.MEMBER.value))
    return Federation(
        name=project.short_name,
        description=project.title,
        server=Member("server", project.server, org),
        port=project.server_port,
        hosts=tuple(project.server_hosts),
        members=tuple(members),
    )


def _freeze(visit: Visit, project: model.Project) -> None:
    visit.require(Action.PROJECT_FREEZE)
    missing = [label for label, value in (("short name", project.short_name), ("server", project.server)) if not value]
    if missing:
        raise Conflict(
            "the project cannot be frozen yet", why=f"it has no {' and no '.join(missing)}", hint="enter it first"
        )
    # Before anything is called frozen: a mistake of the project shows now or never.
    mark = visit.desk.kits.start(federation(visit.db))
    project.is_frozen = True
    visit.note(Action.PROJECT_FREEZE.value, detail=f"root {mark}")


def _check(key: str, value: Any) -> None:
    """Refuses a value that no kit could have.

    Raises:
        Invalid: says what is demanded.
    """
    if key == "short_name" and _SHORT_NAME.fullmatch(value) is None:
        raise Invalid(f"the short name {value!r} is refused", why="1 to 16 letters, digits and underscores are allowed")
    if key == "server" and (not is_host(value) or ":" in value):
        raise Invalid(f"the server's name {value!r} is refused", why="it is no host name", hint="fl.example.com")
    if key == "server_port" and not 1 <= value <= MAX_PORT:
        raise Invalid(f"port {value} is refused", why=f"it is not in 1 to {MAX_PORT}")
    if key == "server_hosts":
        wrong = [host for host in value if not is_host(host)]
        if wrong or len(value) > _MAX_HOSTS:
            why = f"{wrong[0]!r} is neither a name nor an address" if wrong else f"{_MAX_HOSTS} are the most"
            raise Invalid("the server's further names are refused", why=why)
    if key.endswith("_date") and value:
        try:
            date.fromisoformat(value)
        except ValueError as error:
            raise Invalid(f"the date {value!r} is refused", why=str(error), hint="YYYY-MM-DD") from error
