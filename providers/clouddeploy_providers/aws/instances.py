"""One EC2 instance: born with everything, found again by tag, gone when EC2 says terminated."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.aws.network import by_deployment, by_name, tag_specification, tag_value
from clouddeploy_providers.errors import CapacityError, InvalidRequest, NotFound, ProviderError
from clouddeploy_providers.resources import Kind, ResourceRef
from clouddeploy_providers.waiters import retrying, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.resources import Resource

ALIVE = ("pending", "running", "stopping", "stopped")
START_S = 300.0
POLL_S = 1.0
"""EC2 needs some seconds to start a machine; its own waiters ask every fifteen."""


def create(
    ec2: Any, resource: Resource, *, image: str, root: str, subnets: Sequence[tuple[str, str]], size: str, cancel: Event
) -> ResourceRef:
    """Starts the instance, or finds it, and returns once it runs and has its address.

    Args:
        ec2: the client.
        resource: what is wanted.
        image: AMI id.
        root: the image's root device.
        subnets: (id, zone) to try in turn when a zone has no capacity.
        size: instance type.
        cancel: ends the wait.

    Raises:
        CapacityError: no zone has one free.
    """

    def started() -> Mapping[str, Any]:
        return _find(ec2, resource) or _run_somewhere(ec2, resource, image=image, root=root, subnets=subnets, size=size)

    # A group made a second ago may be unknown to RunInstances, a machine to AssociateAddress (boto/boto3#2556).
    instance = retrying(started, cancel=cancel, also=(NotFound,))
    running = _wait_running(ec2, str(instance["InstanceId"]), resource.name, cancel)
    address = resource.needed(Kind.ADDRESS)
    if address is not None:
        retrying(lambda: _associate(ec2, running, address, resource.name), cancel=cancel, also=(NotFound,))
        running = {**running, "PublicIpAddress": address.outputs["address"]}
    return ref_of(running, resource.name)


def ref_of(instance: Mapping[str, Any], name: str = "") -> ResourceRef:
    """Returns the reference of an instance as EC2 describes it."""
    private = str(instance.get("PrivateIpAddress", ""))
    outputs = {
        "address": str(instance.get("PublicIpAddress") or private),
        "private_address": private,
        "size": str(instance["InstanceType"]),
        "image": str(instance["ImageId"]),
        "zone": str(instance.get("Placement", {}).get("AvailabilityZone", "")),
        "user": tag_value(instance, "clouddeploy:user"),
    }
    return ResourceRef(Kind.MACHINE, name or tag_value(instance, "Name"), str(instance["InstanceId"]), outputs)


def read(ec2: Any, instance_id: str) -> Mapping[str, Any] | None:
    """Returns the instance unless it is absent, terminated or about to be."""
    instance = _describe(ec2, instance_id)
    return instance if instance is not None and instance["State"]["Name"] in ALIVE else None


def find(ec2: Any, deployment: str) -> list[ResourceRef]:
    """Returns the deployment's instances that cost money."""
    alive = {"Name": "instance-state-name", "Values": list(ALIVE)}
    with translated("the instances cannot be listed"):
        pages = ec2.get_paginator("describe_instances").paginate(Filters=[*by_deployment(deployment), alive])
        return [ref_of(one) for page in pages for each in page["Reservations"] for one in each["Instances"]]


def terminate(ec2: Any, ref: ResourceRef, cancel: Event) -> None:
    """Terminates an instance and returns once EC2 says terminated; an absent one is success."""

    def terminated() -> None:
        with translated(f"{ref.name} could not be terminated"):
            ec2.terminate_instances(InstanceIds=[ref.id])

    try:
        retrying(terminated, cancel=cancel)
    except NotFound:
        return
    wait_for(
        lambda: _state(ec2, ref.id) in {None, "terminated"},
        timeout_s=START_S,
        interval_s=POLL_S,
        cancel=cancel,
        what=f"{ref.name} to be terminated",
    )


