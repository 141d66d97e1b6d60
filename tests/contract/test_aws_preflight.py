"""What a preflight on AWS finds, asked of the emulated account; nothing is created by any of it."""

from dataclasses import replace

import pytest
from clouddeploy_providers import registry
from clouddeploy_providers.aws.quotas import Quotas
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.resources import Demand, Kind, Need

pytestmark = pytest.mark.xdist_group("emulated-clouds")


@pytest.fixture
def account(aws_case):
    """The account, given back as it was."""
    quotas = dict(aws_case.cloud.services.quotas)
    yield aws_case
    aws_case.cloud.denied.clear()
    aws_case.cloud.services.quotas.update(quotas)


@pytest.fixture
def demand(account, make_site):
    return charged(make_site(account.shared).spec(), addresses=1)


def charged(*machines, addresses=0, site=None):
    """The demand of a place that shares its quota with no other, made by the site's deployment."""
    whose = {"deployment": site.deployment, "names": frozenset(ref.name for ref in site.refs.values())} if site else {}
    return Demand(machines, addresses, charged=machines, charged_addresses=addresses, **whose)


def problems(checks):
    return [check for check in checks if not check.ok and not check.is_warning]


def with_subnet(account, *, gateway):
    """A provider whose settings name a subnet in a network of its own."""
    ec2 = account.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    if gateway:
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    return account.provider({**account.settings, "subnet_id": subnet})


def test_a_rehearsal_finds_nothing_at_all(account, demand):
    assert account.shared.check(demand) == []


@pytest.mark.parametrize(
    "action", ["ec2:RunInstances", "ec2:CreateSecurityGroup", "ec2:AllocateAddress", "ec2:DescribeSubnets"]
)
def test_a_missing_permission_is_named_before_anything_is_created(action, account, demand):
    before = account.everything()
    account.cloud.denied.add(action)
    [found] = problems(account.shared.check(demand))
    assert found.name == "permissions"
    assert action in found.problem
    assert f"allow {action}" in found.hint
    assert account.everything() == before


def test_a_deletion_that_is_not_allowed_is_found_where_there_is_something_to_delete(account, demand, make_site, cancel):
    """Whoever could create and not delete would pay for ever."""
    site = make_site(account.shared)
    site.create(cancel)
    account.cloud.denied.update({"ec2:TerminateInstances", "ec2:ReleaseAddress", "ec2:DeleteSecurityGroup"})
    found = problems(account.shared.check(replace(demand, deployment=site.deployment)))
    others = problems(account.shared.check(replace(demand, deployment="ffffffff")))
    account.cloud.denied.clear()
    site.delete(cancel)
    assert others == []
    assert sorted(check.problem.split()[0] for check in found) == [
        "ec2:DeleteSecurityGroup",
        "ec2:ReleaseAddress",
        "ec2:TerminateInstances",
    ]


def test_quotas_and_prices_that_may_not_be_read_are_no_reason_to_stop(account, demand):
    account.cloud.denied.update({"servicequotas:GetServiceQuota", "pricing:GetProducts", "ssm:GetParameter"})
    found = account.shared.check(demand)
    assert problems(found) == []
    assert {check.name for check in found} == {"quota"}
    [offer] = [one for one in account.provider().offers(Need()) if one.size == account.shared.default_size]
    assert offer.price.source == "snapshot"


def test_prices_are_those_of_the_price_list_where_it_may_be_read(account):
    provider = account.provider()
    [offer] = [one for one in provider.offers(Need()) if one.size == provider.default_size]
    assert offer.price.source == "AWS price list"
    assert offer.zones
    assert provider.price(Kind.ADDRESS, None).usd_per_hour == 0.005


def test_a_quota_that_is_too_small_counts_what_runs_already(account, demand):
    account.cloud.services.quotas["L-1216C47A"] = 1.0
    account.cloud.services.quotas["L-0263D0A3"] = 0.0
    assert [check.name for check in problems(account.shared.check(demand))] == ["quota", "quota"]


def test_quotas_are_asked_about_once_for_all_places_that_share_them(account, demand):
    account.cloud.services.quotas["L-1216C47A"] = 1.0
    assert problems(account.shared.check(replace(demand, charged=(), charged_addresses=0))) == []
    elsewhere = replace(demand, machines=(), addresses=0)
    assert [check.name for check in problems(account.shared.check(elsewhere))] == ["quota"]


