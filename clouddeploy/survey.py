"""Asks the clouds what a plan needs to know: which sizes and images there are, and whether the demand can be met."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Demand, Kind, MachineSpec, Need

from clouddeploy import selection
from clouddeploy.errors import ConfigError
from clouddeploy.places import grouped
from clouddeploy.plan import Action

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import Check, Offer

    from clouddeploy.config import SiteConfig
    from clouddeploy.plan import Change, Wanted
    from clouddeploy.selection import Choice
    from clouddeploy.state import Record

MAX_PLACES = 16
"""Asked at once."""


@dataclass(frozen=True)
class Findings:
    """What the clouds' preflight found."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def choose(
    sites: Sequence[SiteConfig],
    *,
    capacities: Mapping[str, Need],
    pins: Mapping[str, Mapping[str, str]],
    providers: Mapping[str, ComputeProvider],
    may_ask: bool,
) -> tuple[dict[str, Choice], list[str]]:
    """Returns the machine each site gets, and what stands against it.

    Args:
        sites: those whose machine does not exist yet.
        capacities: by site, what the project file says that it offers to jobs.
        pins: by site, what an earlier run has chosen.
        providers: by site.
        may_ask: whether the clouds may be asked.
    """
    choices: dict[str, Choice] = {}
    problems: list[str] = []

    def serve(group: Sequence[SiteConfig]) -> None:
        provider = providers[group[0].name]
        asked = _Asked(provider)
        for site in group:
            capacity, offers = capacities.get(site.name), asked.offers if may_ask else None
            known = selection.pinned(site, capacity=capacity, pins=pins, offers=offers, place=provider.place)
            try:
                choice = known or selection.choose(
                    site,
                    capacity=capacity,
                    default_size=provider.default_size,
                    offers=offers,
                    place=provider.place,
                )
            except ConfigError as error:
                problems.append(f"{error}. {error.hint}")
                continue
            image = choice.image or (asked.image(site, choice) if may_ask and choice.size else site.image or "")
            choices[site.name] = replace(choice, image=image)

    with ThreadPoolExecutor(max_workers=MAX_PLACES, thread_name_prefix="survey") as pool:
        list(pool.map(serve, grouped(sites, providers)))
    return choices, problems


def spec_of(site: SiteConfig, *, size: str, image: str = "") -> MachineSpec:
    """Returns a machine for questions about it: without keys, since it is never created."""
    return MachineSpec(
        size or None, image or site.image, site.disk_gib, site.user, public_key="", user_data="", zones=site.zones
    )


def check(
    changes: Sequence[Change], sites: Sequence[SiteConfig], providers: Mapping[str, ComputeProvider], deployment: str
) -> Findings:
    """Returns everything that would make apply fail, of all places at once; nothing is created.

    Args:
        changes: the plan.
        sites: those that it is about.
        providers: by site.
        deployment: its id.

    Raises:
        ProviderError: credentials are refused, or a cloud does not answer.
    """
    groups = grouped(sites, providers)
    demands = _demands(changes, groups, providers, deployment)

    def ask(number: int) -> list[Check]:
        return providers[groups[number][0].name].check(demands[number])

    with ThreadPoolExecutor(max_workers=MAX_PLACES, thread_name_prefix="check") as pool:
        answers = list(pool.map(ask, range(len(groups))))
    problems: list[str] = []
    warnings: list[str] = []
    for group, checks in zip(groups, answers, strict=True):
        names = ", ".join(site.name for site in group)
        for one in checks:
            if not one.ok:
                text = f"{names}: {one.name}: {one.problem}. {one.hint}".rstrip()
                (warnings if one.is_warning else problems).append(text)
    return Findings(tuple(problems), tuple(warnings))


def priced(
    items: Sequence[Wanted], recorded: Mapping[str, Record], providers: Mapping[str, ComputeProvider]
) -> list[Wanted]:
    """Returns the same with what each costs per hour, as far as it is known without asking anybody."""
    return [_priced(item, recorded.get(item.node), providers[item.site.name]) for item in items]


def _priced(item: Wanted, record: Record | None, provider: ComputeProvider) -> Wanted:
    if item.kind is not Kind.MACHINE:
        return replace(item, price=provider.price(item.kind, None))
    size = item.choice.size if item.choice else record.ref.outputs.get("size", "") if record else ""
    if not size:
        return item
    return replace(item, price=provider.price(item.kind, spec_of(item.site, size=size)))


def _demands(
    changes: Sequence[Change],
    groups: Sequence[Sequence[SiteConfig]],
    providers: Mapping[str, ComputeProvider],
    deployment: str,
) -> list[Demand]:
    """Returns the demand of each group; of those that share a quota, the first one carries what all of them take."""
    items = [
        change.wanted
        for change in changes
        if change.wanted is not None and change.action in {Action.CREATE, Action.REPLACE}
    ]
    names = frozenset(item.name for item in items)
    alone = [_demand([item for item in items if item.site in group]) for group in groups]
    scopes = [providers[group[0].name].quota_scope for group in groups]
    demands = []
    for number, scope in enumerate(scopes):
        sharing = [one for one, its in zip(alone, scopes, strict=True) if its == scope]
        is_first = scopes.index(scope) == number
        demands.append(
            replace(
                alone[number],
                charged=tuple(spec for one in sharing for spec in one.machines) if is_first else (),
                charged_addresses=sum(one.addresses for one in sharing) if is_first else 0,
                deployment=deployment,
                names=names,
            )
        )
    return demands


def _demand(items: Sequence[Wanted]) -> Demand:
    return Demand(
        machines=tuple(
            spec_of(item.site, size=item.choice.size if item.choice else item.site.size or "")
            for item in items
            if item.kind is Kind.MACHINE
        ),
        addresses=sum(item.kind is Kind.ADDRESS for item in items),
    )


class _Asked:
    """What one provider was asked already; sites that want the same share the answer."""

    def __init__(self, provider: ComputeProvider) -> None:
        self._provider = provider
        self._offers: dict[Need, list[Offer]] = {}
        self._images: dict[tuple[str, str | None], str] = {}

    def offers(self, need: Need) -> list[Offer]:
        if need not in self._offers:
            self._offers[need] = self._provider.offers(need)
        return self._offers[need]

    def image(self, site: SiteConfig, choice: Choice) -> str:
        key = (choice.size, site.image)
        if key not in self._images:
            self._images[key] = self._provider.resolve_image(spec_of(site, size=choice.size))
        return self._images[key]
