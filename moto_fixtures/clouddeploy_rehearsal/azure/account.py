"""What the emulated subscription allows: permissions, registrations, quotas, restrictions, names that are taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from clouddeploy_rehearsal.azure import catalog

if TYPE_CHECKING:
    from collections.abc import Iterable

MACHINES = "microsoft.compute/virtualmachines"
ADDRESSES = "microsoft.network/publicipaddresses"
CORES, COUNT, STANDARD_ADDRESSES = "cores", "virtualMachines", "StandardSkuPublicIpAddresses"
DEFAULT_LIMITS = {CORES: 1000, COUNT: 25000, STANDARD_ADDRESSES: 200}
FAMILY_LIMIT = 1000
RESERVED_WORDS = ("microsoft", "windows", "login", "xbox")


@dataclass
class Account:
    """As a fresh one that may do everything; a test takes away what it wants to see refused."""

    permissions: list[dict[str, list[str]]] = field(default_factory=lambda: [{"actions": ["*"], "notActions": []}])
    """One entry per role assignment; they are reported, and every call is held to them."""
    unregistered: set[str] = field(default_factory=set)
    """Namespaces in lower case, `microsoft.compute`."""
    limits: dict[str, int] = field(default_factory=dict)
    """Quotas that differ from the defaults, by the name of the usage."""
    restricted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By size, the zones that may not be used; an empty tuple: it may be used nowhere."""
    taken_labels: set[str] = field(default_factory=set)
    """DNS labels of other people."""
    nic_reserved_s: float = 0.0
    """So long an interface stays reserved for a machine that failed; 180 in the real Azure."""

    def lacks(self, method: str, path: str) -> str:
        """Returns the action that a request needs and the identity does not have; empty when it may."""
        action = action_of(method, path)
        return "" if any(_allows(one, action.lower()) for one in self.permissions) else action

    def limit(self, name: str) -> int:
        """Returns the limit of a usage."""
        return self.limits.get(name, DEFAULT_LIMITS.get(name, FAMILY_LIMIT))

    def usages(self, resources: Iterable[dict[str, Any]], location: str, *, of: str) -> list[dict[str, Any]]:
        """Returns the quotas of a namespace in a location and what is used of them.

        Args:
            resources: all that exist.
            location: the location.
            of: `compute` or `network`.
        """
        here = [one for one in resources if str(one.get("location", "")).lower() == location.lower()]
        used: dict[str, int] = {}
        if of == "network":
            used[STANDARD_ADDRESSES] = sum(one["type"].lower() == ADDRESSES for one in here)
        else:
            used = {CORES: 0, COUNT: 0} | dict.fromkeys((sold.family for sold in catalog.EVERYTHING), 0)
            for one in here:
                if one["type"].lower() == MACHINES:
                    sold = catalog.SIZES[one["properties"]["hardwareProfile"]["vmSize"].lower()]
                    used[CORES] += sold.vcpus
                    used[sold.family] += sold.vcpus
                    used[COUNT] += 1
        return [
            {
                "unit": "Count",
                "currentValue": value,
                "limit": self.limit(name),
                "name": {"value": name, "localizedValue": "Total Regional vCPUs" if name == CORES else name},
            }
            for name, value in used.items()
        ]

    def is_label_free(self, label: str, resources: Iterable[dict[str, Any]]) -> bool:
        """Returns whether nobody has the DNS label and it is not reserved."""
        ours = {one["properties"].get("dnsSettings", {}).get("domainNameLabel") for one in resources}
        return label not in self.taken_labels | ours and not any(word in label for word in RESERVED_WORDS)


def _allows(granted: dict[str, list[str]], action: str) -> bool:
    given, taken = ([one.lower() for one in granted.get(key, ())] for key in ("actions", "notActions"))
    return any(fnmatchcase(action, one) for one in given) and not any(fnmatchcase(action, one) for one in taken)


def action_of(method: str, path: str) -> str:
    """Returns the action that role-based access control asks for.

    Source:
        https://learn.microsoft.com/azure/role-based-access-control/resource-provider-operations
    """
    verb = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}.get(method, "action")
    before, _, inside = path.strip("/").rpartition("/providers/")
    if not before:
        before, inside = path.strip("/"), ""
    namespace, *parts = inside.split("/") if inside else ("",)
    if parts:
        return f"{namespace}/{'/'.join(parts[::2])}/{verb}"
    if namespace:
        return f"Microsoft.Resources/subscriptions/providers/{verb}"
    kinds = [part for part in before.split("/")[::2] if part]
    # A list is named like what it lists: subscriptions/ID/resourceGroups.
    return f"Microsoft.Resources/{'/'.join(kinds)}/{verb}"
