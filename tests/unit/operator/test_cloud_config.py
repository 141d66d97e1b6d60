"""The reference's cloud configuration is parsed, and never run."""

import pytest
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import cloud_config
from clouddeploy.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    def read(text, cloud="aws"):
        file = tmp_path / "cloud.conf"
        file.write_text(text)
        return cloud_config.read(file, cloud=cloud)

    return read


def test_keys_of_aws(read):
    text = "# a comment\n\nexport REGION=eu-central-1\nEC2_TYPE='t3.large' # what we may use\n"
    text += 'AMI_IMAGE="ami-1"\n  VPC_ID=vpc-1\nSUBNET_ID=subnet-1\n'
    found = read(text)
    assert found.settings == {
        "region": "eu-central-1",
        "size": "t3.large",
        "image": "ami-1",
        "vpc_id": "vpc-1",
        "subnet_id": "subnet-1",
    }
    assert found.warnings == ()


def test_keys_of_azure(read):
    text = "VM_IMAGE=Canonical:ubuntu-24_04-lts:server:latest\nVM_SIZE=Standard_B2ms\nLOCATION=westeurope\n"
    found = read(text + "SUBSCRIPTION_ID=0-1\nRESOURCE_GROUP=theirs\n", "azure")
    assert found.settings == {
        "image": "Canonical:ubuntu-24_04-lts:server:latest",
        "size": "Standard_B2ms",
        "location": "westeurope",
        "subscription_id": "0-1",
        "resource_group": "theirs",
    }


@pytest.mark.parametrize(
    ("cloud", "given", "key"),
    [
        ("aws", "ami-0123456789abcdef0", "image"),
        ("aws", "ghcr.io/org/train:1.2", "container"),
        ("aws", "ami-train:1", "container"),
        ("azure", "Canonical:ubuntu-24_04-lts:server:latest", "image"),
        ("azure", "/subscriptions/0/resourceGroups/g/providers/Microsoft.Compute/images/i", "image"),
        ("azure", "localhost:5000/train:1.2", "container"),
        ("azure", "ghcr.io/org/train@sha256:" + 64 * "0", "container"),
        ("azure", "registry:5000/org/train:1@sha256:" + 64 * "0", "container"),
    ],
)
def test_what_has_not_the_form_of_the_clouds_own_image_is_a_containers(cloud, given, key):
    assert cloud_config.key_of_image(cloud, given) == key


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("us'-west'\"-2\"", "us-west-2"),
        ("''", None),
        ("", None),
        ("a#b", "a#b"),
        ("'$HOME `id` ; | & ('", "$HOME `id` ; | & ("),
        ('"a;b|c&d(e"', "a;b|c&d(e"),
    ],
)
def test_quotes_mean_what_they_mean_to_a_shell(read, text, value):
    assert read(f"REGION={text}\n").settings.get("region") == value


@pytest.mark.parametrize(
    "text",
    [
        "REGION=$(touch /tmp/x)",
        "REGION=$HOME",
        "REGION=`id`",
        'REGION="$(id)"',
        'REGION="`id`"',
        'REGION="\\$x"',
        "REGION=a;id",
        "REGION=a|id",
        "REGION=a&id",
        "REGION=(a)",
        "REGION=a>file",
        "REGION=a\\",
        "REGION=a id",
        "REGION='a",
        'REGION="a',
        "REGION",
        "rm -rf /",
        "source other.sh",
        "if true; then REGION=a; fi",
    ],
)
def test_what_a_shell_would_run_is_refused_with_its_place(read, text):
    with pytest.raises(ConfigError) as caught:
        read(f"# first\n{text}\n")
    assert "cloud.conf:2" in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_keys_without_a_meaning_here_are_warned_of(read):
    found = read("KEY_PAIR=mine\nPASSWORD='x y'\nGPU_COUNT=1\nREGION=us-east-1\n")
    assert found.settings == {"region": "us-east-1"}
    assert len(found.warnings) == 3
    assert "cloud.conf:1: KEY_PAIR decides nothing here: each deployment makes an SSH key" in found.warnings[0]


@pytest.mark.parametrize(
    ("key", "said"),
    [("REGOIN", "did you mean REGION?"), ("ec2_type", "did you mean EC2_TYPE?"), ("QQQ", "the keys are AMI_IMAGE")],
)
def test_an_unknown_key_is_an_error_that_names_the_likely_one(read, key, said):
    with pytest.raises(ConfigError) as caught:
        read(f"{key}=x\n")
    assert said in caught.value.hint


def test_a_key_of_the_other_cloud_says_so(read):
    with pytest.raises(ConfigError, match="it is a key of azure, and the cloud is aws"):
        read("VM_SIZE=x\n")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError) as caught:
        cloud_config.read(tmp_path / "none", cloud="aws")
    assert caught.value.hint
