"""Brings deploy file, facts of the federation, records and clouds together into a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind, rules_text

from clouddeploy import caller_address, cautions, drift, openings, selection, survey
from clouddeploy.clusters import wishes
from clouddeploy.config import SITES
from clouddeploy.errors import ConfigError
from clouddeploy.ledger import EXPIRY
from clouddeploy.plan import APART, Action, Change, Plan, diff, wanted_resources, without_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import FirewallRule

    from clouddeploy.config import DeployConfig
    from clouddeploy.facts import Facts
    from clouddeploy.machine_work import MachineWork
    from clouddeploy.places import Places
    from clouddeploy.plan import Wanted
    from clouddeploy.recovery import Place
    from clouddeploy.state import Record, State

NOT_KNOWN = "this machine's address"
"""Stands in a plan that asked nobody."""
TIME = "%Y-%m-%dT%H:%M:%SZ"
WORTH_A_START = timedelta(minutes=30)
"""A machine that is born later than this before the end would be gone before it was of use."""


@dataclass(frozen=True)
class Planner:
    """Makes plans for one deploy file.

    Attributes:
        config: the deploy file.
        work: knows the facts of the federation, what will happen to certificates, and what has to be installed again.
        endpoints: where the clouds answer.
        places: the providers.
        now: the clock.
    """

    config: DeployConfig
    work: MachineWork
    endpoints: Endpoints
    places: Places
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def facts(self) -> Facts:
        """What is known of the federation."""
        return self.work.facts

    def plan(
        self, recorded: State, *, is_offline: bool, only: frozenset[str] = frozenset(), check: bool = True
    ) -> Plan:
        """Returns what apply would do.

        Args:
            recorded: what is known to exist.
            is_offline: ask nobody.
            only: sites to look at; empty: all.
            check: ask the clouds whether it would work.
        """
        providers = self.places.by_site(self.config.sites)
        signatures = self.work.signatures()
        seen = {} if is_offline else self._observe(recorded, only)
        problems: list[str] = []
        sources = self._expected_sources(recorded)
        if not is_offline:
            try:
                sources = self._ssh_sources(providers)
            except ConfigError as error:  # apply refuses it with the other problems; a plan shows them all
                problems.append(f"{error}. {error.hint}")
        wanted = self._wanted(recorded, providers, sources)
        records = self._comparable(recorded)
        first = diff(wanted, records, seen, only=only)
        born = {c.node for c in first if c.action in {Action.CREATE, Action.REPLACE}}
        sites = [item.site for item in wanted if item.kind is Kind.MACHINE and item.node in born]
        choices, unmet = survey.choose(
            sites, capacities=self.facts.capacities, pins=recorded.pins, providers=providers, may_ask=not is_offline
        )
        choices |= wishes.choices([site for site in sites if site.name in choices], self.config)
        wanted = [
            replace(item, choice=choices.get(item.site.name))
            if item.kind is Kind.MACHINE and item.node in born
            else item
            for item in wanted
        ]
        wanted = survey.priced(wanted, recorded.resources, providers)
        changes = diff(wanted, records, seen, only=only)
        findings = survey.Findings()
        if check and not is_offline:
            chosen = [site for site in self.config.sites if not only or site.name in only]
            findings = survey.check(changes, chosen, providers, recorded.deployment)
        return Plan(
            changes=tuple(changes),
            signatures=signatures,
            problems=(*problems, *unmet, *findings.problems),
            warnings=(*self._cautions(providers, recorded, sources), *findings.warnings),
            is_refreshed=not is_offline,
            ssh_sources=tuple(sources),
            uninstalled=self._uninstalled(changes, recorded),
            server_firewall=next((w for w in wanted if w.node == f"{self.facts.server}/{Kind.FIREWALL.value}"), None),
        )

    def wanted_places(self, recorded: State) -> dict[str, Place]:
        """Returns, by node, the place where the deploy file asks for it."""
        providers = self.places.by_site(self.config.sites)
        return {
            item.node: self.places.of(item.site.provider, item.site.settings)
            for item in self._wanted(recorded, providers, ())
        }

    def pin(self, plan: Plan, recorded: State) -> None:
        """Writes into the state what was chosen, so that a run after a kill asks for the same machines."""
        for change in plan.changes:
            item = change.wanted
            if item is not None and item.choice is not None and item.choice.size:
                recorded.pins[item.site.name] = item.choice.as_pin(item.size_text, item.place)
        if self.config.ttl is None:
            recorded.expires_at = ""
        elif recorded.expires_at < (self.now() + min(WORTH_A_START, self.config.ttl / 2)).strftime(TIME):
            recorded.expires_at = (self.now() + self.config.ttl).strftime(TIME)

    def ssh_changes(self, recorded: State) -> list[Change]:
        """Returns the changes that move the opening for SSH in every recorded firewall, and nothing else.

        Raises:
            ConfigError: it cannot be found out for certain where it has to go.
        """
        providers = self.places.by_site(self.config.sites)
        sources = self._ssh_sources(providers)
        changes = []
        for item in self._wanted(recorded, providers, sources):
            record = recorded.resources.get(item.node)
            if item.kind is not Kind.FIREWALL or record is None or record.ref.is_adopted:
                continue
            if self.places.of(record.provider, record.settings).provider is not providers[item.site.name]:
                continue  # the deploy file has another place for it, so the next apply makes it anew
            before = record.fingerprint.get("rules") or record.ref.outputs.get("rules", "")
            rules = openings.with_ssh(before, ssh_port=self.endpoints.ssh_port, ssh_sources=sources)
            seen = providers[item.site.name].read(record.ref)
            if seen is not None and seen.outputs.get("rules", before) != rules_text(rules):
                reason = f"SSH from {', '.join(sources)}"
                changes.append(
                    Change(Action.UPDATE, item.node, item.name, item.place, reason, wanted=replace(item, rules=rules))
                )
        return changes

    def server_rules(
        self, ssh_sources: Sequence[str]
    ) -> Callable[[Mapping[str, tuple[str, ...]]], tuple[FirewallRule, ...]] | None:
        """Returns what makes the server's rules from the sites' addresses; None: they need no addresses."""
        if self.config.federation_sources != SITES or self.facts.server is None:
            return None
        return partial(self._rules, self.facts.server, ssh_sources)

    def _observe(self, recorded: State, only: frozenset[str]) -> dict[str, drift.Drift]:
        """Asks the clouds; a machine whose time is over is made anew: started, it would switch itself off again."""
        records = {node: one for node, one in recorded.resources.items() if not only or one.site in only}
        seen = drift.observe(records, self.places.by_node(records))
        seen = {**drift.of_settings(records, self.config.sites), **seen}
        moment = self.now().strftime(TIME)
        return {
            node: replace(one, reason=f"its time is over (ttl), {one.reason}", can_update=False)
            if "" < records[node].fingerprint.get(EXPIRY, "") <= moment
            else one
            for node, one in seen.items()
        }

    def _comparable(self, recorded: State) -> dict[str, Record]:
        """Returns the records with their places, which older states lack, in today's words."""
        return {
            node: replace(record, fingerprint={**record.fingerprint, "place": self._place_of(record)})
            if record.fingerprint and "place" not in record.fingerprint
            else record
            for node, record in recorded.resources.items()
        }

    def _place_of(self, record: Record) -> str:
        place = self.places.of(record.provider, record.settings).provider.place
        return without_network(place) if record.ref.kind in APART else place

    def _uninstalled(self, changes: Sequence[Change], recorded: State) -> tuple[str, ...]:
        """Returns the sites whose machine stays and on which no installation has ended, or one of something else."""
        outdated = (*self.work.outdated(recorded), *self.work.clusters.outdated(recorded.sites))
        kept = [c.wanted.site.name for c in changes if c.wanted and c.action in {Action.KEEP, Action.UPDATE}]
        return tuple(site for site in dict.fromkeys(kept) if not recorded.sites.get(site) or site in outdated)

    def _wanted(
        self, recorded: State, providers: Mapping[str, ComputeProvider], sources: Sequence[str]
    ) -> list[Wanted]:
        capacities, server = self.facts.capacities, self.facts.server
        names = frozenset(site.name for site in self.config.sites)
        known = openings.addresses_of(recorded.resources.values(), sites=names)
        return wanted_resources(
            self.config,
            project=self.facts.project,
            deployment=recorded.deployment,
            server=server,
            kinds={name: provider.kinds(is_server=name == server) for name, provider in providers.items()},
            places={name: provider.place for name, provider in providers.items()},
            rules={name: self._rules(name, sources, known) for name in providers},
            sizes={
                site.name: selection.wanted_size(site, capacities.get(site.name))
                for site in self.config.sites
                if providers[site.name].default_size
            },
            default_sizes={name: provider.default_size for name, provider in providers.items()},
        )

    def _rules(
        self, site: str, sources: Sequence[str], sites: Mapping[str, tuple[str, ...]]
    ) -> tuple[FirewallRule, ...]:
        clients = {name: blocks for name, blocks in sites.items() if name != self.facts.server}
        return openings.firewall_rules(
            ssh_port=self.endpoints.ssh_port,
            ssh_sources=sources,
            federation_ports=self.facts.ports if site == self.facts.server else (),
            federation_sources=openings.federation_sources(
                self.config.federation_sources, sites=clients, caller=sources
            ),
        )

    def _cautions(self, providers: Mapping[str, ComputeProvider], recorded: State, sources: Sequence[str]) -> list[str]:
        server = self.facts.server
        first = providers[server if server is not None else self.config.sites[0].name]
        has_firewall = Kind.FIREWALL in first.kinds(is_server=server is not None)
        return [
            *(cautions.of_openings(self.config, server=server, ssh_sources=sources) if has_firewall else ()),
            *cautions.of_containers(self.config),
            *cautions.of_clusters(self.config, server=server),
            *cautions.of_kit(self.config),
            *cautions.of_lifetime(self.config, recorded),
            *cautions.of_settings(self.config, recorded),
        ]

    def _expected_sources(self, recorded: State) -> tuple[str, ...]:
        """Returns the address that apply will let in, as far as it can be known without asking anybody."""
        if self.config.ssh_sources:
            return self.config.ssh_sources
        if self.endpoints.caller_address:
            return (f"{self.endpoints.caller_address}/32",)
        start = f"{self.endpoints.ssh_port} from "
        rules = (record.fingerprint.get("rules", "") for record in recorded.resources.values())
        parts = (part for text in rules for part in text.split("; "))
        known = next((part.removeprefix(start) for part in parts if part.startswith(start)), "")
        return tuple(known.split(", ")) if known else (NOT_KNOWN,)

    def _ssh_sources(self, providers: Mapping[str, ComputeProvider]) -> tuple[str, ...]:
        if self.config.ssh_sources:
            return self.config.ssh_sources
        kinds = [provider.kinds(is_server=name == self.facts.server) for name, provider in providers.items()]
        if not any(Kind.FIREWALL in some for some in kinds):
            return ("127.0.0.1/32",)  # no firewall of ours will ever carry it
        return (f"{self.endpoints.caller_address or caller_address.detect()}/32",)
