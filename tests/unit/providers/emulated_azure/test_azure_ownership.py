"""What is ours in a subscription, what is not, and what holds it; asked of the emulated Azure, without hosts."""

import threading
from dataclasses import replace

import pytest
from clouddeploy_providers.azure.operations import IN_USE_S
from clouddeploy_providers.errors import DeadlineExceeded, InvalidRequest
from clouddeploy_providers.naming import TAG_DEPLOYMENT, resource_name
from clouddeploy_providers.resources import Demand, FirewallRule, Kind, MachineSpec, Need, Owner, Resource, ResourceRef
from clouddeploy_rehearsal.azure import catalog
from clouddeploy_rehearsal.azure.server import SUBSCRIPTION
from clouddeploy_rehearsal.azure.store import Refused

pytestmark = pytest.mark.xdist_group("emulated-azure")

OWNER = Owner("0123abcd", "p", "s")
SPEC = MachineSpec(None, None, 30, "fl", "ssh-ed25519 AAAA", "#cloud-config\n")
WESTUS2 = {"location": "westus2"}


@pytest.fixture
def cancel():
    return threading.Event()


def resource(kind, refs, sources=("192.0.2.1/32",)):
    rules = (FirewallRule(port=22, sources=sources, purpose="ssh"),) if kind is Kind.FIREWALL else ()
    machine = SPEC if kind is Kind.MACHINE else None
    return Resource(kind, resource_name(OWNER, kind), OWNER, rules, machine, tuple(refs.values()))


def site(provider):
    refs = {}
    for kind in provider.kinds(is_server=True):
        refs[kind] = provider.create(resource(kind, refs), threading.Event())
    return refs


def add(cloud, arm_id, tags):
    cloud.store.add_theirs(arm_id, {})
    cloud.store.resources[arm_id.lower()]["tags"] = tags


def disk(group, name):
    return f"{group.id}/providers/Microsoft.Compute/disks/{name}"


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("scans-disk", {}),
        ("cd-p-s-machine-ffffffff-disk", {}),
        ("cd-p-s-machine-ffffffff-disk", {TAG_DEPLOYMENT: "ffffffff"}),
        ("cd-p-s-machine-0123abcd-disk", {TAG_DEPLOYMENT: "ffffffff"}),
        # A policy may give everything in a group the group's tags.
        ("scans", {TAG_DEPLOYMENT: OWNER.deployment}),
    ],
)
def test_a_disk_that_somebody_put_into_a_group_of_ours_is_neither_found_nor_deleted(
    name, tags, cloud, provider, cancel
):
    """Whatever it is called: a disk is part of a machine of ours only where its name says of which deployment."""
    group = provider.create(resource(Kind.GROUP, {}), cancel)
    theirs = disk(group, name)
    add(cloud, theirs, tags)
    assert provider.find(OWNER.deployment) == [group]
    with pytest.raises(InvalidRequest, match=name):
        provider.delete(group, cancel)
    assert theirs.lower() in cloud.store.resources


def test_a_machine_whose_name_is_not_one_of_ours_is_left_alone_with_what_is_called_like_it(cloud, provider, cancel):
    group = provider.create(resource(Kind.GROUP, {}), cancel)
    add(cloud, disk(group, "scans-disk"), {})
    machine = f"{group.id}/providers/Microsoft.Compute/virtualMachines/scans"
    with pytest.raises(InvalidRequest, match="not ours"):
        provider.delete(ResourceRef(Kind.MACHINE, "scans", machine), cancel)
    assert disk(group, "scans-disk").lower() in cloud.store.resources


