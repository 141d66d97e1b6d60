"""The site's security group: its rules as we want them, and as EC2 has them."""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws.errors import translated
from clouddeploy_providers.aws.network import until_let_go
from clouddeploy_providers.aws.tagging import by_name, owned, owner_of, prove_ours, tag_specification
from clouddeploy_providers.errors import Conflict, NotFound, Transient
from clouddeploy_providers.resources import FirewallRule, Found, Kind, ResourceRef, rules_text
from clouddeploy_providers.waiters import retrying

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from clouddeploy_providers.resources import Resource

ALL_PROTOCOLS = "-1"


def create(ec2: Any, resource: Resource, *, vpc: str, cancel: Event) -> ResourceRef:
    """Creates a security group, or finds it, and gives it the wanted rules. Its egress stays as EC2 makes it: open."""
    group, is_new = retrying(lambda: _group_of(ec2, resource, vpc), cancel=cancel)
    ref = ResourceRef(Kind.FIREWALL, resource.name, group, {"vpc": vpc})
    return set_rules(ec2, ref, resource.rules, cancel, is_new=is_new)


def find(ec2: Any, deployment: str | None) -> list[Found]:
    """Returns the deployment's security groups, or with None those of all deployments."""
    with translated("the security groups cannot be listed"):
        pages = ec2.get_paginator("describe_security_groups").paginate(Filters=owned(deployment))
        return [Found(_ref(one), owner_of(one)) for page in pages for one in page["SecurityGroups"]]


def read(ec2: Any, ref: ResourceRef) -> ResourceRef | None:
    """Returns the group as EC2 sees it, with all its rules, also those of others; None when there is none."""
    there = _describe(ec2, ref)
    return _ref(there) if there else None


def update(ec2: Any, ref: ResourceRef, rules: Sequence[FirewallRule], cancel: Event) -> ResourceRef:
    """Makes the incoming rules of a group that is ours equal to `rules`.

    Raises:
        InvalidRequest: it does not carry the deployment's tag.
    """
    there = retrying(lambda: _describe(ec2, ref), cancel=cancel)
    if there is not None:  # else it is so new that EC2 does not show it yet, or gone, which the change will tell
        prove_ours(there, ref.name, verb="change")
    return set_rules(ec2, ref, rules, cancel)


def set_rules(
    ec2: Any, ref: ResourceRef, rules: Sequence[FirewallRule], cancel: Event, *, is_new: bool = False
) -> ResourceRef:
    """Makes the group's incoming rules equal to `rules`: adds what lacks first, so that nobody is shut out in between.

    The group may be so new that EC2 does not see it everywhere yet, so `NotFound` is repeated too.

    Args:
        ec2: the client.
        ref: the group.
        rules: all that is to be let in.
        cancel: ends the repeating.
        is_new: it was made a moment ago and lets nobody in, so its rules are asked for only when they are refused.
    """
    rules = [replace(rule, sources=tuple(_block(source) for source in rule.sources)) for rule in rules]
    wanted = {("tcp", rule.port, rule.port, source): rule.purpose for rule in rules for source in rule.sources}

    tries = itertools.count()

    def change() -> None:
        with translated(f"the rules of {ref.name} could not be set"):
            there = [] if is_new and next(tries) == 0 else _incoming(ec2, ref)
            present = {_facts(one) for one in there}
            missing = [_permission(facts, purpose) for facts, purpose in wanted.items() if facts not in present]
            extra = [str(one["SecurityGroupRuleId"]) for one in there if _facts(one) not in wanted]
            if missing:
                ec2.authorize_security_group_ingress(GroupId=ref.id, IpPermissions=missing)
            if extra:
                ec2.revoke_security_group_ingress(GroupId=ref.id, SecurityGroupRuleIds=extra)

    retrying(change, cancel=cancel, also=(NotFound,))
    return replace(ref, outputs={**ref.outputs, "rules": rules_text(rules)})


def delete(ec2: Any, ref: ResourceRef, cancel: Event) -> None:
    """Deletes a security group once nothing holds it any more; an absent one is success."""

    def delete_group() -> None:
        with translated(f"the security group {ref.name} could not be deleted"):
            ec2.delete_security_group(GroupId=ref.id)

    until_let_go(delete_group, ref, cancel, read=partial(_describe, ec2, ref))


