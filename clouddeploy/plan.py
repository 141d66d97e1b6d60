"""Pure: what is wanted minus what is recorded gives an ordered list of changes, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import FirewallRule, Kind, Owner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy.config import DeployConfig, SiteConfig
    from clouddeploy.state import Record

ANYWHERE = "0.0.0.0/0"


class Action(StrEnum):
    """What a change does to a resource."""

    CREATE = "create"
    KEEP = "keep"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"


@dataclass(frozen=True)
class Wanted:
    """One resource that the deploy file asks for."""

    site: SiteConfig
    kind: Kind
    name: str
    owner: Owner
    place: str
    rules: tuple[FirewallRule, ...] = ()

    @property
    def node(self) -> str:
        """Names the resource inside its deployment: `<site>/<kind>`."""
        return f"{self.site.name}/{self.kind.value}"

    @property
    def fingerprint(self) -> dict[str, str]:
        """The properties whose change is a change. The image is none: a newer one must not replace a machine."""
        facts = {"place": self.place}
        if self.kind is Kind.FIREWALL:
            facts["rules"] = "; ".join(
                f"{rule.purpose} {rule.port} from {', '.join(rule.sources)}" for rule in self.rules
            )
        if self.kind is Kind.MACHINE:
            facts |= {"size": self.site.size or "", "disk_gib": str(self.site.disk_gib), "user": self.site.user}
        return facts


@dataclass(frozen=True)
class Change:
    """One line of a plan."""

    action: Action
    node: str
    name: str
    place: str
    reason: str
    wanted: Wanted | None = None
    """None when the resource is to be deleted because nothing asks for it any more."""


def firewall_rules(
    *, ssh_port: int, ssh_sources: Sequence[str], federation_port: int | None
) -> tuple[FirewallRule, ...]:
    """Returns one site's rules: SSH from the operator, and at the server the federation's one port.

    The federation port is open to all because sites are where they are and mutual TLS decides who may speak; a client
    lets nobody in but the operator.
    """
    ssh = FirewallRule(port=ssh_port, sources=tuple(ssh_sources), purpose="ssh")
    if federation_port is None:
        return (ssh,)
    return (ssh, FirewallRule(port=federation_port, sources=(ANYWHERE,), purpose="federation"))


def wanted_resources(
    config: DeployConfig,
    *,
    project: str,
    deployment: str,
    server: str,
    kinds: Mapping[str, Sequence[Kind]],
    places: Mapping[str, str],
    rules: Mapping[str, tuple[FirewallRule, ...]],
) -> list[Wanted]:
    """Returns what the deploy file asks for, the server first, each site in creation order.

    Args:
        config: the deploy file.
        project: the project's name.
        deployment: the deployment's id.
        server: the server's site name.
        kinds: by site, the kinds its provider needs.
        places: by site, where its provider puts them.
        rules: by site, its firewall's rules.
    """
    result = []
    for site in sorted(config.sites, key=lambda site: (site.name != server, site.name)):
        owner = Owner(deployment=deployment, project=project, site=site.name)
        result += [
            Wanted(
                site=site,
                kind=kind,
                name=resource_name(owner, kind),
                owner=owner,
                place=places[site.name],
                rules=rules[site.name] if kind is Kind.FIREWALL else (),
            )
            for kind in kinds[site.name]
        ]
    return result


def diff(wanted: Sequence[Wanted], recorded: Mapping[str, Record]) -> list[Change]:
    """Compares what is wanted with what is recorded; deletions come last, machines before what they depend on."""
    changes = [_change(item, recorded.get(item.node)) for item in wanted]
    nodes = {item.node for item in wanted}
    order = list(Kind)
    extra = sorted(
        ((node, record) for node, record in recorded.items() if node not in nodes),
        key=lambda pair: (pair[1].site, -order.index(pair[1].ref.kind)),
    )
    return changes + [
        Change(
            Action.DELETE,
            node=node,
            name=record.ref.name,
            place=record.fingerprint.get("place", record.provider),
            reason="no longer in the deploy file",
        )
        for node, record in extra
    ]


def _change(item: Wanted, record: Record | None) -> Change:
    def change(action: Action, reason: str) -> Change:
        return Change(action, node=item.node, name=item.name, place=item.place, reason=reason, wanted=item)

    if record is None:
        return change(Action.CREATE, "does not exist yet")
    old, new = record.fingerprint, item.fingerprint
    differing = [f"{key}: {old.get(key, '-')} → {new[key]}" for key in new if old.get(key) != new[key]]
    if not differing:
        return change(Action.KEEP, "as wanted")
    action = Action.UPDATE if item.kind is Kind.FIREWALL and old.get("place") == item.place else Action.REPLACE
    return change(action, "; ".join(differing))