@pytest.mark.parametrize("tags", [{}, {TAG_DEPLOYMENT: OWNER.deployment}], ids=["without-tags", "with-its-tags"])
def test_a_disk_that_is_left_of_a_machine_in_our_group_is_found_and_goes(tags, cloud, provider, cancel):
    refs = site(provider)
    provider.delete(refs[Kind.MACHINE], cancel)
    add(cloud, disk(refs[Kind.GROUP], f"{refs[Kind.MACHINE].name}-disk"), tags)
    found = provider.find(OWNER.deployment)
    assert [ref.kind for ref in found] == list(Kind)
    provider.delete(found[-1], cancel)
    assert [ref.kind for ref in provider.find(OWNER.deployment)] == list(Kind)[:-1]
    provider.delete(refs[Kind.GROUP], cancel)
    assert cloud.store.resources == {}


def test_a_list_by_tag_tells_no_tags_as_in_azure(cloud, make):
    """Azure/azure-sdk-for-python#7956; whoever relied on them would find nothing."""
    cloud.store.add_theirs(f"/subscriptions/{SUBSCRIPTION}/resourceGroups/theirs", {})
    provider = make(resource_group="theirs")
    site(provider)
    wanted = f"tagName eq '{TAG_DEPLOYMENT}'"
    assert {one.tags is None for one in provider._resources.resources.list(filter=wanted)} == {True}
    assert len(provider.find(OWNER.deployment)) == len(provider.find_all()) == 4


def test_a_disk_that_is_left_alone_in_a_group_of_somebody_else_is_found_by_the_tags_it_got(cloud, make, cancel):
    """Azure gives a disk that is born with its machine the machine's tags."""
    cloud.store.add_theirs(f"/subscriptions/{SUBSCRIPTION}/resourceGroups/theirs", {})
    provider = make(resource_group="theirs")
    refs = site(provider)
    for key in [key for key in cloud.store.resources if "/providers/" in key and not key.endswith("-disk")]:
        del cloud.store.resources[key]
    [left] = provider.find(OWNER.deployment)
    assert (left.kind, left.name) == (Kind.MACHINE, refs[Kind.MACHINE].name)
    assert [one.owner for one in provider.find_all()] == [OWNER]
    provider.delete(left, cancel)
    assert cloud.resources() == []


