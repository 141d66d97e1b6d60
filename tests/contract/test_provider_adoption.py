"""What every provider promises about things that were there before us: used, never changed, never deleted, not ours."""

import pytest
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.resources import Demand, Kind

pytestmark = pytest.mark.xdist_group("emulated-clouds")

JUMP = {"jump": "fl@bastion.example.com:22", "jump_host_key": "SHA256:" + "A" * 43}
REACH = ("user", "identity_file", "host_key")


@pytest.fixture(params=[Kind.GROUP, Kind.NETWORK, Kind.MACHINE], ids=str)
def theirs(request, case, make_site, cancel):
    """Something of somebody else, and the settings that name it."""
    return case.theirs(request.param, make_site(case.shared), cancel)


@pytest.fixture
def adopting(case, theirs, make_site):
    """A site whose deploy file names what exists."""
    return make_site(case.provider(theirs.settings))


def adopted(refs):
    return [ref for ref in refs.values() if ref.is_adopted]


def test_it_is_used_and_survives(case, theirs, adopting, cancel):
    refs = dict(adopting.create(cancel))
    assert adopting.create(cancel) == refs
    ours = [ref for ref in refs.values() if not ref.is_adopted]
    assert case.identity(adopting.provider.find(adopting.deployment)) == case.identity(ours)
    adopting.delete(cancel)
    assert adopting.provider.find(adopting.deployment) == []
    assert theirs.is_there()


def test_the_keys_that_name_it_are_among_those_that_the_provider_knows(theirs, adopting):
    assert set(theirs.settings) <= adopting.provider.setting_names


def test_it_is_refused_to_be_changed_or_deleted_and_is_nobody_s_orphan(case, theirs, adopting, cancel):
    refs = adopting.create(cancel)
    for ref in adopted(refs):
        with pytest.raises(InvalidRequest):
            adopting.provider.delete(ref, cancel)
        with pytest.raises(InvalidRequest):
            adopting.provider.update(ref, adopting.resource(ref.kind), cancel)
        there = adopting.provider.read(ref)
        assert (there.is_adopted, case.identity([there])) == (True, case.identity([ref]))
    everything = {found.ref.id.lower() for found in adopting.provider.find_all()}
    assert everything & {ref.id.lower() for ref in adopted(refs)} == set()
    assert theirs.is_there()


def test_check_has_nothing_against_it_and_makes_nothing(case, theirs, adopting):
    before = case.everything()
    found = adopting.provider.check(Demand((adopting.spec(),) if len(adopting.kinds) > 1 else ()))
    assert [check for check in found if not check.ok and not check.is_warning] == []
    assert case.everything() == before


def test_a_machine_is_reached_as_the_deploy_file_says(case, make_site, cancel):
    theirs = case.theirs(Kind.MACHINE, make_site(case.shared), cancel)
    site = make_site(case.provider(theirs.settings))
    assert list(site.kinds) == [Kind.MACHINE]
    ref = site.create(cancel)[Kind.MACHINE]
    assert ref.is_adopted
    assert {key: ref.outputs[key] for key in REACH} == {key: theirs.settings[key] for key in REACH}
    assert ref.outputs["address"]
    assert ref.outputs["ssh_port"]


def test_a_machine_inside_is_reached_from_its_jump_host_at_its_private_address(case, make_site, cancel):
    theirs = case.theirs(Kind.MACHINE, make_site(case.shared), cancel)
    site = make_site(case.provider({**theirs.settings, **JUMP}))
    ref = site.create(cancel)[Kind.MACHINE]
    for there in (ref, site.provider.read(ref)):
        assert {key: there.outputs[key] for key in JUMP} == JUMP
        assert there.outputs["jump_identity_file"] == theirs.settings["identity_file"]
        assert there.outputs["address"] == there.outputs["private_address"]


@pytest.mark.parametrize("key", JUMP)
def test_half_a_jump_host_is_refused(key, case, make_site, cancel):
    theirs = case.theirs(Kind.MACHINE, make_site(case.shared), cancel)
    with pytest.raises(InvalidRequest, match="jump"):
        case.provider({**theirs.settings, key: JUMP[key]})


@pytest.mark.parametrize("key", REACH)
def test_a_machine_without_the_way_to_it_is_refused(key, case, make_site, cancel):
    theirs = case.theirs(Kind.MACHINE, make_site(case.shared), cancel)
    lacking = {name: value for name, value in theirs.settings.items() if name != key}
    with pytest.raises(InvalidRequest, match=key):
        case.provider(lacking)
