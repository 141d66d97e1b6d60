"""The running federation: sites, jobs with their metrics, and when certificates end; kept up to date in the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from clouddeploy.dashboard import plots, rules, site_states
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.rules import Action
from clouddeploy.dashboard.web.asking import Ask, Page, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_provision.certificate_authority import CertificateStatus

    from clouddeploy.dashboard.desk import Visit


_PLOTTED = 6
"""So many of the newest jobs have plots: the page is sent anew every two seconds."""


def live(ask: Ask) -> Page:
    """Shows what is there now; the page asks for what comes then."""
    query = urlencode({key: value for key, value in ask.query.items() if key in {"q", "page"}})
    return Page("live.html", {**_values(ask, _certificates(ask)), "events": f"/live/events?{query}"})


def live_events(ask: Ask) -> Stream:
    """Sends the part of the page that changes."""
    known = _certificates(ask)
    return Stream(
        "live_part.html", revision=lambda: ask.desk.live.attend().revision, values=lambda: _values(ask, known)
    )


def _certificates(ask: Ask) -> Mapping[str, CertificateStatus]:
    with ask.visit() as visit:
        return site_states.certificates(visit)


def _values(ask: Ask, certificates: Mapping[str, CertificateStatus]) -> dict[str, Any]:
    seen = ask.desk.live.attend()
    with ask.visit() as visit:
        found = site_states.page(visit, ask.wanted, seen, certificates)
        project = project_of(visit.db)
        return {
            "project": project,
            "seen": seen,
            "found": found,
            "rows": found.rows,
            "jobs": [
                (one, plots.charts(one.history) if number < _PLOTTED else ()) for number, one in enumerate(seen.jobs)
            ],
            "connected": len(seen.system.clients) if seen.system is not None else 0,
            "server": certificates.get(project.server),
            "next": _next(visit, is_frozen=project.is_frozen, server_downloads=project.server_downloads),
        }


def _next(visit: Visit, *, is_frozen: bool, server_downloads: int) -> tuple[str, str, str] | None:
    """Returns what has to be done before there is anything to see: why, what, where."""
    me = visit.me
    if not is_frozen:
        if rules.may(me, Action.PROJECT_FREEZE):
            return "There is no server yet: the project is not frozen.", "Freeze the project", "/project"
        return "There is no server yet: the project admin has not frozen the project.", "See the sites", "/sites"
    if not server_downloads and rules.may(me, Action.SERVER_KIT):
        return "Nobody has the server's kit yet.", "Download the server's kit, and start it", "/downloads"
    return None
