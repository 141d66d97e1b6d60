"""The running federation: sites, jobs with their metrics, and when certificates end; kept up to date in the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from clouddeploy.dashboard import plots, rules, sites
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.rules import Action
from clouddeploy.dashboard.web.asking import Ask, Page, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_provision.certificate_authority import CertificateStatus
    from clouddeploy_runtime.admin.status import ClientInfo

    from clouddeploy.dashboard.desk import Visit
    from clouddeploy.dashboard.live import Seen


@dataclass(frozen=True)
class SiteRow:
    """One site as the page shows it; `certificate` is None before it has one, `client` while it is not connected."""

    name: str
    org: str
    state: str
    client: ClientInfo | None
    certificate: CertificateStatus | None


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
    """Returns of each participant the certificate that ends last, of those that count."""
    with ask.visit() as visit:
        visit.require(Action.LIVE_VIEW)
        project = project_of(visit.db).short_name
    found = ask.desk.kits.certificates(project)
    return {one.name: one for one in found if one.state not in {"revoked", "replaced"}}


def _values(ask: Ask, certificates: Mapping[str, CertificateStatus]) -> dict[str, Any]:
    seen = ask.desk.live.attend()
    with ask.visit() as visit:
        visit.require(Action.LIVE_VIEW)
        project = project_of(visit.db)
        found = sites.find(visit, replace(ask.wanted, state="approved"))
        rows = [_row(one, seen, certificates) for one in found.rows]
        return {
            "project": project,
            "seen": seen,
            "found": found,
            "rows": rows,
            "jobs": [(one, plots.charts(one.history)) for one in seen.jobs],
            "connected": len(seen.system.clients) if seen.system is not None else 0,
            "server": certificates.get(project.server),
            "next": _next(visit, is_frozen=project.is_frozen, server_downloads=project.server_downloads),
        }


def _row(site: Any, seen: Seen, certificates: Mapping[str, CertificateStatus]) -> SiteRow:
    clients = {one.name: one for one in seen.system.clients} if seen.system is not None else {}
    client = clients.get(site.name)
    is_disabled = seen.system is not None and site.name in seen.system.disabled
    state = "disabled" if is_disabled else "connected" if client is not None else "away"
    return SiteRow(site.name, site.organization.name, state, client, certificates.get(site.name))


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
