"""Calls about studies: who takes part in which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clouddeploy.api.connection import Connection
from clouddeploy.api.targets import listed
from clouddeploy.studies import by_org, document

if TYPE_CHECKING:
    from collections.abc import Sequence

    Sites = Sequence[str] | str | None
    SiteOrgs = Mapping[str, Sequence[str]] | Sequence[str] | str | None


class StudyCalls(Connection):
    """What a session does with studies; refusals are a `CommandError`, whose code docs/studies.md explains."""

    def list_studies(self) -> dict[str, Any]:
        """Return `studies`: those that this person may see, each as `show_study` returns it."""
        with self._calling() as admin:
            return {"studies": [document(one) for one in admin.studies.list()]}

    def show_study(self, study: str) -> dict[str, Any]:
        """Return a study: `name`, `site_orgs` (organisation → sites), `users` (name → role in it, or empty)."""
        with self._calling() as admin:
            return document(admin.studies.show(study))

    def register_study(
        self,
        study: str,
        sites: Sites = None,
        site_orgs: SiteOrgs = None,
        users: Sequence[str] | Mapping[str, str] = (),
    ) -> dict[str, Any]:
        """Make a study.

        Args:
            study: its name.
            sites: its sites; the server looks up whose they are.
            site_orgs: the same with their organisations: `org:site` each, or organisation → sites.
            users: its members, with their role in it or without.

        Returns:
            The study, see `show_study`.
        """
        with self._calling() as admin:
            people = users if isinstance(users, Mapping) else listed(users)
            return document(
                admin.studies.register(study, sites=listed(sites), site_orgs=_by_org(site_orgs), users=people)
            )

    def add_study_site(self, study: str, sites: Sites = None, site_orgs: SiteOrgs = None) -> dict[str, Any]:
        """Let further sites take part; arguments and result as those of `register_study`."""
        with self._calling() as admin:
            return document(admin.studies.add_site(study, listed(sites), site_orgs=_by_org(site_orgs)))

    def remove_study_site(self, study: str, sites: Sites = None, site_orgs: SiteOrgs = None) -> dict[str, Any]:
        """Let sites take part no longer; jobs that run there go on. Arguments and result as of `register_study`."""
        with self._calling() as admin:
            return document(admin.studies.remove_site(study, listed(sites), site_orgs=_by_org(site_orgs)))

    def remove_study(self, study: str) -> dict[str, Any]:
        """Take a study away; returns its `name`. It is refused while jobs of it have not ended."""
        with self._calling() as admin:
            admin.studies.remove(study)
        return {"name": study}

    def add_study_user(self, study: str, user: str, role: str = "") -> dict[str, Any]:
        """Make somebody a member, with a role of its own in the study where one is given; returns the study."""
        with self._calling() as admin:
            return document(admin.studies.add_user(study, user, role))

    def remove_study_user(self, study: str, user: str) -> dict[str, Any]:
        """End a membership; returns the study."""
        with self._calling() as admin:
            return document(admin.studies.remove_user(study, user))


def _by_org(site_orgs: SiteOrgs) -> dict[str, list[str]]:
    if isinstance(site_orgs, Mapping):
        return {org: list(listed(sites)) for org, sites in site_orgs.items()}
    return by_org(listed(site_orgs))
