"""One case per provider: where it lives for the tests, and what others do there. No root, no hosts: only the APIs."""

import copy
import threading
import uuid
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import boto3
import pytest
from clouddeploy_providers import cloud_init, registry
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.fake import FakeCloud
from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import FirewallRule, Kind, MachineSpec, Owner, Resource
from clouddeploy_rehearsal.aws import AwsCloud
from clouddeploy_rehearsal.azure.server import AzureCloud
from clouddeploy_rehearsal.faults import Faults
from clouddeploy_rehearsal.kubernetes_sites import SiteCluster

SSH = FirewallRule(port=22, sources=("192.0.2.1/32",), purpose="ssh")
AWS_SETTINGS, AZURE_SETTINGS = {"region": "us-west-2"}, {"location": "westus2"}
REACH = {"user": "fl", "identity_file": "~/.ssh/id_ed25519", "host_key": cloud_init.generate_host_key().public}
FOREIGN_PORT = 3389
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
    cloud = AzureCloud(fleet or NoFleet(), Faults(**faults))
    return cloud, replace(cloud.start(directory), polling_interval_s=0.02)


@pytest.fixture(scope="module")
def aws_cloud():
    cloud, endpoint = start_aws(no_capacity=frozenset({"m5.large"}))
    yield cloud, endpoint
    cloud.close()


@pytest.fixture(scope="module")
def azure_cloud(tmp_path_factory):
    cloud, endpoint = start_azure(tmp_path_factory.mktemp("azure"), no_capacity=frozenset({"Standard_D64s_v5"}))
    yield cloud, endpoint
    cloud.close()


@dataclass
class Theirs:
    """Something that exists and is not ours, and the settings that make a provider adopt it."""

    settings: dict
    is_there: object


class Case:
    """One provider under test, and what somebody else does in its place, behind its back.

    Attributes:
        settings: as in a deploy file.
        wrong: settings and endpoints with credentials that are refused; None: it has none.
        scarce: a size of which none is free; None: it has no sizes.
        zones: two of its zones; empty: it has none.
        shared: a provider that all tests may use.
    """

    name = ""
    scarce = None
    zones = ()
    wrong = None

    def __init__(self, settings, endpoints=None):
        self.settings, self.endpoints = settings, endpoints or Endpoints()
        self.shared = self.provider()

    @property
    def has_sizes(self):
        return self.scarce is not None

    def provider(self, settings=None):
        """A new object, as a new process would make it. A cloud's takes a second of CPU time to make."""
        return registry.load(self.name)(settings or self.settings, self.endpoints)

    def wrong_provider(self):
        if self.wrong is None:
            pytest.skip("it asks for no credentials")
        return registry.load(self.name)(*self.wrong)

    def owned(self, refs):
        """What `find` has to see: a provider that creates nothing owns nothing."""
        return [] if self.shared.creates_nothing else self.identity(refs.values())

    @staticmethod
    def identity(refs):
        """ARM ids come back in varying case, and a listing need not carry outputs."""
        return sorted((ref.kind.value, ref.name, ref.id.lower()) for ref in refs)

    def everything(self):
        """Whatever exists, asked behind the API."""
        return set()

    def rules(self, ref):
        """What a firewall lets in, as (port, source)."""
        pytest.skip("it has no firewall")

    def allow(self, ref):
        """Opens FOREIGN_PORT to the world."""
        pytest.skip("it has no firewall")

    def stop(self, ref):
        pytest.skip("its machines cannot be stopped")

    def remove(self, ref):
        pytest.skip("nobody else could delete it")

    def theirs(self, kind, site, cancel):
        pytest.skip(f"it adopts no {kind}")


class FakeCase(Case):
    name, scarce, zones = "fake", "large", ("zone-1", "zone-2")

    def __init__(self, folder):
        file = folder / "cloud.json"
        quotas = {"quota_vcpus": "64", "quota_addresses": "8"}
        super().__init__({"file": str(file), "no_capacity": "large", **quotas})
        self.wrong = ({**self.settings, "credentials": "wrong"}, Endpoints())
        self.cloud = FakeCloud(file)

    def everything(self):
        return set(self.cloud.names)

    def rules(self, ref):
        return self.cloud.rules(ref.name)

    def allow(self, ref):
        self.cloud.allow(ref.name, port=FOREIGN_PORT, source="0.0.0.0/0")

    def stop(self, ref):
        self.cloud.stop(ref.name)

    def remove(self, ref):
        self.cloud.remove(ref.name)

    def theirs(self, kind, site, cancel):
        if kind is Kind.GROUP:
            pytest.skip("it has no groups")
        self.cloud.add(kind, "theirs")
        reach = REACH if kind is Kind.MACHINE else {}
        return Theirs({**self.settings, kind.value: "theirs", **reach}, lambda: "theirs" in self.cloud.names)


