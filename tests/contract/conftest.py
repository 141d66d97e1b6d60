"""One case per provider: where it lives for the tests, and what it can get wrong. No root, no hosts: only the APIs."""

import threading
import uuid
from dataclasses import dataclass, field, replace

import pytest
from clouddeploy_providers import cloud_init, registry
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import FirewallRule, Kind, MachineSpec, Owner, Resource
from clouddeploy_rehearsal.aws import AwsCloud
from clouddeploy_rehearsal.azure.server import AzureCloud, _Handler
from clouddeploy_rehearsal.azure.store import MACHINES, Refused
from clouddeploy_rehearsal.faults import Faults

SSH = FirewallRule(port=22, sources=("192.0.2.1/32",), purpose="ssh")
FEDERATION = FirewallRule(port=8002, sources=("0.0.0.0/0",), purpose="federation")
UNKNOWN_SIZE = "no.such.size"
AZURE_SIZES = {"Standard_B2s", "Standard_D64s_v5"}


BOOT_S = 30


class NoFleet:
    """Stands in for the hosts: a machine is nothing, and boots once `may_boot` is set, which it is from the start."""

    def __init__(self):
        self.may_boot = threading.Event()
        self.may_boot.set()

    def boot(self, machine, **_given):
        self.may_boot.wait(BOOT_S)

    def host(self, machine):
        return None

    def kill(self, machine):
        pass


def start_aws(*, fleet=None, **faults):
    cloud = AwsCloud(fleet or NoFleet(), Faults(**faults))
    return cloud, cloud.start()


def start_azure(directory, *, fleet=None, **faults):
    """The emulator knows no list of sizes; Resource Manager does, and this is how it refuses others."""
    cloud = AzureCloud(fleet or NoFleet(), Faults(**faults))
    # An answer is written in two pieces, and with Nagle's algorithm the second waits 40 ms.
    _Handler.disable_nagle_algorithm = True
    put = cloud.store.put

    def strict_put(arm_id, kind, body):
        if kind == MACHINES and body["properties"]["hardwareProfile"]["vmSize"] not in AZURE_SIZES:
            raise Refused(400, "InvalidParameter", "The value of parameter vmSize is invalid.")
        return put(arm_id, kind, body)

    cloud.store.put = strict_put
    return cloud, replace(cloud.start(directory), polling_interval_s=0.02)


@pytest.fixture(scope="module")
def aws_cloud():
    cloud, endpoint = start_aws(no_capacity=frozenset({"m5.large"}))
    yield endpoint
    cloud.close()


@pytest.fixture(scope="module")
def azure_cloud(tmp_path_factory):
    cloud, endpoint = start_azure(tmp_path_factory.mktemp("azure"), no_capacity=frozenset({"Standard_D64s_v5"}))
    yield endpoint
    cloud.close()


@dataclass
class Case:
    """One provider under test.

    Attributes:
        settings: as in a deploy file.
        wrong: settings and endpoints with credentials that are refused; None: it has none.
        scarce: a size of which none is free; None: it has no sizes.
        shared: a provider that all tests may use.
        rules: takes the provider and a firewall; returns what is open now, asked of the cloud.
    """

    name: str
    settings: dict
    endpoints: Endpoints = field(default_factory=Endpoints)
    wrong: tuple | None = None
    scarce: str | None = None
    rules: object = None

    shared: object = None

    def provider(self):
        """A new object, as a new process would make it. A cloud's takes a second of CPU time to make."""
        return registry.load(self.name)(self.settings, self.endpoints)

    def wrong_provider(self):
        if self.wrong is None:
            pytest.skip("it asks for no credentials")
        return registry.load(self.name)(*self.wrong)


def fake_rules(provider, ref):
    return {(port, source) for port, source in provider.cloud.rules(ref.name)}


def aws_rules(provider, ref):
    groups = provider._ec2.describe_security_groups(GroupIds=[ref.id])["SecurityGroups"]
    return {
        (one["FromPort"], block["CidrIp"])
        for group in groups
        for one in group["IpPermissions"]
        for block in one["IpRanges"]
    }


def azure_rules(provider, ref):
    group = provider._network.network_security_groups.get(ref.id.split("/")[4], ref.name)
    return {
        (int(rule.destination_port_range), source)
        for rule in group.security_rules
        for source in rule.source_address_prefixes
    }


