"""What every provider promises; the engine relies on each of these and on nothing else."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.errors import AuthenticationError, CapacityError, InvalidRequest
from clouddeploy_providers.resources import FirewallRule, Kind

pytestmark = pytest.mark.xdist_group("emulated-clouds")

SSH = FirewallRule(port=22, sources=("192.0.2.1/32",), purpose="ssh")
UNKNOWN_SIZE = "no.such.size"


def identity(refs):
    """ARM ids come back in varying case, and a listing need not carry outputs."""
    return sorted((ref.kind.value, ref.name, ref.id.lower()) for ref in refs)


def owned(case, refs):
    """What `find` has to see: a provider that creates nothing owns nothing."""
    return [] if case.shared.creates_nothing else identity(refs.values())


def test_the_machine_comes_last_and_no_kind_twice(case):
    provider = case.shared
    for is_server in (True, False):
        kinds = list(provider.kinds(is_server=is_server))
        assert kinds[-1] is Kind.MACHINE
        assert sorted(kinds, key=list(Kind).index) == kinds
        assert len(set(kinds)) == len(kinds)


def test_the_constructor_contacts_nobody(case):
    """A provider is made for `plan` too, which works without a network."""
    away = Endpoints(
        aws=replace(case.endpoints.aws, url="http://127.0.0.1:9") if case.endpoints.aws else None,
        azure=replace(case.endpoints.azure, url="https://localhost:9") if case.endpoints.azure else None,
    )
    provider = type(case.shared)(case.settings, away)
    assert provider.place
    assert provider.kinds(is_server=True)


def test_check_finds_nothing_wrong_where_nothing_is(case, site):
    assert [check for check in site.provider.check([site.spec()]) if not check.ok] == []


def test_an_image_that_is_given_is_kept_and_a_default_one_is_stable(case, site):
    """The id is pinned: a newer image is no reason to replace a machine."""
    resolve = site.provider.resolve_image
    assert resolve(site.spec()) == resolve(site.spec())
    if resolve(site.spec()):
        given = replace(site.spec(), image="a:b:c:1.2.3")
        assert resolve(given) == "a:b:c:1.2.3"


def test_created_twice_it_exists_once(case, site, cancel):
    first = dict(site.create(cancel))
    assert site.create(cancel) == first
    assert identity(site.provider.find(site.deployment)) == owned(case, first)


def test_a_second_process_finds_what_the_first_created(case, site, cancel):
    first = dict(site.create(cancel))
    assert site.create(cancel, provider=case.provider()) == first
    assert identity(site.provider.find(site.deployment)) == owned(case, first)


def test_a_machine_says_where_it_is_reached(case, site, cancel):
    refs = site.create(cancel)
    machine = refs[Kind.MACHINE].outputs
    assert machine["address"]
    if "directory" not in machine and case.name != "fake":
        assert machine["ssh_port"] == "22"
        assert machine["user"] == "fl"
    if Kind.ADDRESS in refs:
        assert machine["address"] == refs[Kind.ADDRESS].outputs["address"]


def test_find_sees_its_deployment_in_creation_order_and_no_other(case, site, make_site, cancel):
    other = make_site(site.provider)
    mine, others = site.create(cancel), other.create(cancel)
    found = site.provider.find(site.deployment)
    assert identity(found) == owned(case, mine)
    assert [ref.kind for ref in found] == sorted((ref.kind for ref in found), key=list(Kind).index)
    assert identity(site.provider.find(other.deployment)) == owned(case, others)


def test_two_sites_of_a_deployment_are_told_apart(case, site, make_site, cancel):
    client = make_site(site.provider, deployment=site.deployment, is_server=False)
    refs = [*site.create(cancel).values(), *client.create(cancel).values()]
    expected = [] if site.provider.creates_nothing else identity(refs)
    assert identity(site.provider.find(site.deployment)) == expected


def test_read_returns_what_create_returned(case, site, cancel):
    for ref in site.create(cancel).values():
        there = site.provider.read(ref)
        assert there is not None
        assert identity([there]) == identity([ref])
        assert dict(there.outputs) == dict(ref.outputs)


def test_update_makes_a_firewall_equal_to_the_rules(case, site, cancel):
    if Kind.FIREWALL not in site.kinds:
        pytest.skip("it has no firewall")
    site.create(cancel)
    ref = site.refs[Kind.FIREWALL]
    assert case.rules(site.provider, ref) == {(22, "192.0.2.1/32")}
    moved = replace(SSH, sources=("192.0.2.7/32", "198.51.100.0/24"))
    federation = FirewallRule(port=8002, sources=("0.0.0.0/0",), purpose="federation")
    expected = {(22, "192.0.2.7/32"), (22, "198.51.100.0/24"), (8002, "0.0.0.0/0")}
    for _ in range(2):
        updated = site.provider.update(ref, site.resource(Kind.FIREWALL, rules=(moved, federation)), cancel)
        assert identity([updated]) == identity([ref])
        assert case.rules(site.provider, ref) == expected


def test_anything_but_a_firewall_is_replaced_and_not_updated(case, site, cancel):
    site.create(cancel)
    with pytest.raises(InvalidRequest):
        site.provider.update(site.refs[Kind.MACHINE], site.resource(Kind.MACHINE), cancel)


def test_deleted_twice_it_is_gone_once(case, site, cancel):
    refs = site.create(cancel)
    for _ in range(2):
        site.delete(cancel)
    if not site.provider.creates_nothing:
        assert [site.provider.read(ref) for ref in refs.values()] == [None] * len(refs)
    assert site.provider.find(site.deployment) == []


def test_deleting_one_site_leaves_the_other(case, site, make_site, cancel):
    client = make_site(site.provider, deployment=site.deployment, is_server=False)
    site.create(cancel)
    kept = client.create(cancel)
    site.delete(cancel)
    assert identity(site.provider.find(site.deployment)) == owned(case, kept)


def test_what_was_deleted_can_be_created_again(case, site, cancel):
    site.create(cancel)
    site.delete(cancel)
    site.attempt += 1
    again = site.create(cancel)
    assert identity(site.provider.find(site.deployment)) == owned(case, again)


def test_wrong_credentials_say_what_to_do_and_create_nothing(case, site, make_site, cancel):
    wrong = make_site(case.wrong_provider(), deployment=site.deployment)
    for call in (
        lambda: wrong.provider.check([wrong.spec()]),
        lambda: wrong.create(cancel),
        lambda: wrong.provider.find(site.deployment),
    ):
        with pytest.raises(AuthenticationError) as caught:
            call()
        assert caught.value.hint
    assert site.provider.find(site.deployment) == []


def test_an_unknown_size_is_refused_and_leaves_no_machine(case, site, cancel):
    if case.scarce is None:
        pytest.skip("it has no sizes")
    site.create(cancel, until=Kind.MACHINE)
    with pytest.raises(InvalidRequest):
        site.provider.create(site.resource(Kind.MACHINE, size=UNKNOWN_SIZE), cancel)
    assert identity(site.provider.find(site.deployment)) == owned(case, site.refs)


def test_no_capacity_leaves_no_machine_and_another_size_works(case, site, cancel):
    if case.scarce is None:
        pytest.skip("it has no sizes")
    site.create(cancel, until=Kind.MACHINE)
    with pytest.raises(CapacityError) as caught:
        site.provider.create(site.resource(Kind.MACHINE, size=case.scarce), cancel)
    assert caught.value.hint
    assert identity(site.provider.find(site.deployment)) == owned(case, site.refs)
    site.attempt += 1
    refs = site.create(cancel)
    assert identity(site.provider.find(site.deployment)) == owned(case, refs)


def test_sites_are_made_from_several_threads_at_once(case, make_site, cancel):
    """Verbs are called by a pool of workers on one object per site, clients shared."""
    provider = case.shared
    sites = [make_site(provider, is_server=False) for _ in range(4)]
    with ThreadPoolExecutor(len(sites)) as pool:
        made = list(pool.map(lambda site: site.create(threading.Event()), sites))
    for site, refs in zip(sites, made, strict=True):
        assert identity(provider.find(site.deployment)) == owned(case, refs)
