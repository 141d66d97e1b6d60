"""Finds by tags what belongs to a deployment, and what is left of its machines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.azure.operations import group_of
from clouddeploy_providers.errors import NotFound
from clouddeploy_providers.naming import PREFIX, TAG_DEPLOYMENT
from clouddeploy_providers.resources import Found, Kind, Owner, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TYPES = {
    "microsoft.network/publicipaddresses": Kind.ADDRESS,
    "microsoft.network/virtualnetworks": Kind.NETWORK,
    "microsoft.network/networksecuritygroups": Kind.FIREWALL,
    "microsoft.compute/virtualmachines": Kind.MACHINE,
}
MACHINE = re.compile(r"cd-[^/]*-machine-[0-9a-f]{8}")
"""Names of ours (naming.resource_name)."""
PART_ID = re.compile(
    rf"(?P<group>.+)/providers/(Microsoft\.Network/networkInterfaces/(?P<nic>{MACHINE.pattern})-nic"
    rf"|Microsoft\.Compute/disks/(?P<disk>{MACHINE.pattern})-disk)",
    re.IGNORECASE,
)


def find(resources: Any, deployment: str) -> list[ResourceRef]:
    """Returns everything of the deployment, in creation order of kinds; also what is in groups that are not ours.

    A network interface or a disk without a machine is what a killed `create` left: it is returned as the machine that
    it was made for, and deleted as that, since it would hold everything else, or cost money.
    """
    wanted = f"tagName eq '{TAG_DEPLOYMENT}' and tagValue eq '{deployment}'"
    with translated(f"the resources of {deployment} cannot be listed"):
        return [one.ref for one in _sorted(_walk(resources, wanted)) if one.owner.deployment == deployment]


def find_all(resources: Any) -> list[Found]:
    """Returns everything of all deployments in the subscription, in creation order of kinds."""
    with translated("the resources of all deployments cannot be listed"):
        return _sorted(_walk(resources, f"tagName eq '{TAG_DEPLOYMENT}'"))


def foreign(resources: Any, group: str, *, deployment: str) -> list[str]:
    """Returns the names of what is in a group of ours and is not ours; what belongs to a machine leaves with it.

    Args:
        resources: the SDK's client.
        group: its name.
        deployment: whose it is.
    """
    return [
        str(one.name)
        for one in resources.resources.list_by_resource_group(group)
        if str(one.type).count("/") == 1
        and _owner_of(one, {TAG_DEPLOYMENT: deployment} if part_of(str(one.id)) else {}).deployment != deployment
    ]


def part_of(arm_id: str) -> ResourceRef | None:
    """Returns the reference of the machine for which an interface or a disk was made; None for anything else."""
    match = PART_ID.fullmatch(arm_id)
    if match is None:
        return None
    name = match["nic"] or match["disk"]
    return ResourceRef(Kind.MACHINE, name, f"{match['group']}/providers/Microsoft.Compute/virtualMachines/{name}")


def _walk(resources: Any, wanted: str) -> Iterator[Found]:
    """Yields groups, what is in them, and what is elsewhere; a machine more than once, as itself and as its parts."""
    groups: dict[str, Mapping[str, str]] = {}
    for group in resources.resource_groups.list(filter=wanted):
        groups[str(group.name).lower()] = dict(group.tags or {})
        yield Found(ResourceRef(Kind.GROUP, str(group.name), str(group.id)), _owner(group.tags or {}))
    # Asked by tag, Azure tells no tags (Azure/azure-sdk-for-python#7956), so this says only where to look.
    for one in resources.resources.list(filter=wanted):
        groups.setdefault(group_of(str(one.id)).lower(), {})
    for name, tags in groups.items():
        for one in _listed(resources, name):
            yield from _found(one, tags)


def _listed(resources: Any, group: str) -> list[Any]:
    """Returns what is in a group; lists lag behind, so it may be gone already."""
    try:
        with translated(f"the resource group {group} cannot be listed"):
            return list(resources.resources.list_by_resource_group(group))
    except NotFound:
        return []


def _found(one: Any, inherited: Mapping[str, str]) -> Iterator[Found]:
    kind, part = TYPES.get(str(one.type).lower()), part_of(str(one.id))
    owner = _owner_of(one, inherited if part is not None else {})
    if owner.deployment and kind is not None:
        yield Found(ResourceRef(kind, str(one.name), str(one.id)), owner)
    elif owner.deployment and part is not None:
        yield Found(part, owner)


def _owner_of(one: Any, inherited: Mapping[str, str]) -> Owner:
    """Returns whose a resource is, by its tags together with its name: policies give tags to what is not ours.

    Args:
        one: as Azure lists it.
        inherited: the tags of its group, for a disk to which Azure gave none.
    """
    tags, part = dict(one.tags or {}), part_of(str(one.id))
    owner = _owner(tags if TAG_DEPLOYMENT in tags else inherited)
    name = part.name if part is not None else str(one.name)
    return owner if owner.deployment and name.lower().endswith(f"-{owner.deployment}") else _owner({})


def _owner(tags: Mapping[str, str]) -> Owner:
    return Owner(
        deployment=tags.get(TAG_DEPLOYMENT, ""),
        project=tags.get(f"{PREFIX}:project", ""),
        site=tags.get(f"{PREFIX}:site", ""),
    )


def _sorted(found: Iterator[Found]) -> list[Found]:
    once: dict[tuple[Kind, str], Found] = {}
    for one in found:
        once.setdefault((one.ref.kind, one.ref.id.lower()), one)  # ARM ids come in varying case
    return sorted(once.values(), key=lambda one: list(Kind).index(one.ref.kind))