def test_what_was_made_in_another_subscription_is_not_taken_for_gone(provider, cancel):
    """There everything is absent, and absent means deleted."""
    ref = site(provider)[Kind.MACHINE]
    elsewhere = replace(ref, id=ref.id.replace(SUBSCRIPTION, "44444444-aaaa"))
    for call in (
        lambda: provider.read(elsewhere),
        lambda: provider.read(replace(elsewhere, is_adopted=True)),
        lambda: provider.delete(elsewhere, cancel),
        lambda: provider.update(elsewhere, resource(Kind.MACHINE, {}), cancel),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert [word for word in ("44444444-aaaa", SUBSCRIPTION) if word not in str(caught.value)] == []
    # Ids come in varying case.
    assert provider.read(replace(ref, id=ref.id.upper().replace("RESOURCEGROUPS", "resourceGroups"))) is not None


def demand(*, deployment="", names=(), addresses=1, charged=None):
    machines = (SPEC,) * addresses
    charged = machines if charged is None else charged
    return Demand(machines, addresses, charged, len(charged), deployment, frozenset(names))


def quota(provider, wanted):
    return [check.problem for check in provider.check(wanted) if check.name == "quota" and not check.ok]


def test_what_a_killed_run_made_is_not_counted_twice(cloud, provider):
    """What is demanded and exists already is in the demand; in the count of what is used, too, it would be twice."""
    cloud.account.limits = {"cores": 3, "standardBSFamily": 3, "virtualMachines": 1, "StandardSkuPublicIpAddresses": 1}
    names = {ref.name for ref in site(provider).values()}
    assert len(quota(provider, demand())) == 4
    assert quota(provider, demand(deployment=OWNER.deployment, names=names)) == []
    assert len(quota(provider, demand(deployment="ffffffff", names=names))) == 4
    assert len(quota(provider, demand(deployment=OWNER.deployment, names={"other"}))) == 4
    assert len(quota(provider, demand(deployment=OWNER.deployment, names=names, addresses=2))) == 4


def test_a_quota_is_held_against_what_is_charged_to_it_in_all_places(cloud, provider, make):
    """Two sites of one deployment share a subscription's quota; each of them alone would fit."""
    cloud.account.limits = {"cores": 3}
    assert "4 more needed" in quota(provider, demand(charged=(SPEC, SPEC)))[0]
    assert quota(provider, demand(addresses=2, charged=())) == []
    cloud.store.add_theirs(f"/subscriptions/{SUBSCRIPTION}/resourceGroups/theirs", {})
    assert provider.quota_scope == make(resource_group="theirs").quota_scope == f"azure {SUBSCRIPTION} westus2"
    assert provider.quota_scope != make(location="eastus").quota_scope


def test_a_gpu_that_is_not_known_is_not_offered(monkeypatch, provider):
    """It may be AMD's, for which no site's software is made."""
    amd = catalog.Sold("Standard_NG8ads_V620_v1", "StandardNGADSV620v1Family", 8, 16, gpus=1)
    monkeypatch.setattr(catalog, "EVERYTHING", (*catalog.EVERYTHING, amd))
    sizes = {offer.size for offer in provider.offers(Need(vcpus=4))}
    assert amd.name not in sizes
    assert "Standard_NC4as_T4_v3" in sizes


def test_sources_that_overlap_are_refused_as_in_azure(provider, cancel):
    refs = {Kind.GROUP: provider.create(resource(Kind.GROUP, {}), cancel)}
    twice = resource(Kind.FIREWALL, refs, sources=("192.0.2.0/24", "192.0.2.7/32"))
    with pytest.raises(InvalidRequest, match="OverlappingSubnetsNotPermittedInSecurityRule"):
        provider.create(twice, cancel)


def test_the_wait_for_an_interface_begins_when_azure_first_refuses_it(cloud, provider, monkeypatch, virtual_time):
    """The machine's own deletion may take minutes, and the interface is reserved for three more."""
    machine = site(provider)[Kind.MACHINE]
    clock = cloud.store.clock = provider._clock = virtual_time
    nic = next(key for key in cloud.store.resources if key.endswith("-nic"))
    delete = provider._machines._delete_machine

    def slow(*given):
        if nic not in cloud.store._reserved:
            clock.now_s += 200
            cloud.store._reserved[nic] = clock() + 180
        delete(*given)

    monkeypatch.setattr(provider._machines, "_delete_machine", slow)
    provider.delete(machine, clock)
    assert provider.find(OWNER.deployment)[-1].kind is Kind.FIREWALL


def test_what_is_never_let_go_says_who_holds_it(cloud, provider, virtual_time):
    refs = site(provider)
    clock = provider._clock = virtual_time
    began = clock()
    with pytest.raises(DeadlineExceeded) as caught:
        provider.delete(refs[Kind.NETWORK], clock)
    assert "InUseSubnetCannotBeDeleted" in caught.value.why
    assert "-nic" in caught.value.why
    assert clock() - began >= IN_USE_S


def test_a_lock_is_said_at_once(cloud, provider, cancel, monkeypatch):
    refs = site(provider)

    def locked(*_given):
        raise Refused(409, "ScopeLocked", "The scope cannot perform delete operation. Please remove the lock.")

    monkeypatch.setattr(cloud.store, "delete", locked)
    provider._polling_s = 60
    for kind in (Kind.MACHINE, Kind.NETWORK, Kind.GROUP):
        with pytest.raises(InvalidRequest, match="ScopeLocked") as caught:
            provider.delete(refs[kind], cancel)
        assert "remove the lock" in caught.value.hint


def test_a_label_of_another_deployment_is_taken(cloud, make):
    provider = make(dns_label="ours")
    site(provider)
    wanted = {name: demand(deployment=name) for name in (OWNER.deployment, "ffffffff")}
    found = {
        name: [check.name for check in provider.check(one) if not check.ok and check.name == "label"]
        for name, one in wanted.items()
    }
    assert found == {OWNER.deployment: [], "ffffffff": ["label"]}
