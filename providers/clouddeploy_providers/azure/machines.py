"""A machine and its network interface: made together, found again together, gone together."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions

from clouddeploy_providers.azure import images, network, virtual_machines
from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.azure.operations import finished
from clouddeploy_providers.errors import CapacityError, Conflict, InvalidRequest, NotFound, ProviderError, QuotaError
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import Kind, ResourceRef
from clouddeploy_providers.waiters import retrying, wait_for

if TYPE_CHECKING:
    from threading import Event

    from clouddeploy_providers.resources import Resource

INTERFACE = "-nic"
INTERFACE_ID = re.compile(
    r"(?P<group>.+)/providers/Microsoft\.Network/networkInterfaces/(?P<name>[^/]+)-nic", re.IGNORECASE
)
MADE_S = 600.0
REFUSED = (CapacityError, QuotaError, InvalidRequest)
"""Refusals of the machine; Azure keeps it nevertheless, in the state Failed, and its interface."""


class Machines:
    """The machines of one location.

    Args:
        compute: the SDK's client for machines and images.
        network: the SDK's client for interfaces and addresses.
        location: Azure's name of the region.
        ssh_port: where the machines' sshd listens.
        polling_s: how often Azure is asked.
    """

    def __init__(self, compute: Any, network: Any, *, location: str, ssh_port: str, polling_s: float) -> None:
        self._compute = compute
        self._machines = compute.virtual_machines
        self._interfaces = network.network_interfaces
        self._addresses = network.public_ip_addresses
        self._location = location
        self._ssh_port = ssh_port
        self._polling_s = polling_s

    def create(self, resource: Resource, group: str, *, image: str, cancel: Event) -> ResourceRef:
        """Makes the machine, or finds it, and returns once Azure says that it succeeded.

        Raises:
            ProviderError: after `CapacityError`, `QuotaError` and `InvalidRequest` nothing of the machine is left.
        """
        secure = retrying(
            partial(images.allows_trusted_launch, self._compute, self._location, image), cancel=cancel
        )  # also refuses what names no image, before anything is made
        retrying(
            lambda: self._settle(resource, group, image=image, secure=secure, cancel=cancel),
            cancel=cancel,
            timeout_s=MADE_S,  # a lost answer in the middle of the long wait is no reason to give up
        )
        wait_for(
            partial(self._is_made, group, resource.name),
            timeout_s=MADE_S,
            interval_s=self._polling_s,
            cancel=cancel,
            what=f"{resource.name} to be made",
        )
        ref = retrying(partial(self.read, group, resource.name), cancel=cancel)
        if ref is None:
            raise ProviderError(f"{resource.name} vanished while it was made", hint="run the same command again")
        return ref

    def read(self, group: str, name: str) -> ResourceRef | None:
        """Returns the machine with the addresses of its interface; None when there is no machine."""
        try:
            with translated(f"{name} cannot be read"):
                machine = self._machines.get(group, name)
                interface = self._interfaces.get(group, name + INTERFACE).ip_configurations[0]
                public = interface.public_ip_address
                address = self._addresses.get(group, public.id.rsplit("/", 1)[1]).ip_address if public else ""
        except NotFound:
            return None
        chosen = machine.storage_profile.image_reference
        private = str(interface.private_ip_address or "")
        outputs = {
            "address": str(address or private),
            "private_address": private,
            "ssh_port": self._ssh_port,
            "user": str(machine.os_profile.admin_username),
            "image": str(chosen.id or f"{chosen.publisher}:{chosen.offer}:{chosen.sku}:{chosen.version}"),
            "size": str(
                getattr(machine.hardware_profile.vm_size, "value", machine.hardware_profile.vm_size)
            ),  # an enum, if known
        }
        return ResourceRef(Kind.MACHINE, str(machine.name), str(machine.id), outputs)

    def delete(self, group: str, name: str, cancel: Event) -> None:
        """Deletes machine and interface; absent ones are fine.

        Raises:
            Conflict: Azure still holds the interface; repeat.
        """
        with translated(f"{name} could not be deleted"):
            finished(self._machines.begin_delete(group, name, force_deletion=True), name, cancel)
        with translated(f"the network interface of {name} could not be deleted"):
            finished(self._interfaces.begin_delete(group, name + INTERFACE), name, cancel)

    @staticmethod
    def of_interface(arm_id: str) -> ResourceRef | None:
        """Returns the reference of the machine for which an interface was made; None for anything else."""
        match = INTERFACE_ID.fullmatch(arm_id)
        if match is None:
            return None
        name = match["name"]
        return ResourceRef(
            Kind.MACHINE, name, f"{match['group']}/providers/Microsoft.Compute/virtualMachines/{name}", {}
        )

    def _settle(self, resource: Resource, group: str, *, image: str, secure: bool, cancel: Event) -> None:
        """Ends with a machine of ours that exists, made by this call or by an earlier one."""
        state = self._state(group, resource.name)
        if state == "Failed":
            # What an earlier refusal left behind cannot be repaired, only made anew (Azure counts it as a machine).
            self._remove(resource, group, cancel)
            state = None
        if state is not None:
            self._must_be_ours(resource, group)
            return
        try:
            self._make(resource, group, image=image, secure=secure, cancel=cancel)
        except Conflict:
            # The SDK repeats a request whose answer was lost, and the second one is told that the machine exists.
            if self._state(group, resource.name) is None:
                raise
            self._must_be_ours(resource, group)
        except REFUSED:
            self._remove(resource, group, cancel)
            raise

    def _make(self, resource: Resource, group: str, *, image: str, secure: bool, cancel: Event) -> None:
        ids = {
            kind.value: ref.id for kind in (Kind.NETWORK, Kind.ADDRESS, Kind.FIREWALL) if (ref := resource.needed(kind))
        }
        interface_body = network.interface(resource, self._location, ids)
        with translated(f"the network interface of {resource.name} could not be created"):
            poller = self._interfaces.begin_create_or_update(group, resource.name + INTERFACE, interface_body)
            interface = finished(poller, resource.name, cancel)
        body = virtual_machines.machine(
            resource, self._location, interface=str(interface.id), image=image, is_trusted_launch=secure
        )
        with translated(f"{resource.name} could not be created"):
            poller = self._machines.begin_create_or_update(
                group, resource.name, body, match_condition=MatchConditions.IfMissing
            )
            finished(poller, resource.name, cancel)

    def _remove(self, resource: Resource, group: str, cancel: Event) -> None:
        def removed() -> bool:
            try:
                self.delete(group, resource.name, cancel)
            except Conflict:
                return False
            return True

        wait_for(
            removed,
            timeout_s=MADE_S,
            interval_s=self._polling_s,
            cancel=cancel,
            what=f"what is left of {resource.name} to be deleted",
        )

    def _is_made(self, group: str, name: str) -> bool:
        state = self._state(group, name)
        if state in {None, "Failed"}:
            raise ProviderError(f"{name} failed while Azure was making it", hint="run the same command again")
        return state == "Succeeded"

    def _state(self, group: str, name: str) -> str | None:
        """Returns `Creating`, `Updating`, `Succeeded`, `Failed`, …; None when there is no machine."""
        try:
            with translated(f"{name} cannot be read"):
                return str(self._machines.get(group, name).provisioning_state)
        except NotFound:
            return None

    def _must_be_ours(self, resource: Resource, group: str) -> None:
        with translated(f"{resource.name} cannot be read"):
            tags = self._machines.get(group, resource.name).tags or {}
        if tags.get(TAG_DEPLOYMENT) != resource.owner.deployment:
            raise Conflict(f"{resource.name} is there and is not ours", hint="remove or rename it yourself")
