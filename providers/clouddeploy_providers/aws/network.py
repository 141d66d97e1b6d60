"""The network to live in, its subnets with a way to the internet, and the server's Elastic IP."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.aws.tagging import by_name, name_of, owned, owner_of, prove_ours, tag_specification
from clouddeploy_providers.errors import Conflict, InvalidRequest, NotFound, Transient
from clouddeploy_providers.resources import Found, Kind, ResourceRef
from clouddeploy_providers.waiters import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.resources import Resource

RELEASE_S = 300.0
"""Network interfaces of a terminated instance hold their group for up to some minutes (hashicorp/terraform#11047)."""
POLL_S = 2.0
ANYWHERE = "0.0.0.0/0"


def network_of(ec2: Any, settings: Mapping[str, str]) -> str:
    """Returns the VPC to use: that of the named subnet, the named one, or the region's default.

    Raises:
        InvalidRequest: there is no default, which is common in companies, or the subnet is in another VPC.
    """
    if settings.get("subnet_id"):
        vpc = str(_named_subnet(ec2, settings)["VpcId"])
        if settings.get("vpc_id", vpc) != vpc:
            raise InvalidRequest(
                f"the subnet {settings['subnet_id']} is not in {settings['vpc_id']}",
                why=f"it is in {vpc}",
                hint="correct `subnet_id`, or leave `vpc_id` out",
            )
        return vpc
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


def public_subnets(ec2: Any, vpc: str, subnets: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns those subnets whose route to the internet is a gateway, so that machines can be reached and reach out.

    A subnet without a route table of its own has the VPC's main one
    (https://docs.aws.amazon.com/vpc/latest/userguide/RouteTables.html).
    """
    with translated(f"the routes of {vpc} cannot be listed"):
        pages = ec2.get_paginator("describe_route_tables").paginate(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
        tables = [one for page in pages for one in page["RouteTables"]]
    main, own = False, {}
    for table in tables:
        for association in table.get("Associations", []):
            if association.get("Main"):
                main = _leads_out(table)
            elif association.get("SubnetId"):
                own[str(association["SubnetId"])] = _leads_out(table)
    return [(subnet, zone) for subnet, zone in subnets if own.get(subnet, main)]


def in_zones(subnets: Sequence[tuple[str, str]], zones: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the subnets of the zones asked for, in their order; all when none is asked for.

    Raises:
        InvalidRequest: there is no subnet in any of the zones.
    """
    if not zones:
        return list(subnets)
    chosen = [(subnet, zone) for wanted in zones for subnet, zone in subnets if zone == wanted]
    if not chosen:
        there = ", ".join(sorted({zone for _, zone in subnets}))
        raise InvalidRequest(f"there is no subnet in {', '.join(zones)}", hint=f"correct `zones`: one of {there}")
    return chosen


def create_address(ec2: Any, resource: Resource) -> ResourceRef:
    """Allocates an Elastic IP, or finds it.

    AllocateAddress knows no idempotency token: where its answer is lost, a second address may be made. Both carry the
    tag, so `find` sees both and destroy releases both.
    """
    with translated(f"the address {resource.name} could not be reserved"):
        found = ec2.describe_addresses(Filters=by_name(resource.name, deployment=resource.owner.deployment))[
            "Addresses"
        ]
        given = tag_specification("elastic-ip", resource.owner, name=resource.name, kind=Kind.ADDRESS)
        return address_ref(
            found[0] if found else ec2.allocate_address(Domain="vpc", TagSpecifications=[given]), resource.name
        )


def address_ref(found: Mapping[str, Any], name: str = "") -> ResourceRef:
    """Returns the reference of an Elastic IP."""
    outputs = {"address": str(found["PublicIp"])}
    return ResourceRef(Kind.ADDRESS, name or name_of(found), str(found["AllocationId"]), outputs)


def find_addresses(ec2: Any, deployment: str | None) -> list[Found]:
    """Returns the deployment's Elastic IPs, or with None those of all deployments."""
    with translated("the addresses cannot be listed"):
        found = ec2.describe_addresses(Filters=owned(deployment))["Addresses"]
    return [Found(address_ref(one), owner_of(one)) for one in found]


def read_address(ec2: Any, ref: ResourceRef) -> ResourceRef | None:
    """Returns the Elastic IP as EC2 sees it, or None."""
    there = _address(ec2, ref)
    return address_ref(there, ref.name) if there else None


def release_address(ec2: Any, ref: ResourceRef, cancel: Event) -> None:
    """Releases an Elastic IP once nothing holds it any more; an absent one is success."""

    def release() -> None:
        with translated(f"the address {ref.name} could not be released"):
            ec2.release_address(AllocationId=ref.id)

    until_let_go(release, ref, cancel, read=partial(_address, ec2, ref))


def until_let_go(
    delete: Callable[[], None], ref: ResourceRef, cancel: Event, *, read: Callable[[], Mapping[str, Any] | None]
) -> None:
    """Deletes what is ours, again and again while something holds it; what is gone is deleted.

    Args:
        delete: the deletion.
        ref: what it deletes.
        cancel: ends the repeating.
        read: what EC2 has under that id; looked at before each try, since only its tag proves that it is ours.

    Raises:
        InvalidRequest: it does not carry the deployment's tag.
        DeadlineExceeded: it is held for longer than EC2 ever holds one by itself; says what EC2 said last.
    """

    def gone() -> bool:
        there = read()
        if there is None:
            return True
        prove_ours(there, ref.name)
        try:
            delete()
        except Conflict as error:
            raise Transient(error.what, why=error.why, hint=error.hint) from error
        except NotFound:
            return True
        return True

    wait_for(gone, timeout_s=RELEASE_S, interval_s=POLL_S, cancel=cancel, what=f"{ref.name} to be let go")


def _address(ec2: Any, ref: ResourceRef) -> Mapping[str, Any] | None:
    try:
        with translated(f"the address {ref.name} cannot be read"):
            return next(iter(ec2.describe_addresses(AllocationIds=[ref.id])["Addresses"]), None)
    except NotFound:
        return None


def _leads_out(table: Mapping[str, Any]) -> bool:
    return any(
        route.get("DestinationCidrBlock") == ANYWHERE
        and str(route.get("GatewayId", "")).startswith("igw-")
        and route.get("State") != "blackhole"
        for route in table.get("Routes", [])
    )


def _named_subnet(ec2: Any, settings: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        with translated(f"the subnet {settings['subnet_id']} cannot be read"):
            return dict(ec2.describe_subnets(SubnetIds=[settings["subnet_id"]])["Subnets"][0])
    except NotFound as error:
        raise InvalidRequest(str(error.what), why=error.why, hint="correct `subnet_id`") from error
