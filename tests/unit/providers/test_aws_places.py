import pytest
from botocore.exceptions import ClientError
from clouddeploy_providers import registry
from clouddeploy_providers.aws import preflight, tagging
from clouddeploy_providers.aws.accounts import Account
from clouddeploy_providers.aws.provider import is_own_endpoint
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.errors import AccessDenied, AuthenticationError
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import Kind, MachineSpec, ResourceRef

OURS, THEIRS = "123456789012", "999999999999"


class Sts:
    """Says whose credentials they are, after refusals."""

    def __init__(self, *refusals):
        self.refusals, self.asked = list(refusals), 0

    def get_caller_identity(self):
        self.asked += 1
        if self.refusals:
            raise ClientError({"Error": {"Code": self.refusals.pop(0), "Message": ""}}, "GetCallerIdentity")
        return {"Account": OURS}


def ref(**outputs):
    return ResourceRef(Kind.MACHINE, "m-0a1b2c3d", "i-1", outputs)


def provider(**settings):
    return registry.load("aws")({"region": "us-west-2", **settings}, Endpoints())


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text("[profile fl]\nregion = eu-west-1\n", encoding="utf-8")


def test_a_place_says_which_network_it_is():
    """Two sites in two networks must not be taken for neighbours, nor a move for nothing."""
    assert provider().place == "aws us-west-2"
    assert provider(vpc_id="vpc-1", subnet_id="subnet-1").place == "aws us-west-2, vpc vpc-1, subnet subnet-1"
    assert provider(subnet_id="subnet-1").place == "aws us-west-2, subnet subnet-1"


def test_networks_of_one_region_draw_on_the_same_quota_and_profiles_may_be_other_accounts():
    assert provider(vpc_id="vpc-1").quota_scope == provider().quota_scope
    assert provider(profile="fl").quota_scope != provider().quota_scope


def test_an_account_is_asked_for_once_and_only_when_it_matters():
    sts = Sts()
    account = Account(sts)
    assert sts.asked == 0
    assert [account.marked(ref()).outputs["account"] for _ in range(2)] == [OURS, OURS]
    assert sts.asked == 1


@pytest.mark.parametrize("verb", ["read", "change", "delete"])
def test_a_thing_in_another_account_is_not_taken_for_gone(verb):
    with pytest.raises(AccessDenied) as caught:
        Account(Sts()).require(ref(account=THEIRS), verb)
    assert OURS in str(caught.value)
    assert THEIRS in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("outputs", [{}, {"account": OURS}])
def test_a_thing_in_ours_or_of_a_state_that_does_not_say_passes(outputs):
    Account(Sts()).require(ref(**outputs), "read")


def test_an_account_that_could_not_be_asked_for_is_asked_for_again():
    account = Account(Sts("InvalidClientTokenId"))
    with pytest.raises(AuthenticationError):
        account.marked(ref())
    assert account.marked(ref()).outputs["account"] == OURS


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("https://ec2.us-west-2.amazonaws.com", True),
        ("https://ec2.us-west-2.api.aws", True),
        ("https://vpce-0a.ec2.us-west-2.vpce.amazonaws.com", True),
        ("https://ec2.cn-north-1.amazonaws.com.cn", True),
        ("https://ec2.eusc-de-east-1.amazonaws.eu", True),
        ("http://127.0.0.1:5000", False),
        ("https://cloud.example.org:8788/amazonaws.com", False),
        ("https://amazonaws.com.example.org", False),
        ("https://notamazonaws.com", False),
    ],
)
def test_endpoints_of_aws_are_told_from_those_of_others(url, is_own):
    assert is_own_endpoint(url) is is_own


def test_a_name_that_somebody_changed_still_says_whose_it_is():
    """What is found by its tag could not be deleted else."""
    tags = [{"Key": TAG_DEPLOYMENT, "Value": "0a1b2c3d"}]
    named = [{"Tags": [*tags, {"Key": "Name", "Value": name}]} for name in ("cd-m-0a1b2c3d", "do not touch")]
    assert [tagging.name_of(one) for one in [*named, {"Tags": tags}]] == [
        "cd-m-0a1b2c3d",
        "do not touch-0a1b2c3d",
        "unnamed-0a1b2c3d",
    ]
    for one in named:
        tagging.prove_ours(one, tagging.name_of(one))


def image(*disks):
    mappings = [{"DeviceName": name, "Ebs": {"VolumeSize": gib}} for name, gib in disks]
    return {"ImageId": "ami-1", "RootDeviceName": "/dev/sda1", "BlockDeviceMappings": mappings}


@pytest.mark.parametrize(("disks", "count"), [([("/dev/sda1", 8), ("/dev/sdb", 500)], 0), ([("/dev/sda1", 40)], 1)])
def test_only_an_images_root_disk_has_to_fit(disks, count):
    """Its other disks keep the size that it gives them."""
    spec = MachineSpec("t3.small", None, 30, "fl", "ssh-ed25519 A", "")
    assert len(preflight.misfits(image(*disks), spec, None)) == count
