"""What every provider promises; the engine relies on each of these and on nothing else."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from clouddeploy_providers.errors import AuthenticationError, CapacityError, InvalidRequest
from clouddeploy_providers.resources import FirewallRule, Kind, rules_text

pytestmark = pytest.mark.xdist_group("emulated-clouds")

SSH = FirewallRule(port=22, sources=("192.0.2.1/32",), purpose="ssh")
UNKNOWN_SIZE = "no.such.size"


def test_the_machine_comes_last_and_no_kind_twice(case):
    provider = case.shared
    for is_server in (True, False):
        kinds = list(provider.kinds(is_server=is_server))
        assert kinds[-1] is Kind.MACHINE
        assert sorted(kinds, key=list(Kind).index) == kinds
        assert len(set(kinds)) == len(kinds)


def test_every_key_that_it_is_given_here_is_one_it_named(case):
    """The engine hands over those keys of the deploy file that the provider itself named."""
    assert set(case.settings) <= case.shared.setting_names


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
    assert case.identity(site.provider.find(site.deployment)) == case.owned(first)


def test_a_second_process_finds_what_the_first_created(case, site, cancel):
    first = dict(site.create(cancel))
    assert site.create(cancel, provider=case.provider()) == first
    assert case.identity(site.provider.find(site.deployment)) == case.owned(first)


def test_a_machine_says_where_it_is_reached(case, site, cancel):
    refs = site.create(cancel)
    machine = refs[Kind.MACHINE].outputs
    assert machine["address"]
    if "directory" not in machine and "namespace" not in machine:
        assert machine["ssh_port"] == "22"
        assert machine["user"] == "fl"
    if Kind.ADDRESS in refs:
        assert machine["address"] == refs[Kind.ADDRESS].outputs["address"]


def test_find_sees_its_deployment_in_creation_order_and_no_other(case, site, make_site, cancel):
    other = make_site(site.provider)
    mine, others = site.create(cancel), other.create(cancel)
    found = site.provider.find(site.deployment)
    assert case.identity(found) == case.owned(mine)
    assert [ref.kind for ref in found] == sorted((ref.kind for ref in found), key=list(Kind).index)
    assert case.identity(site.provider.find(other.deployment)) == case.owned(others)


def test_everything_of_ours_is_found_with_its_owner_whatever_the_deployment(case, site, make_site, cancel):
    """Sweep looks for what no state knows any more."""
    sites = (site, make_site(site.provider, is_server=False))
    for one in sites:
        one.create(cancel)
    everything = site.provider.find_all()
    assert [one.ref.kind for one in everything] == sorted((one.ref.kind for one in everything), key=list(Kind).index)
    for one in sites:
        mine = [found for found in everything if found.owner.deployment == one.deployment]
        assert case.identity(found.ref for found in mine) == case.owned(one.refs)
        assert [found.owner for found in mine] == [one.owner] * len(mine)


def test_two_sites_of_a_deployment_are_told_apart(case, site, make_site, cancel):
    client = make_site(site.provider, deployment=site.deployment, is_server=False)
    refs = [*site.create(cancel).values(), *client.create(cancel).values()]
    expected = [] if site.provider.creates_nothing else case.identity(refs)
    assert case.identity(site.provider.find(site.deployment)) == expected


def test_read_returns_what_create_returned(case, site, cancel):
    for ref in site.create(cancel).values():
        there = site.provider.read(ref)
        assert there is not None
        assert case.identity([there]) == case.identity([ref])
        assert dict(there.outputs) == dict(ref.outputs)


def test_a_firewall_says_what_it_lets_in(case, site, cancel):
    if Kind.FIREWALL not in site.kinds:
        pytest.skip("it has no firewall")
    ref = site.create(cancel)[Kind.FIREWALL]
    assert ref.outputs["rules"] == rules_text([SSH])
    assert case.rules(ref) == {(22, "192.0.2.1/32")}


def test_update_makes_a_firewall_equal_to_the_rules(case, site, cancel):
    if Kind.FIREWALL not in site.kinds:
        pytest.skip("it has no firewall")
    ref = site.create(cancel)[Kind.FIREWALL]
    moved = replace(SSH, sources=("192.0.2.7/32", "198.51.100.0/24"))
    federation = FirewallRule(port=8002, sources=("0.0.0.0/0",), purpose="federation")
    expected = {(22, "192.0.2.7/32"), (22, "198.51.100.0/24"), (8002, "0.0.0.0/0")}
    for _ in range(2):
        updated = site.provider.update(ref, site.resource(Kind.FIREWALL, rules=(moved, federation)), cancel)
        assert case.identity([updated]) == case.identity([ref])
        assert updated.outputs["rules"] == rules_text([moved, federation])
        assert case.rules(ref) == expected
        assert site.provider.read(ref).outputs == updated.outputs


def test_what_is_neither_firewall_nor_machine_is_replaced_and_not_updated(case, site, cancel):
    refs = [ref for kind, ref in site.create(cancel).items() if kind not in {Kind.FIREWALL, Kind.MACHINE}]
    if not refs:
        pytest.skip("it has nothing else")
    for ref in refs:
        with pytest.raises(InvalidRequest):
            site.provider.update(ref, site.resource(ref.kind), cancel)


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
    assert case.identity(site.provider.find(site.deployment)) == case.owned(kept)


def test_what_was_deleted_can_be_created_again(case, site, cancel):
    site.create(cancel)
    site.delete(cancel)
    site.attempt += 1
    again = site.create(cancel)
    assert case.identity(site.provider.find(site.deployment)) == case.owned(again)


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
    if not case.has_sizes:
        pytest.skip("it has no sizes")
    site.create(cancel, until=Kind.MACHINE)
    with pytest.raises(InvalidRequest):
        site.provider.create(site.resource(Kind.MACHINE, size=UNKNOWN_SIZE), cancel)
    assert case.identity(site.provider.find(site.deployment)) == case.owned(site.refs)


def test_no_capacity_leaves_no_machine_and_another_size_works(case, site, cancel):
    if not case.has_sizes:
        pytest.skip("it has no sizes")
    site.create(cancel, until=Kind.MACHINE)
    with pytest.raises(CapacityError) as caught:
        site.provider.create(site.resource(Kind.MACHINE, size=case.scarce), cancel)
    assert caught.value.hint
    assert case.identity(site.provider.find(site.deployment)) == case.owned(site.refs)
    site.attempt += 1
    refs = site.create(cancel)
    assert case.identity(site.provider.find(site.deployment)) == case.owned(refs)


def test_sites_are_made_from_several_threads_at_once(case, make_site, cancel):
    """Verbs are called by a pool of workers on one object per site, clients shared."""
    provider = case.shared
    sites = [make_site(provider, is_server=False) for _ in range(4)]
    with ThreadPoolExecutor(len(sites)) as pool:
        made = list(pool.map(lambda site: site.create(threading.Event()), sites))
    for site, refs in zip(sites, made, strict=True):
        assert case.identity(provider.find(site.deployment)) == case.owned(refs)
