import threading
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError
from clouddeploy_providers.aws import instances
from clouddeploy_providers.errors import CapacityError, Conflict, InvalidRequest, ProviderError
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import Kind, MachineSpec, Owner, Resource, ResourceRef

SUBNETS = [("subnet-a", "a"), ("subnet-b", "b")]
OWNER = Owner("0a1b2c3d", "p", "s")
REF = ResourceRef(Kind.MACHINE, f"m-{OWNER.deployment}", "i-1")


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(instances, "POLL_S", 0.01)


def resource(*, token="m/0", expires_at=""):
    spec = MachineSpec("t3.small", None, 30, "fl", "ssh-ed25519 A", "#cloud-config", expires_at=expires_at)
    firewall = ResourceRef(Kind.FIREWALL, "g", "sg-1")
    return Resource(Kind.MACHINE, "m", OWNER, machine=spec, needs=(firewall,), token=token)


class Ec2:
    """Instances that take their states from a script; the last one stays.

    Args:
        states: of the one instance; empty: there is none yet, and the first request makes one that runs.
        refusals: codes that precede the answer of RunInstances.
        unseen: how many descriptions by id do not show it yet.
    """

    def __init__(self, *states, refusals=(), unseen=0, tags=True):
        self.states, self.refusals, self.unseen = list(states), list(refusals), unseen
        self.tags = [{"Key": TAG_DEPLOYMENT, "Value": OWNER.deployment}] if tags else []
        self.requests, self.started, self.terminated = [], 0, 0

    def describe_instances(self, *, InstanceIds=(), Filters=()):  # noqa: N803 - boto3's names
        given = {one["Name"]: one["Values"] for one in Filters}
        by_id = bool(InstanceIds) or "instance-id" in given
        is_unseen, self.unseen = by_id and self.unseen > 0, self.unseen - by_id
        if is_unseen or not self.states:
            if InstanceIds:
                raise self.refused("InvalidInstanceID.NotFound")
            return {"Reservations": []}
        state = self.states.pop(0) if by_id and len(self.states) > 1 else self.states[0]
        if state not in given.get("instance-state-name", [state]):
            return {"Reservations": []}
        tags = [*self.tags, {"Key": "Name", "Value": "m"}]
        there = {"InstanceId": "i-1", "InstanceType": "t3.small", "ImageId": "ami-1", "State": {"Name": state}}
        why = {"StateReason": {"Message": "Server.InternalError"}}
        return {"Reservations": [{"Instances": [{**there, **why, "Tags": tags}]}]}

    def run_instances(self, **given):
        self.requests.append(given)
        if self.refusals:
            raise self.refused(self.refusals.pop(0))
        self.states = ["pending", "running"]
        return {"Instances": [{"InstanceId": "i-1", "State": {"Name": "pending"}}]}

    def start_instances(self, **_given):
        self.started += 1
        self.states = ["pending", "running"]

    def terminate_instances(self, **_given):
        self.terminated += 1
        self.states = ["shutting-down", "terminated"]

    @staticmethod
    def refused(code):
        return ClientError({"Error": {"Code": code, "Message": ""}}, "x")


def create(ec2, **given):
    made = resource(**given)
    return instances.create(
        ec2,
        made,
        image="ami-1",
        root="/dev/sda1",
        subnets=SUBNETS,
        size="t3.small",
        watch=instances.Watch(ec2),
        cancel=threading.Event(),
    )


def end(ec2, ref=REF):
    instances.terminate(ec2, ref, threading.Event(), watch=instances.Watch(ec2))


def zones(ec2):
    return [one["NetworkInterfaces"][0]["SubnetId"] for one in ec2.requests]


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "Unsupported", "InsufficientHostCapacity"])
def test_a_zone_without_capacity_is_followed_by_the_next_with_another_token(code):
    """The same token with another subnet would be refused (IdempotentParameterMismatch)."""
    ec2 = Ec2(refusals=[code])
    assert create(ec2).id == "i-1"
    assert zones(ec2) == ["subnet-a", "subnet-b"]
    assert len({one["ClientToken"] for one in ec2.requests}) == 2


