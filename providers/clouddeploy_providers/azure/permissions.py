"""The permissions that the provider needs, and which of them an identity lacks. Pure.

The list is the one of docs/permissions.md; a test keeps them equal.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

GROUP_ACTIONS = (
    "Microsoft.Resources/subscriptions/resourceGroups/write",
    "Microsoft.Resources/subscriptions/resourceGroups/delete",
)
"""For groups of our own; nobody needs them where a site's settings name a group."""
RESOURCE_ACTIONS = (
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Resources/subscriptions/resourceGroups/resources/read",
    "Microsoft.Network/publicIPAddresses/read",
    "Microsoft.Network/publicIPAddresses/write",
    "Microsoft.Network/publicIPAddresses/delete",
    "Microsoft.Network/publicIPAddresses/join/action",
    "Microsoft.Network/networkSecurityGroups/read",
    "Microsoft.Network/networkSecurityGroups/write",
    "Microsoft.Network/networkSecurityGroups/delete",
    "Microsoft.Network/networkSecurityGroups/join/action",
    "Microsoft.Network/virtualNetworks/read",
    "Microsoft.Network/virtualNetworks/write",
    "Microsoft.Network/virtualNetworks/delete",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Compute/virtualMachines/start/action",
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/disks/delete",
)
"""In the group of a site, be it ours or not."""
SUBSCRIPTION_ACTIONS = (
    "Microsoft.Authorization/permissions/read",
    "Microsoft.Resources/subscriptions/providers/read",
    "Microsoft.Resources/subscriptions/resources/read",
    "Microsoft.Resources/subscriptions/operationresults/read",
    "Microsoft.Compute/skus/read",
    "Microsoft.Compute/locations/usages/read",
    "Microsoft.Compute/locations/operations/read",
    "Microsoft.Compute/locations/diskOperations/read",
    "Microsoft.Compute/locations/publishers/artifacttypes/offers/skus/versions/read",
    "Microsoft.Network/locations/usages/read",
    "Microsoft.Network/locations/operations/read",
    "Microsoft.Network/locations/operationResults/read",
    "Microsoft.Network/locations/checkDnsNameAvailability/read",
)
"""On the subscription: what the preflight asks, and whether an operation is done."""
ADOPTED_MACHINE_ACTIONS = (
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/publicIPAddresses/read",
)
"""All that a machine which exists already is asked."""
ACTIONS = tuple(sorted((*GROUP_ACTIONS, *RESOURCE_ACTIONS, *SUBSCRIPTION_ACTIONS)))


def missing(needed: Iterable[str], granted: Sequence[Mapping[str, Sequence[str]]]) -> list[str]:
    """Returns the needed actions that none of the role assignments allows.

    Args:
        needed: actions.
        granted: per role assignment, `actions` less `notActions`; both may have `*` in any place. What one assignment
            takes away, another one may still give.

    Source:
        https://learn.microsoft.com/azure/role-based-access-control/role-definitions
    """
    return [action for action in needed if not any(_allows(one, action) for one in granted)]


def _allows(granted: Mapping[str, Sequence[str]], action: str) -> bool:
    given, taken = granted.get("actions") or (), granted.get("notActions") or ()
    return any(_covers(one, action) for one in given) and not any(_covers(one, action) for one in taken)


def _covers(pattern: str, action: str) -> bool:
    words = ".*".join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(words, action, re.IGNORECASE) is not None
