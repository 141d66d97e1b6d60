"""A machine, its network interface and its disk: made together, found again together, gone together."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions

from clouddeploy_providers.azure import images, network, virtual_machines
from clouddeploy_providers.azure.errors import InterfaceReserved, translated
from clouddeploy_providers.azure.operations import IN_USE_S, Operation, group_of, let_go, name_of
from clouddeploy_providers.azure.virtual_machines import DEFAULT_SIZE, DISK
from clouddeploy_providers.errors import CapacityError, Conflict, InvalidRequest, NotFound, ProviderError, QuotaError
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.once import Once
from clouddeploy_providers.resources import Kind, ResourceRef
from clouddeploy_providers.waiters import retrying, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from threading import Event

    from clouddeploy_providers.azure.clients import Clients
    from clouddeploy_providers.azure.sizes import Size, Sizes
    from clouddeploy_providers.resources import Resource

INTERFACE = "-nic"
MADE_S = 600.0
REFUSED = (CapacityError, QuotaError, InvalidRequest)
"""Refusals of the machine; Azure keeps it nevertheless, in the state Failed, and its interface."""
UP = frozenset({"PowerState/running", "PowerState/starting"})


class FailedMeanwhile(ProviderError):
    """A machine that an earlier request asked for failed, and that request's answer is not known."""


