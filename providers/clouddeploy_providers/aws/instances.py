"""One EC2 instance: born with everything, found again by tag, gone when EC2 says terminated."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import code_of, translated
from clouddeploy_providers.aws.tagging import (
    TAG_EXPIRES,
    TAG_USER,
    by_name,
    name_of,
    owned,
    owner_of,
    prove_ours,
    tag_specification,
    tag_value,
)
from clouddeploy_providers.errors import CapacityError, Conflict, InvalidRequest, NotFound, ProviderError
from clouddeploy_providers.resources import Found, Kind, ResourceRef
from clouddeploy_providers.together import Together
from clouddeploy_providers.waiters import retrying, stopped, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.resources import Resource

LEFT = ("running", "stopping", "stopped", "shutting-down")
SETTLED = (*LEFT, "terminated")
ALIVE = ("pending", "running", "stopping", "stopped")
START_S = 300.0
SPENT = "IdempotentInstanceTerminated"
"""The token's machine ended, usually while it started, since its disk's key may not be used. Tokens that follow are
always the same ones, so that a run that goes on from a lost answer still finds its machine."""
MORE_TOKENS = 5
WATCHED = 200
"""EC2 takes no more values in one filter."""
POLL_S = 1.0
"""EC2 needs some seconds to start a machine; its own waiters ask every fifteen."""


def create(
    ec2: Any,
    resource: Resource,
    *,
    image: str,
    root: str,
    subnets: Sequence[tuple[str, str]],
    size: str,
    watch: Watch,
    cancel: Event,
) -> ResourceRef:
    """Starts the instance, or finds it, and returns once it runs and has its address.

    Args:
        ec2: the client.
        resource: what is wanted.
        image: AMI id.
        root: the image's root device.
        subnets: (id, zone) to try in turn when a zone has no capacity.
        size: instance type.
        watch: of the region.
        cancel: ends the wait.

    Raises:
        CapacityError: no zone has one free.
    """

    def one() -> Mapping[str, Any]:
        there = watch.alive(resource.name, resource.owner.deployment)
        return there or _run_somewhere(ec2, resource, image=image, root=root, subnets=subnets, size=size)

    # A group made a second ago may be unknown to RunInstances, a machine to AssociateAddress (boto/boto3#2556).
    instance = retrying(one, cancel=cancel, also=(NotFound,))
    is_new = instance["State"]["Name"] == "pending"
    running = started(ec2, str(instance["InstanceId"]), resource.name, watch=watch, is_new=is_new, cancel=cancel)
    address = resource.needed(Kind.ADDRESS)
    if address is not None:
        retrying(lambda: _associate(ec2, running, address, resource.name), cancel=cancel, also=(NotFound,))
        running = {**running, "PublicIpAddress": address.outputs["address"]}
    return ref_of(running, resource.name)


class Watch:
    """What many threads ask about their instances in one region, with one request for all of them.

    Answers hold those alone that somebody waits for: with fifty machines, saying again and again that they are pending
    is most of what EC2 would say.

    Args:
        ec2: the client.
    """

    def __init__(self, ec2: Any) -> None:
        self._ec2 = ec2
        self.settled = Together(self._settled, most=WATCHED)
        """By id: what is not pending any more; a new instance may be invisible for some seconds (boto/boto3#2556)."""
        self.left = Together(self._left, most=WATCHED)
        """By id: what is not terminated yet."""
        self._named: dict[str, Together[Mapping[str, Any]]] = {}

    def alive(self, name: str, deployment: str) -> Mapping[str, Any] | None:
        """Returns the instance of that name, unless it ends."""
        ask = partial(self._alive, deployment)
        return self._named.setdefault(deployment, Together(ask, most=WATCHED)).get(name)

    def _settled(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        return {str(one["InstanceId"]): one for one in self._found([_ids(ids), _states(*SETTLED)])}

    def _left(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        return {str(one["InstanceId"]): one for one in self._found([_ids(ids), _states("pending", *LEFT)])}

    def _alive(self, deployment: str, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        return {
            tag_value(one, "Name"): one
            for one in self._found([*by_name(*names, deployment=deployment), _states(*ALIVE)])
        }

    def _found(self, filters: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        with translated("the instances cannot be read"):
            pages = self._ec2.describe_instances(Filters=list(filters))["Reservations"]
        return [one for each in pages for one in each["Instances"]]


def _ids(ids: Sequence[str]) -> dict[str, Any]:
    # By filter: one id that EC2 does not know yet would make it refuse to speak of the others too.
    return {"Name": "instance-id", "Values": list(ids)}


def _states(*names: str) -> dict[str, Any]:
    return {"Name": "instance-state-name", "Values": list(names)}


def ref_of(instance: Mapping[str, Any], name: str = "") -> ResourceRef:
    """Returns the reference of an instance as EC2 describes it."""
    private = str(instance.get("PrivateIpAddress", ""))
    outputs = {
        "address": str(instance.get("PublicIpAddress") or private),
        "private_address": private,
        "size": str(instance["InstanceType"]),
        "image": str(instance["ImageId"]),
        "zone": str(instance.get("Placement", {}).get("AvailabilityZone", "")),
        "user": tag_value(instance, TAG_USER),
        "power": "running" if instance["State"]["Name"] in {"pending", "running"} else "stopped",
    }
    return ResourceRef(Kind.MACHINE, name or name_of(instance), str(instance["InstanceId"]), outputs)


def request(
    resource: Resource, *, image: str, root: str, subnet: str, size: str, groups: Sequence[str]
) -> dict[str, Any]:
    """Returns what RunInstances is asked for, so that everything is there at birth.

    Args:
        resource: the machine wanted.
        image: AMI id.
        root: the image's root device.
        subnet: where it lives.
        size: instance type.
        groups: security groups; empty: the network's default one, for a trial that creates nothing.
    """
    spec = resource.machine
    if spec is None:
        raise InvalidRequest(f"{resource.name} lacks its machine")
    specifications = [
        tag_specification(kind, resource.owner, name=resource.name, kind=Kind.MACHINE)
        for kind in ("instance", "volume", "network-interface")
    ]
    specifications[0]["Tags"].append({"Key": TAG_USER, "Value": spec.user})
    ending = {}
    if spec.expires_at:
        # The machine switches itself off, without any right in the cloud; AWS makes that the end of it.
        ending = {"InstanceInitiatedShutdownBehavior": "terminate"}
        specifications[0]["Tags"].append({"Key": TAG_EXPIRES, "Value": spec.expires_at})
    interface = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": True}
    disk = {"VolumeType": "gp3", "VolumeSize": spec.disk_gib, "Encrypted": True, "DeleteOnTermination": True}
    return {
        "ImageId": image,
        "InstanceType": size,
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": spec.user_data,
        "NetworkInterfaces": [{**interface, "Groups": list(groups)} if groups else interface],
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [{"DeviceName": root, "Ebs": disk}],
        "TagSpecifications": specifications,
        **ending,
    }


def read(ec2: Any, instance_id: str) -> Mapping[str, Any] | None:
    """Returns the instance unless it is absent, terminated or about to be."""
    instance = _describe(ec2, instance_id)
    return instance if instance is not None and instance["State"]["Name"] in ALIVE else None


def find(ec2: Any, deployment: str | None) -> list[Found]:
    """Returns the deployment's instances that cost money, or with None those of all deployments."""
    alive = {"Name": "instance-state-name", "Values": list(ALIVE)}
    with translated("the instances cannot be listed"):
        pages = ec2.get_paginator("describe_instances").paginate(Filters=[*owned(deployment), alive])
        there = [one for page in pages for each in page["Reservations"] for one in each["Instances"]]
    return [Found(ref_of(one), owner_of(one)) for one in there]


def terminate(ec2: Any, ref: ResourceRef, cancel: Event, *, watch: Watch) -> None:
    """Terminates an instance and returns once EC2 says terminated; an absent one is success."""

    def terminated() -> None:
        instance = _describe(ec2, ref.id)
        if instance is not None:  # else it is gone, or so new that EC2 does not show it yet, and is terminated too
            prove_ours(instance, ref.name)
        with translated(f"{ref.name} could not be terminated"):
            ec2.terminate_instances(InstanceIds=[ref.id])

    try:
        retrying(terminated, cancel=cancel)
    except NotFound:
        return
    wait_for(
        lambda: watch.left.get(ref.id) is None,
        timeout_s=START_S,
        interval_s=POLL_S,
        cancel=cancel,
        what=f"{ref.name} to be terminated",
    )


def started(
    ec2: Any, instance_id: str, name: str, *, watch: Watch, is_new: bool = False, cancel: Event
) -> Mapping[str, Any]:
    """Returns the instance once it runs; one that is stopped is started, one that is stopping when it has stopped.

    Args:
        ec2: the client.
        instance_id: which.
        name: for messages.
        watch: of the region.
        is_new: EC2 has just said that it is pending, so the first question can wait.
        cancel: ends the wait.

    Raises:
        ProviderError: it ended instead, for the reason that EC2 gives.
    """
    seen: list[Mapping[str, Any]] = []

    def runs() -> bool:
        instance = watch.settled.get(instance_id)
        if instance is None:
            return False
        state = str(instance["State"]["Name"])
        if state not in ALIVE:
            reason = instance.get("StateReason", {}).get("Message", "no reason given")
            raise ProviderError(f"{name} ended while it was starting", why=str(reason), hint="apply again")
        if state == "stopped":
            with translated(f"{name} could not be started"):
                ec2.start_instances(InstanceIds=[instance_id])
        seen[:] = [instance]
        return state == "running"

    if is_new and cancel.wait(POLL_S / 2):
        raise stopped(f"{name} to run")
    wait_for(runs, timeout_s=START_S, interval_s=POLL_S / 2, cancel=cancel, what=f"{name} to run")
    return seen[0]


def _associate(ec2: Any, instance: Mapping[str, Any], address: ResourceRef, name: str) -> None:
    with translated(f"{name} could not be given its address"):
        ec2.associate_address(AllocationId=address.id, InstanceId=instance["InstanceId"], AllowReassociation=True)


def _run_somewhere(
    ec2: Any, resource: Resource, *, image: str, root: str, subnets: Sequence[tuple[str, str]], size: str
) -> Mapping[str, Any]:
    refusal: CapacityError | None = None
    for subnet, zone in subnets:
        try:
            return _run(ec2, resource, image=image, root=root, subnet=subnet, zone=zone, size=size)
        except CapacityError as error:
            refusal = error  # another zone may have one
    zones = ", ".join(zone for _, zone in subnets)
    raise CapacityError(
        f"no zone has a free {size}", why=f"tried {zones}: {refusal}", hint="try later, another size or another region"
    ) from refusal


def _run(
    ec2: Any, resource: Resource, *, image: str, root: str, subnet: str, zone: str, size: str
) -> Mapping[str, Any]:
    firewall = resource.needed(Kind.FIREWALL)
    if firewall is None:
        raise InvalidRequest(f"{resource.name} lacks its firewall")
    given = request(resource, image=image, root=root, subnet=subnet, size=size, groups=[firewall.id])
    # The zone is part of the token: the same token with other arguments would be refused.
    text, number = f"{resource.token}/{zone}/{size}", 0
    while True:
        token = hashlib.sha256(f"{text}/{number}".encode() if number else text.encode()).hexdigest()[:32]
        try:
            with translated(f"{resource.name} could not be started"):
                return dict(ec2.run_instances(ClientToken=token, **given)["Instances"][0])
        except Conflict as error:
            if code_of(error) != SPENT or number == MORE_TOKENS:
                raise
            number += 1


def _describe(ec2: Any, instance_id: str) -> Mapping[str, Any] | None:
    try:
        with translated(f"{instance_id} cannot be read"):
            found = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    except NotFound:
        return None
    return next((dict(one) for each in found for one in each["Instances"]), None)
