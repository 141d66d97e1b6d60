"""A machine with an end switches itself off, with nothing but what it was born with, and its cloud shows it."""

import os
import threading
import time

import pytest
from clouddeploy_providers import cloud_init, registry
from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import FirewallRule, Kind, MachineSpec, Owner, Resource
from clouddeploy_rehearsal import user_data
from clouddeploy_rehearsal.fleet import Fleet
from clouddeploy_rehearsal.probe import answers, until

pytest_plugins = ["clouddeploy_rehearsal.pytest_plugin"]
pytestmark = pytest.mark.xdist_group("world")

SOON_S, SOON_AFTER_BIRTH_S, LATER_S = 2, 8, 3600
SETTINGS = {"aws": {"region": "us-west-2"}, "azure": {"location": "westus2"}}
AFTER = {"aws": None, "azure": "stopped"}
"""Its power then: an instance is terminated by its own shutdown, a virtual machine stays and is stopped."""


def document(after_s):
    key = cloud_init.generate_host_key()
    expires_at = time.strftime(cloud_init.EXPIRES_AT, time.gmtime(time.time() + after_s))
    text = cloud_init.render(
        user="fl",
        public_key=key.public,
        host_private_key=key.private,
        host_public_key=key.public,
        hostname="h",
        expires_at=expires_at,
    )
    return MachineSpec(None, None, 30, "fl", key.public, text, expires_at=expires_at)


@pytest.fixture
def fleet(tmp_path):
    made = Fleet(tmp_path, as_root=False)
    made.start()
    yield made
    made.close()


def boot(fleet, address, *, after_s, told):
    given = user_data.parse(document(after_s).user_data, user="fl")
    fleet.boot(address, name="h", addresses=[address], user_data=given, rules=None, switched_off=told.set)


def test_when_its_time_is_over_a_machine_is_gone_and_its_cloud_is_told(fleet):
    told = threading.Event()
    boot(fleet, "127.20.0.1", after_s=SOON_S, told=told)
    assert answers("127.20.0.1", fleet.ssh_port)
    assert told.wait(SOON_S + 5)
    assert fleet.host("127.20.0.1") is None
    assert not answers("127.20.0.1", fleet.ssh_port)


def test_a_machine_that_starts_after_its_time_does_not_stay(fleet):
    """So it is with one that somebody starts again."""
    told = threading.Event()
    boot(fleet, "127.20.0.2", after_s=-LATER_S, told=told)
    assert told.wait(5)
    assert fleet.host("127.20.0.2") is None


def test_a_machine_that_was_killed_before_has_nothing_to_say(fleet):
    told = threading.Event()
    boot(fleet, "127.20.0.3", after_s=SOON_S, told=told)
    fleet.kill("127.20.0.3")
    assert not told.wait(SOON_S + 1)


def test_the_end_of_a_world_does_not_wait_for_the_end_of_its_machines(tmp_path):
    fleet, told = Fleet(tmp_path, as_root=False), threading.Event()
    fleet.start()
    boot(fleet, "127.20.0.4", after_s=LATER_S, told=told)
    started = time.monotonic()
    fleet.close()
    assert time.monotonic() - started < 10
    assert not told.is_set()


def create(provider, refs, cancel):
    """Everything of one client's site, into `refs`."""
    owner = Owner("0123abcd", "p", "s")
    for kind in provider.kinds(is_server=False):
        resource = Resource(
            kind,
            resource_name(owner, kind),
            owner,
            rules=(FirewallRule(22, ("0.0.0.0/0",), "ssh"),) if kind is Kind.FIREWALL else (),
            machine=document(SOON_AFTER_BIRTH_S) if kind is Kind.MACHINE else None,
            needs=tuple(refs.values()),
            token=resource_name(owner, kind),
        )
        refs[kind] = provider.create(resource, cancel)


@pytest.fixture
def any_world(request):
    """The best that this user may have; only one lives at a time."""
    return request.getfixturevalue("world" if os.geteuid() == 0 else "unprivileged_world")


@pytest.mark.parametrize("name", ["aws", pytest.param("azure", marks=pytest.mark.nightly)])
def test_a_machine_in_a_cloud_ends_without_anybody_s_help(name, any_world):
    cancel = threading.Event()
    provider = registry.load(name)(SETTINGS[name], any_world.endpoints)
    refs = {}
    try:
        create(provider, refs, cancel)
        machine = refs[Kind.MACHINE]
        until(lambda: power(provider, machine) == AFTER[name], what=f"the power of the machine to be {AFTER[name]}")
        assert not answers(machine.outputs["address"], any_world.endpoints.ssh_port)
    finally:
        for ref in reversed(refs.values()):
            provider.delete(ref, cancel)
    assert any_world.resources() == []


def power(provider, ref):
    there = provider.read(ref)
    return there.outputs["power"] if there else None
