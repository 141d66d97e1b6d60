"""Pure: what is wanted minus what is recorded and seen gives an ordered list of changes, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import FirewallRule, Kind, Owner, rules_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_providers.resources import Price

    from clouddeploy.config import DeployConfig, SiteConfig
    from clouddeploy.drift import Drift
    from clouddeploy.selection import Choice
    from clouddeploy.state import Record

ORDER = list(Kind)
BENEATH: Mapping[Kind, tuple[Kind, ...]] = {
    Kind.GROUP: (),
    Kind.ADDRESS: (Kind.GROUP,),
    Kind.NETWORK: (Kind.GROUP,),
    Kind.FIREWALL: (Kind.GROUP,),
    Kind.MACHINE: (Kind.GROUP, Kind.ADDRESS, Kind.NETWORK, Kind.FIREWALL),
}
"""What each kind stands on; the rest of a site is made side by side."""
APART = frozenset({Kind.GROUP, Kind.ADDRESS})
"""Kinds that stay when another network is used: others have the address in their allow-lists."""


class Action(StrEnum):
    """What a change does to a resource."""

    CREATE = "create"
    KEEP = "keep"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    RELEASE = "release"
    """Something that was there before us is left alone and forgotten."""


@dataclass(frozen=True)
class Wanted:
    """One resource that the deploy file asks for."""

    site: SiteConfig
    kind: Kind
    name: str
    owner: Owner
    place: str
    rules: tuple[FirewallRule, ...] = ()
    size_text: str = ""
    """What is asked for of a machine, as comparable text (selection.wanted_size)."""
    default_size: str = ""
    """What a machine gets of which nothing is asked."""
    choice: Choice | None = None
    """What a machine that does not exist yet gets; None: it exists, or there is nothing to choose."""
    price: Price | None = None

    @property
    def node(self) -> str:
        """Names the resource inside its deployment: `<site>/<kind>`."""
        return f"{self.site.name}/{self.kind.value}"

    @property
    def fingerprint(self) -> dict[str, str]:
        """The properties whose change is a change. The image is none: a newer one must not replace a machine."""
        facts = {"place": without_network(self.place) if self.kind in APART else self.place}
        if self.kind is Kind.FIREWALL:
            facts["rules"] = rules_text(self.rules)
        if self.kind is Kind.MACHINE:
            facts |= {"size": self.size_text, "disk_gib": str(self.site.disk_gib), "user": self.site.user}
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
    size: str = ""
    image: str = ""
    price: Price | None = None
    """Per hour, of what exists once the plan is true; None: free or unknown."""


@dataclass(frozen=True)
class Signature:
    """What happens to one participant's certificate and kit."""

    participant: str
    action: str
    """created, kept, reissued, enrolled or removed, as provisioning calls it."""
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything that apply would do."""

    changes: tuple[Change, ...]
    signatures: tuple[Signature, ...] = ()
    problems: tuple[str, ...] = ()
    """Why apply would refuse: what the clouds' preflight found."""
    warnings: tuple[str, ...] = ()
    is_refreshed: bool = False
    """Whether the clouds were asked."""
    ssh_sources: tuple[str, ...] = ()
    """Who may reach port 22 of the machines."""
    uninstalled: tuple[str, ...] = ()
    """Sites whose machine is there and on which an installation has not ended yet, or one of something else has."""
    server_firewall: Wanted | None = None
    """For opening the server's port to sites that come up."""

    @property
    def unsigned(self) -> tuple[Signature, ...]:
        """The certificates and kits that would be made."""
        return tuple(one for one in self.signatures if one.action in {"created", "reissued"})

    @property
    def work_left(self) -> int:
        """How many things apply would do: changes, certificates, installations."""
        return len(self.pending) + len(self.unsigned) + len(self.uninstalled)

    @property
    def pending(self) -> tuple[Change, ...]:
        """The changes that do something."""
        return tuple(change for change in self.changes if change.action is not Action.KEEP)

    @property
    def prices(self) -> tuple[Price, ...]:
        """What is known of the cost of everything that exists once the plan is true."""
        return tuple(change.price for change in self.changes if change.price is not None)

    @property
    def usd_per_hour(self) -> float:
        """The sum of the known prices."""
        return sum(price.usd_per_hour for price in self.prices)


