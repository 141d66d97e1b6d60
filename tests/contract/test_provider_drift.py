"""What every provider promises about changes behind our back: they are seen, and `update` mends what it can."""

from dataclasses import replace

import pytest
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.resources import FirewallRule, Kind, rules_text

pytestmark = pytest.mark.xdist_group("emulated-clouds")

SSH = FirewallRule(port=22, sources=("192.0.2.1/32",), purpose="ssh")
THEIRS = FirewallRule(port=3389, sources=("0.0.0.0/0",), purpose="theirs")


def firewall(site, cancel):
    """The site's firewall; made without its machine, which says nothing about it."""
    refs = site.create(cancel, until=Kind.MACHINE)
    return refs.get(Kind.FIREWALL)


def power(ref):
    return ref.outputs["power"]


def test_a_rule_that_somebody_added_is_seen_and_taken_away(case, site, cancel):
    ref = firewall(site, cancel)
    case.allow(ref)
    assert site.provider.read(ref).outputs["rules"] == rules_text([SSH, THEIRS])
    [found] = [one for one in site.provider.find(site.deployment) if one.kind is Kind.FIREWALL]
    assert case.identity([found]) == case.identity([ref])
    for _ in range(2):
        updated = site.provider.update(ref, site.resource(Kind.FIREWALL), cancel)
        assert updated.outputs["rules"] == rules_text([SSH])
        assert case.rules(ref) == {(22, "192.0.2.1/32")}


def test_a_firewall_is_made_again_with_the_rules_that_are_wanted(case, site, cancel):
    """`create` finds what a killed run left; what somebody added to it meanwhile must not stay."""
    ref = firewall(site, cancel)
    case.allow(ref)
    again = site.provider.create(site.resource(Kind.FIREWALL), cancel)
    assert case.identity([again]) == case.identity([ref])
    assert again.outputs["rules"] == site.provider.read(ref).outputs["rules"]


def test_a_machine_that_somebody_stopped_is_seen_and_started(case, site, cancel):
    ref = site.create(cancel)[Kind.MACHINE]
    case.stop(ref)
    assert power(site.provider.read(ref)) == "stopped"
    assert case.identity(site.provider.find(site.deployment)) == case.owned(site.refs)
    for _ in range(2):
        started = site.provider.update(ref, site.resource(Kind.MACHINE), cancel)
        assert case.identity([started]) == case.identity([ref])
        assert power(started) == power(site.provider.read(ref)) == "running"
        assert started.outputs["address"] == ref.outputs["address"]


def test_a_running_machine_is_not_touched_by_update(site, cancel):
    ref = site.create(cancel)[Kind.MACHINE]
    if ref.is_adopted:
        pytest.skip("its machines are never changed")
    assert site.provider.update(ref, site.resource(Kind.MACHINE), cancel) == ref


def test_a_stopped_machine_can_be_deleted(case, site, cancel):
    ref = site.create(cancel)[Kind.MACHINE]
    case.stop(ref)
    site.delete(cancel)
    assert site.provider.read(ref) is None
    assert site.provider.find(site.deployment) == []


def test_what_somebody_deleted_is_gone_and_its_deletion_is_fine(case, site, cancel):
    refs = site.create(cancel)
    for ref in reversed(refs.values()):
        case.remove(ref)
        assert site.provider.read(ref) is None
    for _ in range(2):
        site.delete(cancel)
    assert site.provider.find(site.deployment) == []


def test_a_machine_that_somebody_deleted_is_made_again_beside_what_is_left(case, site, cancel):
    ref = site.create(cancel)[Kind.MACHINE]
    case.remove(ref)
    site.attempt += 1
    again = site.create(cancel)
    assert case.identity(site.provider.find(site.deployment)) == case.owned(again)


def test_what_is_adopted_is_neither_changed_nor_deleted(case, site, cancel):
    """The word in the reference is enough: owned and adopted must never be confused."""
    for ref in site.create(cancel).values():
        adopted = replace(ref, is_adopted=True)
        for refused in (
            lambda adopted=adopted: site.provider.delete(adopted, cancel),
            lambda adopted=adopted: site.provider.update(adopted, site.resource(adopted.kind), cancel),
        ):
            with pytest.raises(InvalidRequest):
                refused()
        assert site.provider.read(ref) is not None
    assert case.identity(site.provider.find(site.deployment)) == case.owned(site.refs)
