"""What people may ask of a server's studies: each handler looks again at whose sites and members the asker may name."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.errors import AuthorizationRefused, InvalidCommand
from clouddeploy_runtime.server.calls import Command
from clouddeploy_runtime.server.studies import not_found
from clouddeploy_runtime.studies import SiteNotInOrg, Study, StudyHasJobs, UnknownSite, named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_runtime.server.calls import Call
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.server.studies import StudyBook
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

PROJECT_ADMIN = "project_admin"
"""This role of a certificate may change every study; any other that the policy lets, its own organisation's part."""
ORG_ADMIN = "org_admin"


class StudyCommands:
    """The commands, as `Commands` takes them. They go by the certificate's role: a study's own role says nothing here.

    Args:
        book: the studies.
        store: the jobs.
        changed: called after each change: jobs may start, and who is no member any more has to go.
    """

    def __init__(self, book: StudyBook, store: JobStore, *, changed: Callable[[], None]) -> None:
        self._book = book
        self._store = store
        self._changed = changed

    @property
    def table(self) -> Mapping[str, Command]:
        """Name → command."""
        return {
            "list_studies": Command("list_studies", self._list),
            "show_study": Command("show_study", self._show, subject="name"),
            "register_study": Command("register_study", self._register, is_signed=True, subject="name"),
            "remove_study": Command("remove_study", self._remove, is_signed=True, subject="name"),
            "add_study_site": Command("add_study_site", self._add_site, is_signed=True, subject="name"),
            "remove_study_site": Command("remove_study_site", self._remove_site, is_signed=True, subject="name"),
            "add_study_user": Command("add_study_user", self._add_user, is_signed=True, subject="name"),
            "remove_study_user": Command("remove_study_user", self._remove_user, is_signed=True, subject="name"),
        }

    async def _list(self, call: Call) -> Any:
        return [asdict(study) for study in self._book.all() if _may_see(call.peer, study)]

    async def _show(self, call: Call) -> Any:
        return asdict(self._seen(call))

    async def _register(self, call: Call) -> Any:
        """Make a study; who is no project admin becomes a member, or could not even see it."""
        name, peer = call.text("name"), call.peer
        self._book.require_new(name)
        study = Study(name).with_sites(self._sites(call))
        users = _object(call, "users", dict[str, str])
        if not _is_project_admin(peer):
            users = {peer.name: "", **users}
        for user, role in users.items():
            study = study.with_user(user, role=_role(peer, role), org=_bound(peer))
        if any(named(info.study) == name for info in self._store.all()):
            raise StudyHasJobs(
                f"The study {name} cannot be registered",
                why="there are jobs of an earlier one of this name, which its members would see",
                hint="Choose another name.",
            )
        self._book.add(study)
        return self._done(call, study, "registered")

    async def _remove(self, call: Call) -> Any:
        """Take a study away that has no jobs: nobody could reach them any more, or later somebody else."""
        if not _is_project_admin(call.peer):
            raise _not_yours(call.peer, "remove a study")
        study = self._seen(call)
        kept = sum(named(info.study) == study.name for info in self._store.all())
        if kept:
            raise StudyHasJobs(
                f"The study {study.name} cannot be removed",
                why=f"it has {kept} jobs, which nobody could see any more",
                hint="Abort those that run; download what is to be kept; delete them all. Then remove the study.",
            )
        self._book.remove(study.name)
        return self._done(call, Study(study.name), "removed")

    async def _add_site(self, call: Call) -> Any:
        study = self._seen(call).with_sites(_some(self._sites(call)))
        self._book.change(study)
        return self._done(call, study, "changed")

    async def _remove_site(self, call: Call) -> Any:
        study = self._seen(call)
        by_org, sites = self._named_sites(call)
        for org, listed in by_org.items():
            for site in listed:
                _require_org(site, org=org, real=study.org_of(site))
        sites = [*sites, *(site for listed in by_org.values() for site in listed)]
        for site in sites:
            _require_own(call.peer, site, org=study.org_of(site))
        left = study.without_sites(_some(sites))
        self._book.change(left)
        return self._done(call, left, "changed")

    async def _add_user(self, call: Call) -> Any:
        peer, role = call.peer, _role(call.peer, call.text("role"))
        study = self._seen(call).with_user(call.text("user"), role=role, org=_bound(peer))
        self._book.change(study)
        return self._done(call, study, "changed")

    async def _remove_user(self, call: Call) -> Any:
        study, user = self._seen(call), call.text("user")
        left = study.without_user(user)
        if not _is_project_admin(call.peer) and study.user_orgs.get(user) != call.peer.org:
            raise _not_yours(call.peer, "remove a member whom the project admin named")
        self._book.change(left)
        return self._done(call, left, "changed")

    def _seen(self, call: Call) -> Study:
        """Return the study that a call names; one that the asker may not see is not there."""
        study = self._book.find(call.text("name"))
        if not _may_see(call.peer, study):
            raise not_found(study.name)
        return study

    def _named_sites(self, call: Call) -> tuple[dict[str, list[str]], list[str]]:
        return _object(call, "site_orgs", dict[str, list[str]]), _object(call, "sites", list[str])

    def _sites(self, call: Call) -> dict[str, list[str]]:
        """Return the sites that a call wants to add, by their organisation.

        Raises:
            UnknownSite: the server does not know one.
            SiteNotInOrg: one is another organisation's than the call says, or than the asker's.
        """
        by_org, alone = self._named_sites(call)
        pairs = [(org, site) for org, sites in by_org.items() for site in sites] + [("", site) for site in alone]
        found: dict[str, list[str]] = {}
        for org, site in pairs:
            real = self._book.org_of(site)
            if real is None:
                raise UnknownSite(
                    f"There is no site {site[:80]!r}",
                    why="none of this name was connected since the server's start, and no study names it",
                    hint="Start the site first, or name it in the project file.",
                )
            _require_org(site, org=org or real, real=real)
            _require_own(call.peer, site, org=real)
            found.setdefault(real, []).append(site)
        return found

    def _done(self, call: Call, study: Study, what: str) -> Any:
        log.info("The study %s was %s by %s", study.name, what, call.peer.name)
        self._changed()
        return asdict(study)


