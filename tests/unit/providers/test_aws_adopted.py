import pytest
from clouddeploy_providers import registry
from clouddeploy_providers.endpoints import AwsEndpoint, Endpoints, SshEndpoint
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.resources import Kind, Owner, Resource, ResourceRef

REACH = {"user": "fl", "identity_file": "~/.ssh/id_ed25519", "host_key": "SHA256:x"}
SETTINGS = {"region": "us-west-2", "machine_id": "i-0a", **REACH}
NOWHERE = AwsEndpoint("http://127.0.0.1:9", "A", "s")
HOST = SshEndpoint("127.0.0.9", 2222, "rehearsal", "ssh-ed25519 AAAA", "/tmp/k")


@pytest.fixture(scope="module")
def provider():
    """A rehearsal's provider, in which a host stands in for the machine; nothing answers for AWS."""
    return registry.load("aws")(SETTINGS, Endpoints(aws=NOWHERE, hosts={"i-0a": HOST}))


def test_it_draws_on_no_quota_so_that_nobody_shares_it(provider):
    assert provider.quota_scope == provider.place


def test_all_that_is_missing_is_said_at_once():
    with pytest.raises(InvalidRequest) as caught:
        registry.load("aws")({"region": "us-west-2", "machine_id": "i-0a"}, Endpoints())
    assert "user, identity_file, host_key" in caught.value.what


def test_in_a_rehearsal_a_host_stands_in_for_the_machine(provider):
    ref = provider.create(Resource(Kind.MACHINE, "m", Owner("d", "p", "s")), None)
    assert (ref.id, ref.name, ref.is_adopted) == ("i-0a", "m", True)
    assert (ref.outputs["address"], ref.outputs["ssh_port"]) == ("127.0.0.9", "2222")
    assert (ref.outputs["user"], ref.outputs["host_key"]) == ("rehearsal", "ssh-ed25519 AAAA")
    assert provider.read(ref) == ref


def test_nothing_is_made_or_paid_around_it(provider):
    assert list(provider.kinds(is_server=True)) == [Kind.MACHINE]
    assert provider.price(Kind.MACHINE, None) is None
    assert provider.place == "aws us-west-2 i-0a"
    with pytest.raises(InvalidRequest):
        provider.create(Resource(Kind.FIREWALL, "f", Owner("d", "p", "s")), None)


@pytest.mark.parametrize("verb", ["update", "delete"])
def test_it_is_neither_changed_nor_deleted(verb, provider):
    ref = ResourceRef(Kind.MACHINE, "m", "i-0a", is_adopted=True)
    arguments = {"update": (ref, Resource(Kind.MACHINE, "m", Owner("d", "p", "s")), None), "delete": (ref, None)}
    with pytest.raises(InvalidRequest) as caught:
        getattr(provider, verb)(*arguments[verb])
    assert caught.value.hint
