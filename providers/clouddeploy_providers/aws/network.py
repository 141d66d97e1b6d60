"""The default network's subnets, the site's security group, the server's Elastic IP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.errors import Conflict, InvalidRequest, NotFound, Transient
from clouddeploy_providers.naming import TAG_DEPLOYMENT, tags
from clouddeploy_providers.resources import Kind, ResourceRef
from clouddeploy_providers.waiters import retrying, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
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
    """Returns the VPC to use: that of the named subnet, the named one, or the region's default.

    Raises:
        InvalidRequest: there is no default, which is common in companies.
    """
    if settings.get("subnet_id"):
        return str(_named_subnet(ec2, settings)["VpcId"])
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
    """Returns the subnets to try, as (id, zone): the named one, or the VPC's, of the default VPC only its default ones.

    A subnet that somebody added to the default VPC may be private, and a machine in it could not be reached.
    """
    if settings.get("subnet_id"):
        found = [_named_subnet(ec2, settings)]
    else:
        filters = [{"Name": "vpc-id", "Values": [vpc]}]
        if not settings.get("vpc_id"):
            filters.append({"Name": "default-for-az", "Values": ["true"]})
        with translated("the subnets cannot be listed"):
            pages = ec2.get_paginator("describe_subnets").paginate(Filters=filters)
            found = [one for page in pages for one in page["Subnets"]]
    if not found:
        raise InvalidRequest(f"{vpc} has no subnet", hint="name one in the deploy file: subnet_id")
    return sorted((str(one["SubnetId"]), str(one["AvailabilityZone"])) for one in found)


def create_address(ec2: Any, resource: Resource) -> ResourceRef:
    """Allocates an Elastic IP, or finds it.

    AllocateAddress knows no idempotency token: where its answer is lost, a second address may be made. Both carry the
    tag, so `find` sees both and destroy releases both.
    """
    with translated(f"the address {resource.name} could not be reserved"):
        found = ec2.describe_addresses(Filters=by_name(resource.name, resource.owner.deployment))["Addresses"]
        given = tag_specification("elastic-ip", resource.owner, name=resource.name, kind=Kind.ADDRESS)
        return address_ref(
            found[0] if found else ec2.allocate_address(Domain="vpc", TagSpecifications=[given]), resource.name
        )


def address_ref(found: Mapping[str, Any], name: str = "") -> ResourceRef:
    """Returns the reference of an Elastic IP."""
    outputs = {"address": str(found["PublicIp"])}
    return ResourceRef(Kind.ADDRESS, name or tag_value(found, "Name"), str(found["AllocationId"]), outputs)


def find_addresses(ec2: Any, *, deployment: str = "", id: str = "") -> list[ResourceRef]:
    """Returns the deployment's Elastic IPs, or the one of that id."""
    chosen = {"AllocationIds": [id]} if id else {"Filters": by_deployment(deployment)}
    try:
        with translated("the addresses cannot be listed"):
            return [address_ref(one) for one in ec2.describe_addresses(**chosen)["Addresses"]]
    except NotFound:
        return []


def release_address(ec2: Any, ref: ResourceRef, cancel: Event) -> None:
    """Releases an Elastic IP once nothing holds it any more; an absent one is success."""

    def release() -> None:
        with translated(f"the address {ref.name} could not be released"):
            ec2.release_address(AllocationId=ref.id)

    _until_let_go(release, ref, cancel)


def create_firewall(ec2: Any, resource: Resource, *, vpc: str, cancel: Event) -> ResourceRef:
    """Creates a security group, or finds it, and gives it the wanted rules. Its egress stays as EC2 makes it: open."""
    group = retrying(lambda: _group_of(ec2, resource, vpc), cancel=cancel)
    ref = ResourceRef(Kind.FIREWALL, resource.name, group, {"vpc": vpc})
    set_rules(ec2, ref, resource.rules, cancel)
    return ref


def find_firewalls(ec2: Any, *, deployment: str = "", id: str = "") -> list[ResourceRef]:
    """Returns the deployment's security groups, or the one of that id."""
    chosen = {"GroupIds": [id]} if id else {"Filters": by_deployment(deployment)}
    try:
        with translated("the security groups cannot be listed"):
            pages = ec2.get_paginator("describe_security_groups").paginate(**chosen)
            found = [one for page in pages for one in page["SecurityGroups"]]
    except NotFound:
        return []
    return [
        ResourceRef(Kind.FIREWALL, str(one["GroupName"]), str(one["GroupId"]), {"vpc": str(one["VpcId"])})
        for one in found
    ]