def _incoming(ec2: Any, ref: ResourceRef) -> list[Mapping[str, Any]]:
    chosen = [{"Name": "group-id", "Values": [ref.id]}]
    pages = ec2.get_paginator("describe_security_group_rules").paginate(Filters=chosen)
    return [one for page in pages for one in page["SecurityGroupRules"] if not one["IsEgress"]]


def _describe(ec2: Any, ref: ResourceRef) -> Mapping[str, Any] | None:
    try:
        with translated(f"the security group {ref.name} cannot be read"):
            return next(iter(ec2.describe_security_groups(GroupIds=[ref.id])["SecurityGroups"]), None)
    except NotFound:
        return None


def _group_of(ec2: Any, resource: Resource, vpc: str) -> tuple[str, bool]:
    """Returns the id of the resource's security group, and whether it was made now, since there was none."""
    what = f"the security group {resource.name} could not be created"
    given = tag_specification("security-group", resource.owner, name=resource.name, kind=Kind.FIREWALL)
    try:
        with translated(what):
            made = ec2.create_security_group(
                GroupName=resource.name,
                Description=f"clouddeploy {resource.owner.deployment}",
                VpcId=vpc,
                TagSpecifications=[given],
            )
            return str(made["GroupId"]), True
    except Conflict as error:
        chosen = [*by_name(resource.name, deployment=resource.owner.deployment), {"Name": "vpc-id", "Values": [vpc]}]
        with translated(what):
            found = ec2.describe_security_groups(Filters=chosen)["SecurityGroups"]
        if found:
            return str(found[0]["GroupId"]), False
        # The name holds the deployment, so it is ours: made by a request whose answer was lost, and not visible yet.
        raise Transient(what, why=error.why, hint="run the same command again") from error


def _ref(group: Mapping[str, Any]) -> ResourceRef:
    outputs = {"vpc": str(group["VpcId"]), "rules": _text(group.get("IpPermissions", []))}
    return ResourceRef(Kind.FIREWALL, str(group["GroupName"]), str(group["GroupId"]), outputs)


def _text(permissions: Sequence[Mapping[str, Any]]) -> str:
    """Returns the incoming rules as `rules_text` writes ours; what we could not have made follows in EC2's words."""
    ours: list[FirewallRule] = []
    foreign: list[str] = []
    for one in permissions:
        blocks = [str(block["CidrIp"]) for block in one.get("IpRanges", [])]
        blocks += [str(block["CidrIpv6"]) for block in one.get("Ipv6Ranges", [])]
        others = [str(group["GroupId"]) for group in one.get("UserIdGroupPairs", [])]
        others += [str(prefixes["PrefixListId"]) for prefixes in one.get("PrefixListIds", [])]
        first, last = one.get("FromPort"), one.get("ToPort")
        if one["IpProtocol"] == "tcp" and first == last and first is not None and blocks:
            ours.append(FirewallRule(int(first), tuple(blocks), ""))
            blocks = []
        if blocks or others:
            protocol = "all protocols" if one["IpProtocol"] == ALL_PROTOCOLS else str(one["IpProtocol"])
            ports = "" if first is None else f" {first}-{last}"
            foreign.append(f"{protocol}{ports} from {', '.join(sorted([*blocks, *others]))}")
    return "; ".join(part for part in (rules_text(ours), *sorted(foreign)) if part)


def _block(source: str) -> str:
    """Returns a source as EC2 writes it: without host bits, IPv6 shortened. Else a rule would never seem present."""
    return str(ipaddress.ip_network(source, strict=False))


def _facts(rule: Mapping[str, Any]) -> tuple[str, int, int, str]:
    """Returns what makes a rule the same as another; a rule of another kind than ours has no source here."""
    source = rule.get("CidrIpv4") or rule.get("CidrIpv6") or ""
    return (str(rule["IpProtocol"]), int(rule.get("FromPort", -1)), int(rule.get("ToPort", -1)), str(source))


def _permission(facts: tuple[str, int, int, str], purpose: str) -> dict[str, Any]:
    protocol, first, last, source = facts
    ranges, key = ("Ipv6Ranges", "CidrIpv6") if ":" in source else ("IpRanges", "CidrIp")
    block = {key: source, "Description": purpose}
    return {"IpProtocol": protocol, "FromPort": first, "ToPort": last, ranges: [block]}
