import threading
import time
from dataclasses import replace

import pytest
from clouddeploy_providers.endpoints import REAL
from clouddeploy_providers.errors import AccessDenied, CapacityError, Conflict, InvalidRequest, NotFound, QuotaError
from clouddeploy_providers.fake import FakeCloud, FakeProvider
from clouddeploy_providers.resources import Demand, FirewallRule, Kind, MachineSpec, Need, Owner, Resource

OWNER = Owner("0123abcd", "p", "s")
SPEC = MachineSpec(None, None, 30, "fl", "ssh-ed25519 AAAA", "#cloud-config\n")
ADDRESS = Resource(Kind.ADDRESS, "address", OWNER)
FIREWALL = Resource(Kind.FIREWALL, "firewall", OWNER, rules=(FirewallRule(22, ("192.0.2.1/32",), "ssh"),))
MACHINE = Resource(Kind.MACHINE, "machine", OWNER, machine=SPEC)
REACH = {"user": "fl", "identity_file": "~/.ssh/id_ed25519", "host_key": "SHA256:x"}


def demand_of(machines, *, addresses=0):
    """A demand of a place that shares its quota with no other."""
    return Demand(machines, addresses, charged=machines, charged_addresses=addresses)


@pytest.fixture
def cancel():
    return threading.Event()


def machine(name="machine", **changed):
    return replace(MACHINE, name=name, machine=replace(SPEC, **changed))


def sizes(offers):
    return [offer.size for offer in offers]


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Need(), ["small", "arm", "large", "gpu", "unpriced"]),
        (Need(vcpus=4), ["large", "gpu", "unpriced"]),
        (Need(gpus=1, gpu_memory_gib=16), ["gpu"]),
        (Need(gpus=1, gpu_memory_gib=17), []),
        (Need(memory_gib=3, vcpus=2), ["arm", "large", "gpu", "unpriced"]),
    ],
)
def test_offers_satisfy_the_need_the_cheapest_first_and_those_without_a_price_last(need, expected):
    assert sizes(FakeProvider({}, REAL).offers(need)) == expected


def test_a_price_holds_the_disk_and_an_address():
    price = FakeProvider({}, REAL).price
    assert price(Kind.MACHINE, SPEC).usd_per_hour == pytest.approx(0.02 + 30 * 0.0001 + 0.005)
    assert price(Kind.ADDRESS, None).usd_per_hour == 0.005
    assert [price(kind, None) for kind in (Kind.FIREWALL, Kind.NETWORK, Kind.MACHINE)] == [None] * 3
    assert price(Kind.MACHINE, replace(SPEC, size="unpriced")) is None


@pytest.mark.parametrize(
    ("no_capacity", "zones", "expected"),
    [
        ("", (), "zone-1"),
        ("zone-1", (), "zone-2"),
        ("small@zone-1, small@zone-2", (), "zone-3"),
        ("large", (), "zone-1"),
        ("", ("zone-3", "zone-2"), "zone-3"),
        ("zone-3", ("zone-3", "zone-2"), "zone-2"),
    ],
)
def test_a_machine_is_in_the_first_wanted_zone_that_has_one_free(no_capacity, zones, expected, cancel):
    provider = FakeProvider({"no_capacity": no_capacity}, REAL)
    assert provider.create(machine(zones=zones), cancel).outputs["zone"] == expected


@pytest.mark.parametrize(
    ("no_capacity", "zones"), [("small", ()), ("zone-1,zone-2,zone-3", ()), ("small@zone-2", ("zone-2",))]
)
def test_when_no_zone_has_one_free_all_that_were_tried_are_named(no_capacity, zones, cancel):
    provider = FakeProvider({"no_capacity": no_capacity}, REAL)
    with pytest.raises(CapacityError) as caught:
        provider.create(machine(zones=zones), cancel)
    assert all(zone in caught.value.why for zone in zones or ("zone-1", "zone-2", "zone-3"))
    assert provider.cloud.names == []


