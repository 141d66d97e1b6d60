import pytest
from botocore.exceptions import ClientError
from clouddeploy_providers.aws.quotas import Quotas, quota_of
from clouddeploy_providers.errors import AuthenticationError
from clouddeploy_providers.naming import TAG_DEPLOYMENT
from clouddeploy_providers.resources import Demand, Offer

VCPUS = {"t3.small": 2, "m5.large": 2, "g5.xlarge": 4, "p4d.24xlarge": 96}


class Account:
    """An EC2 and a Service Quotas client in one: what runs, and what may."""

    def __init__(self, *, running=(), addresses=0, tagged=(), limits=None, error=None):
        self.running, self.addresses, self.limits, self.error = running, addresses, limits or {}, error
        self.tagged = tagged

    def get_service_quota(self, *, ServiceCode, QuotaCode):  # noqa: N803 - boto3's names
        assert ServiceCode == "ec2"
        if self.error:
            raise ClientError({"Error": {"Code": self.error, "Message": "said AWS"}}, "GetServiceQuota")
        return {"Quota": {"Value": self.limits[QuotaCode]}}

    def describe_addresses(self):
        return {"Addresses": [{}] * self.addresses + [{"Tags": tags} for tags in self.tagged]}

    def get_paginator(self, verb):
        return {"describe_instances": Instances(self.running), "describe_instance_types": Types()}[verb]


class Instances:
    def __init__(self, running):
        self.running = running

    def paginate(self, *, Filters):  # noqa: N803
        assert Filters == [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        return [{"Reservations": [{"Instances": [one]}]} for one in self.running]


class Types:
    def paginate(self, *, Filters):  # noqa: N803
        [wanted] = Filters
        return [{"InstanceTypes": [described(size) for size in wanted["Values"]]}]


def described(size):
    return {"InstanceType": size, "VCpuInfo": {"DefaultVCpus": VCPUS[size]}, "MemoryInfo": {"SizeInMiB": 1024}}


def offers(*sizes):
    return [Offer(size, VCPUS[size], 1) for size in sizes]


def quotas(**given):
    account = Account(**given)
    return Quotas(account, account, "eu-central-1")


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ("t3.small", "L-1216C47A"),
        ("m7i.large", "L-1216C47A"),
        ("c6gn.xlarge", "L-1216C47A"),
        ("im4gn.large", "L-1216C47A"),
        ("g4dn.xlarge", "L-DB2E81BA"),
        ("gr6.4xlarge", "L-DB2E81BA"),
        ("vt1.3xlarge", "L-DB2E81BA"),
        ("p5.48xlarge", "L-417A185B"),
        ("inf2.xlarge", "L-1945791B"),
        ("trn1.2xlarge", "L-2C3B7624"),
        ("x2idn.16xlarge", "L-7295265B"),
    ],
)
def test_a_size_counts_against_the_quota_of_its_family(size, code):
    assert quota_of(size) == code


def test_what_runs_and_what_is_wanted_are_added_up_by_family():
    running = [{"InstanceType": "m5.large"}, {"InstanceType": "g5.xlarge"}]
    limits = {"L-1216C47A": 5, "L-DB2E81BA": 8}
    [found] = quotas(running=running, limits=limits).check_vcpus(offers("t3.small", "t3.small", "g5.xlarge"))
    assert found.problem == "the quota allows 5 vCPUs of t3.small, 2 are in use and 4 more are needed"
    assert not found.is_warning


def test_the_finding_links_to_the_page_where_more_is_asked_for():
    [found] = quotas(limits={"L-417A185B": 0}).check_vcpus(offers("p4d.24xlarge"))
    where = "https://eu-central-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/L-417A185B"
    assert found.hint.endswith(where)


def test_a_quota_that_is_just_enough_is_enough():
    assert quotas(limits={"L-1216C47A": 2}).check_vcpus(offers("t3.small")) == []


def test_spot_instances_have_their_own_quota():
    running = [{"InstanceType": "m5.large", "InstanceLifecycle": "spot"}]
    assert quotas(running=running, limits={"L-1216C47A": 2}).check_vcpus(offers("t3.small")) == []


def tags(name, deployment="0a1b2c3d"):
    return [{"Key": "Name", "Value": name}, {"Key": TAG_DEPLOYMENT, "Value": deployment}]


DEMAND = Demand((), deployment="0a1b2c3d", names=frozenset({"cd-m", "cd-a"}))


def test_what_a_killed_run_has_made_or_is_about_to_be_replaced_counts_once():
    """It is demanded already; else an account that is just large enough could never go on."""
    running = [{"InstanceType": "m5.large", "Tags": tags("cd-m")}]
    made = quotas(running=running, tagged=[tags("cd-a")], limits={"L-1216C47A": 2, "L-0263D0A3": 1})
    assert made.check_vcpus(offers("m5.large"), demand=DEMAND) == []
    assert made.check_addresses(1, demand=DEMAND) == []


@pytest.mark.parametrize("others", [tags("cd-m", "ffffffff"), tags("cd-other"), []])
def test_what_is_another_deployments_or_not_demanded_is_in_use(others):
    running = [{"InstanceType": "m5.large", "Tags": others}]
    made = quotas(running=running, tagged=[others], limits={"L-1216C47A": 2, "L-0263D0A3": 1})
    assert len(made.check_vcpus(offers("m5.large"), demand=DEMAND)) == 1
    assert len(made.check_addresses(1, demand=DEMAND)) == 1


def test_a_demand_without_a_deployment_owns_nothing():
    running = [{"InstanceType": "m5.large"}]
    made = quotas(running=running, limits={"L-1216C47A": 2})
    assert len(made.check_vcpus(offers("m5.large"), demand=Demand((), names=frozenset({""})))) == 1


def test_addresses_are_counted_too():
    [found] = quotas(addresses=5, limits={"L-0263D0A3": 5}).check_addresses(1)
    assert "5 are in use and 1 more" in found.problem
    assert quotas(addresses=4, limits={"L-0263D0A3": 5}).check_addresses(1) == []
    assert quotas(error="AccessDeniedException").check_addresses(0) == []


@pytest.mark.parametrize("code", ["AccessDeniedException", "NoSuchResourceException", "ServiceUnavailable"])
def test_a_quota_that_cannot_be_read_is_a_warning(code):
    [found] = quotas(error=code).check_vcpus(offers("t3.small"))
    assert found.is_warning
    assert "servicequotas:GetServiceQuota" in found.hint


def test_credentials_that_are_refused_raise():
    with pytest.raises(AuthenticationError):
        quotas(error="UnrecognizedClientException").check_vcpus(offers("t3.small"))
