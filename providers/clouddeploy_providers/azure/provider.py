"""AzureProvider: clients, checks, and the calls around the bodies of the modules beside it.

Needs these permissions and no others: Microsoft.Resources/subscriptions/resourceGroups/{read,write,
delete}, Microsoft.Resources/subscriptions/resourceGroups/resources/read, Microsoft.Network/{publicIPAddresses,
networkSecurityGroups,virtualNetworks,networkInterfaces}/{read,write,delete} and their join actions,
Microsoft.Compute/virtualMachines/{read,write,delete}, Microsoft.Compute/disks/{write,delete},
Microsoft.Compute/locations/publishers/artifacttypes/offers/skus/versions/read.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from azure.identity import ClientSecretCredential, DefaultAzureCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient

from clouddeploy_providers.azure import images, network, virtual_machines
from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.errors import Conflict, InvalidRequest, NotFound
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import Check, Kind, ResourceRef
from clouddeploy_providers.waiters import retrying, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.endpoints import Endpoints
    from clouddeploy_providers.resources import MachineSpec, Resource

POLLING_S = 3.0
"""The SDK's default of 30 seconds would be most of a deployment's time (Azure/azure-sdk-for-python#1120)."""
IN_USE_S = 240.0
"""Azure keeps a network interface reserved for 180 seconds after its machine (rancher/machine#359)."""
CLI_S = 60
TYPES = {
    "microsoft.network/publicipaddresses": Kind.ADDRESS,
    "microsoft.network/virtualnetworks": Kind.NETWORK,
    "microsoft.network/networksecuritygroups": Kind.FIREWALL,
    "microsoft.compute/virtualmachines": Kind.MACHINE,
}


class AzureProvider:
    """One subscription and location; every site has its own resource group. See `ComputeProvider` for the verbs."""

    name: ClassVar[str] = "azure"
    setting_names: ClassVar[frozenset[str]] = frozenset({"location", "subscription_id", "tenant_id"})
    creates_nothing: ClassVar[bool] = False

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
        self._ssh_port = str(endpoints.ssh_port)
        given: dict[str, Any] = {"polling_interval": POLLING_S}
        credential: Any
        if there is None:
            credential = DefaultAzureCredential(process_timeout=CLI_S, exclude_interactive_browser_credential=True)
        else:
            credential = ClientSecretCredential(
                there.tenant_id,
                there.client_id,
                there.client_secret,
                authority=there.url,
                disable_instance_discovery=True,
                connection_verify=there.ca_file,
            )
            given = {
                "base_url": there.url,
                "credential_scopes": [f"{there.url}/.default"],
                "connection_verify": there.ca_file,
                "polling_interval": there.polling_interval_s,
            }
        self._resources: Any = ResourceManagementClient(credential, subscription, **given)
        self._network: Any = NetworkManagementClient(credential, subscription, **given)
        self._compute: Any = ComputeManagementClient(credential, subscription, **given)
        self._verbs: dict[Kind, Any] = {
            Kind.ADDRESS: self._network.public_ip_addresses,
            Kind.NETWORK: self._network.virtual_networks,
            Kind.FIREWALL: self._network.network_security_groups,
            Kind.MACHINE: self._compute.virtual_machines,
        }

    @property
    def place(self) -> str:
        """The location."""
        return f"azure {self._location}"

    def kinds(self, *, is_server: bool) -> Sequence[Kind]:  # noqa: ARG002 - the same either way
        """A client has an address too: it is the machine's one way out."""
        return (Kind.GROUP, Kind.ADDRESS, Kind.NETWORK, Kind.FIREWALL, Kind.MACHINE)

    def check(self, wanted: Sequence[MachineSpec]) -> list[Check]:
        """Reports whether credentials and subscription work and an image exists."""
        with translated("Azure does not accept the credentials or the subscription"):
            next(iter(self._resources.resource_groups.list()), None)
        for spec in wanted:
            self.resolve_image(spec)
        return [Check("image", ok=True)]

    def resolve_image(self, spec: MachineSpec) -> str:
        """Returns the image to pin."""
        return spec.image or images.newest(self._compute, self._location)

    def create(self, resource: Resource, cancel: Event) -> ResourceRef:
        """Creates or finds one resource."""
        return retrying(partial(self._create, resource), cancel=cancel)

    def update(self, ref: ResourceRef, resource: Resource, cancel: Event) -> ResourceRef:
        """Sets a network security group's rules."""
        if ref.kind is not Kind.FIREWALL:
            raise InvalidRequest(f"a {ref.kind} cannot be changed", hint="it is replaced")
        body = network.firewall(resource, self._location)
        return retrying(partial(self._put, Kind.FIREWALL, _group_of(ref.id), resource.name, body), cancel=cancel)

    def read(self, ref: ResourceRef) -> ResourceRef | None:
        """Returns the resource as Resource Manager sees it now."""
        if ref.kind is Kind.GROUP:
            with translated(f"{ref.name} cannot be read"):
                return ref if self._resources.resource_groups.check_existence(ref.name) else None
        try:
            with translated(f"{ref.name} cannot be read"):
                return self._ref(ref.kind, self._verbs[ref.kind].get(_group_of(ref.id), ref.name))
        except NotFound:
            return None

    def delete(self, ref: ResourceRef, cancel: Event) -> None:
        """Deletes one resource, waiting until nothing uses it any more."""
        wait_for(
            partial(self._delete, ref, cancel),
            timeout_s=IN_USE_S,
            interval_s=POLLING_S,
            cancel=cancel,
            what=f"{ref.name} to be let go",
        )

    def find(self, deployment: str) -> list[ResourceRef]:
        """Returns the groups that carry the deployment's tag, and what is in them."""
        wanted = f"tagName eq '{TAG_DEPLOYMENT}' and tagValue eq '{deployment}'"
        found: list[ResourceRef] = []
        with translated(f"the resources of {deployment} cannot be listed"):
            for group in self._resources.resource_groups.list(filter=wanted):
                found.append(ResourceRef(Kind.GROUP, str(group.name), str(group.id)))
                for one in self._resources.resources.list_by_resource_group(group.name):
                    kind = TYPES.get(str(one.type).lower())
                    if kind is not None:
                        found.append(ResourceRef(kind, str(one.name), str(one.id)))
        return sorted(found, key=lambda ref: list(Kind).index(ref.kind))

    def _create(self, resource: Resource) -> ResourceRef:
        if resource.kind is Kind.GROUP:
            with translated(f"the resource group {resource.name} could not be created"):
                made = self._resources.resource_groups.create_or_update(
                    resource.name, network.group(resource, self._location)
                )
            return ResourceRef(Kind.GROUP, resource.name, str(made.id))
        group = resource.needed(Kind.GROUP)
        if group is None:
            raise InvalidRequest(f"{resource.name} lacks its resource group")
        if resource.kind is Kind.MACHINE:
            return self._create_machine(resource, group.name)
        bodies = {Kind.ADDRESS: network.address, Kind.NETWORK: network.network, Kind.FIREWALL: network.firewall}
        return self._put(resource.kind, group.name, resource.name, bodies[resource.kind](resource, self._location))

    def _create_machine(self, resource: Resource, group: str) -> ResourceRef:
        ids = {
            kind.value: ref.id for kind in (Kind.NETWORK, Kind.ADDRESS, Kind.FIREWALL) if (ref := resource.needed(kind))
        }
        address = resource.needed(Kind.ADDRESS)
        existing = self.read(ResourceRef(Kind.MACHINE, resource.name, f"/resourceGroups/{group}/"))
        if existing is None:
            # A repeated PUT of an existing machine is refused where it names custom data, so it is only made once.
            with translated(f"the network interface of {resource.name} could not be created"):
                interface = self._network.network_interfaces.begin_create_or_update(
                    group, f"{resource.name}-nic", network.interface(resource, self._location, ids)
                ).result()
            image = self.resolve_image(resource.machine) if resource.machine else ""
            body = virtual_machines.machine(resource, self._location, interface=str(interface.id), image=image)
            existing = self._put(Kind.MACHINE, group, resource.name, body)
        else:
            with translated(f"{resource.name} could not be waited for"):
                self._wait_succeeded(group, resource.name)
        public = address.outputs["address"] if address else ""
        user = resource.machine.user if resource.machine else ""
        return ResourceRef(
            Kind.MACHINE,
            resource.name,
            existing.id,
            {**existing.outputs, "address": public, "ssh_port": self._ssh_port, "user": user},
        )

    def _wait_succeeded(self, group: str, name: str) -> None:
        """Waits for a machine that an earlier, killed run has asked for."""
        from threading import Event as Never  # noqa: PLC0415 - the deadline alone ends this wait

        def done() -> bool:
            state = str(self._compute.virtual_machines.get(group, name).provisioning_state)
            if state == "Failed":
                raise Conflict(f"{name} failed while Azure was making it", hint="run destroy, then apply")
            return state == "Succeeded"

        wait_for(done, timeout_s=IN_USE_S, interval_s=POLLING_S, cancel=Never(), what=f"{name} to be made")

    def _put(self, kind: Kind, group: str, name: str, body: Mapping[str, Any]) -> ResourceRef:
        with translated(f"{name} could not be created"):
            return self._ref(kind, self._verbs[kind].begin_create_or_update(group, name, body).result())

    def _delete(self, ref: ResourceRef, cancel: Event) -> bool:
        try:
            with translated(f"{ref.name} could not be deleted"):
                if ref.kind is Kind.GROUP:
                    poller = self._resources.resource_groups.begin_delete(ref.name)
                elif ref.kind is Kind.MACHINE:
                    poller = self._verbs[ref.kind].begin_delete(_group_of(ref.id), ref.name, force_deletion=True)
                else:
                    poller = self._verbs[ref.kind].begin_delete(_group_of(ref.id), ref.name)
                while not poller.done():
                    poller.wait(POLLING_S)
                    if cancel.is_set():
                        return False
                poller.result()
        except Conflict:
            return False
        except NotFound:
            return True
        return True

    @staticmethod
    def _ref(kind: Kind, made: Any) -> ResourceRef:
        outputs = {}
        if kind is Kind.ADDRESS:
            outputs["address"] = str(made.ip_address)
        if kind is Kind.MACHINE:
            reference = made.storage_profile.image_reference
            outputs["size"] = str(made.hardware_profile.vm_size)
            outputs["image"] = f"{reference.publisher}:{reference.offer}:{reference.sku}:{reference.version}"
        return ResourceRef(kind, str(made.name), str(made.id), outputs)


def _group_of(arm_id: str) -> str:
    """Returns the group's name in an ARM id; its casing varies between Azure's services."""
    parts = arm_id.split("/")
    return parts[[part.lower() for part in parts].index("resourcegroups") + 1]


_: type[ComputeProvider] = AzureProvider