@pytest.mark.parametrize(("size", "zones"), [("gpu", ("zone-1",)), (None, ("zone-9",)), ("huge", ())])
def test_what_is_not_sold_there_is_a_finding_and_a_refusal(size, zones, cancel):
    provider, wanted = FakeProvider({}, REAL), machine(size=size, zones=zones)
    [check] = provider.check(Demand((wanted.machine,)))
    assert (check.name, check.ok, bool(check.hint)) == ("size", False, True)
    with pytest.raises(InvalidRequest):
        provider.create(wanted, cancel)


def test_a_quota_is_a_finding_before_and_a_refusal_then(cancel):
    provider = FakeProvider({"quota_vcpus": "3", "quota_addresses": "1"}, REAL)
    assert [check.ok for check in provider.check(demand_of((SPEC,), addresses=1))] == [True]
    provider.create(ADDRESS, cancel)
    provider.create(MACHINE, cancel)
    found = provider.check(demand_of((SPEC,), addresses=1))
    assert [(check.name, check.ok) for check in found] == [("quota", False)] * 2
    for one in (replace(ADDRESS, name="another"), machine("another")):
        with pytest.raises(QuotaError):
            provider.create(one, cancel)
    assert provider.create(MACHINE, cancel).name == "machine"


def test_what_the_identity_may_not_do_is_a_finding_before_and_a_refusal_then(cancel):
    cloud = FakeCloud()
    FakeProvider({}, REAL, cloud=cloud).create(FIREWALL, cancel)
    provider = FakeProvider({"denied": "create machine, update firewall, delete firewall"}, REAL, cloud=cloud)
    hints = [check.hint for check in provider.check(Demand(()))]
    assert hints == ["grant create machine", "grant delete firewall", "grant update firewall"]
    ref = provider.create(FIREWALL, cancel)
    for call in (
        lambda: provider.create(MACHINE, cancel),
        lambda: provider.update(ref, FIREWALL, cancel),
        lambda: provider.delete(ref, cancel),
    ):
        with pytest.raises(AccessDenied):
            call()
    assert provider.cloud.names == ["firewall"]


def test_rules_that_somebody_else_added_are_seen_and_taken_away(cancel):
    provider = FakeProvider({}, REAL)
    ref = provider.create(FIREWALL, cancel)
    provider.cloud.allow("firewall", port=3389, source="0.0.0.0/0")
    assert provider.read(ref).outputs["rules"] == "22 from 192.0.2.1/32; 3389 from 0.0.0.0/0"
    assert provider.update(ref, FIREWALL, cancel) == ref
    assert provider.cloud.rules("firewall") == {(22, "192.0.2.1/32")}


def test_a_machine_that_somebody_stopped_is_started_by_update(cancel):
    provider = FakeProvider({}, REAL)
    ref = provider.create(MACHINE, cancel)
    assert ref.outputs["power"] == "running"
    provider.cloud.stop("machine")
    assert provider.read(ref).outputs["power"] == "stopped"
    assert provider.update(ref, MACHINE, cancel) == ref == provider.read(ref)


def test_what_somebody_deleted_is_gone_and_cannot_be_updated(cancel):
    provider = FakeProvider({}, REAL)
    refs = [provider.create(one, cancel) for one in (FIREWALL, MACHINE)]
    for ref in refs:
        provider.cloud.remove(ref.name)
    assert [provider.read(ref) for ref in refs] == [None, None]
    for ref, resource in zip(refs, (FIREWALL, MACHINE), strict=True):
        with pytest.raises(NotFound):
            provider.update(ref, resource, cancel)
        provider.delete(ref, cancel)


def test_a_machine_switches_itself_off_when_its_time_is_over(cancel):
    provider = FakeProvider({}, REAL)
    ends = {"past": "2001-01-01T00:00:00Z", "future": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(2**32))}
    refs = {name: provider.create(machine(name, expires_at=end), cancel) for name, end in ends.items()}
    assert {name: provider.read(ref).outputs["power"] for name, ref in refs.items()} == {
        "past": "stopped",
        "future": "running",
    }


