"""What a machine on AWS is born with, asked of the request and of the cloud."""

from dataclasses import replace

import pytest
from clouddeploy_providers.aws import network
from clouddeploy_providers.errors import AccessDenied, CapacityError, InvalidRequest
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import Demand, FirewallRule, Kind

pytestmark = pytest.mark.xdist_group("emulated-clouds")


@pytest.fixture
def made(aws_case, make_site, cancel):
    """A server's site and the RunInstances request that made its machine."""
    site, requests = make_site(aws_case.shared), []

    def record(params, **_event):
        requests.append(dict(params))

    events = aws_case.shared._clients.changes.meta.events
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
    [volume] = site.provider._clients.changes.describe_volumes(
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
    aws_case.shared._clients.changes.meta.events.register(
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
    [described] = site.provider._clients.changes.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert [one["IpProtocol"] for one in described["IpPermissionsEgress"]] == ["-1"]


def test_the_address_is_reserved_before_and_moves_to_the_machine(made):
    site, _ = made
    reserved = site.refs[Kind.ADDRESS]
    [address] = site.provider._clients.changes.describe_addresses(AllocationIds=[reserved.id])["Addresses"]
    assert address["InstanceId"] == site.refs[Kind.MACHINE].id
    assert site.refs[Kind.MACHINE].outputs["address"] == reserved.outputs["address"]


def test_rules_of_others_are_removed_and_ours_keep_their_ids(made, cancel):
    """An id that stays is a rule that never closed in between."""
    site, _ = made
    ec2, ref = site.provider._clients.changes, site.refs[Kind.FIREWALL]
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
    [group] = site.provider._clients.changes.describe_security_groups(GroupIds=[site.refs[Kind.FIREWALL].id])[
        "SecurityGroups"
    ]
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
    from clouddeploy_providers.aws.sizes import zones_offering  # noqa: PLC0415 - it takes the SDK with it

    ec2 = aws_case.shared._clients.changes
    subnets = network.subnets_of(ec2, network.network_of(ec2, {}), {})
    assert set(zones_offering(ec2, "t3.small", [*subnets, ("subnet-x", "us-west-2-lax-1z")])) <= set(subnets)
    with pytest.raises(CapacityError) as caught:
        zones_offering(ec2, "t3.small", [("subnet-x", "us-west-2-lax-1z")])
    assert "us-west-2" in caught.value.hint
    with pytest.raises(InvalidRequest):
        zones_offering(ec2, "no.such.size", subnets)


def test_a_machine_with_an_end_is_terminated_when_it_switches_itself_off(aws_case, make_site, cancel):
    """Without that it would only be stopped, and its disk and address would cost on."""
    site, requests = make_site(aws_case.shared, is_server=False), []
    events = aws_case.shared._clients.changes.meta.events
    record = lambda params, **_event: requests.append(dict(params))  # noqa: E731 - registered and unregistered by identity
    events.register("provide-client-params.ec2.RunInstances", record)
    machine = site.create(cancel, expires_at="2036-11-25T18:00:00Z")[Kind.MACHINE]
    events.unregister("provide-client-params.ec2.RunInstances", record)
    assert requests[0]["InstanceInitiatedShutdownBehavior"] == "terminate"
    [tag] = aws_case.ec2.describe_tags(
        Filters=[{"Name": "resource-id", "Values": [machine.id]}, {"Name": "key", "Values": ["clouddeploy:expires-at"]}]
    )["Tags"]
    assert tag["Value"] == "2036-11-25T18:00:00Z"


def test_a_machine_without_an_end_keeps_its_disk_when_it_is_switched_off(made):
    _, request = made
    assert "InstanceInitiatedShutdownBehavior" not in request


def test_a_disk_and_an_interface_that_lost_their_machine_are_found_and_deleted(aws_case, make_site, cancel):
    site = make_site(aws_case.shared, is_server=False)
    refs = site.create(cancel)
    tags = [{"Key": "Name", "Value": refs[Kind.MACHINE].name}, {"Key": TAG_DEPLOYMENT, "Value": site.deployment}]
    subnet = aws_case.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    disk = aws_case.ec2.create_volume(AvailabilityZone="us-west-2a", Size=1)["VolumeId"]
    interface = aws_case.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    aws_case.ec2.create_tags(Resources=[disk, interface], Tags=tags)
    found = site.provider.find(site.deployment)
    assert [ref.id for ref in found] == [refs[Kind.FIREWALL].id, refs[Kind.MACHINE].id, disk, interface]
    assert {one.ref.id for one in site.provider.find_all()} >= {disk, interface}
    for ref in found[-2:]:
        assert site.provider.read(ref) == ref
        for _ in range(2):
            site.provider.delete(ref, cancel)
        assert site.provider.read(ref) is None
    assert aws_case.identity(site.provider.find(site.deployment)) == aws_case.owned(refs)


def test_what_does_not_carry_our_tag_is_not_deleted_whatever_a_state_file_says(aws_case, made, cancel):
    site, _ = made
    for ref in site.refs.values():
        aws_case.ec2.delete_tags(Resources=[ref.id], Tags=[{"Key": TAG_DEPLOYMENT}])
        with pytest.raises(InvalidRequest, match="not ours to delete"):
            site.provider.delete(ref, cancel)
        assert site.provider.read(ref) is not None
        if ref.kind is not Kind.ADDRESS:
            with pytest.raises(InvalidRequest, match="not ours to change"):
                site.provider.update(ref, site.resource(ref.kind), cancel)


def test_a_machine_whose_attempt_has_ended_is_made_anew_by_the_same_attempt(aws_case, make_site, cancel):
    """As when it ends while it starts: nothing says so before the next run, whose token is the same."""
    site = make_site(aws_case.shared, is_server=False)
    before = site.create(cancel)[Kind.MACHINE]
    machine = site.resource(Kind.MACHINE)
    first = site.provider.create(machine, cancel)
    assert first.id == before.id
    ended = []
    for _ in range(2):
        aws_case.ec2.terminate_instances(InstanceIds=[first.id])
        ended.append(first.id)
        first = site.provider.create(machine, cancel)
        assert first.id not in ended
    assert site.provider.create(machine, cancel) == first


def test_everything_says_its_account_and_is_not_taken_for_gone_in_another(aws_case, made, cancel):
    site, _ = made
    there = {ref.id: ref for ref in (*site.refs.values(), *site.provider.find(site.deployment))}
    for ref in there.values():
        assert ref.outputs["account"] == "123456789012"
        assert dict(site.provider.read(ref).outputs) == dict(site.refs[ref.kind].outputs)
        elsewhere = replace(ref, outputs={**ref.outputs, "account": "999999999999"})
        for verb, arguments in (
            ("read", ()),
            ("update", (site.resource(ref.kind), cancel)),
            ("delete", (cancel,)),
        ):
            with pytest.raises(AccessDenied, match="999999999999"):
                getattr(site.provider, verb)(elsewhere, *arguments)


def test_what_an_older_state_recorded_without_its_account_still_works(made, cancel):
    site, _ = made
    for ref in reversed(site.refs.values()):
        old = replace(ref, outputs={key: value for key, value in ref.outputs.items() if key != "account"})
        assert site.provider.read(old) == ref
        site.provider.delete(old, cancel)
        assert site.provider.read(old) is None


def test_nothing_is_made_while_the_account_is_not_known(aws_case, make_site, cancel):
    site, before = make_site(aws_case.provider(), is_server=False), aws_case.everything()
    aws_case.cloud.denied.add("sts:GetCallerIdentity")
    with pytest.raises(AccessDenied):
        site.create(cancel)
    aws_case.cloud.denied.clear()
    assert aws_case.everything() == before


def test_the_account_is_asked_for_once(aws_case, make_site, cancel):
    provider, asked = aws_case.provider(), []
    provider._account._sts.meta.events.register("before-call.sts", lambda model, **_event: asked.append(model.name))
    site = make_site(provider, is_server=False)
    for ref in site.create(cancel).values():
        provider.read(ref)
    provider.find(site.deployment)
    assert asked == ["GetCallerIdentity"]


def test_of_a_named_network_only_the_public_subnets_are_used(aws_case, make_site, cancel):
    theirs = aws_case.theirs(Kind.NETWORK, None, cancel)
    [public] = aws_case.ec2.describe_subnets(SubnetIds=[theirs.settings["subnet_id"]])["Subnets"]
    private = aws_case.ec2.create_subnet(VpcId=public["VpcId"], CidrBlock="10.7.2.0/24", AvailabilityZone="us-west-2a")
    table = aws_case.ec2.create_route_table(VpcId=public["VpcId"])["RouteTable"]["RouteTableId"]
    aws_case.ec2.associate_route_table(RouteTableId=table, SubnetId=private["Subnet"]["SubnetId"])
    site = make_site(aws_case.provider({**aws_case.settings, "vpc_id": public["VpcId"]}), is_server=False)
    assert site.create(cancel)[Kind.MACHINE].outputs["zone"] == "us-west-2b"


@pytest.mark.parametrize(
    "named",
    [
        {"vpc_id": "vpc-0aaaaaaaaaaaaaaaa"},
        {"subnet_id": "subnet-0bbbbbbbbbbbbbbbb"},
        {"vpc_id": "vpc-0cccccccccccccccc", "subnet_id": "subnet-0dddddddddddddddd"},
        {"vpc_id": "vpc-0cccccccccccccccc", "subnet_id": "subnet-0eeeeeeeeeeeeeeee"},
    ],
    ids=["vpc", "subnet", "both", "another subnet"],
)
def test_a_network_that_a_deploy_file_names_can_be_rehearsed(named, aws_case, make_site, cancel):
    for _ in range(2):
        aws_case.cloud.lend_network("us-west-2", **named)
    site = make_site(aws_case.provider({**aws_case.settings, **named}), is_server=False)
    assert site.provider.check(Demand((site.spec(),))) == []
    assert site.create(cancel)[Kind.FIREWALL].outputs["vpc"] == named.get(
        "vpc_id", site.refs[Kind.FIREWALL].outputs["vpc"]
    )