class LocalCase(Case):
    name = "local"

    def __init__(self, folder):
        self.folder = folder / "sites"
        super().__init__({"directory": str(self.folder)})

    def everything(self):
        return set(self.folder.parent.rglob("*"))

    def remove(self, ref):
        for path in sorted(Path(ref.outputs["directory"]).rglob("*"), reverse=True):
            path.unlink()
        Path(ref.outputs["directory"]).rmdir()


class OnPremCase(Case):
    name = "onprem"

    def __init__(self):
        super().__init__({"address": "192.0.2.20", **REACH, "egress": "203.0.113.7"})


class KubernetesCase(Case):
    name = "kubernetes"

    def __init__(self, cluster):
        self.cluster = cluster
        there = {"context": "rehearsal", "namespace": "fl", "kubeconfig": str(cluster.kubeconfig())}
        super().__init__({**there, "service": "ClusterIP"})

    def everything(self):
        return {("namespaces", name) for name in self.cluster.namespaces} | self.cluster.names("fl")

    def remove(self, ref):
        self.cluster.remove("fl", "configmaps", ref.name)


class AwsCase(Case):
    name, scarce, zones = "aws", "m5.large", ("us-west-2a", "us-west-2b")

    def __init__(self, cloud, endpoint):
        super().__init__(AWS_SETTINGS, Endpoints(aws=endpoint))
        self.cloud = cloud
        self.wrong = (AWS_SETTINGS, Endpoints(aws=replace(endpoint, access_key_id="AKIAWRONG00000000000")))
        keys = {"aws_access_key_id": endpoint.access_key_id, "aws_secret_access_key": endpoint.secret_access_key}
        self.ec2 = boto3.client("ec2", region_name="us-west-2", endpoint_url=endpoint.url, **keys)

    def everything(self):
        return set(self.cloud.resources())

    def rules(self, ref):
        group = self.ec2.describe_security_groups(GroupIds=[ref.id])["SecurityGroups"][0]
        found = group["IpPermissions"]
        return {(one["FromPort"], block["CidrIp"]) for one in found for block in one["IpRanges"]}

    def allow(self, ref):
        rule = {"IpProtocol": "tcp", "FromPort": FOREIGN_PORT, "ToPort": FOREIGN_PORT}
        blocks = [{"CidrIp": "0.0.0.0/0"}]
        self.ec2.authorize_security_group_ingress(GroupId=ref.id, IpPermissions=[{**rule, "IpRanges": blocks}])

    def stop(self, ref):
        self.ec2.stop_instances(InstanceIds=[ref.id])

    def remove(self, ref):
        if ref.kind is Kind.MACHINE:
            self.ec2.terminate_instances(InstanceIds=[ref.id])
        elif ref.kind is Kind.FIREWALL:
            self.ec2.delete_security_group(GroupId=ref.id)
        else:
            self.ec2.release_address(AllocationId=ref.id)

    def theirs(self, kind, site, cancel):
        if kind is Kind.GROUP:
            pytest.skip("it has no groups")
        if kind is Kind.NETWORK:
            return self._their_subnet()
        ref = site.create(cancel)[Kind.MACHINE]
        tags = self.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [ref.id]}])["Tags"]
        self.ec2.delete_tags(Resources=[ref.id], Tags=[{"Key": tag["Key"]} for tag in tags])
        there = f"aws instance {ref.id}"
        return Theirs({**self.settings, "machine_id": ref.id, **REACH}, lambda: there in self.everything())

    def _their_subnet(self):
        vpc = self.ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
        given = {"VpcId": vpc, "CidrBlock": "10.7.1.0/24", "AvailabilityZone": "us-west-2b"}
        subnet = self.ec2.create_subnet(**given)["Subnet"]["SubnetId"]
        gateway = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        [table] = self.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
        to = {"RouteTableId": table["RouteTableId"], "DestinationCidrBlock": "0.0.0.0/0"}
        self.ec2.create_route(**to, GatewayId=gateway)
        return Theirs({**self.settings, "subnet_id": subnet}, lambda: self.ec2.describe_subnets(SubnetIds=[subnet]))


