import re

from clouddeploy_providers.naming import MAX_LENGTH, owner_of, resource_name, tags
from clouddeploy_providers.resources import Kind, MachineSpec, Owner, Resource, ResourceRef
from hypothesis import given
from hypothesis import strategies as st

owners = st.builds(Owner, deployment=st.from_regex(r"[0-9a-f]{8}", fullmatch=True), project=st.text(), site=st.text())


@given(owners, st.sampled_from(Kind))
def test_every_name_is_accepted_by_every_cloud(owner, kind):
    """Azure's resource groups and EC2's security groups take letters, digits and hyphens, and no hyphen at the end."""
    name = resource_name(owner, kind)
    assert re.fullmatch(r"cd[a-z0-9-]*[a-z0-9]", name)
    assert len(name) <= MAX_LENGTH
    assert name.endswith(f"-{kind.value}-{owner.deployment}")


@given(owners)
def test_the_same_owner_always_gets_the_same_name(owner):
    assert resource_name(owner, Kind.MACHINE) == resource_name(owner, Kind.MACHINE)


def test_the_tags_say_whose_it_is():
    owner = Owner("0123abcd", "breast cancer", "site-1")
    assert tags(owner, name="n", kind=Kind.FIREWALL) == {
        "Name": "n",
        "clouddeploy:deployment": "0123abcd",
        "clouddeploy:project": "breast cancer",
        "clouddeploy:site": "site-1",
        "clouddeploy:kind": "firewall",
    }


@given(owners, st.sampled_from(Kind))
def test_the_owner_is_read_back_from_the_tags(owner, kind):
    assert owner_of(tags(owner, name="n", kind=kind)) == owner


@given(st.dictionaries(st.text(), st.text()))
def test_tags_of_others_have_no_owner(tagged):
    assert owner_of(tagged) is None


def test_user_data_is_not_shown():
    spec = MachineSpec(None, None, 30, "fl", "ssh-ed25519 A", "#cloud-config\nssh_keys: secret")
    assert "secret" not in repr(spec)
    assert "secret" not in repr(Resource(Kind.MACHINE, "n", Owner("0123abcd", "p", "s"), machine=spec))


def test_what_is_needed_is_found_by_kind():
    ref = ResourceRef(Kind.FIREWALL, "f", "sg-1")
    resource = Resource(Kind.MACHINE, "m", Owner("0123abcd", "p", "s"), needs=(ref,))
    assert resource.needed(Kind.FIREWALL) is ref
    assert resource.needed(Kind.ADDRESS) is None
