import threading

import pytest
from clouddeploy_providers.cloud_init import generate_host_key
from clouddeploy_providers.endpoints import REAL, Endpoints, SshEndpoint
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.onprem import OnPremProvider
from clouddeploy_providers.resources import Demand, Kind, Need, Owner, Resource, ResourceRef

MACHINE = Resource(Kind.MACHINE, "cd-p-s-machine-0123abcd", Owner("0123abcd", "p", "s"))
FINGERPRINT = "SHA256:7n7yOGxKnpUfTLGZzLJ1vdgMC9nr1Vx4jKKFzhCxGWs"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3zBvhYzWqWh5ZyZ5YHcqBrqk9ZlQvJ1sXoPtnvQm3k"
SETTINGS = {"address": "192.0.2.20", "user": "fl", "host_key": FINGERPRINT, "identity_file": "~/.ssh/id_ed25519"}


def create(provider):
    return provider.create(MACHINE, threading.Event())


def test_the_reference_says_how_to_reach_the_machine():
    assert create(OnPremProvider({**SETTINGS, "port": "2222"}, REAL)).outputs == {
        "address": "192.0.2.20",
        "ssh_port": "2222",
        "user": "fl",
        "host_key": FINGERPRINT,
        "identity_file": "~/.ssh/id_ed25519",
    }


def test_a_rehearsal_puts_another_host_in_its_place():
    there = SshEndpoint("127.0.0.1", 2201, "rehearsal", generate_host_key().public, "/keys/identity")
    outputs = create(OnPremProvider(SETTINGS, Endpoints(hosts={"192.0.2.20": there}))).outputs
    assert outputs == {
        "address": "127.0.0.1",
        "ssh_port": "2201",
        "user": "rehearsal",
        "host_key": there.host_key,
        "identity_file": "/keys/identity",
    }


def test_a_machine_inside_says_its_jump_host_too():
    jump = {"jump": "fl@bastion.example.com", "jump_host_key": FINGERPRINT}
    outputs = create(OnPremProvider({**SETTINGS, **jump}, REAL)).outputs
    assert outputs == {
        **create(OnPremProvider(SETTINGS, REAL)).outputs,
        **jump,
        "jump_identity_file": SETTINGS["identity_file"],
    }


@pytest.mark.parametrize("key", ["address", "user", "host_key", "identity_file"])
def test_a_missing_setting_is_named(key):
    given = {name: value for name, value in SETTINGS.items() if name != key}
    with pytest.raises(InvalidRequest, match=key):
        OnPremProvider(given, REAL)


@pytest.mark.parametrize("host_key", [FINGERPRINT, PUBLIC, f"{PUBLIC} root@h"])
def test_a_host_key_is_a_fingerprint_or_a_public_key(host_key):
    assert create(OnPremProvider({**SETTINGS, "host_key": host_key}, REAL)).outputs["host_key"] == host_key


@pytest.mark.parametrize("host_key", ["accept-new", "SHA256:short", "MD5:aa:bb", "ssh-ed25519", FINGERPRINT + "="])
def test_any_other_host_key_is_refused_with_a_way_to_find_it(host_key):
    with pytest.raises(InvalidRequest) as caught:
        OnPremProvider({**SETTINGS, "host_key": host_key}, REAL)
    assert "ssh-keygen" in caught.value.hint


@pytest.mark.parametrize("port", ["0", "65536", "ssh", "-1", "2²"])
def test_a_port_is_a_port(port):
    with pytest.raises(InvalidRequest, match="port"):
        OnPremProvider({**SETTINGS, "port": port}, REAL)


def test_the_machine_is_adopted_and_so_neither_changed_nor_deleted():
    provider = OnPremProvider(SETTINGS, REAL)
    ref = create(provider)
    assert ref.is_adopted
    assert provider.read(ref) == ref
    for refused in (
        lambda: provider.delete(ref, threading.Event()),
        lambda: provider.update(ref, MACHINE, threading.Event()),
    ):
        with pytest.raises(InvalidRequest):
            refused()
    assert (provider.find("0123abcd"), provider.find_all()) == ([], [])


def test_a_record_that_does_not_say_adopted_is_let_go_of():
    """State files of before had no such word; their sites have to end, too."""
    ref = ResourceRef(Kind.MACHINE, MACHINE.name, "192.0.2.20")
    OnPremProvider(SETTINGS, REAL).delete(ref, threading.Event())


def test_there_are_no_sizes_and_no_prices():
    provider = OnPremProvider(SETTINGS, REAL)
    assert (provider.offers(Need()), provider.price(Kind.MACHINE, None), provider.default_size) == ([], None, "")
    assert provider.check(Demand(())) == []


@pytest.mark.parametrize(
    ("egress", "expected"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("203.0.113.7/32,198.51.100.0/28", "203.0.113.7/32, 198.51.100.0/28"),
        (" 203.0.113.7 , ", "203.0.113.7/32"),
    ],
)
def test_the_addresses_it_dials_out_from_are_an_output(egress, expected):
    assert create(OnPremProvider({**SETTINGS, "egress": egress}, REAL)).outputs["egress"] == expected


@pytest.mark.parametrize("settings", [SETTINGS, {**SETTINGS, "egress": ""}])
def test_where_they_are_not_known_there_is_no_such_output(settings):
    assert "egress" not in create(OnPremProvider(settings, REAL)).outputs


def test_in_a_rehearsal_who_stands_in_dials_out_from_its_own_address():
    there = SshEndpoint("198.51.100.9", 22, "rehearsal", generate_host_key().public, "/keys/identity")
    endpoints = Endpoints(hosts={"192.0.2.20": there})
    outputs = create(OnPremProvider({**SETTINGS, "egress": "203.0.113.7"}, endpoints)).outputs
    assert outputs["egress"] == "198.51.100.9/32"
    assert "egress" not in create(OnPremProvider(SETTINGS, endpoints)).outputs


@pytest.mark.parametrize("egress", ["hospital.example", "203.0.113.7/28", "2001:db8::1", "0.0.0.0/0", "203.0.113.7;"])
def test_an_egress_that_no_firewall_could_let_in_is_refused(egress):
    with pytest.raises(InvalidRequest, match="egress") as caught:
        OnPremProvider({**SETTINGS, "egress": egress}, REAL)
    assert "198.51.100.0/28" in caught.value.hint
