"""Bodies of a site's network resources, as Resource Manager wants them, and rules as it has them. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.naming import tags
from clouddeploy_providers.resources import FirewallRule, rules_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_providers.resources import Resource

SPACE = "10.40.0.0/24"
"""Each site has a network of its own, and no two are ever joined, so all may use the same addresses."""
SUBNET = "site"
FIRST_PRIORITY = 1000


def group(resource: Resource, location: str) -> dict[str, Any]:
    """Returns a resource group's body."""
    return {"location": location, "tags": _tags(resource)}


def address(resource: Resource, location: str, *, zones: Sequence[str] = (), label: str = "") -> dict[str, Any]:
    """Returns a public address's body: Standard and static. The API's default is still Basic, which is retired.

    Args:
        resource: the address wanted.
        location: Azure's name of the region.
        zones: all of the location's, so that the address fits a machine in any of them; empty where there are none.
        label: its name below `<location>.cloudapp.azure.com`; empty: it has none.
    """
    return {
        "location": location,
        "tags": _tags(resource),
        "sku": {"name": "Standard", "tier": "Regional"},
        **({"zones": list(zones)} if zones else {}),
        "properties": {
            "publicIPAllocationMethod": "Static",
            "publicIPAddressVersion": "IPv4",
            "idleTimeoutInMinutes": 30,
            **({"dnsSettings": {"domainNameLabel": label}} if label else {}),
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


def opened(rules: Sequence[Any]) -> str:
    """Returns the security rules that Azure has, as `rules_text` writes ours.

    Whatever is not one of ours (another protocol, several ports, outbound, denied) follows in words of its own, so that
    a rule made behind our back is seen.
    """
    plain, foreign = [], []
    for rule in rules:
        ports = rule.destination_port_ranges or [rule.destination_port_range]
        sources = rule.source_address_prefixes or [rule.source_address_prefix or "*"]
        words = [str(getattr(one, "value", one)) for one in (rule.direction, rule.access, rule.protocol)]
        is_plain = words == ["Inbound", "Allow", "Tcp"] and len(ports) == 1 and str(ports[0]).isdecimal()
        if is_plain and (rule.destination_address_prefix or "*") == "*":
            plain.append(FirewallRule(int(ports[0]), tuple(_block(source) for source in sources), str(rule.name)))
        else:
            named = f"{', '.join(map(str, ports))} from {', '.join(sorted(map(str, sources)))}"
            foreign.append(f"{' '.join(words).lower()} {named} ({rule.name})")
    return "; ".join(filter(None, (rules_text(plain), *sorted(foreign))))


def _block(source: str) -> str:
    """Returns a source as a CIDR block; Azure has words for some, which stay where no block says the same."""
    if source in {"*", "Internet", "Any"}:
        return "0.0.0.0/0"
    try:
        return str(ipaddress.ip_network(source, strict=False))
    except ValueError:
        return source


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


def interface(resource: Resource, location: str, ids: Mapping[str, str], *, subnet: str = SUBNET) -> dict[str, Any]:
    """Returns a network interface's body; the firewall is on it from its first moment.

    Args:
        resource: the machine it belongs to.
        location: Azure's name of the region.
        ids: ARM ids of `network`, `address` and `firewall`.
        subnet: its name in the network.
    """
    configuration = {
        "name": "primary",
        "properties": {
            "primary": True,
            "privateIPAllocationMethod": "Dynamic",
            "subnet": {"id": f"{ids['network']}/subnets/{subnet}"},
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
