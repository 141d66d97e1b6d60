"""What exists in the emulated subscription, what depends on what, and the operations that are under way."""

from __future__ import annotations

import base64
import itertools
import threading
import time
import uuid
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, ip_network
from typing import TYPE_CHECKING, Any

from clouddeploy_rehearsal import user_data
from clouddeploy_rehearsal.addresses import public
from clouddeploy_rehearsal.azure import catalog
from clouddeploy_rehearsal.azure.account import ADDRESSES, CORES, MACHINES, STANDARD_ADDRESSES, Account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clouddeploy_rehearsal.faults import Faults
    from clouddeploy_rehearsal.fleet import Fleet

__all__ = ["ADDRESSES", "DISKS", "MACHINES", "PRIVATE", "Operation", "Refused", "Store"]

FIREWALLS = "microsoft.network/networksecuritygroups"
DISKS = "microsoft.compute/disks"
NETWORKS = "microsoft.network/virtualnetworks"
INTERFACES = "microsoft.network/networkinterfaces"


@dataclass
class Operation:
    """One long-running operation.

    Attributes:
        status: `InProgress`, `Succeeded` or `Failed`.
        error: code and message of a failed one.
    """

    status: str = "InProgress"
    error: tuple[str, str] = ("", "")


class Refused(Exception):
    """Resource Manager refuses a request at once."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Store:
    """The subscription; every method may be called from several threads."""

    def __init__(
        self,
        fleet: Fleet,
        faults: Faults,
        *,
        addresses: Iterator[str] | None = None,
        account: Account | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resources: dict[str, dict[str, Any]] = {}
        """By ARM id in lower case."""
        self.theirs: set[str] = set()
        """Ids in lower case of what somebody else made."""
        self.operations: dict[str, Operation] = {}
        self.created = 0
        self._fleet = fleet
        self._faults = faults
        self._lock = threading.RLock()
        self._private = map(str, itertools.islice(IPv4Network(PRIVATE).hosts(), 3, None))
        self._public = addresses or public("azure")
        self._born: dict[str, float] = {}
        self._account = account or Account()
        self.clock = clock
        """For how long an interface stays reserved."""
        self._power: dict[str, str] = {}
        """Of machines that do not run: `stopped` or `deallocated`."""
        self._boots: dict[str, dict[str, Any]] = {}
        """What each machine was started with, to start it again."""
        self._reserved: dict[str, float] = {}
        """Until when an interface waits for a machine that failed."""

    def put(self, arm_id: str, kind: str, body: dict[str, Any]) -> tuple[bool, dict[str, Any], str]:
        """Creates or replaces a resource; returns whether it is new, the resource, and the operation's id."""
        key = arm_id.lower()
        with self._lock:
            is_new = key not in self.resources
            if kind == MACHINES:
                self._check_machine(body, is_new=is_new)
            if kind == FIREWALLS:
                _check_sources(body)
            if is_new:
                self._check_quota(body, kind)
            made = {
                **body,
                "id": arm_id,
                "name": arm_id.rsplit("/", 1)[1],
                "type": _spelled(arm_id) if kind else GROUP_TYPE,
            }
            made["properties"] = {
                **body.get("properties", {}),
                "provisioningState": "Creating" if kind else "Succeeded",
            }
            self._fill_in(made, kind, self.resources.get(key))
            self.resources[key] = made
            if is_new:
                self._born[key] = time.monotonic()
        if not kind:
            return is_new, made, ""
        return is_new, made, self._run(lambda: self._finish(made, kind, is_new=is_new))

    def listed(self, prefix: str) -> list[dict[str, Any]]:
        """Returns what lists show below an id; new things appear in Resource Manager's lists with a delay."""
        with self._lock:
            mine = [key for key in self.resources if key.startswith(prefix)]
            found = [key for key in mine if not self._faults.hides(self._born.get(key, 0.0))]
            return [self.resources[key] for key in found]

    def all(self) -> list[dict[str, Any]]:
        """Returns everything that exists."""
        with self._lock:
            return list(self.resources.values())

    def add_theirs(self, arm_id: str, properties: dict[str, Any], *, location: str = "westus2") -> None:
        """Makes a resource of somebody else; one that exists stays."""
        made = {"id": arm_id, "name": arm_id.rsplit("/", 1)[1], "location": location, "tags": {"owner": "somebody"}}
        made["type"] = _spelled(arm_id) if "/providers/" in arm_id else GROUP_TYPE
        with self._lock:
            self.theirs.add(arm_id.lower())
            self.resources.setdefault(
                arm_id.lower(), {**made, "properties": {**properties, "provisioningState": "Succeeded"}}
            )

    def switch(self, arm_id: str, *, verb: str) -> str:
        """Starts or stops a machine; returns the operation's id.

        Args:
            arm_id: the machine's.
            verb: `start`, `poweroff` or `deallocate`.
        """
        if arm_id.lower() not in self.resources:
            raise Refused(404, "ResourceNotFound", f"The Resource '{arm_id}' was not found.")
        if verb == "start":
            return self._run(lambda: self._start(arm_id.lower()))
        return self._run(lambda: self.power_off(arm_id, state="stopped" if verb == "poweroff" else "deallocated"))

    def power_off(self, arm_id: str, *, state: str = "stopped") -> None:
        """Stops a machine as if somebody had done it, or the machine itself; one that is gone is fine."""
        with self._lock:
            if arm_id.lower() in self.resources:
                self._power[arm_id.lower()] = state
        self._fleet.kill(arm_id.lower())

    def instance_view(self, arm_id: str) -> dict[str, Any]:
        """Returns how a machine is now."""
        with self._lock:
            power = self._power.get(arm_id.lower(), "running")
        return {"statuses": [{"code": "ProvisioningState/succeeded"}, {"code": f"PowerState/{power}"}]}

    def delete(self, arm_id: str, kind: str) -> str:
        """Starts to delete a resource; returns the operation's id."""
        key = arm_id.lower()
        with self._lock:
            self._must_be_free(key)
            users = [other["id"] for other in self.resources.values() if kind and _uses(other, key)]
            if users:
                name = key.rsplit("/", 1)[1]
                raise Refused(400, IN_USE[kind], f"{name} cannot be deleted since it is in use by {users[0]}.")
        return self._run(lambda: self._remove(key))

    def _run(self, work: Callable[[], None]) -> str:
        operation, number = Operation(), uuid.uuid4().hex
        self.operations[number] = operation

        def run() -> None:
            time.sleep(self._faults.latency_s)
            try:
                work()
                operation.status = "Succeeded"
            except Refused as error:
                operation.error, operation.status = (error.code, error.message), "Failed"
            except (RuntimeError, ValueError, OSError, LookupError, TypeError) as error:
                operation.error, operation.status = ("RehearsalFailed", str(error)), "Failed"

        threading.Thread(target=run, daemon=True, name=f"arm-{number[:6]}").start()
        return number

    def _finish(self, made: dict[str, Any], kind: str, *, is_new: bool) -> None:
        try:
            if kind == MACHINES and is_new:
                self._boot(made)
            if kind == FIREWALLS:
                self._apply_rules(made["id"])
        except BaseException:
            made["properties"]["provisioningState"] = "Failed"
            if kind == MACHINES:
                self._reserve(made)
            raise
        made["properties"]["provisioningState"] = "Succeeded"

    def _check_machine(self, body: dict[str, Any], *, is_new: bool) -> None:
        profile = body["properties"]["osProfile"]
        linux = profile.get("linuxConfiguration", {})
        if not is_new and "customData" in profile:
            raise Refused(409, "PropertyChangeNotAllowed", "Changing property 'osProfile.customData' is not allowed.")
        if not linux.get("disablePasswordAuthentication") or not linux.get("ssh", {}).get("publicKeys"):
            raise Refused(
                400, "InvalidParameter", "Authentication using either SSH or by user name and password must be enabled."
            )
        for reference in body["properties"]["networkProfile"]["networkInterfaces"]:
            if reference["id"].lower() not in self.resources:
                raise Refused(404, "NotFound", f"Resource {reference['id']} was not found.")
            if is_new:
                self._must_be_free(reference["id"].lower())
                self._check_zone(body, reference["id"].lower())
        size = body["properties"]["hardwareProfile"]["vmSize"]
        sold = catalog.SIZES.get(size.lower())
        if sold is None:
            raise Refused(400, "InvalidParameter", f"The value {size} provided for the VM size is not valid.")
        zones = set(body.get("zones", ()))
        barred = self._account.restricted.get(sold.name)
        if not zones <= set(sold.zones) or (barred is not None and (not barred or zones & set(barred))):
            raise Refused(
                409, "SkuNotAvailable", f"The requested size {size} is not available in zone {sorted(zones)}."
            )

    def _check_zone(self, body: dict[str, Any], interface: str) -> None:
        """Refuses a machine in one zone with an address that is bound to another one."""
        for one in self.resources[interface]["properties"]["ipConfigurations"]:
            address = self.resources.get(one["properties"].get("publicIPAddress", {}).get("id", "").lower(), {})
            bound = set(address.get("zones", ()))
            if bound and not set(body.get("zones", ())) <= bound:
                raise Refused(400, "ResourceAvailabilityZonesMismatch", "The address is bound to another zone.")

    def _check_quota(self, body: dict[str, Any], kind: str) -> None:
        of = {MACHINES: "compute", ADDRESSES: "network"}.get(kind)
        if of is None:
            return
        wanted = {STANDARD_ADDRESSES: 1}
        if kind == MACHINES:
            sold = catalog.SIZES[body["properties"]["hardwareProfile"]["vmSize"].lower()]
            wanted = {CORES: sold.vcpus, sold.family: sold.vcpus}
        for usage in self._account.usages(self.resources.values(), body["location"], of=of):
            name = usage["name"]["value"]
            if usage["currentValue"] + wanted.get(name, 0) > usage["limit"]:
                if kind == ADDRESSES:
                    raise Refused(400, "PublicIPCountLimitReached", "Cannot create more public IP addresses.")
                # As Azure words it, with the status of a conflict.
                text = f"Operation could not be completed as it results in exceeding approved {name} Cores quota."
                raise Refused(409, "OperationNotAllowed", text)

    def _reserve(self, machine: dict[str, Any]) -> None:
        until = self.clock() + self._account.nic_reserved_s
        for one in machine["properties"]["networkProfile"]["networkInterfaces"]:
            self._reserved[one["id"].lower()] = until

    def _must_be_free(self, key: str) -> None:
        if self.clock() < self._reserved.get(key, 0.0):
            text = f"Nic(s) in request is reserved for another Virtual Machine for 180 seconds: {key}"
            raise Refused(400, "NicReservedForAnotherVm", text)

    def _fill_in(self, made: dict[str, Any], kind: str, before: dict[str, Any] | None) -> None:
        properties = made["properties"]
        old = (before or {}).get("properties", {})
        if kind == ADDRESSES:
            if made.get("sku", {}).get("name", "Basic") == "Basic":
                raise Refused(
                    400, "IPv4BasicSkuPublicIpCountLimitReached", "Cannot create more than 0 Basic IPv4 addresses."
                )
            if before is not None and before.get("zones", []) != made.get("zones", []):
                text = "Availability zones of an existing resource cannot be modified."
                raise Refused(400, "ResourceAvailabilityZonesCannotBeModified", text)
            self._name(made, before)
            properties["ipAddress"] = old.get("ipAddress") or next(self._public)
        if kind == INTERFACES:
            for one in properties["ipConfigurations"]:
                self._must_exist(one["properties"].get("publicIPAddress", {}).get("id"))
                self._must_exist((one["properties"].get("subnet", {}).get("id") or "").rsplit("/subnets/", 1)[0])
                one["properties"].setdefault("privateIPAddress", next(self._private))
            self._must_exist(properties.get("networkSecurityGroup", {}).get("id"))
        if kind == MACHINES:
            self.created += before is None

    def _name(self, address: dict[str, Any], before: dict[str, Any] | None) -> None:
        settings = address["properties"].get("dnsSettings")
        if settings is None:
            return
        label = settings["domainNameLabel"]
        others = [one for one in self.resources.values() if one is not before]
        if not self._account.is_label_free(label, others):
            raise Refused(400, "DnsRecordInUse", f"DNS record {label} is already used by another public IP.")
        fqdn = f"{label}.{address['location'].lower()}.cloudapp.azure.com"
        address["properties"]["dnsSettings"] = {**settings, "fqdn": fqdn}

    def _must_exist(self, arm_id: str | None) -> None:
        if arm_id and arm_id.lower() not in self.resources:
            raise Refused(400, "InvalidResourceReference", f"Resource {arm_id} referenced was not found.")

    def _boot(self, made: dict[str, Any]) -> None:
        properties = made["properties"]
        size = properties["hardwareProfile"]["vmSize"]
        if not self._faults.has_capacity(size, place=made["location"], zone=next(iter(made.get("zones") or ()), "")):
            raise Refused(409, "SkuNotAvailable", f"The requested VM size {size} is currently not available.")
        interface = self.resources[properties["networkProfile"]["networkInterfaces"][0]["id"].lower()]["properties"]
        configuration = interface["ipConfigurations"][0]["properties"]
        addresses = [configuration["privateIPAddress"]]
        if "publicIPAddress" in configuration:
            addresses.append(self.resources[configuration["publicIPAddress"]["id"].lower()]["properties"]["ipAddress"])
        profile = properties["osProfile"]
        text = base64.b64decode(profile.pop("customData", "")).decode()
        public_keys = tuple(one["keyData"].strip() for one in profile["linuxConfiguration"]["ssh"]["publicKeys"])
        given = user_data.parse(text, user=profile["adminUsername"], authorized_keys=public_keys)
        key = made["id"].lower()
        self._boots[key] = {"name": profile["computerName"], "addresses": addresses, "user_data": given}
        if given.expires_at is not None:
            self._boots[key]["switched_off"] = partial(self.power_off, key)
        self._fleet.boot(key, **self._boots[key], rules=self._rules(interface))
        with self._lock:
            is_wanted = self.resources.get(key) is made
            if is_wanted:
                self._add_disk(made)
                # Its rules may have changed while it was starting.
                self._apply_rules(interface.get("networkSecurityGroup", {}).get("id", ""))
        if not is_wanted:
            self._fleet.kill(key)

    def _start(self, key: str) -> None:
        """Starts a machine anew; where hosts are real, it begins again as it was born."""
        with self._lock:
            was = self._power.pop(key, None)
        if was is not None:
            nic = self.resources[key]["properties"]["networkProfile"]["networkInterfaces"][0]["id"].lower()
            self._fleet.boot(key, **self._boots[key], rules=self._rules(self.resources[nic]["properties"]))

    def _add_disk(self, machine: dict[str, Any]) -> None:
        """Makes the managed disk that a machine is born with, a resource of its own that may outlive it."""
        disk = machine["properties"]["storageProfile"]["osDisk"]
        name = disk.setdefault("name", f"{machine['name']}_OsDisk_1_{uuid.uuid4().hex}")
        group = machine["id"].split("/providers/")[0]
        arm_id = f"{group}/providers/Microsoft.Compute/disks/{name}"
        disk["managedDisk"] = {**disk.get("managedDisk", {}), "id": arm_id}
        self.resources[arm_id.lower()] = {
            "id": arm_id,
            "name": name,
            "type": "Microsoft.Compute/disks",
            "location": machine["location"],
            "tags": dict(machine.get("tags", {})),
            "properties": {"diskSizeGB": disk.get("diskSizeGB", 30), "provisioningState": "Succeeded"},
        }

    def _rules(self, interface: dict[str, Any]) -> list[tuple[int, int, str]]:
        firewall = self.resources.get(interface.get("networkSecurityGroup", {}).get("id", "").lower())
        found = []
        for rule in firewall["properties"].get("securityRules", []) if firewall else []:
            body = rule["properties"]
            if (body["direction"], body["access"], body["protocol"]) != ("Inbound", "Allow", "Tcp"):
                continue
            first, _, last = body["destinationPortRange"].partition("-")
            for block in body.get("sourceAddressPrefixes") or [body.get("sourceAddressPrefix", "*")]:
                found.append((int(first), int(last or first), ANYWHERE.get(block, block)))  # noqa: PERF401 - two loops
        return found

    def _apply_rules(self, firewall: str) -> None:
        for key, machine in list(self.resources.items()):
            host = self._fleet.host(key)
            if host is not None:
                nic = machine["properties"]["networkProfile"]["networkInterfaces"][0]["id"].lower()
                interface = self.resources[nic]["properties"]
                if interface.get("networkSecurityGroup", {}).get("id", "").lower() == firewall.lower():
                    host.set_rules(self._rules(interface))

    def _remove(self, key: str) -> None:
        with self._lock:
            gone = [other for other in self.resources if other == key or other.startswith(f"{key}/")]
            removed = {other: self.resources.pop(other) for other in gone}
            for resource in removed.values():
                for other in _leaves_with(resource["properties"]):
                    if self.clock() >= self._reserved.get(other.lower(), 0.0):
                        self.resources.pop(other.lower(), None)
            for other in removed:
                self._power.pop(other, None)
                self._boots.pop(other, None)
        for other in removed:
            self._fleet.kill(other)