def set_rules(ec2: Any, ref: ResourceRef, rules: Sequence[FirewallRule], cancel: Event) -> None:
    """Makes the group's incoming rules equal to `rules`: adds what lacks first, so that nobody is shut out in between.

    The group may be so new that EC2 does not see it everywhere yet, so `NotFound` is repeated too.
    """
    wanted = {("tcp", rule.port, rule.port, source): rule.purpose for rule in rules for source in rule.sources}

    def change() -> None:
        with translated(f"the rules of {ref.name} could not be set"):
            chosen = [{"Name": "group-id", "Values": [ref.id]}]
            pages = ec2.get_paginator("describe_security_group_rules").paginate(Filters=chosen)
            there = [one for page in pages for one in page["SecurityGroupRules"] if not one["IsEgress"]]
            present = {_facts(one) for one in there}
            missing = [_permission(facts, purpose) for facts, purpose in wanted.items() if facts not in present]
            extra = [str(one["SecurityGroupRuleId"]) for one in there if _facts(one) not in wanted]
            if missing:
                ec2.authorize_security_group_ingress(GroupId=ref.id, IpPermissions=missing)
            if extra:
                ec2.revoke_security_group_ingress(GroupId=ref.id, SecurityGroupRuleIds=extra)

    retrying(change, cancel=cancel, also=(NotFound,))


def delete_firewall(ec2: Any, ref: ResourceRef, cancel: Event) -> None:
    """Deletes a security group once nothing holds it any more; an absent one is success."""

    def delete() -> None:
        with translated(f"the security group {ref.name} could not be deleted"):
            ec2.delete_security_group(GroupId=ref.id)

    _until_let_go(delete, ref, cancel)


def _until_let_go(delete: Callable[[], None], ref: ResourceRef, cancel: Event) -> None:
    def gone() -> bool:
        try:
            delete()
        except Conflict:
            return False
        except NotFound:
            return True
        return True

    wait_for(gone, timeout_s=RELEASE_S, interval_s=POLL_S, cancel=cancel, what=f"{ref.name} to be let go")


def _named_subnet(ec2: Any, settings: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        with translated(f"the subnet {settings['subnet_id']} cannot be read"):
            return dict(ec2.describe_subnets(SubnetIds=[settings["subnet_id"]])["Subnets"][0])
    except NotFound as error:
        raise InvalidRequest(str(error.what), why=error.why, hint="correct `subnet_id`") from error


def _group_of(ec2: Any, resource: Resource, vpc: str) -> str:
    """Returns the id of the resource's security group, which is made where it is not found."""
    what = f"the security group {resource.name} could not be created"
    chosen = [*by_name(resource.name, resource.owner.deployment), {"Name": "vpc-id", "Values": [vpc]}]
    given = tag_specification("security-group", resource.owner, name=resource.name, kind=Kind.FIREWALL)
    try:
        with translated(what):
            found = ec2.describe_security_groups(Filters=chosen)["SecurityGroups"]
            if found:
                return str(found[0]["GroupId"])
            made = ec2.create_security_group(
                GroupName=resource.name,
                Description=f"clouddeploy {resource.owner.deployment}",
                VpcId=vpc,
                TagSpecifications=[given],
            )
            return str(made["GroupId"])
    except Conflict as error:
        # The name holds the deployment, so it is ours: made by a request whose answer was lost, and not visible yet.
        raise Transient(what, why=error.why, hint="run the same command again") from error


def _facts(rule: Mapping[str, Any]) -> tuple[str, int, int, str]:
    """Returns what makes a rule the same as another; a rule of another kind than ours has no source here."""
    source = rule.get("CidrIpv4") or rule.get("CidrIpv6") or ""
    return (str(rule["IpProtocol"]), int(rule["FromPort"]), int(rule["ToPort"]), str(source))


def _permission(facts: tuple[str, int, int, str], purpose: str) -> dict[str, Any]:
    protocol, first, last, source = facts
    ranges, key = ("Ipv6Ranges", "CidrIpv6") if ":" in source else ("IpRanges", "CidrIp")
    block = {key: source, "Description": purpose}
    return {"IpProtocol": protocol, "FromPort": first, "ToPort": last, ranges: [block]}
