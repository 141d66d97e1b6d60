"""Throttled, dropped, lost, cancelled, killed: what was made is made once, and everything can be found and deleted."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ConnectionClosedError
from clouddeploy_providers.azure import network as azure_bodies
from clouddeploy_providers.errors import CapacityError, Conflict, InvalidRequest, Transient
from clouddeploy_providers.resources import Demand, Kind, Need
from clouddeploy_rehearsal.azure.store import MACHINES, Refused

pytestmark = pytest.mark.xdist_group("emulated-clouds")

CLOUDS = pytest.mark.parametrize("name", ["aws", "azure"])
SOON_S = 10


def machines_created(cloud):
    return cloud.created if hasattr(cloud, "created") else cloud.store.created


def delete_found(site, cancel):
    """As destroy does after a kill: only what the tag search says is known."""
    for ref in reversed(site.provider.find(site.deployment)):
        site.provider.delete(ref, cancel)


@pytest.mark.parametrize(
    ("name", "fault"), [("aws", "throttle_every"), ("azure", "throttle_every"), ("azure", "drop_every")]
)
def test_every_fifth_call_fails_and_the_site_is_made_once(name, fault, start_cloud, make_site, cancel):
    started = start_cloud(name, **{fault: 5})
    site = make_site(started.provider)
    first = dict(site.create(cancel))
    assert site.create(cancel) == first
    assert machines_created(started.cloud) == 1
    site.delete(cancel)
    assert site.provider.find(site.deployment) == []


@CLOUDS
def test_every_ninth_call_is_refused_and_every_question_is_answered(name, start_cloud, make_site, cancel):
    """A preflight that fails because others are busy would be believed."""
    started = start_cloud(name, throttle_every=9)
    site = make_site(started.provider, is_server=False)
    assert [check for check in site.provider.check(Demand((site.spec(),))) if not check.ok] == []
    assert site.provider.offers(Need(vcpus=2))
    assert site.provider.resolve_image(site.spec())
    firewall = site.create(cancel, until=Kind.MACHINE)[Kind.FIREWALL]
    updated = site.provider.update(firewall, site.resource(Kind.FIREWALL, rules=()), cancel)
    assert updated.outputs["rules"] == ""
    assert len(site.provider.find_all()) == len(site.refs)
    assert [ref for ref in site.refs.values() if site.provider.read(ref) is None] == []
    delete_found(site, cancel)
    assert site.provider.find_all() == []


@pytest.mark.parametrize(("name", "zones"), [("aws", ("us-west-2a", "us-west-2b")), ("azure", ("1", "2"))])
def test_a_zone_without_capacity_is_followed_by_the_next_one(name, zones, start_cloud, make_site, cancel):
    expected = zones[1]
    started = start_cloud(name, scarce_zones=1)
    for is_server in (True, False):
        site = make_site(started.provider, is_server=is_server)
        refs = dict(site.create(cancel, zones=zones))
        assert refs[Kind.MACHINE].outputs["zone"] == expected
        assert site.create(cancel, zones=zones) == refs
        assert len(site.provider.find(site.deployment)) == len(refs)


@CLOUDS
def test_where_no_zone_has_capacity_nothing_of_the_machine_stays(name, start_cloud, make_site, cancel):
    started = start_cloud(name, scarce_zones=9)
    site = make_site(started.provider, is_server=False)
    before = site.create(cancel, until=Kind.MACHINE)
    with pytest.raises(CapacityError) as caught:
        site.provider.create(site.resource(Kind.MACHINE), cancel)
    assert caught.value.hint
    assert len(site.provider.find(site.deployment)) == len(before)
    delete_found(site, cancel)
    assert site.provider.find_all() == []


@CLOUDS
def test_a_cancelled_wait_ends_soon_and_the_next_run_adopts_the_machine(name, start_cloud, make_site, cancel):
    started = start_cloud(name)
    started.fleet.may_boot.clear()
    site = make_site(started.provider)
    site.create(cancel, until=Kind.MACHINE)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(site.provider.create, site.resource(Kind.MACHINE), cancel)
        while machines_created(started.cloud) == 0:
            assert not running.done(), running.exception()
        cancel.set()
        with pytest.raises(Transient) as caught:
            running.result(timeout=SOON_S)
    assert caught.value.hint
    started.fleet.may_boot.set()
    site.create(threading.Event())
    assert machines_created(started.cloud) == 1


@CLOUDS
def test_a_machine_that_still_boots_can_be_deleted(name, start_cloud, make_site, cancel):
    started = start_cloud(name)
    started.fleet.may_boot.clear()
    site = make_site(started.provider)
    site.create(cancel, until=Kind.MACHINE)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(site.provider.create, site.resource(Kind.MACHINE), cancel)
        while machines_created(started.cloud) == 0:
            assert not running.done(), running.exception()
        cancel.set()
        assert isinstance(running.exception(timeout=SOON_S), Transient)
    delete_found(site, threading.Event())
    assert site.provider.find(site.deployment) == []


class Lossy:
    """An EC2 client that carries one request out and loses the answer."""

    def __init__(self, client, verb):
        self._client, self._verb = client, verb

    def __getattr__(self, verb):
        call = getattr(self._client, verb)
        if verb != self._verb:
            return call

        def lost(**given):
            self._verb = ""
            call(**given)
            raise ConnectionClosedError(endpoint_url="http://127.0.0.1")

        return lost


@pytest.mark.parametrize("verb", ["run_instances", "create_security_group", "authorize_security_group_ingress"])
def test_aws_carried_it_out_but_the_answer_was_lost(verb, start_cloud, make_site, cancel, monkeypatch):
    started = start_cloud("aws")
    clients = started.provider._clients
    monkeypatch.setattr(type(clients), "changes", Lossy(clients.changes, verb))
    site = make_site(started.provider)
    refs = site.create(cancel)
    assert machines_created(started.cloud) == 1
    assert len(site.provider.find(site.deployment)) == len(refs)


def test_azure_carried_it_out_but_the_answer_was_lost(start_cloud, make_site, cancel):
    """The SDK repeats the request by itself, and the second one is told that the machine exists."""
    started = start_cloud("azure")
    put, lost = started.cloud.store.put, []

    def lossy_put(arm_id, kind, body):
        answer = put(arm_id, kind, body)
        if kind == MACHINES and not lost:
            lost.append(arm_id)
            raise Refused(503, "ServiceUnavailable", "The answer is lost.")
        return answer

    started.cloud.store.put = lossy_put
    site = make_site(started.provider)
    refs = site.create(cancel)
    assert lost
    assert machines_created(started.cloud) == 1
    assert refs[Kind.MACHINE].outputs["address"] == refs[Kind.ADDRESS].outputs["address"]


def test_azure_killed_between_interface_and_machine_destroy_still_ends(start_cloud, make_site, cancel):
    """The interface alone would hold firewall, network and address for ever."""
    started = start_cloud("azure")
    site = make_site(started.provider)
    refs = site.create(cancel, until=Kind.MACHINE)
    resource = site.resource(Kind.MACHINE)
    ids = {kind.value: refs[kind].id for kind in (Kind.NETWORK, Kind.ADDRESS, Kind.FIREWALL)}
    body = azure_bodies.interface(resource, "westus2", ids)
    interfaces = started.provider._network.network_interfaces
    interfaces.begin_create_or_update(refs[Kind.GROUP].name, f"{resource.name}-nic", body).result()

    found = {ref.kind: ref for ref in site.provider.find(site.deployment)}
    assert found[Kind.MACHINE].name == resource.name
    assert site.provider.read(found[Kind.MACHINE]) is None
    delete_found(site, cancel)
    assert started.cloud.store.resources == {}


def test_azure_a_machine_that_failed_is_made_anew(start_cloud, make_site, cancel):
    started = start_cloud("azure")
    site = make_site(started.provider)
    site.create(cancel)
    key = site.refs[Kind.MACHINE].id.lower()
    started.cloud.store.resources[key]["properties"]["provisioningState"] = "Failed"
    site.create(cancel)
    assert started.cloud.store.resources[key]["properties"]["provisioningState"] == "Succeeded"


def test_azure_no_capacity_leaves_no_interface(start_cloud, make_site, cancel):
    started = start_cloud("azure", no_capacity=frozenset({"Standard_B2s"}))
    site = make_site(started.provider)
    with pytest.raises(Exception, match="SkuNotAvailable"):
        site.create(cancel)
    assert not [key for key in started.cloud.store.resources if "networkinterfaces" in key or "virtualmachines" in key]


def test_azure_a_group_takes_along_what_is_in_it(start_cloud, make_site, cancel):
    started = start_cloud("azure")
    site = make_site(started.provider)
    refs = site.create(cancel)
    site.provider.delete(refs[Kind.GROUP], cancel)
    assert started.cloud.store.resources == {}
    site.delete(cancel)


def test_azure_a_group_of_somebody_else_is_left_alone(start_cloud, make_site, cancel):
    started = start_cloud("azure")
    site = make_site(started.provider)
    group = site.resource(Kind.GROUP)
    started.provider._resources.resource_groups.create_or_update(
        group.name, {"location": "westus2", "tags": {"a": "b"}}
    )
    with pytest.raises(Conflict):
        site.provider.create(group, cancel)
    assert site.provider.find(site.deployment) == []


def test_aws_without_a_default_network_says_what_to_name(start_cloud, make_site, cancel):
    started = start_cloud("aws")
    ec2 = started.provider._clients.changes
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    for subnet in ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    ec2.delete_vpc(VpcId=vpc)
    site = make_site(started.provider, is_server=False)
    with pytest.raises(InvalidRequest) as caught:
        site.create(cancel)
    assert "subnet_id" in caught.value.hint
    assert [check.name for check in site.provider.check(Demand((site.spec(),))) if not check.ok] == ["network"]

    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24", AvailabilityZone="us-west-2b")["Subnet"]["SubnetId"]
    refs = make_site(started.elsewhere({"region": "us-west-2", "subnet_id": subnet}), is_server=False).create(cancel)
    assert refs[Kind.MACHINE].outputs["zone"] == "us-west-2b"
    assert refs[Kind.FIREWALL].outputs["vpc"] == vpc