def zones_offering(ec2: Any, size: str, subnets: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the subnets whose zone offers the size: `Unsupported` from RunInstances would only be found out later.

    Raises:
        InvalidRequest: no zone of the region offers it, so the name is wrong or the size is not sold here.
        CapacityError: other zones offer it, but none of these.
    """
    filters = [{"Name": "instance-type", "Values": [size]}]
    with translated(f"the zones of {size} cannot be listed"):
        pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone", Filters=filters
        )
        zones = {str(one["Location"]) for page in pages for one in page["InstanceTypeOfferings"]}
    if not zones:
        raise InvalidRequest(f"the size {size} is not offered in this region", hint="correct `size`")
    offering = [(subnet, zone) for subnet, zone in subnets if zone in zones]
    if not offering:
        tried = ", ".join(zone for _, zone in subnets)
        hint = f"name a subnet in {', '.join(sorted(zones))}, or another size"
        raise CapacityError(f"the size {size} is not offered in {tried}", hint=hint)
    return offering


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
    spec = resource.machine
    firewall = resource.needed(Kind.FIREWALL)
    if spec is None or firewall is None:
        raise InvalidRequest(f"{resource.name} lacks its machine or its firewall")
    owner = resource.owner
    specifications = [
        tag_specification(kind, owner, name=resource.name, kind=Kind.MACHINE)
        for kind in ("instance", "volume", "network-interface")
    ]
    specifications[0]["Tags"].append({"Key": "clouddeploy:user", "Value": spec.user})
    # The zone is part of the token: the same token with other arguments would be refused.
    token = hashlib.sha256(f"{resource.token}/{zone}/{size}".encode()).hexdigest()[:32]
    with translated(f"{resource.name} could not be started"):
        answer = ec2.run_instances(
            ImageId=image,
            InstanceType=size,
            MinCount=1,
            MaxCount=1,
            ClientToken=token,
            UserData=spec.user_data,
            NetworkInterfaces=[
                {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [firewall.id], "AssociatePublicIpAddress": True}
            ],
            MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
            BlockDeviceMappings=[
                {
                    "DeviceName": root,
                    "Ebs": {
                        "VolumeType": "gp3",
                        "VolumeSize": spec.disk_gib,
                        "Encrypted": True,
                        "DeleteOnTermination": True,
                    },
                }
            ],
            TagSpecifications=specifications,
        )
    return dict(answer["Instances"][0])


def _find(ec2: Any, resource: Resource) -> Mapping[str, Any] | None:
    filters = [
        *by_name(resource.name, resource.owner.deployment),
        {"Name": "instance-state-name", "Values": list(ALIVE)},
    ]
    with translated(f"{resource.name} cannot be looked for"):
        found = [one for each in ec2.describe_instances(Filters=filters)["Reservations"] for one in each["Instances"]]
    return dict(found[0]) if found else None


def _wait_running(ec2: Any, instance_id: str, name: str, cancel: Event) -> Mapping[str, Any]:
    seen: list[Mapping[str, Any]] = []

    def running() -> bool:
        instance = _describe(ec2, instance_id)
        if instance is None:
            return False  # a new instance may be invisible for some seconds (boto/boto3#2556)
        if instance["State"]["Name"] not in ALIVE:
            reason = instance.get("StateReason", {}).get("Message", "no reason given")
            raise ProviderError(f"{name} ended while it was starting", why=str(reason), hint="apply again")
        seen[:] = [instance]
        return str(instance["State"]["Name"]) == "running"

    wait_for(running, timeout_s=START_S, interval_s=POLL_S / 2, cancel=cancel, what=f"{name} to run")
    return seen[0]


def _describe(ec2: Any, instance_id: str) -> Mapping[str, Any] | None:
    try:
        with translated(f"{instance_id} cannot be read"):
            found = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    except NotFound:
        return None
    return next((dict(one) for each in found for one in each["Instances"]), None)


def _state(ec2: Any, instance_id: str) -> str | None:
    instance = _describe(ec2, instance_id)
    return None if instance is None else str(instance["State"]["Name"])
