"""AzureProvider: clients, checks, and the calls around the bodies of the modules beside it.

Needs these permissions and no others:
    Microsoft.Resources/subscriptions/resourceGroups/{read,write,delete}
    Microsoft.Resources/subscriptions/resourceGroups/resources/read
    Microsoft.Network/{publicIPAddresses,networkSecurityGroups,virtualNetworks,networkInterfaces}/{read,write,delete}
    Microsoft.Network/{publicIPAddresses,networkSecurityGroups,networkInterfaces}/join/action
    Microsoft.Network/virtualNetworks/subnets/join/action
    Microsoft.Network/locations/{operations,operationResults}/read
    Microsoft.Compute/virtualMachines/{read,write,delete}
    Microsoft.Compute/disks/{read,write,delete}
    Microsoft.Compute/locations/operations/read
    Microsoft.Compute/locations/publishers/artifacttypes/offers/skus/versions/read
on the subscription, since resource groups are made in it.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from azure.identity import (
    AzureCliCredential,
    ChainedTokenCredential,
    ClientSecretCredential,
    DefaultAzureCredential,
    EnvironmentCredential,
)
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient

from clouddeploy_providers.azure import images, network
from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.azure.machines import Machines
from clouddeploy_providers.azure.operations import finished, group_of
from clouddeploy_providers.errors import Conflict, InvalidRequest, NotFound
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import Check, Kind, ResourceRef
from clouddeploy_providers.waiters import retrying, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import AzureEndpoint, Endpoints
    from clouddeploy_providers.resources import MachineSpec, Resource

POLLING_S = 3.0
"""The SDK's default of 30 seconds would be most of a deployment's time (Azure/azure-sdk-for-python#1120)."""
IN_USE_S = 240.0
"""Azure keeps a network interface reserved for 180 seconds after its machine (rancher/machine#359)."""
CLI_S = 60
"""`az` needs more than the default of 10 seconds when several run at once (Azure/azure-sdk-for-python#37739)."""
# The SDK's own ten repetitions could last a quarter of an hour; what still fails after these is repeated by us.
PATIENCE: Final = {"retry_total": 3, "connection_timeout": 20, "read_timeout": 60}
FORCED = "Microsoft.Compute/virtualMachines"
TYPES = {
    "microsoft.network/publicipaddresses": Kind.ADDRESS,
    "microsoft.network/virtualnetworks": Kind.NETWORK,
    "microsoft.network/networksecuritygroups": Kind.FIREWALL,
    "microsoft.compute/virtualmachines": Kind.MACHINE,
}


class AzureProvider:
    """One subscription and location, a resource group per site; see `ComputeProvider` for the verbs."""

    name: ClassVar[str] = "azure"
    setting_names: ClassVar[frozenset[str]] = frozenset({"location", "subscription_id", "tenant_id"})
    creates_nothing: ClassVar[bool] = False
    ends_processes: ClassVar[bool] = True

    def __init__(self, settings: Mapping[str, str], endpoints: Endpoints) -> None:
        there = endpoints.azure
        subscription = (
            there.subscription_id
            if there
            else settings.get("subscription_id") or os.environ.get("AZURE_SUBSCRIPTION_ID")
        )
        if not settings.get("location") or not subscription:
            raise InvalidRequest(
                "an Azure site lacks its location or subscription",
                hint="add location and subscription_id in the deploy file",
            )
        self._location = settings["location"]
        self._polling_s = there.polling_interval_s if there else POLLING_S
        given: dict[str, Any] = {**PATIENCE, "polling_interval": self._polling_s}
        if there is not None:
            given |= {
                "base_url": there.url,
                "credential_scopes": [f"{there.url}/.default"],
                "connection_verify": there.ca_file,
            }
        with translated("Azure cannot be used"):
            credential = _credential(there, settings.get("tenant_id"))
        self._resources: Any = ResourceManagementClient(credential, subscription, **given)
        self._network: Any = NetworkManagementClient(credential, subscription, **given)
        self._compute: Any = ComputeManagementClient(credential, subscription, **given)
        self._machines = Machines(
            self._compute,
            self._network,
            location=self._location,
            ssh_port=str(endpoints.ssh_port),
            polling_s=self._polling_s,
        )
        self._verbs: dict[Kind, Any] = {
            Kind.ADDRESS: self._network.public_ip_addresses,
            Kind.NETWORK: self._network.virtual_networks,
            Kind.FIREWALL: self._network.network_security_groups,
        }

    @property
    def place(self) -> str:
        """The location."""
        return f"azure {self._location}"

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:  # noqa: ARG002 - the same either way
        """A client has an address too: it is the machine's one way out."""
        return (Kind.GROUP, Kind.ADDRESS, Kind.NETWORK, Kind.FIREWALL, Kind.MACHINE)

    def check(self, wanted: Sequence[MachineSpec]) -> list[Check]:
        """Reports whether subscription and images work; credentials that are refused raise."""
        with translated("Azure does not accept the credentials or the subscription"):
            next(iter(self._resources.resource_groups.list(top=1)), None)
        checks = []
        for spec in wanted:
            try:
                images.reference(self.resolve_image(spec))
            except (InvalidRequest, NotFound) as error:
                checks.append(Check("image", ok=False, problem=str(error), hint=error.hint))
        return checks or [Check("image", ok=True)]

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the image to pin."""
        return spec.image or images.newest(self._compute, self._location)

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates or finds one resource."""
        if resource.kind is Kind.GROUP:
            return retrying(partial(self._create_group, resource), cancel=cancel)
        group = resource.needed(Kind.GROUP)
        if group is None:
            raise InvalidRequest(f"{resource.name} lacks its resource group")
        if resource.machine is not None:
            image = retrying(partial(self.resolve_image, resource.machine), cancel=cancel)
            return self._machines.create(resource, group.name, image=image, cancel=cancel)
        bodies = {Kind.ADDRESS: network.address, Kind.NETWORK: network.network, Kind.FIREWALL: network.firewall}
        if resource.kind not in bodies:
            raise InvalidRequest(f"{resource.name} lacks its machine")
        return self._put(resource, group.name, bodies[resource.kind](resource, self._location), cancel)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Sets a network security group's rules."""
        if ref.kind is not Kind.FIREWALL:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")
        return self._put(resource, group_of(ref.id), network.firewall(resource, self._location), cancel)

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as Resource Manager sees it now."""
        try:
            if ref.kind is Kind.MACHINE:
                return self._machines.read(group_of(ref.id), ref.name)
            with translated(f"{ref.name} cannot be read"):
                if ref.kind is Kind.GROUP:
                    return _ref(Kind.GROUP, self._resources.resource_groups.get(ref.name))
                return _ref(ref.kind, self._verbs[ref.kind].get(group_of(ref.id), ref.name))
        except NotFound:
            return None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes one resource, waiting until nothing uses it any more. A group takes along whatever is still in it."""
        wait_for(
            partial(self._delete, ref, cancel),
            timeout_s=IN_USE_S,
            interval_s=self._polling_s,
            cancel=cancel,
            what=f"{ref.name} to be let go",
        )

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the groups that carry the deployment's tag, and what is in them.

        A network interface without a machine is what a killed `create` left: it is returned as the machine that it was
        made for, and deleted as that, since it would hold everything else.
        """
        wanted = f"tagName eq '{TAG_DEPLOYMENT}' and tagValue eq '{deployment}'"
        found: dict[tuple[Kind, str, str], ResourceRef] = {}

        def add(ref: ResourceRef) -> None:
            found.setdefault((ref.kind, ref.name.lower(), ref.id.lower()), ref)

        with translated(f"the resources of {deployment} cannot be listed"):
            for group in self._resources.resource_groups.list(filter=wanted):
                add(_ref(Kind.GROUP, group))
                for one in self._resources.resources.list_by_resource_group(group.name):
                    kind = TYPES.get(str(one.type).lower())
                    machine = self._machines.of_interface(str(one.id))
                    if kind is not None:
                        add(ResourceRef(kind, str(one.name), str(one.id)))
                    elif machine is not None:
                        add(machine)
        return sorted(found.values(), key=lambda ref: list(Kind).index(ref.kind))

    def _create_group(self, resource: Resource) -> ResourceRef:
        groups = self._resources.resource_groups
        with translated(f"the resource group {resource.name} could not be created"):
            try:
                with translated(f"the resource group {resource.name} cannot be read"):
                    made = groups.get(resource.name)
            except NotFound:
                made = groups.create_or_update(resource.name, network.group(resource, self._location))
        if (made.tags or {}).get(TAG_DEPLOYMENT) != resource.owner.deployment:
            raise Conflict(
                f"the resource group {resource.name} is there and is not ours",
                why="it lacks this deployment's tag",
                hint="whatever is in it would be deleted with it, so remove or rename it yourself",
            )
        return _ref(Kind.GROUP, made)

    def _put(self, resource: Resource, group: str, body: Mapping[str, Any], cancel: Event) -> ResourceRef:
        """Writes an address, a network or a firewall. A repeated PUT of the same body changes nothing."""
        verbs = self._verbs[resource.kind]

        def put() -> ResourceRef:
            with translated(f"{resource.name} could not be created"):
                poller = verbs.begin_create_or_update(group, resource.name, body)
                return _ref(resource.kind, finished(poller, resource.name, cancel))

        return retrying(put, cancel=cancel)

    def _delete(self, ref: ResourceRef, cancel: Event) -> bool:
        try:
            if ref.kind is Kind.MACHINE:
                self._machines.delete(group_of(ref.id), ref.name, cancel)
                return True
            with translated(f"{ref.name} could not be deleted"):
                if ref.kind is Kind.GROUP:
                    poller = self._resources.resource_groups.begin_delete(ref.name, force_deletion_types=FORCED)
                else:
                    poller = self._verbs[ref.kind].begin_delete(group_of(ref.id), ref.name)
                finished(poller, ref.name, cancel)
        except Conflict:
            return False
        except NotFound:
            return True
        return True


def _credential(there: AzureEndpoint | None, tenant: str | None) -> Any:
    """Returns the rehearsal's credentials, or the user's own; with a tenant, those that can be asked of that tenant."""
    if there is not None:
        return ClientSecretCredential(
            there.tenant_id,
            there.client_id,
            there.client_secret,
            authority=there.url,
            disable_instance_discovery=True,
            connection_verify=there.ca_file,
            **PATIENCE,
        )
    if tenant:
        return ChainedTokenCredential(
            EnvironmentCredential(), AzureCliCredential(tenant_id=tenant, process_timeout=CLI_S)
        )
    return DefaultAzureCredential(process_timeout=CLI_S, exclude_interactive_browser_credential=True)


def _ref(kind: Kind, made: Any) -> ResourceRef:
    outputs = {"address": str(made.ip_address)} if kind is Kind.ADDRESS else {}
    return ResourceRef(kind, str(made.name), str(made.id), outputs)


_: type[ComputeProvider] = AzureProvider
