import threading

import pytest
from clouddeploy_providers.cloud_init import generate_host_key
from clouddeploy_providers.endpoints import REAL, Endpoints, SshEndpoint
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.onprem import OnPremProvider
from clouddeploy_providers.resources import Kind, Owner, Resource

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