class Machines:
    """The machines of one location.

    Args:
        clients: the SDK's.
        sizes: of the location.
        location: Azure's name of the region.
        ssh_port: where the machines' sshd listens.
        clock: for the deadlines of waits.
    """

    def __init__(
        self,
        clients: Clients,
        sizes: Sizes,
        *,
        location: str,
        ssh_port: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = clients.compute
        self._machines = clients.compute.virtual_machines
        self._disks = clients.compute.disks
        self._interfaces = clients.network.network_interfaces
        self._addresses = clients.network.public_ip_addresses
        self._polling_s = clients.polling_s
        self._sizes = sizes
        self._once = Once()
        self._location = location
        self._ssh_port = ssh_port
        self.clock = clock

    def create(
        self, resource: Resource, group: str, *, image: str, subnet: str, is_new: Callable[[], bool], cancel: Event
    ) -> ResourceRef:
        """Makes the machine, or finds it, and returns once Azure says that it succeeded.

        Args:
            resource: the machine wanted.
            group: where it is to be.
            image: pinned.
            subnet: its name in the network that the machine needs.
            is_new: asked before each try; whether there is certainly no such machine yet, so that Azure is not asked.
            cancel: ends the waiting.

        Raises:
            ProviderError: after `CapacityError`, `QuotaError` and `InvalidRequest` nothing of the machine is left.
        """
        images.reference(image)  # refuses what names no image, before anything is made

        def make() -> ResourceRef:
            made = self._settle(resource, group, image=image, subnet=subnet, is_new=is_new(), cancel=cancel)
            if made is not None:
                return made
            wait_for(
                partial(self._is_made, group, resource.name),
                timeout_s=MADE_S,
                interval_s=self._polling_s,
                cancel=cancel,
                what=f"{resource.name} to be made",
            )
            return self._must_be_there(group, resource.name, cancel)

        # A lost answer in the middle of the long wait is no reason to give up, and one that was lost together with the
        # reason of a failure is found out by trying again.
        return retrying(make, cancel=cancel, also=(FailedMeanwhile,), timeout_s=MADE_S)

    def start(self, group: str, name: str, cancel: Event) -> ResourceRef:
        """Starts a machine that is stopped or deallocated; one that runs is fine."""

        def start() -> None:
            with translated(f"{name} could not be started"):
                self._machines.begin_start(group, name, polling=self._until_done(name, cancel)).result()

        retrying(start, cancel=cancel)
        return self._must_be_there(group, name, cancel)

    def read(self, group: str, name: str) -> ResourceRef | None:
        """Returns the machine with the addresses of its interface; None when there is no machine."""
        try:
            with translated(f"{name} cannot be read"):
                machine = self._machines.get(group, name, expand="instanceView")
                attached = machine.network_profile.network_interfaces
                first = next((one for one in attached if one.primary), attached[0])
                interface = _primary(self._interfaces.get(group_of(first.id), name_of(first.id)))
                public = interface.public_ip_address
                address = self._addresses.get(group_of(public.id), name_of(public.id)).ip_address if public else ""
        except NotFound:
            return None
        return self._ref(machine, interface, str(address or ""))

    def _ref(self, machine: Any, interface: Any, address: str) -> ResourceRef:
        private = str(interface.private_ip_address or "")
        size = machine.hardware_profile.vm_size
        outputs = {
            "address": address or private,
            "private_address": private,
            "ssh_port": self._ssh_port,
            "user": str(machine.os_profile.admin_username) if machine.os_profile else "",
            "image": _image(machine.storage_profile.image_reference),
            "size": str(getattr(size, "value", size)),  # an enum, if known
            "zone": str((machine.zones or [""])[0]),
            "power": _power(machine),
        }
        return ResourceRef(Kind.MACHINE, str(machine.name), str(machine.id), outputs)

    def tags(self, group: str, name: str) -> Mapping[str, str] | None:
        """Returns the tags of the machine, else those of its interface or disk that is left; None: nothing tells."""
        for verbs, part in ((self._machines, name), (self._interfaces, name + INTERFACE), (self._disks, name + DISK)):
            try:
                with translated(f"{part} cannot be read"):
                    # A disk got its tags from Azure, not from us, so it may be without.
                    return verbs.get(group, part).tags or (None if verbs is self._disks else {})
            except NotFound:
                continue
        return None

    def delete(self, group: str, name: str, cancel: Event) -> None:
        """Deletes machine, interface and disk; absent ones are fine.

        By name, since Azure's lists lag behind (cloudfoundry/bosh-azure-cpi-release#765).

        Raises:
            Conflict: Azure still holds the interface; repeat.
        """
        self._delete_machine(group, name, cancel)
        with translated(f"the network interface of {name} could not be deleted"):
            self._interfaces.begin_delete(group, name + INTERFACE, polling=self._until_done(name, cancel)).result()

    def _delete_machine(self, group: str, name: str, cancel: Event) -> None:
        """Deletes machine and disk. The disk comes after the machine, and before an interface that may be kept long."""
        with translated(f"{name} could not be deleted"):
            done = self._until_done(name, cancel)
            self._machines.begin_delete(group, name, force_deletion=True, polling=done).result()
        with translated(f"the disk of {name} could not be deleted"):
            self._disks.begin_delete(group, name + DISK, polling=self._until_done(name, cancel)).result()

    def _until_done(self, name: str, cancel: Event) -> Operation:
        return Operation(name, interval_s=self._polling_s, cancel=cancel)

    def _settle(
        self, resource: Resource, group: str, *, image: str, subnet: str, is_new: bool, cancel: Event
    ) -> ResourceRef | None:
        """Ends with a machine of ours that exists; returns it when this call made it and Azure told all of it."""
        state = None if is_new else self._state(group, resource.name)
        if state is not None:
            self._must_be_ours(resource, group)
            if state != "Failed":
                return None
            # What an earlier refusal left behind cannot be repaired, only made anew (Azure counts it as a machine).
            self._remove(resource, partial(self._delete_machine, group, resource.name, cancel), cancel)
        try:
            return self._make(resource, group, image=image, subnet=subnet, cancel=cancel)
        except Conflict:
            # The SDK repeats a request whose answer was lost, and the second one is told that the machine exists.
            if self._state(group, resource.name) is None:
                raise
            self._must_be_ours(resource, group)
            return None
        except REFUSED:
            self._remove(resource, partial(self.delete, group, resource.name, cancel), cancel)
            raise

    def _make(self, resource: Resource, group: str, *, image: str, subnet: str, cancel: Event) -> ResourceRef | None:
        """Makes the machine in the first zone that has one; returns it, unless the answers did not tell all of it."""
        size, zones = self._chosen(resource)
        can = size is None or size.has_trusted_launch
        allows = partial(images.allows_trusted_launch, self._compute, self._location, image)
        body = partial(
            virtual_machines.machine,
            resource,
            self._location,
            image=image,
            is_trusted_launch=can and self._once.get(image, allows),
            has_gpu=size is not None and size.offer.gpus > 0,
        )
        refusals = []
        for zone in zones:
            try:
                # A machine that failed takes its interface along, so each zone has it made anew.
                interface = self._make_interface(resource, group, subnet=subnet, cancel=cancel)
                machine = self._put(resource, group, body(interface=str(interface.id), zone=zone), cancel)
            except CapacityError as error:
                refusals.append(f"zone {zone}: {error.why}" if zone else error.why)
                self._remove(resource, partial(self._delete_machine, group, resource.name, cancel), cancel)
            else:
                return self._answered(resource, machine, _primary(interface))
        wanted = resource.machine.size or DEFAULT_SIZE if resource.machine else ""
        raise CapacityError(
            f"Azure has no {wanted} for {resource.name} in {self._location} now",
            why="; ".join(refusals),
            hint="try later, another size or another location",
        )

    def _answered(self, resource: Resource, machine: Any, interface: Any) -> ResourceRef | None:
        """Returns the machine from the answers to its making: three questions less for each."""
        address = resource.needed(Kind.ADDRESS)
        if address is None or machine.provisioning_state != "Succeeded" or not interface.private_ip_address:
            return None
        return self._ref(machine, interface, address.outputs["address"])

    def _make_interface(self, resource: Resource, group: str, *, subnet: str, cancel: Event) -> Any:
        ids = {
            kind.value: ref.id for kind in (Kind.NETWORK, Kind.ADDRESS, Kind.FIREWALL) if (ref := resource.needed(kind))
        }
        body = network.interface(resource, self._location, ids, subnet=subnet)
        with translated(f"the network interface of {resource.name} could not be created"):
            done = Operation(resource.name, interval_s=self._polling_s, cancel=cancel, needs_last=False)
            name = resource.name + INTERFACE
            made = self._interfaces.begin_create_or_update(group, name, body, polling=done).result()
            # The first answer has the address, unless Azure left that for later.
            return made if _primary(made).private_ip_address else self._interfaces.get(group, name)

    def _chosen(self, resource: Resource) -> tuple[Size | None, tuple[str, ...]]:
        """Returns the size, as far as Azure tells, and the zones to try; an empty zone leaves the choice to Azure.

        Raises:
            InvalidRequest: there is no such size here, or none of the zones wanted sells it.
        """
        spec = resource.machine
        if spec is None:
            raise InvalidRequest(f"{resource.name} lacks its machine")
        known, name = self._sizes.known(), spec.size or DEFAULT_SIZE
        if not known:
            return None, spec.zones or ("",)
        size = known.get(name.lower())
        if size is None:
            raise InvalidRequest(
                f"Azure has no size {name} in {self._location}",
                hint=f"correct `size`; `az vm list-sizes --location {self._location}` shows all",
            )
        zones = tuple(zone for zone in spec.zones if zone in size.offer.zones) if spec.zones else size.offer.zones
        if spec.zones and not zones:
            raise InvalidRequest(
                f"Azure sells {name} in none of the zones {', '.join(spec.zones)} of {self._location}",
                why=f"it is there in {', '.join(size.offer.zones) or 'no zone'}",
                hint="correct `zones`, or name another size",
            )
        return size, zones or ("",)

    def _put(self, resource: Resource, group: str, body: Mapping[str, Any], cancel: Event) -> Any:
        def put() -> Any:
            with translated(f"{resource.name} could not be created"):
                done = self._until_done(resource.name, cancel)
                return self._machines.begin_create_or_update(
                    group, resource.name, body, match_condition=MatchConditions.IfMissing, polling=done
                ).result()

        # A zone that had no capacity may leave the interface reserved for the machine that was not made there.
        return retrying(put, cancel=cancel, also=(InterfaceReserved,), timeout_s=IN_USE_S)

    def _remove(self, resource: Resource, delete: Callable[[], None], cancel: Event) -> None:
        let_go(delete, f"what is left of {resource.name}", interval_s=self._polling_s, cancel=cancel, clock=self.clock)

    def _must_be_there(self, group: str, name: str, cancel: Event) -> ResourceRef:
        ref = retrying(partial(self.read, group, name), cancel=cancel)
        if ref is None:
            raise ProviderError(f"{name} vanished while it was made", hint="run the same command again")
        return ref

    def _is_made(self, group: str, name: str) -> bool:
        state = self._state(group, name)
        if state in {None, "Failed"}:
            raise FailedMeanwhile(f"{name} failed while Azure was making it", hint="run the same command again")
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


def _primary(interface: Any) -> Any:
    """Returns the configuration of an interface that its addresses are in."""
    found = interface.ip_configurations
    return next((one for one in found if one.primary), found[0])


def _image(chosen: Any) -> str:
    if chosen is None:  # a machine from a disk of one's own, which only an adopted one can be
        return ""
    return str(chosen.id or f"{chosen.publisher}:{chosen.offer}:{chosen.sku}:{chosen.version}")


def _power(machine: Any) -> str:
    """Returns `running` or `stopped`; Azure says nothing in the first moments of a machine."""
    statuses = machine.instance_view.statuses or [] if machine.instance_view else []
    states = [str(one.code) for one in statuses if str(one.code).startswith("PowerState/")]
    return "running" if not states or states[0] in UP else "stopped"