def test_everything_of_ours_is_found_with_its_owner_and_nothing_of_others(cancel):
    provider = FakeProvider({}, REAL)
    provider.cloud.add(Kind.MACHINE, "theirs")
    other = Owner("ffffffff", "q", "t")
    provider.create(MACHINE, cancel)
    provider.create(replace(FIREWALL, owner=other), cancel)
    found = [(one.ref.name, one.owner) for one in provider.find_all()]
    assert found == [("firewall", other), ("machine", OWNER)]


def test_a_name_that_somebody_else_uses_is_neither_taken_over_nor_deleted(cancel):
    provider = FakeProvider({}, REAL)
    provider.cloud.add(Kind.FIREWALL, "firewall")
    with pytest.raises(Conflict):
        provider.create(FIREWALL, cancel)
    ours = FakeProvider({}, REAL).create(FIREWALL, cancel)
    with pytest.raises(InvalidRequest):
        provider.delete(ours, cancel)
    assert provider.cloud.names == ["firewall"]


def test_a_network_that_exists_is_used_and_left(cancel):
    provider = FakeProvider({"network": "theirs"}, REAL)
    provider.cloud.add(Kind.NETWORK, "theirs")
    assert list(provider.kinds(is_server=True)) == [Kind.ADDRESS, Kind.NETWORK, Kind.FIREWALL, Kind.MACHINE]
    network = Resource(Kind.NETWORK, "network", OWNER)
    ref = provider.create(network, cancel)
    assert (ref.name, ref.id, ref.is_adopted, provider.read(ref)) == ("network", "theirs", True, ref)
    used = provider.create(replace(MACHINE, needs=(ref,)), cancel)
    assert provider.find("0123abcd") == [used]
    for refused in (lambda: provider.delete(ref, cancel), lambda: provider.update(ref, network, cancel)):
        with pytest.raises(InvalidRequest):
            refused()
    assert provider.cloud.names == ["theirs", "machine"]


def test_a_machine_that_exists_is_used_and_left(cancel):
    provider = FakeProvider({"machine": "theirs", **REACH}, REAL)
    provider.cloud.add(Kind.MACHINE, "theirs")
    assert list(provider.kinds(is_server=True)) == [Kind.MACHINE]
    ref = provider.create(MACHINE, cancel)
    assert ref.is_adopted
    assert {**ref.outputs, **REACH, "address": "198.51.100.1", "power": "running"} == ref.outputs
    assert (provider.find("0123abcd"), provider.price(Kind.MACHINE, SPEC)) == ([], None)
    with pytest.raises(InvalidRequest):
        provider.delete(ref, cancel)
    provider.cloud.remove("theirs")
    assert provider.read(ref) is None


@pytest.mark.parametrize(("key", "resource"), [("network", replace(MACHINE, kind=Kind.NETWORK)), ("machine", MACHINE)])
def test_what_is_to_be_adopted_and_does_not_exist_is_a_finding_and_a_refusal(key, resource, cancel):
    provider = FakeProvider({key: "theirs", **REACH}, REAL)
    provider.cloud.add(Kind.FIREWALL, "theirs")
    assert [(check.name, check.ok) for check in provider.check(Demand(()))] == [(key, False)]
    with pytest.raises(InvalidRequest, match="theirs"):
        provider.create(resource, cancel)


@pytest.mark.parametrize("key", sorted(REACH))
def test_a_machine_that_exists_comes_with_how_it_is_reached(key):
    with pytest.raises(InvalidRequest, match=key):
        FakeProvider({"machine": "theirs", **REACH, key: ""}, REAL)


def test_everything_that_is_wrong_is_reported_at_once():
    settings = {"denied": "create machine", "quota_vcpus": "1", "quota_addresses": "0", "network": "none"}
    found = FakeProvider(settings, REAL).check(demand_of((SPEC, replace(SPEC, size="huge")), addresses=1))
    assert [(check.name, check.ok) for check in found] == [
        ("permissions", False),
        ("size", False),
        ("quota", False),
        ("quota", False),
        ("network", False),
    ]
