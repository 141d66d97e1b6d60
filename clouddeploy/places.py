"""The providers of a deployment: one object for each place, however many sites and records share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_providers import registry

from clouddeploy.recovery import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints

    from clouddeploy.config import SiteConfig
    from clouddeploy.journal import Journal
    from clouddeploy.state import Record, State

PlaceKey = tuple[str, tuple[tuple[str, str], ...]]
"""A provider's name and its settings, sorted."""


class Places:
    """Makes each provider once; a cloud's takes a tenth of a second and its own connections.

    Args:
        endpoints: where the clouds answer.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._made: dict[PlaceKey, Place] = {}

    def of(self, provider: str, settings: Mapping[str, str]) -> Place:
        """Returns the place that a provider and its settings name.

        Raises:
            InvalidRequest: there is no such provider, or the settings are wrong.
        """
        key = (provider, tuple(sorted(settings.items())))
        if key not in self._made:
            self._made[key] = Place(provider, settings, registry.load(provider)(settings, self._endpoints))
        return self._made[key]

    def by_site(self, sites: Sequence[SiteConfig]) -> dict[str, ComputeProvider]:
        """Returns each site's provider."""
        return {site.name: self.of(site.provider, site.settings).provider for site in sites}

    def by_node(self, records: Mapping[str, Record]) -> dict[str, ComputeProvider]:
        """Returns the provider that made each recorded resource."""
        return {node: self.of(record.provider, record.settings).provider for node, record in records.items()}

    def ever_used(self, sites: Iterable[SiteConfig], state: State, journal: Journal) -> list[Place]:
        """Returns every place that deploy file, state or journal name."""
        used = [(site.provider, site.settings) for site in sites]
        used += [(record.provider, record.settings) for record in state.resources.values()]
        used += journal.places()
        return list({id(place): place for place in (self.of(*one) for one in used)}.values())


def grouped(sites: Sequence[SiteConfig], providers: Mapping[str, ComputeProvider]) -> list[list[SiteConfig]]:
    """Returns the sites that share a provider; one question to the cloud serves them all."""
    groups: dict[int, list[SiteConfig]] = {}
    for site in sites:
        groups.setdefault(id(providers[site.name]), []).append(site)
    return list(groups.values())
