"""Bodies of a site's network resources, as Resource Manager wants them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_providers.naming import tags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.resources import Resource

SPACE = "10.40.0.0/24"
"""Each site has a network of its own, and no two are ever joined, so all may use the same addresses."""
SUBNET = "site"
FIRST_PRIORITY = 1000


def group(resource: Resource, location: str) -> dict[str, Any]:
    """Returns a resource group's body."""
    return {"location": location, "tags": _tags(resource)}


def address(resource: Resource, location: str) -> dict[str, Any]:
    """Returns a public address's body: Standard and static. The API's default is still Basic, which is retired."""
    return {
        "location": location,
        "tags": _tags(resource),
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {
            "publicIPAllocationMethod": "Static",
            "publicIPAddressVersion": "IPv4",
            "idleTimeoutInMinutes": 30,
        },
    }


def firewall(resource: Resource, location: str) -> dict[str, Any]:
    """Returns a network security group's body. What no rule lets in, Azure's default rules keep out."""
    rules = [
        {
            "name": rule.purpose,
            "properties": {
                "priority": FIRST_PRIORITY + number,
                "direction": "Inbound",
                "access": "Allow",
                "protocol": "Tcp",
                "sourceAddressPrefixes": list(rule.sources),
                "sourcePortRange": "*",
                "destinationAddressPrefix": "*",
                "destinationPortRange": str(rule.port),
            },
        }
        for number, rule in enumerate(resource.rules)
    ]
    return {"location": location, "tags": _tags(resource), "properties": {"securityRules": rules}}


def network(resource: Resource, location: str) -> dict[str, Any]:
    """Returns a virtual network's body. Egress is explicit, the machine's own address; the implicit one retires.

    Source:
        https://learn.microsoft.com/azure/virtual-network/ip-services/default-outbound-access
    """
    subnet = {"name": SUBNET, "properties": {"addressPrefix": SPACE, "defaultOutboundAccess": False}}
    return {
        "location": location,
        "tags": _tags(resource),
        "properties": {"addressSpace": {"addressPrefixes": [SPACE]}, "subnets": [subnet]},
    }


def interface(resource: Resource, location: str, ids: Mapping[str, str]) -> dict[str, Any]:
    """Returns a network interface's body; the firewall is on it from its first moment.

    Args:
        resource: the machine it belongs to.
        location: Azure's name of the region.
        ids: ARM ids of `network`, `address` and `firewall`.
    """
    configuration = {
        "name": "primary",
        "properties": {
            "primary": True,
            "privateIPAllocationMethod": "Dynamic",
            "subnet": {"id": f"{ids['network']}/subnets/{SUBNET}"},
            "publicIPAddress": {"id": ids["address"]},
        },
    }
    return {
        "location": location,
        "tags": _tags(resource),
        "properties": {"ipConfigurations": [configuration], "networkSecurityGroup": {"id": ids["firewall"]}},
    }


def _tags(resource: Resource) -> dict[str, str]:
    return tags(resource.owner, name=resource.name, kind=resource.kind)
