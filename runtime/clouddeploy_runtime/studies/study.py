"""One study: its sites by organisation, its members, and what may be changed of both. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping  # noqa: TC003 - a study is read from replies by its types
from dataclasses import dataclass, field, replace
from typing import Self

from clouddeploy_runtime.studies.errors import (
    InvalidSite,
    InvalidStudyName,
    InvalidStudyUser,
    SiteAlreadyInStudy,
    SiteNotInStudy,
    UserAlreadyInStudy,
    UserNotInStudy,
)

DEFAULT = "default"
"""The study of every job and session that names none: each site and everybody takes part. It stands in no registry."""
NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
"""The reference's rule, matched in full."""
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
"""Of an organisation, a site or a role; the project file is stricter, certificates of other tools may not be."""
_MAX_USER = 255
_MAX_MEMBERS = 10_000
"""Sites or people of one study; guessed, far above any project."""


@dataclass(frozen=True)
class Study:
    """Who takes part in a study.

    Attributes:
        name: what jobs and sessions call it.
        site_orgs: organisation → its sites in it.
        users: the names in its members' certificates → their role in it; empty: that of the certificate.
        user_orgs: members who count only while their certificate is of this organisation: its admin named them.
    """

    name: str
    site_orgs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    user_orgs: Mapping[str, str] = field(default_factory=dict)

    @property
    def sites(self) -> frozenset[str]:
        """Every site of it."""
        return frozenset(site for sites in self.site_orgs.values() for site in sites)

    def org_of(self, site: str) -> str | None:
        """Return the organisation under which a site takes part; None: it does not."""
        return next((org for org, sites in self.site_orgs.items() if site in sites), None)

    def has_member(self, name: str, *, org: str) -> bool:
        """Tell whether the certificate of this name and organisation is a member's."""
        return name in self.users and self.user_orgs.get(name, org) == org

    def with_sites(self, site_orgs: Mapping[str, Iterable[str]]) -> Self:
        """Return the study with more sites.

        Raises:
            InvalidSite: a name is none, or named twice.
            SiteAlreadyInStudy: one takes part already.
        """
        given = {org: tuple(sites) for org, sites in site_orgs.items()}
        check_sites(given)
        there = sorted(self.sites & {site for sites in given.values() for site in sites})
        if there:
            raise SiteAlreadyInStudy(
                f"{', '.join(there)} cannot be added to the study {self.name}",
                why="it takes part already",
                hint="`clouddeploy study show` names its sites.",
            )
        together = {org: (*self.site_orgs.get(org, ()), *given.get(org, ())) for org in (*self.site_orgs, *given)}
        return replace(self, site_orgs={org: sites for org, sites in together.items() if sites}).checked()

    def without_sites(self, sites: Iterable[str]) -> Self:
        """Return the study without these sites.

        Raises:
            SiteNotInStudy: one takes no part.
        """
        doomed = frozenset(sites)
        if strangers := sorted(doomed - self.sites):
            raise SiteNotInStudy(
                f"{', '.join(strangers)} cannot be taken out of the study {self.name}",
                why="it takes no part",
                hint="`clouddeploy study show` names its sites.",
            )
        left = {org: tuple(one for one in there if one not in doomed) for org, there in self.site_orgs.items()}
        return replace(self, site_orgs={org: there for org, there in left.items() if there})

    def with_user(self, name: str, *, role: str = "", org: str = "") -> Self:
        """Return the study with one more member.

        Args:
            name: in the certificate.
            role: in the study; empty: that of the certificate.
            org: the certificate must be of this organisation; empty: of any.

        Raises:
            InvalidStudyUser: the name or the role is none.
            UserAlreadyInStudy: the person is a member already.
        """
        check_user(name, role=role)
        if name in self.users:
            raise UserAlreadyInStudy(
                f"{name} cannot be added to the study {self.name}",
                why="there is such a member already",
                hint="Remove the user first, to give another role.",
            )
        orgs = {**self.user_orgs, name: org} if org else self.user_orgs
        return replace(self, users={**self.users, name: role}, user_orgs=orgs).checked()

    def without_user(self, name: str) -> Self:
        """Return the study without a member.

        Raises:
            UserNotInStudy: the person is none.
        """
        if name not in self.users:
            raise UserNotInStudy(
                f"{name} cannot be taken out of the study {self.name}",
                why="there is no such member",
                hint="`clouddeploy study show` names its members.",
            )
        return replace(
            self,
            users={user: role for user, role in self.users.items() if user != name},
            user_orgs={user: org for user, org in self.user_orgs.items() if user != name},
        )

    def checked(self) -> Self:
        """Return the study itself.

        Raises:
            InvalidStudyName: the name is none.
            InvalidSite: a site or an organisation has no proper name, a site is named twice, or there are too many.
            InvalidStudyUser: a member or a role has no proper name, or there are too many.
        """
        check_name(self.name)
        check_sites(self.site_orgs)
        for name, role in self.users.items():
            check_user(name, role=role)
        if len(self.users) > _MAX_MEMBERS:
            raise InvalidStudyUser(f"The study {self.name} is too large", why=f"it has {len(self.users)} members")
        if strangers := sorted(set(self.user_orgs) - set(self.users)):
            raise InvalidStudyUser(f"{strangers[0]} is no member of the study {self.name}")
        return self


def named(text: str) -> str:
    """Return the study that a job or a session means; nothing named is `default`."""
    return text or DEFAULT


def recorded(study: str) -> str:
    """Return what a job's record says of its study; as ever, nothing for `default`."""
    return "" if study == DEFAULT else study


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a registered study.

    Raises:
        InvalidStudyName: it breaks the rule, or is `default`.
    """
    if name == DEFAULT:
        raise InvalidStudyName(
            f"A study cannot be called {DEFAULT}",
            why="each job that names no study belongs to it, and everybody takes part",
            hint="Choose another name.",
        )
    if NAME.fullmatch(name) is None:
        raise InvalidStudyName(
            f"A study cannot be called {name[:80]!r}",
            why="a name has 1 to 63 lower-case letters, digits, hyphens and underscores, no sign at an end",
            hint="Choose another name.",
        )


def check_sites(site_orgs: Mapping[str, Iterable[str]]) -> None:
    """Refuse sites that a study cannot have.

    Raises:
        InvalidSite: names the first one that is wrong.
    """
    sites = [site for listed in site_orgs.values() for site in listed]
    for name in (*site_orgs, *sites):
        if _WORD.fullmatch(name) is None:
            raise InvalidSite(
                f"There is no site or organisation {name[:80]!r}",
                why="a name has letters, digits, hyphens and underscores",
                hint="Write an organisation and its site as in the project file.",
            )
    twice = [site for site, times in Counter(sites).items() if times > 1]
    if twice:
        raise InvalidSite(f"The site {twice[0]} is named twice", hint="A site takes part once.")
    if len(sites) > _MAX_MEMBERS:
        raise InvalidSite("There are too many sites", why=f"{len(sites)}, and {_MAX_MEMBERS} are possible")


def check_user(name: str, *, role: str = "") -> None:
    """Refuse a member whom a study cannot have.

    Raises:
        InvalidStudyUser: the name or the role is none.
    """
    if not 0 < len(name) <= _MAX_USER or not name.isprintable() or name != name.strip():
        raise InvalidStudyUser(
            f"Nobody is called {name[:80]!r}", hint="Take the name in the certificate, usually a mail address."
        )
    if role and _WORD.fullmatch(role) is None:
        raise InvalidStudyUser(f"There is no role {role[:80]!r}", hint="Take one of the server's authorization.json.")
