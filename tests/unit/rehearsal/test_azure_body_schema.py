"""Each body that Resource Manager would refuse is refused, and the problem named."""

import copy

import pytest
from clouddeploy_rehearsal.azure import schema

NETWORK = "microsoft.network/"
ADDRESS = {
    "location": "westus2",
    "sku": {"name": "Standard"},
    "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"},
}
RULE = {
    "name": "ssh",
    "properties": {"priority": 100, "direction": "Inbound", "access": "Allow", "protocol": "Tcp"},
}
FIREWALL = {"location": "westus2", "properties": {"securityRules": [RULE]}}


def changed(body, path, value):
    """A copy with one place changed; None removes it."""
    made = copy.deepcopy(body)
    *folders, last = path
    place = made
    for folder in folders:
        place = place[folder]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("", {"location": "westus2", "tags": {"a": "b"}}),
        (f"{NETWORK}publicipaddresses", ADDRESS),
        (f"{NETWORK}networksecuritygroups", FIREWALL),
        (f"{NETWORK}networksecuritygroups", {"location": "westus2"}),
    ],
)
def test_a_good_body_is_accepted(kind, body):
    assert schema.problem(kind, body) == ""


RULES = ("properties", "securityRules", 0, "properties")


@pytest.mark.parametrize(
    ("kind", "body", "named"),
    [
        ("", {}, "location"),
        ("", {"location": "westus2", "tags": {"a": 1}}, "tags.a"),
        (f"{NETWORK}publicipaddresses", changed(ADDRESS, ("locatoin",), "x"), "locatoin"),
        (f"{NETWORK}publicipaddresses", changed(ADDRESS, ("id",), "x"), "read-only"),
        (f"{NETWORK}publicipaddresses", changed(ADDRESS, ("sku", "name"), "Gold"), "Gold"),
        (f"{NETWORK}publicipaddresses", changed(ADDRESS, ("properties", "ipAddress"), "1.2.3.4"), "read-only"),
        (f"{NETWORK}networksecuritygroups", changed(FIREWALL, (*RULES, "priority"), None), "priority"),
        (f"{NETWORK}networksecuritygroups", changed(FIREWALL, (*RULES, "priority"), "100"), "integer"),
        (f"{NETWORK}networksecuritygroups", changed(FIREWALL, (*RULES, "priority"), True), "integer"),
        (f"{NETWORK}networksecuritygroups", changed(FIREWALL, ("properties", "securityRules"), {}), "array"),
        (f"{NETWORK}virtualnetworks", {"location": "westus2"}, "properties"),
    ],
)
def test_a_bad_body_is_refused_and_the_place_named(kind, body, named):
    assert named in schema.problem(kind, body)
