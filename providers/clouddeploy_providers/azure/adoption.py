"""What a site's settings name that exists already: group, network, machine. Used, never changed or deleted."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.azure.operations import group_of, name_of, subscription_of
from clouddeploy_providers.errors import InvalidRequest, NotFound
from clouddeploy_providers.reach import HOST_KEY, HOST_KEY_HINT, JUMP, REACHED, check_login, inside, jump_outputs
from clouddeploy_providers.resources import Kind, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clouddeploy_providers.azure.clients import Clients
    from clouddeploy_providers.azure.machines import Machines
    from clouddeploy_providers.endpoints import SshEndpoint
    from clouddeploy_providers.resources import Resource

SETTINGS = frozenset({"resource_group", "network", "subnet", "machine", *REACHED, *JUMP})
NETWORK_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network/virtualNetworks/[^/]+", re.IGNORECASE
)
MACHINE_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute/virtualMachines/[^/]+", re.IGNORECASE
)


@dataclass(frozen=True)
class Adoption:
    """The names, checked as far as that needs no cloud; an empty one is not adopted."""

    group: str = ""
    network: str = ""
    """ARM id."""
    subnet: str = ""
    machine: str = ""
    """ARM id."""
    access: Mapping[str, str] | None = None
    instead: SshEndpoint | None = None
    """Stands in for the machine in a rehearsal."""

    def group_ref(self, resource: Resource, clients: Clients) -> ResourceRef:
        """Returns the group."""
        with _must_exist(f"the resource group {self.group}", "resource_group"):
            found = clients.resources.resource_groups.get(self.group)
        return ResourceRef(Kind.GROUP, resource.name, str(found.id), is_adopted=True)

    def network_ref(self, resource: Resource, clients: Clients, location: str) -> ResourceRef:
        """Returns the network, which must be in the site's location and have the subnet."""
        found = self.read_network(clients)
        if str(found.location).lower() != location.lower():
            raise InvalidRequest(
                f"the network {name_of(self.network)} is in {found.location} and the site in {location}",
                why="a machine's interface and its network share one location",
                hint="correct `location` or `network`",
            )
        if self.subnet not in {str(one.name) for one in found.subnets or []}:
            raise InvalidRequest(f"{name_of(self.network)} has no subnet {self.subnet}", hint="correct `subnet`")
        return ResourceRef(Kind.NETWORK, resource.name, str(found.id), is_adopted=True)

    def machine_ref(self, resource: Resource, machines: Machines) -> ResourceRef:
        """Returns the machine, with how it is reached."""
        if self.instead is not None:
            there = self.instead
            outputs = {"address": there.address, "ssh_port": str(there.port), "user": there.user, "power": "running"}
            outputs |= {"host_key": there.host_key, "identity_file": there.identity_file}
            return ResourceRef(Kind.MACHINE, resource.name, self.machine, outputs, is_adopted=True)
        found = machines.read(group_of(self.machine), name_of(self.machine))
        if found is None:
            raise InvalidRequest(f"there is no machine {self.machine}", hint="correct `machine`, its ARM id")
        # What it is made of is its owner's business; the SSH port is not the one of our own machines' firewall either.
        outputs = {**inside(found.outputs, self.access or {}), "ssh_port": "22", **(self.access or {})}
        return replace(found, name=resource.name, outputs=outputs, is_adopted=True)

    def read_network(self, clients: Clients) -> Any:
        """Returns what Azure says about the network."""
        with _must_exist(f"the network {self.network}", "network"):
            return clients.network.virtual_networks.get(group_of(self.network), name_of(self.network))


@contextmanager
def _must_exist(what: str, setting: str) -> Iterator[None]:
    """Says which setting names a thing that does not exist."""
    try:
        with translated(f"{what} cannot be read"):
            yield
    except NotFound as error:
        raise InvalidRequest(f"{what} does not exist", hint=f"correct `{setting}`") from error


def parse(
    settings: Mapping[str, str], *, subscription: str, is_rehearsal: bool, hosts: Mapping[str, SshEndpoint]
) -> Adoption:
    """Returns what a site's settings adopt.

    Args:
        settings: the site's.
        subscription: that of everything else; no id may name another one.
        is_rehearsal: then ids are taken to be in the subscription of the rehearsal.
        hosts: stand in for machines, by their ARM ids as the settings have them.

    Raises:
        InvalidRequest: a setting lacks another one that it needs, or names no such thing.
    """
    group, network, machine = (settings.get(key, "") for key in ("resource_group", "network", "machine"))
    if machine:
        return _machine(settings, subscription, is_rehearsal=is_rehearsal, instead=hosts.get(machine))
    for key in ("identity_file", "host_key", *JUMP):
        if settings.get(key):
            raise InvalidRequest(
                f"an Azure site has {key} but no machine",
                why="a machine that is made here is reached with keys that are made here",
                hint="add `machine`",
            )
    if bool(network) != bool(settings.get("subnet")):
        raise InvalidRequest("an Azure site names only one of network and subnet", hint="add the other one")
    if network and not network.startswith("/"):
        if not group:
            raise InvalidRequest(
                f"the network {network} is named without its resource group",
                hint="add `resource_group`, or give the ARM id of the network",
            )
        within = f"/subscriptions/{subscription}/resourceGroups/{group}"
        network = f"{within}/providers/Microsoft.Network/virtualNetworks/{network}"
    if network:
        network = _checked(network, NETWORK_ID, subscription, setting="network", is_rehearsal=is_rehearsal)
    return Adoption(group=group, network=network, subnet=settings.get("subnet", ""))


def _machine(
    settings: Mapping[str, str], subscription: str, *, is_rehearsal: bool, instead: SshEndpoint | None
) -> Adoption:
    beside = [key for key in ("resource_group", "network", "subnet", "dns_label") if settings.get(key)]
    if beside:
        raise InvalidRequest(f"an Azure site has {', '.join(beside)} beside machine", hint="a machine needs neither")
    absent = [key for key in REACHED if not settings.get(key)]
    if absent:
        raise InvalidRequest(
            f"the machine of an Azure site lacks {', '.join(absent)}",
            why="it was not made by us, so we know neither its account nor its host key",
            hint=f"add them; {HOST_KEY_HINT}",
        )
    if not HOST_KEY.fullmatch(settings["host_key"]):
        raise InvalidRequest(
            "the host_key of an Azure machine is neither a SHA256 fingerprint nor a public key",
            hint=HOST_KEY_HINT,
        )
    check_login(settings, "an Azure machine")
    access = {key: settings[key] for key in REACHED} | jump_outputs(settings, "an Azure machine")
    machine = _checked(settings["machine"], MACHINE_ID, subscription, setting="machine", is_rehearsal=is_rehearsal)
    return Adoption(machine=machine, access=access, instead=instead)


def _checked(arm_id: str, shape: re.Pattern[str], subscription: str, *, setting: str, is_rehearsal: bool) -> str:
    if not shape.fullmatch(arm_id):
        raise InvalidRequest(
            f"{setting} is {arm_id!r}, no ARM id of such a thing",
            hint=f"`az resource list --name NAME --query '[].id'` prints what belongs into `{setting}`",
        )
    named = subscription_of(arm_id)
    if is_rehearsal:
        return arm_id.replace(named, subscription, 1)
    if named.lower() != subscription.lower():
        raise InvalidRequest(
            f"{setting} is in subscription {named} and the site in {subscription}", hint="one site has one subscription"
        )
    return arm_id