def test_a_run_that_was_killed_goes_on_in_an_account_that_is_just_large_enough(account, make_site, cancel):
    site = make_site(account.shared)
    clients = account.shared._clients
    before = Quotas(clients.quotas, clients.reads, "us-west-2")._running(Demand(()))["L-1216C47A"]
    addresses = len(account.ec2.describe_addresses()["Addresses"])
    site.create(cancel)
    account.cloud.services.quotas.update({"L-1216C47A": before + 2.0, "L-0263D0A3": addresses + 1.0})
    again = account.shared.check(charged(site.spec(), addresses=1, site=site))
    more = problems(account.shared.check(charged(site.spec(), site.spec(), addresses=2, site=site)))
    site.delete(cancel)
    assert again == []
    assert [check.name for check in more] == ["quota", "quota"]


def test_a_subnet_without_a_way_to_the_internet_is_found(account, demand):
    [found] = problems(with_subnet(account, gateway=False).check(demand))
    assert (found.name, "internet gateway" in found.problem) == ("network", True)


def test_a_subnet_with_a_route_table_of_its_own_that_leads_out_is_fine(account, demand):
    assert with_subnet(account, gateway=True).check(demand) == []


def test_an_image_for_another_architecture_and_one_that_is_not_there_are_found(account, demand):
    [spec] = demand.machines
    arm = account.shared.resolve_image(replace(spec, size="t4g.small"))
    wrong = (replace(spec, image=arm), replace(spec, image="ami-0123456789abcdef0"))
    found = problems(account.shared.check(charged(*wrong)))
    assert [check.name for check in found] == ["image", "image"]
    assert "arm64" in found[0].problem


def test_an_adopted_machine_that_is_stopped_or_gone_is_found(account, make_site, cancel):
    theirs = account.theirs(Kind.MACHINE, make_site(account.shared), cancel)
    provider = account.provider(theirs.settings)
    machine = theirs.settings["machine_id"]
    assert provider.check(Demand(())) == []
    account.ec2.stop_instances(InstanceIds=[machine])
    assert [check.name for check in problems(provider.check(Demand(())))] == ["machine"]
    account.ec2.terminate_instances(InstanceIds=[machine])
    assert machine in problems(provider.check(Demand(())))[0].problem


def test_fifty_sites_that_want_the_same_are_asked_about_once(account, make_site):
    asked = []
    events = account.shared._clients.reads.meta.events
    record = lambda model, **_event: asked.append(model.name)  # noqa: E731 - registered and unregistered by identity
    events.register("before-call.ec2", record)
    machines = tuple(make_site(account.shared).spec() for _ in range(50))
    assert len({spec.user_data for spec in machines}) == 50
    assert account.shared.check(charged(*machines)) == []
    events.unregister("before-call.ec2", record)
    assert asked.count("DescribeImages") == 1
    assert len(asked) < 30


def test_a_trial_carries_no_host_key(account, demand):
    requests = []
    events = account.shared._clients.reads.meta.events
    record = lambda params, **_event: requests.append(dict(params))  # noqa: E731 - as above
    events.register("provide-client-params.ec2.RunInstances", record)
    account.shared.check(demand)
    events.unregister("provide-client-params.ec2.RunInstances", record)
    assert [(one["DryRun"], one["UserData"]) for one in requests] == [(True, "")]


@pytest.fixture
def own_credentials(account, tmp_path, monkeypatch):
    """A user's own AWS configuration: a profile in his file, and an endpoint in his environment."""
    there = account.endpoints.aws
    file = tmp_path / "credentials"
    keys = f"aws_access_key_id = {there.access_key_id}\naws_secret_access_key = {there.secret_access_key}\n"
    file.write_text(f"[fl]\n{keys}", encoding="utf-8")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_ENDPOINT_URL", there.url)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_an_endpoint_in_the_environment_and_a_profile_in_the_deploy_file_work(own_credentials, account, demand):
    provider = registry.load("aws")({**account.settings, "profile": "fl"}, Endpoints())
    assert provider.check(demand) == []
    assert provider.offers(Need(gpus=1))[0].price.source == "AWS price list"


def test_at_an_endpoint_of_others_nothing_that_exists_is_tried_on(own_credentials, account, make_site, cancel):
    """Who speaks like EC2 may not know `DryRun`, and would terminate the machine."""
    site, asked = make_site(account.shared), []
    site.create(cancel)
    provider = registry.load("aws")({**account.settings, "profile": "fl"}, Endpoints())
    provider._clients.reads.meta.events.register("before-call.ec2", lambda model, **_event: asked.append(model.name))
    provider.check(charged(site.spec(), site=site))
    site.delete(cancel)
    assert "RunInstances" in asked
    assert not {"TerminateInstances", "DeleteSecurityGroup", "ReleaseAddress", "StartInstances"} & set(asked)


@pytest.mark.parametrize("region", ["us-gov-west-1", "cn-north-1", "eusc-de-east-1"])
def test_a_region_of_another_partition_needs_no_more_than_its_name(region, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    provider = registry.load("aws")({"region": region}, Endpoints())
    assert region in provider._clients.changes.meta.endpoint_url
