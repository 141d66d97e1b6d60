"""The unmodified boto3 and paramiko against an emulated AWS whose instances are real hosts."""

import contextlib
import itertools
import time
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from clouddeploy_providers import cloud_init
from clouddeploy_rehearsal.probe import answers, connect, run, until

pytest_plugins = ["clouddeploy_rehearsal.pytest_plugin"]
pytestmark = [pytest.mark.xdist_group("world"), pytest.mark.root]
numbers = itertools.count()
IMAGE = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"


def client(world, service="ec2", **changed):
    there = world.endpoints.aws
    given = {"aws_access_key_id": there.access_key_id, "aws_secret_access_key": there.secret_access_key, **changed}
    config = Config(retries={"total_max_attempts": 1})
    return boto3.client(service, endpoint_url=there.url, region_name="us-west-2", config=config, **given)


class Account:
    """One test's own things in the account; all are removed after it."""

    def __init__(self, world):
        self.world = world
        self.ec2 = client(world)
        self.host, self.user = cloud_init.generate_host_key(), cloud_init.generate_host_key()
        self.image = client(world, "ssm").get_parameter(Name=IMAGE)["Parameter"]["Value"]
        self.vpc = self.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
        self.subnet = self.ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [self.vpc]}])["Subnets"][0]
        self.group = self.ec2.create_security_group(GroupName=f"g{next(numbers)}", Description="d", VpcId=self.vpc)[
            "GroupId"
        ]
        self.allow(22)

    def port(self, port):
        block = {"CidrIp": f"{self.world.endpoints.caller_address}/32"}
        return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [block]}]

    def allow(self, port):
        self.ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=self.port(port))

    def start(self, *, expires_at="", **changed):
        text = cloud_init.render(
            user="clouddeploy",
            public_key=self.user.public,
            host_private_key=self.host.private,
            host_public_key=self.host.public,
            hostname="h",
            expires_at=expires_at,
        )
        interface = {
            "DeviceIndex": 0,
            "SubnetId": self.subnet["SubnetId"],
            "Groups": [self.group],
            "AssociatePublicIpAddress": True,
        }
        given = {
            "ImageId": self.image,
            "InstanceType": "t3.small",
            "MinCount": 1,
            "MaxCount": 1,
            "UserData": text,
            "NetworkInterfaces": [interface],
        }
        return self.ec2.run_instances(**{**given, **changed})["Instances"][0]

    def running(self, instance):
        def state():
            found = self.ec2.describe_instances(InstanceIds=[instance["InstanceId"]])["Reservations"][0]["Instances"][0]
            assert found["State"]["Name"] in {"pending", "running"}, found
            return found if found["State"]["Name"] == "running" else None

        return until(state, what="running")

    def login(self, address, **changed):
        given = {"user": "clouddeploy", "private": self.user.private, "host_key": self.host.public}
        return connect(address, **{**given, **changed})

    def remove(self):
        found = self.ec2.describe_instances()["Reservations"]
        ids = [one["InstanceId"] for each in found for one in each["Instances"]]
        if ids:
            self.ec2.terminate_instances(InstanceIds=ids)
        for address in self.ec2.describe_addresses()["Addresses"]:
            self.ec2.release_address(AllocationId=address["AllocationId"])
        for pair in self.ec2.describe_key_pairs()["KeyPairs"]:
            self.ec2.delete_key_pair(KeyName=pair["KeyName"])
        self.ec2.delete_security_group(GroupId=self.group)


@pytest.fixture
def account(world):
    made = Account(world)
    yield made
    with contextlib.suppress(ClientError):
        made.remove()
    assert world.resources() == []


def code(error):
    return error.value.response["Error"]["Code"]


def test_an_instance_is_a_host_with_its_own_name_root_and_processes(account):
    started = account.start()
    assert started["State"]["Name"] == "pending"
    there = account.running(started)
    with contextlib.closing(account.login(there["PublicIpAddress"])) as ssh:
        name = "ip-" + there["PrivateIpAddress"].replace(".", "-")
        assert run(ssh, "hostname") == (0, name)
        assert run(ssh, "sudo -n id -u") == (0, "0")
        assert run(ssh, "cat /proc/1/comm") == (0, "sshd")
        assert run(ssh, "sudo ls -A /root; ls /home") == (0, "clouddeploy")
        assert run(ssh, "sudo touch /etc/only-here; ls /etc/only-here") == (0, "/etc/only-here")
        assert not Path("/etc/only-here").exists()
    account.ec2.terminate_instances(InstanceIds=[there["InstanceId"]])
    assert not answers(there["PublicIpAddress"], 22)


def test_a_port_is_closed_opened_and_closed_again_while_the_host_runs(account):
    address = account.running(account.start())["PublicIpAddress"]
    with contextlib.closing(account.login(address)) as ssh:
        run(ssh, "nohup python3 -m http.server 8002 >/dev/null 2>&1 &")
        until(lambda: run(ssh, "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8002'")[0] == 0, what="a listener")
        assert not answers(address, 8002)
        account.allow(8002)
        assert answers(address, 8002)
        account.ec2.revoke_security_group_ingress(GroupId=account.group, IpPermissions=account.port(8002))
        assert not answers(address, 8002)


