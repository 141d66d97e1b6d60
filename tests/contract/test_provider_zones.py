"""What every provider promises about zones and about a machine's end."""

import time

import pytest
from clouddeploy_providers import cloud_init
from clouddeploy_providers.errors import CapacityError, InvalidRequest
from clouddeploy_providers.resources import Kind

pytestmark = pytest.mark.xdist_group("emulated-clouds")

HOUR_S = 3600


@pytest.fixture
def zoned(case):
    if not case.zones:
        pytest.skip("it has no zones")
    return case


@pytest.fixture
def client(zoned, make_site):
    return make_site(zoned.shared, is_server=False)


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_the_first_zone_that_is_named_is_taken(order, zoned, client, cancel):
    zones = zoned.zones[::order]
    machine = client.create(cancel, zones=zones)[Kind.MACHINE]
    assert machine.outputs["zone"] == zones[0]
    assert client.provider.read(machine).outputs["zone"] == zones[0]


def test_a_server_with_its_address_goes_where_it_is_told(zoned, make_site, cancel):
    """An address that is bound to one zone would keep the machine out of the others."""
    site = make_site(zoned.shared)
    refs = site.create(cancel, zones=zoned.zones[1:])
    assert refs[Kind.MACHINE].outputs["zone"] == zoned.zones[1]
    assert refs[Kind.MACHINE].outputs["address"] == refs[Kind.ADDRESS].outputs["address"]


def test_created_again_with_other_zones_it_stays_where_it_is(zoned, client, cancel):
    first = dict(client.create(cancel, zones=zoned.zones[1:]))
    assert client.create(cancel, zones=zoned.zones) == first


def test_a_zone_that_does_not_exist_is_refused_and_leaves_no_machine(zoned, client, cancel):
    client.create(cancel, until=Kind.MACHINE)
    with pytest.raises((CapacityError, InvalidRequest)) as caught:
        client.provider.create(client.resource(Kind.MACHINE, zones=("nowhere",)), cancel)
    assert caught.value.hint
    assert zoned.identity(client.provider.find(client.deployment)) == zoned.owned(client.refs)


def test_where_no_named_zone_has_one_free_that_is_what_is_said(zoned, client, cancel):
    client.create(cancel, until=Kind.MACHINE)
    with pytest.raises(CapacityError) as caught:
        client.provider.create(client.resource(Kind.MACHINE, size=zoned.scarce, zones=zoned.zones), cancel)
    assert [zone for zone in zoned.zones if zone not in str(caught.value)] == []
    assert zoned.identity(client.provider.find(client.deployment)) == zoned.owned(client.refs)


def test_a_machine_may_have_an_end(case, site, cancel):
    """The machine keeps it (cloud_init); the provider accepts it and says it in the cloud."""
    end = time.strftime(cloud_init.EXPIRES_AT, time.gmtime(time.time() + 8 * HOUR_S))
    first = dict(site.create(cancel, expires_at=end))
    assert site.create(cancel, expires_at=end) == first
    assert case.identity(site.provider.find(site.deployment)) == case.owned(first)
    site.delete(cancel)
    assert site.provider.find(site.deployment) == []
