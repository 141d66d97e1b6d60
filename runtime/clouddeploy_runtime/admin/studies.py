"""A session's commands about studies; what changes one is signed."""

from __future__ import annotations

import builtins  # noqa: TC003 - a method is called `list`
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.studies import Study

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Studies:
    """Looks at the server's studies and changes them.

    Sites are named with their organisation, `site_orgs`, or alone, `sites`: the server then looks up whose they are.
    A project admin may change every study; an organisation's admin those where it takes part, its own sites only.

    Args:
        ask: sends a command that changes nothing.
        give: sends one that does.
    """

    def __init__(self, *, ask: Callable[..., Any], give: Callable[..., Any]) -> None:
        self._ask = ask
        self._give = give

    def list(self) -> builtins.list[Study]:
        """Return the studies that the asker may see, by name; `default`, which is not registered, is not one.

        Raises:
            StudyRegistryUnusable: the server cannot read its studies.
        """
        return [_study(document) for document in self._ask("list_studies")]

    def show(self, name: str) -> Study:
        """Return one study.

        Raises:
            StudyNotFound: there is none of this name, or none that the asker may see.
        """
        return _study(self._ask("show_study", name=name))

    def register(
        self,
        name: str,
        *,
        site_orgs: Mapping[str, Sequence[str]] | None = None,
        sites: Sequence[str] = (),
        users: Sequence[str] | Mapping[str, str] = (),
    ) -> Study:
        """Make a study.

        Args:
            name: 1 to 63 lower-case letters, digits, hyphens and underscores.
            site_orgs: organisation → its sites.
            sites: further ones, without their organisation.
            users: the members, with their role in the study or without. An organisation's admin is one in any case.

        Raises:
            InvalidStudyName: the name is none, or `default`.
            StudyAlreadyExists: there is one.
            StudyHasJobs: there are jobs of an earlier one of this name.
            UnknownSite, SiteNotInOrg: the server does not know the site, or knows it as another organisation's.
            InvalidStudyUser: a member has no proper name, or is given a role by who may not.
        """
        people = dict(users) if isinstance(users, Mapping) else dict.fromkeys(_listed(users), "")
        return _study(self._give("register_study", name=name, **_sites(site_orgs, sites), users=_text(people)))

    def remove(self, name: str) -> None:
        """Take a study away, once its jobs are deleted; a project admin's right.

        Raises:
            StudyNotFound: there is none of this name.
            StudyHasJobs: there are some, running or ended: nobody could reach them any more.
        """
        self._give("remove_study", name=name)

    def add_site(
        self, name: str, sites: Sequence[str] = (), *, site_orgs: Mapping[str, Sequence[str]] | None = None
    ) -> Study:
        """Let further sites take part; jobs that wait may go there.

        Raises:
            StudyNotFound: there is no study of this name.
            UnknownSite, SiteNotInOrg, SiteAlreadyInStudy: about a site.
        """
        return _study(self._give("add_study_site", name=name, **_sites(site_orgs, sites)))

    def remove_site(
        self, name: str, sites: Sequence[str] = (), *, site_orgs: Mapping[str, Sequence[str]] | None = None
    ) -> Study:
        """Let sites take part no longer; a job that runs there goes on, no other one goes there.

        Raises:
            StudyNotFound: there is no study of this name.
            SiteNotInStudy, SiteNotInOrg: about a site.
        """
        return _study(self._give("remove_study_site", name=name, **_sites(site_orgs, sites)))

    def add_user(self, name: str, user: str, role: str = "") -> Study:
        """Make somebody a member.

        Args:
            name: the study.
            user: the name in the certificate.
            role: in the study, at the server; empty: that of the certificate. Only a project admin may give one.

        Raises:
            StudyNotFound: there is no study of this name.
            UserAlreadyInStudy, InvalidStudyUser: about the person.
        """
        return _study(self._give("add_study_user", name=name, user=user, role=role))

    def remove_user(self, name: str, user: str) -> Study:
        """End a membership, at once; jobs of the person go on.

        Raises:
            StudyNotFound: there is no study of this name.
            UserNotInStudy: the person is no member.
        """
        return _study(self._give("remove_study_user", name=name, user=user))


def _text(value: object) -> str:
    """Arguments of a signed command are text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sites(site_orgs: Mapping[str, Iterable[str]] | None, sites: Iterable[str]) -> dict[str, str]:
    by_org = {org: _listed(names) for org, names in (site_orgs or {}).items()}
    return {"site_orgs": _text(by_org), "sites": _text(_listed(sites))}


def _listed(names: Iterable[str]) -> builtins.list[str]:
    """Return a list; of one name that came alone, too."""
    return [names] if isinstance(names, str) else [*names]


def _study(document: Any) -> Study:
    return msgspec.convert(document, Study)