def wanted_resources(
    config: DeployConfig,
    *,
    project: str,
    deployment: str,
    server: str | None,
    kinds: Mapping[str, Sequence[Kind]],
    places: Mapping[str, str],
    rules: Mapping[str, tuple[FirewallRule, ...]],
    sizes: Mapping[str, str],
    default_sizes: Mapping[str, str] | None = None,
) -> list[Wanted]:
    """Returns what the deploy file asks for, the server first, each site in creation order.

    Args:
        config: the deploy file.
        project: the project's name.
        deployment: the deployment's id.
        server: the server's site name; None: it is not of this deployment.
        kinds: by site, the kinds its provider needs.
        places: by site, where its provider puts them.
        rules: by site, its firewall's rules.
        sizes: by site, what is asked for of its machine (selection.wanted_size); none where machines have no sizes.
        default_sizes: by site, what a machine gets of which nothing is asked.
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
                size_text=sizes.get(site.name, "") if kind is Kind.MACHINE else "",
                default_size=(default_sizes or {}).get(site.name, "") if kind is Kind.MACHINE else "",
            )
            for kind in kinds[site.name]
        ]
    return result


def diff(
    wanted: Sequence[Wanted],
    recorded: Mapping[str, Record],
    drift: Mapping[str, Drift] | None = None,
    *,
    only: frozenset[str] = frozenset(),
) -> list[Change]:
    """Compares what is wanted with what is recorded and seen; deletions come last, dependants first.

    Args:
        wanted: what the deploy file asks for.
        recorded: by node.
        drift: by node, how the clouds differ from the record; None: they were not asked.
        only: sites to look at; empty: all.
    """
    chosen = [item for item in wanted if not only or item.site.name in only]
    changes: list[Change] = []
    renewed: dict[str, str] = {}  # site → the thing its machine stands on, which is made anew
    for item in chosen:
        change = _change(item, recorded.get(item.node), (drift or {}).get(item.node))
        known = item.node in recorded
        if item.kind is Kind.MACHINE and known and item.site.name in renewed and change.action is not Action.REPLACE:
            change = _of(item, Action.REPLACE, f"it stands on the {renewed[item.site.name]}, which is made anew")
        if change.action in {Action.CREATE, Action.REPLACE} and item.kind is not Kind.MACHINE:
            renewed.setdefault(item.site.name, item.kind.value)
        changes.append(change)
    nodes = {item.node for item in wanted}
    extra = sorted(
        (
            (node, record)
            for node, record in recorded.items()
            if node not in nodes and (not only or record.site in only)
        ),
        key=lambda pair: (pair[1].site, -ORDER.index(pair[1].ref.kind)),
    )
    return changes + [
        Change(
            Action.RELEASE if record.ref.is_adopted else Action.DELETE,
            node=node,
            name=record.ref.name,
            place=record.fingerprint.get("place", record.provider),
            reason="no longer in the deploy file",
        )
        for node, record in extra
    ]


def _of(item: Wanted, action: Action, reason: str, *, record: Record | None = None) -> Change:
    is_kept = record is not None and action in {Action.KEEP, Action.UPDATE}
    outputs = record.ref.outputs if record is not None and is_kept else {}
    choice = item.choice
    return Change(
        action,
        node=item.node,
        name=item.name,
        place=item.place,
        reason=reason,
        wanted=item,
        size=outputs.get("size", "") if is_kept else choice.size if choice else "",
        image=outputs.get("image", "") if is_kept else choice.image if choice else "",
        price=None if record is not None and record.ref.is_adopted else item.price,
    )


def _change(item: Wanted, record: Record | None, drift: Drift | None) -> Change:
    if record is None:
        why = f" ({item.choice.why})" if item.choice and item.choice.why else ""
        return _of(item, Action.CREATE, f"does not exist yet{why}")
    is_there = drift is None or not drift.is_gone
    is_same_place = record.fingerprint.get("place") == item.fingerprint["place"]
    if record.ref.is_adopted and is_there and is_same_place:
        return _adopted(item, record, drift)
    differing = _differing(item, record)
    reasons = "; ".join([*differing, *([drift.reason] if drift else [])])
    can_update = not differing or (item.kind is Kind.FIREWALL and is_same_place)
    if not record.fingerprint and is_there:
        return _of(item, Action.UPDATE, "it was found again; its record is completed", record=record)
    if not reasons:
        return _of(item, Action.KEEP, "as wanted", record=record)
    if can_update and (drift is None or drift.can_update):
        return _of(item, Action.UPDATE, reasons, record=record)
    return _of(item, Action.REPLACE, reasons)


def _differing(item: Wanted, record: Record) -> list[str]:
    old, new = record.fingerprint, item.fingerprint
    differing = []
    for key in new if old else ():  # what was found again after a kill is taken as it is
        before = old.get(key, "")
        is_same_size = key == "size" and record.ref.outputs.get("size") == (item.site.size or item.default_size)
        if before != new[key] and not (is_same_size and new[key] in {"", item.site.size}):
            differing.append(f"{key}: {before or '-'} → {new[key] or '-'}")
    return differing


def _adopted(item: Wanted, record: Record, drift: Drift | None) -> Change:
    """What is somebody else's is never changed; how it is reached is looked up again when that may have changed."""
    before, now = record.settings, item.site.settings
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    reasons = [f"{key} is another in the deploy file" for key in changed]
    if drift is not None and drift.is_moved:
        reasons.append(drift.reason)
    if reasons:
        return _of(item, Action.UPDATE, "; ".join(reasons), record=record)
    if drift is not None:
        return _of(item, Action.KEEP, f"{drift.reason}; it is adopted, so its owner has to mend it", record=record)
    return _of(item, Action.KEEP, "as wanted", record=record)


def without_network(place: str) -> str:
    """Returns a place without the network in it, for kinds that do not depend on one."""
    return ", ".join(part for part in place.split(", ") if not part.startswith(("vpc ", "subnet ", "network ")))
