import base64
from dataclasses import replace
from types import SimpleNamespace

import pytest
from clouddeploy_providers.azure import images, network, virtual_machines
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import FirewallRule, Kind, MachineSpec, Owner, Resource, rules_text
from clouddeploy_rehearsal.azure import schema

OWNER = Owner("0123abcd", "p", "s")
RULES = (
    FirewallRule(port=22, sources=("192.0.2.1/32", "192.0.2.2/32"), purpose="ssh"),
    FirewallRule(port=8002, sources=("0.0.0.0/0",), purpose="federation"),
)
SPEC = MachineSpec(None, None, 30, "fl", "ssh-ed25519 AAAA", "#cloud-config\n")
IDS = {"network": "/n", "address": "/a", "firewall": "/f"}
IMAGE = "Canonical:ubuntu-24_04-lts:server:24.04.202609010"


def body_of_machine(*, image=IMAGE, is_trusted_launch=True, spec=SPEC, **given):
    resource = Resource(Kind.MACHINE, "m", OWNER, machine=spec)
    return virtual_machines.machine(
        resource, "westus2", interface="/nic", image=image, is_trusted_launch=is_trusted_launch, **given
    )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("", network.group(Resource(Kind.GROUP, "g", OWNER), "westus2")),
        ("microsoft.network/publicipaddresses", network.address(Resource(Kind.ADDRESS, "a", OWNER), "westus2")),
        (
            "microsoft.network/networksecuritygroups",
            network.firewall(Resource(Kind.FIREWALL, "f", OWNER, rules=RULES), "westus2"),
        ),
        ("microsoft.network/virtualnetworks", network.network(Resource(Kind.NETWORK, "n", OWNER), "westus2")),
        (
            "microsoft.network/networkinterfaces",
            network.interface(Resource(Kind.MACHINE, "m", OWNER), "westus2", IDS),
        ),
        (
            "microsoft.network/publicipaddresses",
            network.address(Resource(Kind.ADDRESS, "a", OWNER), "westus2", zones=("1", "2"), label="ours"),
        ),
        ("microsoft.compute/virtualmachines", body_of_machine(zone="2", has_gpu=True)),
        ("microsoft.compute/virtualmachines", body_of_machine()),
        ("microsoft.compute/virtualmachines", body_of_machine(is_trusted_launch=False)),
    ],
    ids=[
        "group",
        "address",
        "firewall",
        "network",
        "interface",
        "address-in-zones-with-a-name",
        "machine-with-gpu-in-a-zone",
        "machine",
        "machine-without-secure-boot",
    ],
)
def test_a_body_is_accepted_and_tagged_at_birth(kind, body):
    assert schema.problem(kind, body) == ""
    assert body["tags"][TAG_DEPLOYMENT] == "0123abcd"


def test_the_address_is_standard_and_static():
    """The API's default is still Basic, which Azure no longer gives."""
    body = network.address(Resource(Kind.ADDRESS, "a", OWNER), "westus2")
    assert body["sku"]["name"] == "Standard"
    assert body["properties"]["publicIPAllocationMethod"] == "Static"


def test_an_address_fits_every_zone_and_has_a_name_when_one_is_wanted():
    given = Resource(Kind.ADDRESS, "a", OWNER)
    body = network.address(given, "westus2", zones=("1", "2", "3"), label="ours")
    assert body["zones"] == ["1", "2", "3"]
    assert body["properties"]["dnsSettings"] == {"domainNameLabel": "ours"}
    assert "zones" not in network.address(given, "northcentralus")


def rule(name, port, *, source="192.0.2.1", direction="Inbound", access="Allow", protocol="Tcp"):
    return SimpleNamespace(
        name=name,
        direction=direction,
        access=access,
        protocol=protocol,
        destination_port_range=port,
        destination_port_ranges=None,
        destination_address_prefix="*",
        source_address_prefix=source,
        source_address_prefixes=None,
    )


def test_rules_read_as_they_were_wanted_however_azure_spells_their_sources():
    theirs = [rule("federation", "8002", source="Internet"), rule("ssh", "22")]
    theirs[1].source_address_prefixes = ["192.0.2.2/32", "192.0.2.1"]
    assert network.opened(theirs) == rules_text(RULES)


@pytest.mark.parametrize(
    ("foreign", "words"),
    [
        (rule("x", "3389"), ["3389 from 192.0.2.1/32"]),
        (rule("x", "8000-8999"), ["8000-8999", "192.0.2.1"]),
        (rule("x", "53", protocol="Udp"), ["udp", "53"]),
        (rule("x", "*", protocol="*", source="VirtualNetwork"), ["*", "VirtualNetwork"]),
        (rule("x", "22", access="Deny"), ["deny", "22"]),
        (rule("x", "443", direction="Outbound"), ["outbound", "443"]),
    ],
)
def test_a_rule_that_is_not_one_of_ours_is_seen(foreign, words):
    text = network.opened([rule("ssh", "22", source="192.0.2.9"), foreign])
    assert text != "22 from 192.0.2.9/32"
    assert [word for word in words if word not in text] == []


