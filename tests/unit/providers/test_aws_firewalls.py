import threading
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError
from clouddeploy_providers.aws import firewalls, network
from clouddeploy_providers.errors import DeadlineExceeded, InvalidRequest
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import FirewallRule, Kind, ResourceRef, rules_text

REF = ResourceRef(Kind.FIREWALL, "g-0a1b2c3d", "sg-1", {"vpc": "vpc-1"})
OURS = [{"Key": TAG_DEPLOYMENT, "Value": "0a1b2c3d"}]


def refusal(code):
    return ClientError({"Error": {"Code": code, "Message": "said AWS"}}, "x")


class Group:
    """An EC2 client with one security group, whose answers to each verb may be preceded by refusals."""

    def __init__(self, *, permissions=(), tags=OURS, **refusals):
        self.permissions, self.tags, self.refusals = list(permissions), tags, refusals
        self.rules, self.calls = [], []

    def _called(self, verb):
        self.calls.append(verb)
        if self.refusals.get(verb):
            raise refusal(self.refusals[verb].pop(0))

    def describe_security_groups(self, **_given):
        self._called("describe_security_groups")
        there = {"GroupName": "g", "GroupId": "sg-1", "VpcId": "vpc-1", "Tags": self.tags}
        return {"SecurityGroups": [{**there, "IpPermissions": self.permissions}]}

    def get_paginator(self, _verb):
        return self

    def paginate(self, **_given):
        return [{"SecurityGroupRules": list(self.rules)}]

    def authorize_security_group_ingress(self, **given):
        self._called("authorize")
        self.rules += [
            {
                "IsEgress": False,
                "IpProtocol": one["IpProtocol"],
                "FromPort": one["FromPort"],
                "ToPort": one["ToPort"],
                "SecurityGroupRuleId": f"sgr-{len(self.rules)}",
                **({"CidrIpv4": one["IpRanges"][0]["CidrIp"]} if "IpRanges" in one else one["Ipv6Ranges"][0]),
            }
            for one in given["IpPermissions"]
        ]

    def delete_security_group(self, **_given):
        self._called("delete")


def tcp(port, *blocks, last=None, **more):
    ranges = {"IpRanges": [{"CidrIp": block} for block in blocks]}
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": last or port, **ranges, **more}


def text(*permissions):
    return firewalls.read(Group(permissions=permissions), REF).outputs["rules"]


def test_our_rules_read_as_we_write_them():
    wanted = [
        FirewallRule(8002, ("0.0.0.0/0",), "federation"),
        FirewallRule(22, ("192.0.2.1/32", "2001:db8::/32"), "s"),
    ]
    there = text(tcp(8002, "0.0.0.0/0"), tcp(22, "192.0.2.1/32", Ipv6Ranges=[{"CidrIpv6": "2001:db8::/32"}]))
    assert there == rules_text(wanted)


@pytest.mark.parametrize(
    ("permission", "expected"),
    [
        (tcp(100, "0.0.0.0/0", last=200), "tcp 100-200 from 0.0.0.0/0"),
        ({**tcp(22, "0.0.0.0/0"), "IpProtocol": "udp"}, "udp 22-22 from 0.0.0.0/0"),
        ({"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}, "all protocols from 10.0.0.0/8"),
        (tcp(22, UserIdGroupPairs=[{"GroupId": "sg-9"}]), "tcp 22-22 from sg-9"),
        (tcp(22, PrefixListIds=[{"PrefixListId": "pl-9"}]), "tcp 22-22 from pl-9"),
    ],
)
def test_a_rule_that_we_could_not_have_made_shows_as_drift(permission, expected):
    assert text(permission) == expected
    assert text(tcp(8002, "0.0.0.0/0"), permission) == f"8002 from 0.0.0.0/0; {expected}"


def test_a_source_is_compared_as_ec2_writes_it():
    """Else the same rule would be added again on every run, and refused as a duplicate."""
    group = Group()
    rules = [FirewallRule(22, ("192.0.2.77/24", "2001:DB8:0::1/128"), "ssh")]
    for _ in range(2):
        ref = firewalls.set_rules(group, REF, rules, threading.Event())
    assert group.calls.count("authorize") == 1
    assert ref.outputs["rules"] == "22 from 192.0.2.0/24, 2001:db8::1/128"


def test_a_group_that_ec2_does_not_see_everywhere_yet_is_asked_for_again():
    group = Group(authorize=["InvalidGroup.NotFound"])
    firewalls.set_rules(group, REF, [FirewallRule(22, ("192.0.2.1/32",), "ssh")], threading.Event())
    assert [one["CidrIpv4"] for one in group.rules] == ["192.0.2.1/32"]


def test_a_group_that_is_still_held_is_deleted_when_it_is_let_go(monkeypatch):
    monkeypatch.setattr(network, "POLL_S", 0.01)
    group = Group(delete=["DependencyViolation", "DependencyViolation"])
    firewalls.delete(group, REF, threading.Event())
    assert group.calls.count("delete") == 3
    assert network.RELEASE_S >= 300


def test_a_group_that_is_never_let_go_says_what_ec2_says(monkeypatch):
    monkeypatch.setattr(network, "POLL_S", 0.01)
    monkeypatch.setattr(network, "RELEASE_S", 0.0)
    with pytest.raises(DeadlineExceeded, match="DependencyViolation: said AWS"):
        firewalls.delete(Group(delete=["DependencyViolation"] * 9), REF, threading.Event())


@pytest.mark.parametrize("verb", ["describe_security_groups", "delete"])
def test_a_group_that_somebody_deleted_is_deleted(verb):
    firewalls.delete(Group(**{verb: ["InvalidGroup.NotFound"]}), REF, threading.Event())


def test_a_group_without_our_tag_is_left_alone():
    group = Group(tags=[])
    with pytest.raises(InvalidRequest, match="not ours to delete"):
        firewalls.delete(group, REF, threading.Event())
    assert "delete" not in group.calls


def test_rules_of_a_group_that_is_not_ours_are_left_alone():
    rules = [FirewallRule(22, ("192.0.2.1/32",), "ssh")]
    for group, ref in ((Group(tags=[]), REF), (Group(), replace(REF, name="g-ffffffff"))):
        with pytest.raises(InvalidRequest, match="not ours to change"):
            firewalls.update(group, ref, rules, threading.Event())
        assert "authorize" not in group.calls


def test_rules_of_our_group_are_changed_even_while_ec2_does_not_show_it_everywhere():
    group = Group(describe_security_groups=["InvalidGroup.NotFound"])
    firewalls.update(group, REF, [FirewallRule(22, ("192.0.2.1/32",), "ssh")], threading.Event())
    assert [one["CidrIpv4"] for one in group.rules] == ["192.0.2.1/32"]