PRIVATE = "10.40.0.0/16"
"""Of all emulated networks, since their hosts share one bridge."""
GROUP_TYPE = "Microsoft.Resources/resourceGroups"
ANYWHERE = {"*": "0.0.0.0/0", "Internet": "0.0.0.0/0"}
IN_USE = {
    ADDRESSES: "PublicIPAddressCannotBeDeleted",
    FIREWALLS: "InUseNetworkSecurityGroupCannotBeDeleted",
    NETWORKS: "InUseSubnetCannotBeDeleted",
    INTERFACES: "NicInUse",
    MACHINES: "InUse",
    DISKS: "OperationNotAllowed",
}


def _check_sources(firewall: dict[str, Any]) -> None:
    """Refuses a rule whose sources overlap."""
    for rule in firewall["properties"].get("securityRules", []):
        given = rule["properties"].get("sourceAddressPrefixes") or []
        for one, other in itertools.combinations(map(ip_network, given), 2):
            if one.overlaps(other):
                text = f"Security rule {rule['name']} has the overlapping subnets {one} and {other}."
                raise Refused(400, "OverlappingSubnetsNotPermittedInSecurityRule", text)


def _leaves_with(properties: dict[str, Any]) -> list[str]:
    """Returns the ids of what is deleted with a machine: what its `deleteOption`s say, and nothing without one."""
    parts = properties.get("networkProfile", {}).get("networkInterfaces", [])
    gone = [one["id"] for one in parts if one.get("properties", {}).get("deleteOption") == "Delete"]
    disk = properties.get("storageProfile", {}).get("osDisk", {})
    if disk.get("deleteOption") == "Delete" and "id" in disk.get("managedDisk", {}):
        gone.append(disk["managedDisk"]["id"])
    return gone


def _spelled(arm_id: str) -> str:
    """Returns `Namespace/type` as the caller spelled it."""
    parts = arm_id.split("/")
    return "/".join(parts[-3:-1])


def _uses(resource: dict[str, Any], key: str) -> bool:
    """Whether a resource refers to `key` or to a part of it."""
    return resource["id"].lower() != key and any(
        one == key or one.startswith(f"{key}/") for one in _references(resource["properties"])
    )


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["id"].lower()] if isinstance(value.get("id"), str) else []
        return own + [found for one in value.values() for found in _references(one)]
    if isinstance(value, list):
        return [found for one in value for found in _references(one)]
    return []
