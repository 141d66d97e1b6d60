"""The default network's subnets, the site's security group, the server's Elastic IP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import Conflict, InvalidRequest, NotFound
from clouddeploy_providers.naming import TAG_DEPLOYMENT, tags
from clouddeploy_providers.resources import Kind, ResourceRef
from clouddeploy_providers.waiters import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.resources import FirewallRule, Owner, Resource

RELEASE_S = 300.0
"""Network interfaces of a terminated instance hold their group for up to some minutes (hashicorp/terraform#11047)."""
POLL_S = 2.0


def tag_specification(resource_type: str, owner: Owner, *, name: str, kind: Kind) -> dict[str, Any]:
    """Returns the tags that a resource is born with, in EC2's form."""
    items = [{"Key": key, "Value": value} for key, value in tags(owner, name=name, kind=kind).items()]
    return {"ResourceType": resource_type, "Tags": items}


def by_deployment(deployment: str) -> list[dict[str, Any]]:
    """Returns the filter that finds what a deployment owns."""
    return [{"Name": f"tag:{TAG_DEPLOYMENT}", "Values": [deployment]}]


def by_name(name: str, deployment: str) -> list[dict[str, Any]]:
    """Returns the filter that finds one resource; the tag proves that it is ours and not a namesake."""
    return [{"Name": "tag:Name", "Values": [name]}, *by_deployment(deployment)]


def tag_value(thing: Mapping[str, Any], key: str) -> str:
    """Returns one tag of an EC2 description, or an empty text."""
    return next((str(tag["Value"]) for tag in thing.get("Tags", []) if tag["Key"] == key), "")


def network_of(ec2: Any, settings: Mapping[str, str]) -> str:
    """Returns the VPC to use: the named one, or the region's default.

    Raises:
        InvalidRequest: there is no default, which is common in companies.
    """
    if settings.get("vpc_id"):
        return settings["vpc_id"]
    with translated("the default VPC cannot be found"):
        found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise InvalidRequest(
            "the region has no default VPC",
            why="somebody removed it",
            hint="name one in the deploy file: vpc_id and subnet_id",
        )
    return str(found[0]["VpcId"])


def subnets_of(ec2: Any, vpc: str, settings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the subnets to try, as (id, zone): the named one, or the VPC's default ones."""
    filters = [{"Name": "vpc-id", "Values": [vpc]}]
    with translated("the subnets cannot be listed"):
        if settings.get("subnet_id"):
            found = ec2.describe_subnets(SubnetIds=[settings["subnet_id"]])["Subnets"]
        else:
            found = ec2.describe_subnets(Filters=filters)["Subnets"]
    if not found:
        raise InvalidRequest(f"{vpc} has no subnet", hint="name one in the deploy file: subnet_id")
    return sorted((str(one["SubnetId"]), str(one["AvailabilityZone"])) for one in found)


def create_address(ec2: Any, resource: Resource) -> ResourceRef:
    """Allocates an Elastic IP, or finds it."""
    with translated(f"the address {resource.name} could not be reserved"):
        found = ec2.describe_addresses(Filters=by_name(resource.name, resource.owner.deployment))["Addresses"]
        given = tag_specification("elastic-ip", resource.owner, name=resource.name, kind=Kind.ADDRESS)
        return address_ref(
            found[0] if found else ec2.allocate_address(Domain="vpc", TagSpecifications=[given]), resource.name
        )


def address_ref(found: Mapping[str, Any], name: str) -> ResourceRef:
    """Returns the reference of an Elastic IP."""
    return ResourceRef(Kind.ADDRESS, name, str(found["AllocationId"]), {"address": str(found["PublicIp"])})


def release_address(ec2: Any, ref: ResourceRef) -> None:
    """Releases an Elastic IP; an absent one is success."""
    try:
        with translated(f"the address {ref.name} could not be released"):
            ec2.release_address(AllocationId=ref.id)
    except NotFound:
        return


def create_firewall(ec2: Any, resource: Resource, *, vpc: str) -> ResourceRef:
    """Creates a security group, or finds it, and gives it the wanted rules."""
    with translated(f"the security group {resource.name} could not be created"):
        found = ec2.describe_security_groups(Filters=by_name(resource.name, resource.owner.deployment))[
            "SecurityGroups"
        ]
        if found:
            group = str(found[0]["GroupId"])
        else:
            group = str(
                ec2.create_security_group(
                    GroupName=resource.name,
                    Description=f"clouddeploy {resource.owner.project} {resource.owner.site}",
                    VpcId=vpc,
                    TagSpecifications=[
                        tag_specification("security-group", resource.owner, name=resource.name, kind=Kind.FIREWALL)
                    ],
                )["GroupId"]
            )
    ref = ResourceRef(Kind.FIREWALL, resource.name, group, {"vpc": vpc})
    set_rules(ec2, ref, resource.rules)
    return ref


def set_rules(ec2: Any, ref: ResourceRef, rules: Sequence[FirewallRule]) -> None:
    """Makes the group's incoming rules equal to `rules`: adds first, so that nobody is shut out in between."""
    wanted = {(rule.port, source): rule.purpose for rule in rules for source in rule.sources}
    with translated(f"the rules of {ref.name} could not be set"):
        there = ec2.describe_security_groups(GroupIds=[ref.id])["SecurityGroups"][0]["IpPermissions"]
        present = {(one.get("FromPort"), block["CidrIp"]) for one in there for block in one["IpRanges"]}
        missing = [
            _permission(port, source, wanted[port, source]) for port, source in wanted if (port, source) not in present
        ]
        extra = [
            {key: one[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in one}
            | {"IpRanges": [{"CidrIp": block["CidrIp"]}]}
            for one in there
            for block in one["IpRanges"]
            if (one.get("FromPort"), block["CidrIp"]) not in wanted
        ]
        if missing:
            ec2.authorize_security_group_ingress(GroupId=ref.id, IpPermissions=missing)
        if extra:
            ec2.revoke_security_group_ingress(GroupId=ref.id, IpPermissions=extra)


def delete_firewall(ec2: Any, ref: ResourceRef, cancel: Event) -> None:
    """Deletes a security group once nothing holds it any more; an absent one is success."""

    def gone() -> bool:
        try:
            with translated(f"the security group {ref.name} could not be deleted"):
                ec2.delete_security_group(GroupId=ref.id)
        except Conflict:
            return False
        except NotFound:
            return True
        return True

    wait_for(gone, timeout_s=RELEASE_S, interval_s=POLL_S, cancel=cancel, what=f"{ref.name} to be let go")


def _permission(port: int, source: str, purpose: str) -> dict[str, Any]:
    block = {"CidrIp": source, "Description": purpose}
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [block]}
