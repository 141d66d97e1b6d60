"""What exists in the emulated subscription, what depends on what, and the operations that are under way."""

from __future__ import annotations

import base64
import itertools
import threading
import time
import uuid
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from clouddeploy_rehearsal import user_data
from clouddeploy_rehearsal.addresses import public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clouddeploy_rehearsal.faults import Faults
    from clouddeploy_rehearsal.fleet import Fleet

MACHINES = "microsoft.compute/virtualmachines"
ADDRESSES = "microsoft.network/publicipaddresses"
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

    def __init__(self, fleet: Fleet, faults: Faults, *, addresses: Iterator[str] | None = None) -> None:
        self.resources: dict[str, dict[str, Any]] = {}
        """By ARM id in lower case."""
        self.operations: dict[str, Operation] = {}
        self.created = 0
        self._fleet = fleet
        self._faults = faults
        self._lock = threading.RLock()
        self._private = map(str, itertools.islice(IPv4Network(PRIVATE).hosts(), 3, None))
        self._public = addresses or public("azure")
        self._born: dict[str, float] = {}

    def put(self, arm_id: str, kind: str, body: dict[str, Any]) -> tuple[bool, dict[str, Any], str]:
        """Creates or replaces a resource; returns whether it is new, the resource, and the operation's id."""
        key = arm_id.lower()
        with self._lock:
            is_new = key not in self.resources
            if kind == MACHINES:
                self._check_machine(body, is_new=is_new)
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
        then = time.monotonic() - self._faults.lag_s
        with self._lock:
            found = [key for key in self.resources if key.startswith(prefix) and self._born.get(key, 0.0) <= then]
            return [self.resources[key] for key in found]

    def delete(self, arm_id: str, kind: str) -> str:
        """Starts to delete a resource; returns the operation's id."""
        key = arm_id.lower()
        with self._lock:
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
            except (RuntimeError, ValueError, OSError) as error:
                operation.error, operation.status = ("InternalExecutionError", str(error)), "Failed"

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

    def _fill_in(self, made: dict[str, Any], kind: str, before: dict[str, Any] | None) -> None:
        properties = made["properties"]
        old = (before or {}).get("properties", {})
        if kind == ADDRESSES:
            if made.get("sku", {}).get("name", "Basic") == "Basic":
                raise Refused(
                    400, "IPv4BasicSkuPublicIpCountLimitReached", "Cannot create more than 0 Basic IPv4 addresses."
                )
            properties["ipAddress"] = old.get("ipAddress") or next(self._public)
        if kind == INTERFACES:
            for one in properties["ipConfigurations"]:
                self._must_exist(one["properties"].get("publicIPAddress", {}).get("id"))
                self._must_exist((one["properties"].get("subnet", {}).get("id") or "").rsplit("/subnets/", 1)[0])
                one["properties"].setdefault("privateIPAddress", next(self._private))
            self._must_exist(properties.get("networkSecurityGroup", {}).get("id"))
        if kind == MACHINES:
            self.created += before is None

    def _must_exist(self, arm_id: str | None) -> None:
        if arm_id and arm_id.lower() not in self.resources:
            raise Refused(400, "InvalidResourceReference", f"Resource {arm_id} referenced was not found.")

    def _boot(self, made: dict[str, Any]) -> None:
        properties = made["properties"]
        size = properties["hardwareProfile"]["vmSize"]
        if size in self._faults.no_capacity:
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
        self._fleet.boot(
            key,
            name=properties["osProfile"]["computerName"],
            addresses=addresses,
            user_data=given,
            rules=self._rules(interface),
        )
        with self._lock:
            is_wanted = self.resources.get(key) is made
            if is_wanted:
                self._add_disk(made)
                # Its rules may have changed while it was starting.
                self._apply_rules(interface.get("networkSecurityGroup", {}).get("id", ""))
        if not is_wanted:
            self._fleet.kill(key)

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
                    self.resources.pop(other.lower(), None)
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
