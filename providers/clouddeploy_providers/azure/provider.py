"""AzureProvider: the verbs, each a few calls around the modules beside it. What it needs to be allowed: permissions."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from clouddeploy_providers.azure import adoption, clients, images, network, sizes, tag_search
from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.azure.machines import Machines
from clouddeploy_providers.azure.operations import Operation, group_of, let_go, name_of, subscription_of
from clouddeploy_providers.azure.preflight import Preflight
from clouddeploy_providers.azure.prices import Prices
from clouddeploy_providers.azure.sizes import Sizes
from clouddeploy_providers.azure.virtual_machines import DEFAULT_SIZE
from clouddeploy_providers.errors import Conflict, InvalidRequest, NotFound
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.reach import JUMP, REACHED, inside
from clouddeploy_providers.resources import Kind, ResourceRef, rules_text
from clouddeploy_providers.waiters import retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import Check, Demand, Found, MachineSpec, Need, Offer, Price, Resource

PRICED = 60
"""So many of the smallest sizes that satisfy a need are asked for their price; larger ones are never the cheapest."""
FORCED = "Microsoft.Compute/virtualMachines"
SPECIAL = ("standarddc", "standardec", "standardncc")
"""Families of confidential machines, which take images of their own."""
LAG_S = 15.0
"""What a run after a kill waits at most for a list to be complete; an admitted guess."""


class AzureProvider:
    """One subscription and location, a resource group per site; see `ComputeProvider` for the verbs."""

    name: ClassVar[str] = "azure"
    setting_names: ClassVar[frozenset[str]] = frozenset(
        {"location", "subscription_id", "tenant_id", "dns_label"} | adoption.SETTINGS
    )
    creates_nothing: ClassVar[bool] = False
    ends_processes: ClassVar[bool] = True
    default_size: ClassVar[str] = DEFAULT_SIZE

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:
        there, machine = endpoints.azure, settings.get("machine", "")
        given = settings.get("subscription_id") or os.environ.get("AZURE_SUBSCRIPTION_ID")
        if not given and adoption.MACHINE_ID.fullmatch(machine):
            given = subscription_of(machine)
        subscription = there.subscription_id if there else given
        if not subscription or not (settings.get("location") or machine):
            raise InvalidRequest(
                "an Azure site lacks its location or subscription",
                hint="add location and subscription_id in the deploy file",
            )
        self._settings = settings
        self._location = settings.get("location", "").lower()
        self._adoption = adoption.parse(
            settings, subscription=subscription, is_rehearsal=there is not None, hosts=endpoints.hosts
        )
        self._clients = clients.connect(settings, there, subscription=subscription)
        self._resources: Any = self._clients.resources
        self._network: Any = self._clients.network
        self._compute: Any = self._clients.compute
        self._polling_s = self._clients.polling_s
        self._lag_s = endpoints.azure.lag_s if endpoints.azure else LAG_S
        self._sizes = Sizes(self._compute, self._location)
        self._prices = Prices(self._clients.cloud, self._location)
        self._machines = Machines(self._clients, self._sizes, location=self._location, ssh_port=str(endpoints.ssh_port))
        self._verbs: dict[Kind, Any] = {
            Kind.ADDRESS: self._network.public_ip_addresses,
            Kind.NETWORK: self._network.virtual_networks,
            Kind.FIREWALL: self._network.network_security_groups,
        }
        self._clock = time.monotonic
        self._lacking: set[tuple[str, Kind]] = set()
        """What a group that was made by this object cannot hold yet, so that it need not be looked for."""

    @property
    def place(self) -> str:
        """The location, and what else of the settings decides where things are."""
        if self._adoption.machine:
            return f"azure machine {self._settings['machine']}"
        parts = [f"azure {self._location}"]
        parts += [f"{word} {self._settings[key]}" for key, word in PLACES.items() if self._settings.get(key)]
        return ", ".join(parts)

    @property
    def lag_s(self) -> float:
        """Resource Manager's lists follow what was made within seconds."""
        return self._lag_s

    @property
    def quota_scope(self) -> str:
        """The subscription and location, whatever else decides where things are."""
        return f"azure {self._clients.subscription} {self._location}"

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:  # noqa: ARG002 - the same either way
        """A client has an address too: it is the machine's one way out."""
        if self._adoption.machine:
            return (Kind.MACHINE,)
        return (Kind.GROUP, Kind.ADDRESS, Kind.NETWORK, Kind.FIREWALL, Kind.MACHINE)

    def check(self, demand: Demand) -> list[Check]:
        """Reports what would make the demand fail; credentials that are refused raise."""
        label = self._settings.get("dns_label", "")
        preflight = Preflight(self._clients, self._sizes, location=self._location, adoption=self._adoption, label=label)
        return preflight.findings(demand)

    def offers(self, need: Need) -> list[Offer]:
        """Returns the sizes that satisfy the need, the cheapest first."""
        if self._adoption.machine:
            return []
        fitting = [
            one.offer
            for one in self._sizes.all().values()
            if one.offer.vcpus
            and not one.is_restricted
            and "V2" in one.generations
            and bool(one.offer.gpus) is bool(one.offer.gpu_name)  # others may be AMD's, for which nobody asks
            and not one.family.lower().startswith(SPECIAL)
            and one.offer.satisfies(need)
        ]
        fitting.sort(key=lambda offer: (offer.gpus, offer.vcpus, offer.memory_gib, offer.size))
        self._prices.ask([offer.size for offer in fitting[:PRICED]])
        priced = [replace(offer, price=self._prices.size(offer.size)) for offer in fitting]
        return sorted(priced, key=lambda offer: offer.price.usd_per_hour if offer.price else float("inf"))

    def price(self, kind: Kind, spec: MachineSpec | None) -> Price | None:
        """Returns what an address costs, or a machine with its disk; its address is a resource of its own here."""
        if self._adoption.machine:
            return None
        if kind is Kind.MACHINE and spec is not None:
            return self._prices.machine(spec.size or DEFAULT_SIZE, spec.disk_gib)
        return self._prices.address() if kind is Kind.ADDRESS else None

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the image to pin."""
        if self._adoption.machine:
            return ""
        if spec.image:
            return images.pinned(self._compute, self._location, spec.image) if spec.image.count(":") else spec.image
        sku = images.ARM_SKU if sizes.is_arm(spec.size or DEFAULT_SIZE) else images.SKU
        return images.newest(self._compute, self._location, sku=sku)

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates or finds one resource, or returns the one that the settings name."""
        adopted = self._adopted(resource)
        if adopted is not None:
            return retrying(adopted, cancel=cancel)
        if resource.kind is Kind.GROUP:
            return retrying(partial(self._create_group, resource), cancel=cancel)
        group = resource.needed(Kind.GROUP)
        if group is None:
            raise InvalidRequest(f"{resource.name} lacks its resource group")
        if resource.kind is not Kind.MACHINE:
            return self._put(resource, name_of(group.id), cancel)
        if resource.machine is None:
            raise InvalidRequest(f"{resource.name} lacks its machine")
        image = retrying(partial(self.resolve_image, resource.machine), cancel=cancel)
        joined = resource.needed(Kind.NETWORK)
        subnet = self._adoption.subnet if joined is not None and joined.is_adopted else network.SUBNET
        is_new = partial(self._is_lacking, name_of(group.id), Kind.MACHINE)
        return self._machines.create(
            resource, name_of(group.id), image=image, subnet=subnet, is_new=is_new, cancel=cancel
        )

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Sets a network security group's rules, or starts a machine."""
        self._must_be_here(ref)
        if ref.is_adopted or ref.kind not in {Kind.FIREWALL, Kind.MACHINE}:
            raise InvalidRequest(
                f"{ref.name} cannot be changed",
                why="it was there before us" if ref.is_adopted else f"a {ref.kind} is replaced",
                hint="look at it in the Azure portal" if ref.is_adopted else "delete it, then apply again",
            )
        if ref.kind is Kind.FIREWALL:
            return self._put(resource, group_of(ref.id), cancel)
        there = retrying(partial(self.read, ref), cancel=cancel)
        if there is not None and there.outputs["power"] == "running":
            return there
        self._must_be_ours(ref)
        return self._machines.start(group_of(ref.id), ref.name, cancel)

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as Resource Manager sees it now."""
        self._must_be_here(ref)
        try:
            if ref.is_adopted:
                return self._read_adopted(ref)
            if ref.kind is Kind.MACHINE:
                return self._machines.read(group_of(ref.id), ref.name)
            with translated(f"{ref.name} cannot be read"):
                if ref.kind is Kind.GROUP:
                    return _ref(Kind.GROUP, self._resources.resource_groups.get(ref.name))
                return _ref(ref.kind, self._verbs[ref.kind].get(group_of(ref.id), ref.name))
        except NotFound:
            return None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes one resource, waiting until nothing uses it any more. A group takes along what of ours is in it."""
        if ref.is_adopted:
            raise InvalidRequest(f"{ref.name} is not ours to delete", why="it was there before us")
        self._must_be_here(ref)
        delete = partial(self._delete, ref, cancel)
        let_go(delete, ref.name, interval_s=self._polling_s, cancel=cancel, clock=self._clock)

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the groups that carry the deployment's tag, what is in them, and what of it is in other groups."""
        return tag_search.find(self._resources, deployment)

    def find_all(self) -> list[Found]:
        """Returns what carries our tags anywhere in the subscription."""
        return tag_search.find_all(self._resources)

    def _adopted(self, resource: Resource) -> Callable[[], ResourceRef] | None:
        """Returns what reads the thing that the settings name; None: they name none of this kind."""
        names = self._adoption
        if resource.kind is Kind.GROUP and names.group:
            return partial(names.group_ref, resource, self._clients)
        if resource.kind is Kind.NETWORK and names.network:
            return partial(names.network_ref, resource, self._clients, self._location)
        if resource.kind is Kind.MACHINE and names.machine:
            return partial(names.machine_ref, resource, self._machines)
        return None

    def _read_adopted(self, ref: ResourceRef) -> ResourceRef | None:
        if ref.kind is Kind.MACHINE:
            if self._adoption.instead is not None:
                return ref
            found = self._machines.read(group_of(ref.id), name_of(ref.id))
            kept = {key: ref.outputs[key] for key in ("ssh_port", *REACHED, *JUMP) if key in ref.outputs}
            return found and replace(ref, outputs={**inside(found.outputs, kept), **kept})
        with translated(f"{ref.name} cannot be read"):
            if ref.kind is Kind.GROUP:
                self._resources.resource_groups.get(name_of(ref.id))
            else:
                self._verbs[ref.kind].get(group_of(ref.id), name_of(ref.id))
        return ref

    def _create_group(self, resource: Resource) -> ResourceRef:
        groups = self._resources.resource_groups
        with translated(f"the resource group {resource.name} could not be created"):
            try:
                with translated(f"the resource group {resource.name} cannot be read"):
                    made = groups.get(resource.name)
            except NotFound:
                made = groups.create_or_update(resource.name, network.group(resource, self._location))
                self._lacking |= {(resource.name, kind) for kind in (*self._verbs, Kind.MACHINE)}
        if (made.tags or {}).get(TAG_DEPLOYMENT) != resource.owner.deployment:
            raise Conflict(
                f"the resource group {resource.name} is there and is not ours",
                why="it lacks this deployment's tag",
                hint="whatever is in it would be deleted with it, so remove or rename it yourself",
            )
        return _ref(Kind.GROUP, made)

    def _put(self, resource: Resource, group: str, cancel: Event) -> ResourceRef:
        """Makes an address, a network or a firewall, or finds it; a repeated PUT of the same body changes nothing."""
        verbs = self._verbs[resource.kind]

        def put() -> ResourceRef:
            there = None if self._is_lacking(group, resource.kind) else self._there(resource, group)
            if there is not None and self._is_wanted(resource, there):
                return _ref(resource.kind, there)
            with translated(f"{resource.name} could not be created"):
                # An address is known at the end only.
                needs_last = resource.kind is Kind.ADDRESS
                done = Operation(resource.name, interval_s=self._polling_s, cancel=cancel, needs_last=needs_last)
                body = self._body(resource, there)
                made = verbs.begin_create_or_update(group, resource.name, body, polling=done).result()
                return _ref(resource.kind, made)

        return retrying(put, cancel=cancel)

    def _is_lacking(self, group: str, kind: Kind) -> bool:
        """Whether a group certainly holds nothing of a kind; true once, since the caller is about to make it."""
        try:
            self._lacking.remove((group, kind))
        except KeyError:
            return False
        return True

    def _there(self, resource: Resource, group: str) -> Any | None:
        """Returns what is there under the resource's name, if it is ours; None: nothing."""
        try:
            with translated(f"{resource.name} cannot be read"):
                found = self._verbs[resource.kind].get(group, resource.name)
        except NotFound:
            # Also of the group, which the PUT then says.
            return None
        if (found.tags or {}).get(TAG_DEPLOYMENT) != resource.owner.deployment:
            raise Conflict(
                f"{resource.name} is there and is not ours",
                why="it lacks this deployment's tag",
                hint="remove or rename it yourself",
            )
        return found

    def _is_wanted(self, resource: Resource, there: Any) -> bool:
        """Whether what is there needs no PUT; one that an earlier run began and did not end is repeated."""
        if str(getattr(there.provisioning_state, "value", there.provisioning_state)) != "Succeeded":
            return False
        if resource.kind is Kind.FIREWALL:
            return network.opened(there.security_rules or []) == rules_text(resource.rules)
        if resource.kind is Kind.ADDRESS:
            has = str(there.dns_settings.domain_name_label or "") if there.dns_settings else ""
            return has == self._settings.get("dns_label", "")
        return True

    def _body(self, resource: Resource, there: Any | None) -> Mapping[str, Any]:
        if resource.kind is Kind.NETWORK:
            return network.network(resource, self._location)
        if resource.kind is Kind.FIREWALL:
            return network.firewall(resource, self._location)
        # Its zones are for ever.
        zones = self._sizes.zones() if there is None else tuple(there.zones or ())
        return network.address(resource, self._location, zones=zones, label=self._settings.get("dns_label", ""))

    def _delete(self, ref: ResourceRef, cancel: Event) -> None:
        try:
            self._must_be_ours(ref)
            if ref.kind is Kind.MACHINE:
                self._machines.delete(group_of(ref.id), ref.name, cancel)
                return
            done = Operation(ref.name, interval_s=self._polling_s, cancel=cancel)
            with translated(f"{ref.name} could not be deleted"):
                if ref.kind is Kind.GROUP:
                    self._must_hold_nothing_else(ref.name)
                    groups = self._resources.resource_groups
                    groups.begin_delete(ref.name, force_deletion_types=FORCED, polling=done).result()
                else:
                    self._verbs[ref.kind].begin_delete(group_of(ref.id), ref.name, polling=done).result()
        except NotFound:
            return

    def _must_be_here(self, ref: ResourceRef) -> None:
        """Refuses what is in another subscription, where it would look as if it were gone."""
        named = subscription_of(ref.id)
        if named.lower() != self._clients.subscription.lower():
            raise InvalidRequest(
                f"{ref.name} cannot be looked at",
                why=f"it is in subscription {named}, and the site is in {self._clients.subscription}",
                hint="correct `subscription_id`, or AZURE_SUBSCRIPTION_ID, to the one that it was made in",
            )

    def _must_be_ours(self, ref: ResourceRef) -> None:
        """Refuses to touch what carries no tag of the deployment in whose name it was made.

        Raises:
            NotFound: it is gone already.
        """
        if ref.kind is Kind.MACHINE:
            tags = self._machines.tags(group_of(ref.id), ref.name)
            if tags is None and tag_search.MACHINE.fullmatch(ref.name):
                return  # of the disk that may be left, only its name says whose it is
            tags = tags or {}
        else:
            with translated(f"{ref.name} cannot be read"):
                if ref.kind is Kind.GROUP:
                    tags = self._resources.resource_groups.get(ref.name).tags or {}
                else:
                    tags = self._verbs[ref.kind].get(group_of(ref.id), ref.name).tags or {}
        deployment = tags.get(TAG_DEPLOYMENT)
        if not deployment or not ref.name.endswith(deployment):
            raise InvalidRequest(
                f"{ref.name} is left alone, since it is not ours",
                why="it lacks the tag that it was born with",
                hint="look at it in the Azure portal, and delete it there if it is not needed",
            )

    def _must_hold_nothing_else(self, group: str) -> None:
        """Refuses to delete a group in which somebody put something, which would go with it."""
        foreign = tag_search.foreign(self._resources, group, deployment=group.rpartition("-")[2])
        if foreign:
            raise InvalidRequest(
                f"the resource group {group} is not deleted, since not all in it is ours",
                why=f"somebody else made {', '.join(foreign)}",
                hint="move or delete that, then run the same command again",
            )


PLACES = {"subscription_id": "subscription", "resource_group": "group", "network": "network"}
"""The settings, and the words for them, that are part of a place."""


def _ref(kind: Kind, made: Any) -> ResourceRef:
    outputs = {}
    if kind is Kind.ADDRESS:
        outputs["address"] = str(made.ip_address)
        if made.dns_settings is not None and made.dns_settings.fqdn:
            outputs["dns_name"] = str(made.dns_settings.fqdn)
    if kind is Kind.FIREWALL:
        outputs["rules"] = network.opened(made.security_rules or [])
    return ResourceRef(kind, str(made.name), str(made.id), outputs)


_: type[ComputeProvider] = AzureProvider
