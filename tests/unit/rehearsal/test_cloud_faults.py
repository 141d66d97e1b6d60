"""Faults on request, seen through the unmodified clients; the clouds alone, without hosts."""

import contextlib

import boto3
import pytest
from azure.identity import ClientSecretCredential
from azure.mgmt.resource.resources import ResourceManagementClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from clouddeploy_rehearsal.aws import PARAMETERS, AwsCloud
from clouddeploy_rehearsal.azure.server import AzureCloud
from clouddeploy_rehearsal.faults import Faults
from clouddeploy_rehearsal.probe import until

pytestmark = pytest.mark.xdist_group("emulated-clouds")
IMAGE = next(iter(PARAMETERS.values()))


class NoHosts:
    """A fleet whose machines are nothing."""

    def boot(self, machine, **given):
        pass

    def host(self, machine):
        return None

    def kill(self, machine):
        pass


@contextlib.contextmanager
def ec2(**faults):
    cloud = AwsCloud(NoHosts(), Faults(**faults))
    there = cloud.start()
    try:
        yield boto3.client(
            "ec2",
            endpoint_url=there.url,
            region_name="us-west-2",
            aws_access_key_id=there.access_key_id,
            aws_secret_access_key=there.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}),
        )
    finally:
        cloud.close()


def start(client, **changed):
    given = {"ImageId": IMAGE, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1}
    return client.run_instances(**{**given, **changed})["Instances"][0]["InstanceId"]


def test_every_seventh_call_is_throttled_and_every_eleventh_lost():
    seen = []
    with ec2(throttle_every=7, drop_every=11) as client:
        for _ in range(22):
            try:
                client.describe_vpcs()
                seen.append("")
            except ClientError as error:
                seen.append(error.response["Error"]["Code"])
            except BotoCoreError as error:
                seen.append(type(error).__name__)
    assert [number for number, what in enumerate(seen, 1) if what == "RequestLimitExceeded"] == [7, 14, 21]
    assert [number for number, what in enumerate(seen, 1) if what == "ConnectionClosedError"] == [11, 22]


def test_a_size_without_capacity_is_refused_and_another_is_not():
    with ec2(no_capacity=frozenset({"t3.large"})) as client:
        with pytest.raises(ClientError) as error:
            start(client, InstanceType="t3.large")
        assert error.value.response["Error"]["Code"] == "InsufficientInstanceCapacity"
        assert start(client)


def test_a_new_instance_is_invisible_for_a_while():
    with ec2(lag_s=0.5) as client:
        made = start(client)
        with pytest.raises(ClientError) as error:
            client.describe_instances(InstanceIds=[made])
        assert error.value.response["Error"]["Code"] == "InvalidInstanceID.NotFound"
        assert client.describe_instances()["Reservations"] == []
        until(lambda: client.describe_instances()["Reservations"])
        assert client.describe_instances(InstanceIds=[made])["Reservations"]


def test_a_new_group_is_readable_at_once_and_listed_later(tmp_path):
    cloud = AzureCloud(NoHosts(), Faults(lag_s=0.5))
    there = cloud.start(tmp_path)
    credential = ClientSecretCredential(
        there.tenant_id,
        there.client_id,
        there.client_secret,
        authority=there.url,
        disable_instance_discovery=True,
        connection_verify=there.ca_file,
    )
    with ResourceManagementClient(
        credential,
        there.subscription_id,
        base_url=there.url,
        credential_scopes=[f"{there.url}/.default"],
        connection_verify=there.ca_file,
    ) as client:
        client.resource_groups.create_or_update("g", {"location": "westus2"})
        assert client.resource_groups.check_existence("g")
        assert list(client.resource_groups.list()) == []
        until(lambda: list(client.resource_groups.list()))
    credential.close()
    cloud.close()