def test_the_end_of_a_machine_is_a_tag_and_its_disk_has_a_name_that_says_whose_it_is():
    body = body_of_machine(spec=replace(SPEC, expires_at="2026-11-25T18:00:00Z"))
    assert body["tags"]["clouddeploy:expires-at"] == "2026-11-25T18:00:00Z"
    assert body["properties"]["storageProfile"]["osDisk"]["name"] == "m-disk"
    assert "clouddeploy:expires-at" not in body_of_machine()["tags"]


def test_a_machine_is_in_its_zone_and_one_with_a_gpu_takes_drivers_that_nobody_signed():
    body = body_of_machine(zone="2", has_gpu=True)
    assert body["zones"] == ["2"]
    firmware = body["properties"]["securityProfile"]["uefiSettings"]
    assert (firmware["secureBootEnabled"], firmware["vTpmEnabled"]) == (False, True)
    assert "zones" not in body_of_machine()


def test_the_way_out_is_explicit():
    [subnet] = network.network(Resource(Kind.NETWORK, "n", OWNER), "westus2")["properties"]["subnets"]
    assert subnet["properties"]["defaultOutboundAccess"] is False


def test_the_interface_is_behind_its_firewall_from_the_first_moment():
    properties = network.interface(Resource(Kind.MACHINE, "m", OWNER), "westus2", IDS)["properties"]
    assert properties["networkSecurityGroup"] == {"id": "/f"}
    [configuration] = properties["ipConfigurations"]
    assert configuration["properties"]["subnet"]["id"] == "/n/subnets/site"


def test_only_the_wanted_ports_are_open_each_with_a_priority_of_its_own():
    rules = network.firewall(Resource(Kind.FIREWALL, "f", OWNER, rules=RULES), "westus2")["properties"]["securityRules"]
    opened = {rule["properties"]["destinationPortRange"]: rule["properties"]["sourceAddressPrefixes"] for rule in rules}
    assert opened == {"22": ["192.0.2.1/32", "192.0.2.2/32"], "8002": ["0.0.0.0/0"]}
    assert len({rule["properties"]["priority"] for rule in rules}) == 2


def test_the_machine_has_a_key_and_no_password_and_takes_disk_and_interface_along():
    properties = body_of_machine()["properties"]
    linux = properties["osProfile"]["linuxConfiguration"]
    assert linux["disablePasswordAuthentication"] is True
    assert linux["ssh"]["publicKeys"][0]["keyData"] == SPEC.public_key
    assert "adminPassword" not in properties["osProfile"]
    assert base64.b64decode(properties["osProfile"]["customData"]).decode() == SPEC.user_data
    assert properties["storageProfile"]["osDisk"]["deleteOption"] == "Delete"
    [interface] = properties["networkProfile"]["networkInterfaces"]
    assert interface["properties"]["deleteOption"] == "Delete"
    assert properties["securityProfile"]["securityType"] == "TrustedLaunch"
    assert "identity" not in body_of_machine()


def test_an_image_of_ones_own_is_given_by_its_id():
    body = body_of_machine(image="/subscriptions/s/images/mine", is_trusted_launch=False)
    assert body["properties"]["storageProfile"]["imageReference"] == {"id": "/subscriptions/s/images/mine"}
    assert "securityProfile" not in body["properties"]


@pytest.mark.parametrize("image", ["ami-123", "a:b:c", "a:b::d", "a:b:c:d:e", ""])
def test_what_names_no_image_is_refused_with_an_example(image):
    with pytest.raises(InvalidRequest) as caught:
        images.reference(image)
    assert "Canonical" in caught.value.hint


def compute(*features):
    found = SimpleNamespace(properties=SimpleNamespace(features=list(features)))
    return SimpleNamespace(virtual_machine_images=SimpleNamespace(get=lambda *_given: found))


def test_secure_boot_is_asked_for_only_where_the_image_can():
    supported = SimpleNamespace(name="SecurityType", value="TrustedLaunchSupported")
    other = SimpleNamespace(name="IsAcceleratedNetworkSupported", value="True")
    assert images.allows_trusted_launch(None, "westus2", IMAGE)
    assert images.allows_trusted_launch(compute(other, supported), "westus2", "p:o:s:v")
    assert not images.allows_trusted_launch(compute(other), "westus2", "p:o:s:v")
    assert not images.allows_trusted_launch(None, "westus2", "/subscriptions/s/images/mine")


def test_the_newest_version_is_the_largest_number_and_not_the_last_word():
    versions = [SimpleNamespace(name=name) for name in ("24.04.9", "24.04.10", "24.04.2")]
    listing = SimpleNamespace(virtual_machine_images=SimpleNamespace(list=lambda *_given: versions))
    assert images.newest(listing, "westus2").endswith(":24.04.10")
