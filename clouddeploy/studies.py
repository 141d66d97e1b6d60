"""Studies as people write and programs read them: `org:site`, and what an envelope holds of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clouddeploy_runtime.studies import Study


def by_org(pairs: Iterable[str]) -> dict[str, list[str]]:
    """Returns organisation → sites, of `org:site` each.

    Raises:
        ConfigError: one is not that.
    """
    found: dict[str, list[str]] = {}
    for pair in pairs:
        org, _, site = pair.partition(":")
        if not org or not site:
            raise ConfigError(f"{pair!r} names no site", why="it is not ORG:SITE", hint="write org_a:site-1")
        found.setdefault(org, []).append(site)
    return found


def document(study: Study) -> dict[str, Any]:
    """Returns a study, made of what JSON has."""
    return {
        "name": study.name,
        "site_orgs": {org: list(sites) for org, sites in study.site_orgs.items()},
        "users": dict(study.users),
    }