def test_an_elastic_address_moves_with_its_association_and_is_where_traffic_comes_from(account):
    there = account.running(account.start())
    first, instance = there["PublicIpAddress"], there["InstanceId"]
    made = account.ec2.allocate_address(Domain="vpc")
    given = account.ec2.associate_address(AllocationId=made["AllocationId"], InstanceId=instance)
    assert not answers(first, 22)
    with contextlib.closing(account.login(made["PublicIp"])) as ssh:
        assert f"src {made['PublicIp']}" in run(ssh, "ip route get 192.0.2.1")[1]
    account.ec2.disassociate_address(AssociationId=given["AssociationId"])
    assert not answers(made["PublicIp"], 22)


def test_a_terminated_instance_lets_its_address_go(account):
    there = account.running(account.start())
    made = account.ec2.allocate_address(Domain="vpc")
    account.ec2.associate_address(AllocationId=made["AllocationId"], InstanceId=there["InstanceId"])
    account.ec2.terminate_instances(InstanceIds=[there["InstanceId"]])
    assert not account.ec2.describe_addresses()["Addresses"][0].get("InstanceId")
    account.ec2.release_address(AllocationId=made["AllocationId"])


def test_the_same_token_gives_the_same_instance_and_other_arguments_are_refused(account, world):
    before = world.create_count("aws")
    one, two = (account.start(ClientToken="once")["InstanceId"] for _ in range(2))
    assert one == two
    assert world.create_count("aws") == before + 1
    for changed in ({"InstanceType": "t3.large"}, {"UserData": "#cloud-config\n"}):
        with pytest.raises(ClientError) as error:
            account.start(ClientToken="once", **changed)
        assert code(error) == "IdempotentParameterMismatch"
    other = account.start(ClientToken="twice")["InstanceId"]
    assert other != one
    assert account.start()["InstanceId"] != account.start()["InstanceId"]


def test_without_user_data_the_key_pair_opens_the_images_account(account):
    private = account.ec2.create_key_pair(KeyName="k", KeyType="ed25519")["KeyMaterial"]
    there = account.running(account.start(KeyName="k", UserData=""))
    host_key = account.world.aws._fleet.host(there["InstanceId"]).directory.joinpath("host_key.pub").read_text()
    with contextlib.closing(
        account.login(there["PublicIpAddress"], user="ubuntu", private=private, host_key=host_key)
    ) as ssh:
        assert run(ssh, "whoami") == (0, "ubuntu")


def test_a_group_in_use_and_an_unknown_size_are_refused(account):
    account.start()
    with pytest.raises(ClientError) as error:
        account.ec2.delete_security_group(GroupId=account.group)
    assert code(error) == "DependencyViolation"
    with pytest.raises(ClientError) as error:
        account.start(InstanceType="t3.unheard-of")
    assert code(error).startswith("Invalid")


def test_an_instance_terminated_while_it_starts_leaves_no_host(account, world):
    started = account.start()
    account.ec2.terminate_instances(InstanceIds=[started["InstanceId"]])
    until(lambda: not [one for one in world.aws._threads if one.is_alive()], what="the boot to end")
    assert world.aws._fleet.host(started["InstanceId"]) is None
    found = account.ec2.describe_instances(InstanceIds=[started["InstanceId"]])
    assert found["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"


def test_both_architectures_have_a_public_image(world):
    for arch, named in (("amd64", "x86_64"), ("arm64", "arm64")):
        image = client(world, "ssm").get_parameter(Name=IMAGE.replace("amd64", arch))["Parameter"]["Value"]
        assert client(world).describe_images(ImageIds=[image])["Images"][0]["Architecture"] == named


def test_a_stopped_instance_lets_nobody_in_and_a_started_one_does_again(account):
    there = account.running(account.start())
    made = account.ec2.allocate_address(Domain="vpc")
    account.ec2.associate_address(AllocationId=made["AllocationId"], InstanceId=there["InstanceId"])
    account.ec2.stop_instances(InstanceIds=[there["InstanceId"]])
    assert not answers(made["PublicIp"], 22)
    account.ec2.start_instances(InstanceIds=[there["InstanceId"]])
    with contextlib.closing(account.login(made["PublicIp"])) as ssh:
        assert run(ssh, "id -un") == (0, "clouddeploy")


@pytest.mark.parametrize(("behavior", "state"), [("terminate", "terminated"), ("stop", "stopped")])
def test_an_instance_that_switches_itself_off_ends_as_its_request_said(account, behavior, state):
    """The machine keeps its own end, without any right in the cloud."""
    end = time.strftime(cloud_init.EXPIRES_AT, time.gmtime(time.time() + 2))
    started = account.start(expires_at=end, InstanceInitiatedShutdownBehavior=behavior)

    def has_ended():
        found = account.ec2.describe_instances(InstanceIds=[started["InstanceId"]])["Reservations"][0]["Instances"][0]
        return found["State"]["Name"] == state

    until(has_ended, what=state)
    assert account.world.aws._fleet.host(started["InstanceId"]) is None


@pytest.mark.parametrize(("service", "call"), [("ec2", "describe_vpcs"), ("sts", "get_caller_identity")])
@pytest.mark.parametrize("changed", [{"aws_access_key_id": "AKIAOTHER"}, {"aws_secret_access_key": "wrong"}])
def test_foreign_credentials_are_refused(world, service, call, changed):
    with pytest.raises(ClientError) as error:
        getattr(client(world, service, **changed), call)()
    assert code(error) in {"AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch"}