class AzureCase(Case):
    """What others do is done in the emulator's store, where the resources are as bodies."""

    name, scarce, zones = "azure", "Standard_D64s_v5", ("1", "2")

    def __init__(self, cloud, endpoint):
        super().__init__(AZURE_SETTINGS, Endpoints(azure=endpoint))
        self.store = cloud.store
        self.wrong = (AZURE_SETTINGS, Endpoints(azure=replace(endpoint, client_secret="wrong")))

    def everything(self):
        return set(self.store.resources)

    def rules(self, ref):
        bodies = [rule["properties"] for rule in self._properties(ref)["securityRules"]]
        return {
            (int(body["destinationPortRange"]), source)
            for body in bodies
            for source in body.get("sourceAddressPrefixes") or [body["sourceAddressPrefix"]]
        }

    def allow(self, ref):
        rules = self._properties(ref)["securityRules"]
        rule = copy.deepcopy(rules[0])
        rule["name"] = "theirs"
        rule["properties"] |= {"priority": 4000, "destinationPortRange": str(FOREIGN_PORT)}
        rule["properties"] |= {"sourceAddressPrefixes": ["0.0.0.0/0"]}
        rules.append(rule)

    def stop(self, ref):
        self.store.power_off(ref.id)

    def remove(self, ref):
        key = ref.id.lower()
        for other in [other for other in self.store.resources if other == key or other.startswith(f"{key}/")]:
            del self.store.resources[other]

    def theirs(self, kind, site, cancel):
        refs = dict(site.create(cancel, until=None if kind is Kind.MACHINE else Kind.FIREWALL))
        if kind not in refs:
            pytest.skip(f"it adopts no {kind}")
        for body in self.store.resources.values():
            if body["id"].lower().startswith(refs[Kind.GROUP].id.lower()):
                body["tags"] = {}
        network = self._properties(refs[Kind.NETWORK])
        settings = {
            Kind.GROUP: {"resource_group": refs[Kind.GROUP].name},
            Kind.NETWORK: {"network": refs[Kind.NETWORK].id, "subnet": network["subnets"][0]["name"]},
            Kind.MACHINE: {"machine": refs[kind].id, **REACH},
        }
        there = refs[kind].id.lower()
        return Theirs({**self.settings, **settings[kind]}, lambda: there in self.store.resources)

    def _properties(self, ref):
        return self.store.resources[ref.id.lower()]["properties"]


@pytest.fixture(scope="module")
def aws_case(aws_cloud):
    return AwsCase(*aws_cloud)


@pytest.fixture(scope="module")
def azure_case(azure_cloud):
    return AzureCase(*azure_cloud)


@pytest.fixture
def fake_case(tmp_path):
    return FakeCase(tmp_path)


@pytest.fixture
def local_case(tmp_path):
    return LocalCase(tmp_path)


@pytest.fixture
def onprem_case():
    return OnPremCase()


@pytest.fixture
def kubernetes_case(tmp_path):
    with SiteCluster(tmp_path / "cluster") as cluster:
        yield KubernetesCase(cluster)


@pytest.fixture(params=["fake", "local", "onprem", "kubernetes", "aws", "azure"])
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

    def spec(self, *, size=None, zones=(), expires_at=""):
        user_data = cloud_init.render(
            user="fl",
            public_key=self.host_key.public,
            host_private_key=self.host_key.private,
            host_public_key=self.host_key.public,
            hostname="server1",
            expires_at=expires_at,
        )
        return MachineSpec(size, None, 30, "fl", self.host_key.public, user_data, zones, expires_at)

    def resource(self, kind, *, rules=(SSH,), **machine):
        name = resource_name(self.owner, kind)
        return Resource(
            kind,
            name,
            self.owner,
            rules=rules if kind is Kind.FIREWALL else (),
            machine=self.spec(**machine) if kind is Kind.MACHINE else None,
            needs=tuple(self.refs.values()),
            token=f"{name}/{self.attempt}",
        )

    def create(self, cancel, *, provider=None, until=None, **machine):
        """Creates kind after kind, as the engine does, each knowing those before it."""
        self.refs = {}
        for kind in self.kinds:
            if kind is until:
                break
            self.refs[kind] = (provider or self.provider).create(self.resource(kind, **machine), cancel)
        return self.refs

    def delete(self, cancel):
        """Deletes what is ours, as the engine does."""
        for ref in reversed(self.refs.values()):
            if not ref.is_adopted:
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
    elsewhere: object
    """Takes settings; returns a provider that asks the same cloud with them."""


@pytest.fixture
def start_cloud(tmp_path):
    """Starts `aws` or `azure` with faults; at most one emulated AWS lives at a time, so not beside `aws_cloud`."""
    started = []

    def start(name, **faults):
        fleet = NoFleet()
        if name == "aws":
            cloud, endpoint = start_aws(fleet=fleet, **faults)
            settings, endpoints = AWS_SETTINGS, Endpoints(aws=endpoint)
        else:
            cloud, endpoint = start_azure(tmp_path, fleet=fleet, **faults)
            settings, endpoints = AZURE_SETTINGS, Endpoints(azure=endpoint)
        started.append((cloud, fleet))
        elsewhere = partial(registry.load(name), endpoints=endpoints)
        return Started(cloud, fleet, elsewhere(settings), elsewhere)

    yield start
    for cloud, fleet in started:
        fleet.may_boot.set()
        cloud.close()


@pytest.fixture
def cancel():
    return threading.Event()