@pytest.fixture(scope="module")
def aws_case(aws_cloud):
    settings, scarce = {"region": "us-west-2"}, "m5.large"
    wrong = (settings, Endpoints(aws=replace(aws_cloud, access_key_id="AKIAWRONG00000000000")))
    return shared(Case("aws", settings, Endpoints(aws=aws_cloud), wrong=wrong, scarce=scarce, rules=aws_rules))


@pytest.fixture(scope="module")
def azure_case(azure_cloud):
    settings, scarce = {"location": "westus2"}, "Standard_D64s_v5"
    wrong = (settings, Endpoints(azure=replace(azure_cloud, client_secret="wrong")))
    return shared(Case("azure", settings, Endpoints(azure=azure_cloud), wrong=wrong, scarce=scarce, rules=azure_rules))


@pytest.fixture
def fake_case(tmp_path):
    settings = {"file": str(tmp_path / "cloud.json"), "no_capacity": "large"}
    wrong = ({**settings, "credentials": "wrong"}, Endpoints())
    return shared(Case("fake", settings, wrong=wrong, scarce="large", rules=fake_rules))


@pytest.fixture
def local_case(tmp_path):
    return shared(Case("local", {"directory": str(tmp_path / "sites")}))


@pytest.fixture
def onprem_case():
    key = cloud_init.generate_host_key().public
    given = {"address": "192.0.2.20", "user": "fl", "host_key": key, "identity_file": "~/.ssh/id_ed25519"}
    return shared(Case("onprem", given))


def shared(case):
    case.shared = case.provider()
    return case


@pytest.fixture(params=["fake", "local", "onprem", "aws", "azure"])
def case(request):
    return request.getfixturevalue(f"{request.param}_case")


class Site:
    """What one site of one deployment wants from a provider."""

    def __init__(self, provider, *, deployment=None, is_server=True):
        self.provider = provider
        self.deployment = deployment or uuid.uuid4().hex[:8]
        self.owner = Owner(self.deployment, "breast cancer", "server1" if is_server else "site-1")
        self.kinds = provider.kinds(is_server=is_server)
        self.host_key = cloud_init.generate_host_key()
        self.attempt = 0
        self.refs = {}

    def spec(self, *, size=None):
        user_data = cloud_init.render(
            user="fl",
            public_key=self.host_key.public,
            host_private_key=self.host_key.private,
            host_public_key=self.host_key.public,
            hostname="server1",
        )
        return MachineSpec(size, None, 30, "fl", self.host_key.public, user_data)

    def resource(self, kind, *, rules=(SSH,), size=None):
        name = resource_name(self.owner, kind)
        return Resource(
            kind,
            name,
            self.owner,
            rules=rules if kind is Kind.FIREWALL else (),
            machine=self.spec(size=size) if kind is Kind.MACHINE else None,
            needs=tuple(self.refs.values()),
            token=f"{name}/{self.attempt}",
        )

    def create(self, cancel, *, provider=None, until=None, size=None):
        """Creates kind after kind, as the engine does, each knowing those before it."""
        self.refs = {}
        for kind in self.kinds:
            if kind is until:
                break
            self.refs[kind] = (provider or self.provider).create(self.resource(kind, size=size), cancel)
        return self.refs

    def delete(self, cancel):
        for ref in reversed(self.refs.values()):
            self.provider.delete(ref, cancel)


@pytest.fixture
def site(case):
    """A server's site at the provider under test."""
    return Site(case.shared)


@pytest.fixture
def make_site():
    return Site


@dataclass
class Started:
    """A cloud with faults and a provider that asks it."""

    cloud: object
    fleet: NoFleet
    provider: object


@pytest.fixture
def start_cloud(tmp_path):
    """Starts `aws` or `azure` with faults; at most one emulated AWS lives at a time, so not beside `aws_cloud`."""
    started = []

    def start(name, **faults):
        fleet = NoFleet()
        if name == "aws":
            cloud, endpoint = start_aws(fleet=fleet, **faults)
            settings, endpoints = {"region": "us-west-2"}, Endpoints(aws=endpoint)
        else:
            cloud, endpoint = start_azure(tmp_path, fleet=fleet, **faults)
            settings, endpoints = {"location": "westus2"}, Endpoints(azure=endpoint)
        started.append((cloud, fleet))
        return Started(cloud, fleet, registry.load(name)(settings, endpoints))

    yield start
    for cloud, fleet in started:
        fleet.may_boot.set()
        cloud.close()


@pytest.fixture
def cancel():
    return threading.Event()
