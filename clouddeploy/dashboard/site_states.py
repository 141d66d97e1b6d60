"""How the approved sites are: whether the server hears of them, and when their certificates end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clouddeploy.dashboard import listing, sites
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.rules import Action

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_provision.certificate_authority import CertificateStatus
    from clouddeploy_runtime.admin.status import ClientInfo

    from clouddeploy.dashboard import model
    from clouddeploy.dashboard.desk import Visit
    from clouddeploy.dashboard.listing import Page, Wanted
    from clouddeploy.dashboard.live import Seen


@dataclass(frozen=True)
class SiteState:
    """One site; `certificate` is None before it has one, `client` while it is not connected.

    Attributes:
        name, org: its own and its organisation's.
        state: connected, disabled or away.
        client: as the server knows it.
        certificate: the one that ends last, of those that count.
    """

    name: str
    org: str
    state: str
    client: ClientInfo | None
    certificate: CertificateStatus | None


def certificates(visit: Visit) -> Mapping[str, CertificateStatus]:
    """Returns of each participant the certificate that ends last, of those that count.

    Raises:
        Forbidden: the one who asks may not look at the federation.
    """
    visit.require(Action.LIVE_VIEW)
    found = visit.desk.kits.certificates(project_of(visit.db).short_name)
    return {one.name: one for one in found if one.state not in {"revoked", "replaced"}}


def page(visit: Visit, wanted: Wanted, seen: Seen, known: Mapping[str, CertificateStatus]) -> Page[SiteState]:
    """Returns one page of the approved sites.

    Args:
        visit: the request.
        wanted: which part; its state is not looked at.
        seen: what was last seen of the federation.
        known: certificates by name.

    Raises:
        Forbidden: the one who asks may not look at the federation.
    """
    visit.require(Action.LIVE_VIEW)
    found = sites.find(visit, replace(wanted, state="approved"))
    clients = {one.name: one for one in seen.system.clients} if seen.system is not None else {}
    disabled = frozenset(seen.system.disabled) if seen.system is not None else frozenset()

    def state_of(site: model.Site) -> SiteState:
        client = clients.get(site.name)
        state = "disabled" if site.name in disabled else "connected" if client is not None else "away"
        return SiteState(site.name, site.organization.name, state, client, known.get(site.name))

    return listing.Page([state_of(one) for one in found.rows], found.total, found.wanted)