def test_no_capacity_anywhere_is_asked_for_once_per_zone_and_says_where():
    ec2 = Ec2(refusals=["InsufficientInstanceCapacity"] * 2)
    with pytest.raises(CapacityError, match="tried a, b"):
        create(ec2)
    assert len(ec2.requests) == 2


def test_the_next_attempt_has_other_tokens_so_that_a_terminated_machine_does_not_answer():
    first, second = Ec2(), Ec2()
    create(first)
    create(second, token="m/1")
    assert first.requests[0]["ClientToken"] != second.requests[0]["ClientToken"]


def test_a_token_whose_machine_ended_is_followed_by_the_next_and_always_by_the_same():
    """Else a machine that ended while it started would keep every later run from making one."""
    runs = [Ec2(refusals=["IdempotentInstanceTerminated"] * 2) for _ in range(2)]
    assert [create(ec2).id for ec2 in runs] == ["i-1", "i-1"]
    first, second = ([one["ClientToken"] for one in ec2.requests] for ec2 in runs)
    assert first == second
    assert len(set(first)) == 3
    assert zones(runs[0]) == ["subnet-a"] * 3


def test_machines_that_always_end_while_they_start_are_not_made_for_ever():
    ec2 = Ec2(refusals=["IdempotentInstanceTerminated"] * 10)
    with pytest.raises(Conflict):
        create(ec2)
    assert len(ec2.requests) == 1 + instances.MORE_TOKENS


def test_a_token_that_was_used_for_another_request_is_a_conflict_and_not_repeated():
    ec2 = Ec2(refusals=["IdempotentParameterMismatch"])
    with pytest.raises(Conflict):
        create(ec2)
    assert len(ec2.requests) == 1


def test_a_group_that_is_not_seen_yet_is_waited_for():
    ec2 = Ec2(refusals=["InvalidGroup.NotFound"])
    assert create(ec2).id == "i-1"
    assert len({one["ClientToken"] for one in ec2.requests}) == 1


def test_a_machine_that_is_not_seen_yet_is_waited_for():
    assert create(Ec2(unseen=3)).outputs["power"] == "running"


def test_a_machine_that_is_there_is_not_made_again():
    ec2 = Ec2("running")
    assert create(ec2).id == "i-1"
    assert ec2.requests == []


@pytest.mark.parametrize("states", [("stopped",), ("stopping", "stopped")])
def test_a_machine_that_is_there_and_stopped_is_started(states):
    ec2 = Ec2(*states)
    assert create(ec2).outputs["power"] == "running"
    assert (ec2.started, ec2.requests) == (1, [])


def test_a_machine_that_ends_while_it_starts_says_why():
    with pytest.raises(ProviderError, match=r"Server\.InternalError"):
        create(Ec2("pending", "shutting-down"))


def test_encryption_and_imdsv2_are_always_asked_for():
    ec2 = Ec2()
    create(ec2)
    [asked] = ec2.requests
    assert asked["MetadataOptions"]["HttpTokens"] == "required"
    assert asked["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


def test_a_terminated_machine_is_gone():
    assert instances.read(Ec2("terminated"), "i-1") is None
    assert instances.read(Ec2("shutting-down"), "i-1") is None


@pytest.mark.parametrize("states", [(), ("running",), ("stopped",), ("terminated",)])
def test_deletion_ends_when_ec2_says_terminated_or_knows_nothing(states):
    end(Ec2(*states))


def test_a_machine_of_another_deployment_is_left_alone():
    ec2 = Ec2("running")
    with pytest.raises(InvalidRequest, match="not ours to delete") as caught:
        end(ec2, replace(REF, name="m-ffffffff"))
    assert OWNER.deployment in caught.value.why
    assert ec2.terminated == 0


def test_a_machine_without_our_tag_is_left_alone():
    ec2 = Ec2("running", tags=False)
    with pytest.raises(InvalidRequest, match="not ours to delete"):
        end(ec2)
    assert ec2.terminated == 0
