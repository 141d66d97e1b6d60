"""What a machine on AWS is born with, asked of the request and of the cloud."""

import pytest
from clouddeploy_providers.aws import network
from clouddeploy_providers.errors import CapacityError, InvalidRequest
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import FirewallRule, Kind

pytestmark = pytest.mark.xdist_group("emulated-clouds")


@pytest.fixture
def made(aws_case, make_site, cancel):
    """A server's site and the RunInstances request that made its machine."""
    site, requests = make_site(aws_case.shared), []

    def record(params, **_event):
        requests.append(dict(params))

    events = aws_case.shared._ec2.meta.events
    events.register("provide-client-params.ec2.RunInstances", record)
    site.create(cancel)
    events.unregister("provide-client-params.ec2.RunInstances", record)
    return site, requests[0]


def test_metadata_needs_a_session_and_is_one_hop_away(made):
    _, request = made
    expected = {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1}
    assert request["MetadataOptions"] == expected


def test_the_root_disk_is_encrypted_and_leaves_with_its_machine(made):
    site, request = made
    [mapping] = request["BlockDeviceMappings"]
    assert mapping["DeviceName"] == "/dev/sda1"
    assert mapping["Ebs"] == {"VolumeType": "gp3", "VolumeSize": 30, "Encrypted": True, "DeleteOnTermination": True}
    [volume] = site.provider._ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [site.refs[Kind.MACHINE].id]}]
    )["Volumes"]
    assert volume["Encrypted"]


def test_it_has_no_role_and_no_key_pair_of_aws(made):
    """A role would give whoever breaks in the operator's cloud; the key comes with the user data."""
    _, request = made
    assert not {"IamInstanceProfile", "KeyName", "SecurityGroups"} & set(request)


def test_everything_is_tagged_at_birth(made):
    site, request = made
    specifications = {one["ResourceType"]: one["Tags"] for one in request["TagSpecifications"]}
    assert set(specifications) == {"instance", "volume", "network-interface"}
    for tags in specifications.values():
        assert {"Key": TAG_DEPLOYMENT, "Value": site.deployment} in tags


def test_the_same_attempt_has_the_same_token_and_the_next_another(aws_case, make_site, cancel):
    tokens = []
    aws_case.shared._ec2.meta.events.register(
        "provide-client-params.ec2.RunInstances", lambda params, **_event: tokens.append(params["ClientToken"])
    )
    site = make_site(aws_case.shared, is_server=False)
    site.create(cancel)
    site.delete(cancel)
    site.attempt += 1
    site.create(cancel)
    assert len(set(tokens)) == 2
    assert all(len(token) <= 64 for token in tokens)


def test_the_first_contact_key_is_in_user_data_and_nowhere_in_tags(made):
    site, request = made
    assert site.host_key.private.splitlines()[1] in request["UserData"]
    assert site.host_key.private.splitlines()[1] not in str(request["TagSpecifications"])


def test_the_group_is_the_only_one_and_its_egress_is_left_as_it_is(made):
    site, request = made
    [interface] = request["NetworkInterfaces"]
    group = site.refs[Kind.FIREWALL].id
    assert interface["Groups"] == [group]
    [described] = site.provider._ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert [one["IpProtocol"] for one in described["IpPermissionsEgress"]] == ["-1"]


def test_the_address_is_reserved_before_and_moves_to_the_machine(made):
    site, _ = made
    reserved = site.refs[Kind.ADDRESS]
    [address] = site.provider._ec2.describe_addresses(AllocationIds=[reserved.id])["Addresses"]
    assert address["InstanceId"] == site.refs[Kind.MACHINE].id
    assert site.refs[Kind.MACHINE].outputs["address"] == reserved.outputs["address"]


def test_rules_of_others_are_removed_and_ours_keep_their_ids(made, cancel):
    """An id that stays is a rule that never closed in between."""
    site, _ = made
    ec2, ref = site.provider._ec2, site.refs[Kind.FIREWALL]
    group = [{"Name": "group-id", "Values": [ref.id]}]

    def ids():
        rules = ec2.describe_security_group_rules(Filters=group)["SecurityGroupRules"]
        return {
            (one["IpProtocol"], one["FromPort"]): one["SecurityGroupRuleId"] for one in rules if not one["IsEgress"]
        }

    before = ids()
    stranger = {"IpProtocol": "udp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=ref.id, IpPermissions=[stranger])
    assert ("udp", 22) in ids()
    site.provider.update(ref, site.resource(Kind.FIREWALL), cancel)
    assert ids() == before


def test_a_caller_on_ipv6_gets_a_rule_of_ipv6(made, cancel):
    site, _ = made
    rule = FirewallRule(port=22, sources=("2001:db8::7/128",), purpose="ssh")
    site.provider.update(site.refs[Kind.FIREWALL], site.resource(Kind.FIREWALL, rules=(rule,)), cancel)
    [group] = site.provider._ec2.describe_security_groups(GroupIds=[site.refs[Kind.FIREWALL].id])["SecurityGroups"]
    [permission] = group["IpPermissions"]
    assert [block["CidrIpv6"] for block in permission["Ipv6Ranges"]] == ["2001:db8::7/128"]
    assert permission["IpRanges"] == []


def test_an_image_that_is_not_there_is_refused_before_anything_starts(aws_case, make_site, cancel):
    site = make_site(aws_case.shared, is_server=False)
    site.create(cancel, until=Kind.MACHINE)
    resource = site.resource(Kind.MACHINE)
    object.__setattr__(resource.machine, "image", "ami-00000000000000000")
    with pytest.raises(InvalidRequest):
        site.provider.create(resource, cancel)
    assert [ref.kind for ref in site.provider.find(site.deployment)] == [Kind.FIREWALL]


def test_only_subnets_whose_zone_offers_the_size_are_tried(aws_case):
    from clouddeploy_providers.aws.instances import zones_offering  # noqa: PLC0415 - it takes the SDK with it

    ec2 = aws_case.shared._ec2
    subnets = network.subnets_of(ec2, network.network_of(ec2, {}), {})
    assert set(zones_offering(ec2, "t3.small", [*subnets, ("subnet-x", "us-west-2-lax-1z")])) <= set(subnets)
    with pytest.raises(CapacityError) as caught:
        zones_offering(ec2, "t3.small", [("subnet-x", "us-west-2-lax-1z")])
    assert "us-west-2" in caught.value.hint
    with pytest.raises(InvalidRequest):
        zones_offering(ec2, "no.such.size", subnets)