def _is_project_admin(peer: Peer) -> bool:
    return peer.role == PROJECT_ADMIN


def _may_see(peer: Peer, study: Study) -> bool:
    """Tell whether a person is told that there is this study."""
    is_its_admin = peer.role == ORG_ADMIN and peer.org in study.site_orgs
    return _is_project_admin(peer) or is_its_admin or study.has_member(peer.name, org=peer.org)


def _bound(peer: Peer) -> str:
    """Return of which organisation the members are whom this person names; empty: of any."""
    if _is_project_admin(peer):
        return ""
    if not peer.org:
        raise _not_yours(peer, "name members, since the certificate has no organisation")
    return peer.org


def _role(peer: Peer, role: str) -> str:
    if role and not _is_project_admin(peer):
        raise _not_yours(peer, "give a role in a study")
    return role


def _require_org(site: str, *, org: str, real: str | None) -> None:
    if real is not None and org != real:
        raise SiteNotInOrg(
            f"The site {site} is not of {org[:80]!r}", why="its certificate or its study has another organisation"
        )


def _require_own(peer: Peer, site: str, *, org: str | None) -> None:
    """Refuse somebody who is no project admin another organisation's site."""
    if org is not None and not _is_project_admin(peer) and org != peer.org:
        raise SiteNotInOrg(
            f"{peer.name} may not name the site {site}",
            why=f"it is not of {peer.org}",
            hint="Ask a project admin.",
        )


def _not_yours(peer: Peer, what: str) -> AuthorizationRefused:
    return AuthorizationRefused(f"{peer.name} may not {what}", why="only a project admin may", hint="Ask one.")


def _object(call: Call, name: str, kind: Any) -> Any:
    """Return an argument that is JSON: those of a signed command are text."""
    text = call.text(name)
    try:
        return msgspec.json.decode(text, type=kind) if text else kind()
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise InvalidCommand("The command cannot be used", why=f"its {name!r} is not as it should be: {exc}") from exc


def _some(sites: Any) -> Any:
    if not sites:
        raise InvalidCommand("The command cannot be used", why="it names no site")
    return sites
