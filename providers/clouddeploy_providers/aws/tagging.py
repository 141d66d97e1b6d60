"""Ownership tags in EC2's form: written at birth, searched for, and proof before anything is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_providers import naming
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.naming import PREFIX, TAG_DEPLOYMENT, tags
from clouddeploy_providers.resources import Owner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.resources import Demand, Kind

TAG_EXPIRES = f"{PREFIX}:expires-at"
TAG_USER = f"{PREFIX}:user"


def tag_specification(resource_type: str, owner: Owner, *, name: str, kind: Kind) -> dict[str, Any]:
    """Returns the tags that a resource is born with, in EC2's form."""
    items = [{"Key": key, "Value": value} for key, value in tags(owner, name=name, kind=kind).items()]
    return {"ResourceType": resource_type, "Tags": items}


def owned(deployment: str | None) -> list[dict[str, Any]]:
    """Returns the filter that finds what a deployment owns; with None, what any deployment owns."""
    if deployment is None:
        return [{"Name": "tag-key", "Values": [TAG_DEPLOYMENT]}]
    return [{"Name": f"tag:{TAG_DEPLOYMENT}", "Values": [deployment]}]


def by_name(*names: str, deployment: str) -> list[dict[str, Any]]:
    """Returns the filter that finds resources; the tag proves that they are ours and no namesakes."""
    return [{"Name": "tag:Name", "Values": list(names)}, *owned(deployment)]


def tag_value(thing: Mapping[str, Any], key: str) -> str:
    """Returns one tag of an EC2 description, or an empty text."""
    return next((str(tag["Value"]) for tag in _tags(thing) if tag["Key"] == key), "")


def owner_of(thing: Mapping[str, Any]) -> Owner:
    """Returns who a resource that was found by our tag belongs to."""
    return naming.owner_of({str(tag["Key"]): str(tag["Value"]) for tag in _tags(thing)}) or Owner("", "", "")


def is_demanded(thing: Mapping[str, Any], demand: Demand) -> bool:
    """Tells whether a thing that exists is one that its deployment demands, so that it must not be counted twice."""
    return (
        bool(demand.deployment)
        and tag_value(thing, TAG_DEPLOYMENT) == demand.deployment
        and tag_value(thing, "Name") in demand.names
    )


def name_of(thing: Mapping[str, Any]) -> str:
    """Returns the name that a thing was given; where somebody has changed it, with the deployment that made it."""
    name, deployment = tag_value(thing, "Name"), tag_value(thing, TAG_DEPLOYMENT)
    return name if deployment in name else f"{name or 'unnamed'}-{deployment}"


def prove_ours(thing: Mapping[str, Any], name: str, *, verb: str = "delete") -> None:
    """Refuses what lacks our tag: a state file may be old, and an id in it may be somebody else's by mistake.

    Raises:
        InvalidRequest: the thing carries no deployment's tag, or that of another one than its name.
    """
    deployment = tag_value(thing, TAG_DEPLOYMENT)
    if not deployment or deployment not in name:
        missing = f"it lacks the tag {TAG_DEPLOYMENT}, which everything has that was made here"
        raise InvalidRequest(
            f"{name} is not ours to {verb}",
            why=f"it belongs to the deployment {deployment}" if deployment else missing,
            hint=f"{verb} it yourself in the AWS console, if it is yours",
        )


def _tags(thing: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    # Network interfaces call theirs differently
    # (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_NetworkInterface.html).
    return list(thing.get("Tags") or thing.get("TagSet") or [])
