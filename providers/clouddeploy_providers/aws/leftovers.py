"""What a machine left behind that still costs money or holds something: a detached disk, a detached network interface.

All are made to go with their machine, so one that is there was kept by somebody, or by a failure inside AWS. It is
returned as a machine of its own, under the machine's name with its id, since that is what it was part of: destroy
deletes machines first, and the group that an interface holds can follow.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.aws.network import until_let_go
from clouddeploy_providers.aws.tagging import name_of, owned, owner_of
from clouddeploy_providers.errors import NotFound
from clouddeploy_providers.resources import Found, Kind, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event

DISK, INTERFACE = "vol-", "eni-"
DETACHED = {"Name": "status", "Values": ["available"]}


def is_leftover(ref: ResourceRef) -> bool:
    """Tells whether a machine's reference is one of these."""
    return ref.id.startswith((DISK, INTERFACE))


def find(ec2: Any, deployment: str | None) -> list[Found]:
    """Returns the deployment's detached disks and interfaces, or with None those of all deployments."""
    filters = [*owned(deployment), DETACHED]
    with translated("the detached disks and network interfaces cannot be listed"):
        disks = ec2.get_paginator("describe_volumes").paginate(Filters=filters)
        interfaces = ec2.get_paginator("describe_network_interfaces").paginate(Filters=filters)
        found = [(str(one["VolumeId"]), one) for page in disks for one in page["Volumes"]]
        found += [(str(one["NetworkInterfaceId"]), one) for page in interfaces for one in page["NetworkInterfaces"]]
    return [Found(ResourceRef(Kind.MACHINE, f"{name_of(one)}-{name}", name), owner_of(one)) for name, one in found]


def read(ec2: Any, ref: ResourceRef) -> ResourceRef | None:
    """Returns the reference while the thing exists."""
    return ref if _describe(ec2, ref) else None


def delete(ec2: Any, ref: ResourceRef, cancel: Event) -> None:
    """Deletes a detached disk or interface; an absent one is success."""

    def delete_it() -> None:
        with translated(f"{ref.name} could not be deleted"):
            if ref.id.startswith(DISK):
                ec2.delete_volume(VolumeId=ref.id)
            else:
                ec2.delete_network_interface(NetworkInterfaceId=ref.id)

    until_let_go(delete_it, ref, cancel, read=partial(_describe, ec2, ref))


def _describe(ec2: Any, ref: ResourceRef) -> Mapping[str, Any] | None:
    try:
        with translated(f"{ref.name} cannot be read"):
            if ref.id.startswith(DISK):
                found = ec2.describe_volumes(VolumeIds=[ref.id])["Volumes"]
            else:
                found = ec2.describe_network_interfaces(NetworkInterfaceIds=[ref.id])["NetworkInterfaces"]
    except NotFound:
        return None
    return next((dict(one) for one in found), None)
