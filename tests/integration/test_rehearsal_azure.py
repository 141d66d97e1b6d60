"""The unmodified azure-identity and azure-mgmt clients against an emulated Azure whose machines are real hosts."""

import base64
import contextlib

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient
from clouddeploy_providers import cloud_init
from clouddeploy_rehearsal.probe import answers, connect, run, until

pytest_plugins = ["clouddeploy_rehearsal.pytest_plugin"]
pytestmark = [pytest.mark.xdist_group("world"), pytest.mark.root]
LOCATION = {"location": "westus2"}
GROUP = "g"


class Subscription:
    """The clients, and one test's resource group."""

    def __init__(self, world, *, secret=None):
        there = world.endpoints.azure
        self.world = world
        self.host, self.user = cloud_init.generate_host_key(), cloud_init.generate_host_key()
        credential = ClientSecretCredential(
            there.tenant_id,
            there.client_id,
            secret or there.client_secret,
            authority=there.url,
            disable_instance_discovery=True,
            connection_verify=there.ca_file,
        )
        given = {
            "base_url": there.url,
            "credential_scopes": [f"{there.url}/.default"],
            "connection_verify": there.ca_file,
            "polling_interval": 0.05,
            "retry_total": 0,
        }
        self.clients = [
            kind(credential, there.subscription_id, **given)
            for kind in (ResourceManagementClient, NetworkManagementClient, ComputeManagementClient)
        ]
        self.resource, self.network, self.compute = self.clients

    def close(self):
        for client in self.clients:
            client.close()

    def firewall(self, *ports):
        rules = [
            {
                "name": f"allow-{port}",
                "properties": {
                    "priority": 100 + number,
                    "direction": "Inbound",
                    "access": "Allow",
                    "protocol": "Tcp",
                    "sourceAddressPrefix": "192.0.2.1/32",
                    "sourcePortRange": "*",
                    "destinationAddressPrefix": "*",
                    "destinationPortRange": str(port),
                },
            }
            for number, port in enumerate(ports)
        ]
        body = {**LOCATION, "properties": {"securityRules": rules}}
        return self.network.network_security_groups.begin_create_or_update(GROUP, "nsg", body).result()

    def surroundings(self):
        """Everything that a machine needs, in a new group."""
        self.resource.resource_groups.create_or_update(GROUP, {**LOCATION, "tags": {"owner": "me"}})
        firewall = self.firewall(22)
        body = {**LOCATION, "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}}
        self.address = self.network.public_ip_addresses.begin_create_or_update(GROUP, "pip", body).result()
        subnet = {"name": "s", "properties": {"addressPrefix": "10.40.0.0/24"}}
        body = {**LOCATION, "properties": {"addressSpace": {"addressPrefixes": ["10.40.0.0/16"]}, "subnets": [subnet]}}
        network = self.network.virtual_networks.begin_create_or_update(GROUP, "vnet", body).result()
        configuration = {
            "name": "c",
            "properties": {
                "subnet": {"id": f"{network.id}/subnets/s"},
                "publicIPAddress": {"id": self.address.id},
            },
        }
        body = {
            **LOCATION,
            "properties": {"ipConfigurations": [configuration], "networkSecurityGroup": {"id": firewall.id}},
        }
        self.interface = self.network.network_interfaces.begin_create_or_update(GROUP, "nic", body).result()

    def machine(self, *, disk="Delete", nic="Delete"):
        text = cloud_init.render(
            user="clouddeploy",
            public_key=self.user.public,
            host_private_key=self.host.private,
            host_public_key=self.host.public,
            hostname="vm",
        )
        key = {"path": "/home/clouddeploy/.ssh/authorized_keys", "keyData": self.user.public}
        image = {"publisher": "Canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
        return {
            **LOCATION,
            "properties": {
                "hardwareProfile": {"vmSize": "Standard_B2s"},
                "storageProfile": {
                    "imageReference": image,
                    "osDisk": {"createOption": "FromImage", "deleteOption": disk, "diskSizeGB": 30},
                },
                "osProfile": {
                    "computerName": "vm",
                    "adminUsername": "clouddeploy",
                    "customData": base64.b64encode(text.encode()).decode(),
                    "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
                },
                "networkProfile": {
                    "networkInterfaces": [{"id": self.interface.id, "properties": {"deleteOption": nic}}]
                },
            },
        }

    def create(self, body):
        return self.compute.virtual_machines.begin_create_or_update(GROUP, "vm", body).result()

    def login(self):
        return connect(
            self.address.ip_address, user="clouddeploy", private=self.user.private, host_key=self.host.public
        )

    def names(self):
        return sorted(one.rsplit("/", 2)[1] for one in self.world.resources() if "/providers/" in one)


@pytest.fixture
def azure(world):
    made = Subscription(world)
    yield made
    with contextlib.suppress(ResourceNotFoundError):
        made.resource.resource_groups.begin_delete(GROUP).result()
    made.close()
    assert world.resources() == []


def refusal(azure, body):
    with pytest.raises(HttpResponseError) as error:
        azure.create(body)
    return error.value


def test_the_whole_chain_from_group_to_ssh_and_back_to_nothing(azure):
    azure.surroundings()
    made = azure.create(azure.machine())
    assert made.provisioning_state == "Succeeded"
    assert made.os_profile.custom_data is None
    with contextlib.closing(azure.login()) as ssh:
        assert run(ssh, "hostname; sudo -n id -u") == (0, "vm\n0")
    again = [one.name for one in azure.resource.resources.list_by_resource_group(GROUP)]
    assert {"vm", "nic", "vnet", "nsg", "pip"} < set(again)
    azure.compute.virtual_machines.begin_delete(GROUP, "vm").result()
    assert not answers(azure.address.ip_address, 22)
    assert azure.names() == ["networkSecurityGroups", "publicIPAddresses", "virtualNetworks"]
    azure.network.public_ip_addresses.begin_delete(GROUP, "pip").result()
    azure.network.virtual_networks.begin_delete(GROUP, "vnet").result()
    azure.network.network_security_groups.begin_delete(GROUP, "nsg").result()
    azure.network.network_security_groups.begin_delete(GROUP, "nsg").result()
    assert azure.names() == []


def test_a_rule_opens_and_closes_a_port_while_the_host_runs(azure):
    azure.surroundings()
    azure.create(azure.machine())
    address = azure.address.ip_address
    with contextlib.closing(azure.login()) as ssh:
        run(ssh, "nohup python3 -m http.server 8002 >/dev/null 2>&1 &")
        until(lambda: run(ssh, "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8002'")[0] == 0, what="a listener")
        assert not answers(address, 8002)
        azure.firewall(22, 8002)
        assert answers(address, 8002)
        azure.firewall(22)
        assert not answers(address, 8002)


def test_what_is_in_use_is_not_deleted(azure):
    azure.surroundings()
    azure.create(azure.machine())
    for verbs, name, code in (
        (azure.network.public_ip_addresses, "pip", "PublicIPAddressCannotBeDeleted"),
        (azure.network.network_security_groups, "nsg", "InUseNetworkSecurityGroupCannotBeDeleted"),
        (azure.network.virtual_networks, "vnet", "InUseSubnetCannotBeDeleted"),
        (azure.network.network_interfaces, "nic", "NicInUse"),
    ):
        with pytest.raises(HttpResponseError) as error:
            verbs.begin_delete(GROUP, name).result()
        assert error.value.error.code == code


def test_disk_and_interface_outlive_the_machine_unless_its_delete_options_say_otherwise(azure):
    azure.surroundings()
    azure.create(azure.machine(disk="Detach", nic="Detach"))
    azure.compute.virtual_machines.begin_delete(GROUP, "vm").result()
    assert {"disks", "networkInterfaces"} < set(azure.names())
    (disk,) = azure.compute.disks.list_by_resource_group(GROUP)
    azure.compute.disks.begin_delete(GROUP, disk.name).result()
    assert "disks" not in azure.names()


def test_deleting_the_group_takes_the_host_along(azure):
    azure.surroundings()
    azure.create(azure.machine())
    azure.resource.resource_groups.begin_delete(GROUP).result()
    assert not azure.resource.resource_groups.check_existence(GROUP)
    assert not answers(azure.address.ip_address, 22)


def test_a_machine_that_was_switched_off_does_not_answer_until_it_is_started(azure):
    azure.surroundings()
    made = azure.create(azure.machine())
    machines, address = azure.compute.virtual_machines, azure.address.ip_address
    power = lambda: machines.get(GROUP, "vm", expand="instanceView").instance_view.statuses[-1].code  # noqa: E731
    assert power() == "PowerState/running"
    machines.begin_deallocate(GROUP, "vm").result()
    assert power() == "PowerState/deallocated"
    assert not answers(address, 22)
    machines.begin_start(GROUP, "vm").result()
    assert power() == "PowerState/running"
    with contextlib.closing(azure.login()) as ssh:
        assert run(ssh, "hostname") == (0, "vm")
    azure.world.azure.store.power_off(made.id)
    assert power() == "PowerState/stopped"


def test_a_size_that_azure_does_not_sell_is_refused(azure):
    azure.surroundings()
    body = azure.machine()
    body["properties"]["hardwareProfile"]["vmSize"] = "Standard_None"
    assert refusal(azure, body).error.code == "InvalidParameter"
    assert "virtualMachines" not in azure.names()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda body: body.pop("location"), "location"),
        (lambda body: body["properties"].update(osProfil={}), "osProfil"),
        (lambda body: body["properties"]["storageProfile"]["osDisk"].update(diskSizeGB="30"), "diskSizeGB"),
        (lambda body: body["properties"]["hardwareProfile"].update(vmSize=5), "vmSize"),
        (lambda body: body["properties"]["storageProfile"]["osDisk"].update(deleteOption="Never"), "deleteOption"),
        (lambda body: body["properties"].update(provisioningState="Succeeded"), "read-only"),
        (lambda body: body["properties"]["osProfile"].pop("linuxConfiguration"), "SSH"),
        (
            lambda body: body["properties"]["osProfile"]["linuxConfiguration"].update(
                disablePasswordAuthentication=False
            ),
            "SSH",
        ),
    ],
)
def test_a_bad_machine_is_refused_and_nothing_is_made(azure, world, change, named):
    azure.surroundings()
    before = world.create_count("azure")
    body = azure.machine()
    change(body)
    error = refusal(azure, body)
    assert error.status_code == 400
    assert named in str(error)
    assert world.create_count("azure") == before
    assert "virtualMachines" not in azure.names()


def test_a_second_put_of_a_machine_with_custom_data_is_refused(azure, world):
    azure.surroundings()
    azure.create(azure.machine())
    before = world.create_count("azure")
    assert refusal(azure, azure.machine()).error.code == "PropertyChangeNotAllowed"
    assert world.create_count("azure") == before


def test_images_and_groups_are_listed(azure):
    azure.surroundings()
    versions = azure.compute.virtual_machine_images.list("westus2", "Canonical", "ubuntu-24_04-lts", "server")
    assert [one.name for one in versions] == sorted(one.name for one in versions)
    found = azure.resource.resource_groups.list(filter="tagName eq 'owner' and tagValue eq 'me'")
    assert [one.name for one in found] == [GROUP]
    assert list(azure.resource.resource_groups.list(filter="tagName eq 'owner' and tagValue eq 'you'")) == []


def test_what_does_not_exist_is_not_found(azure):
    with pytest.raises(ResourceNotFoundError) as error:
        azure.compute.virtual_machines.get("absent", "vm")
    assert error.value.error.code == "ResourceGroupNotFound"
    azure.resource.resource_groups.create_or_update(GROUP, LOCATION)
    with pytest.raises(ResourceNotFoundError) as error:
        azure.compute.virtual_machines.get(GROUP, "vm")
    assert error.value.error.code == "ResourceNotFound"


def test_a_wrong_secret_is_refused_by_entra(world):
    azure = Subscription(world, secret="wrong")
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        azure.resource.resource_groups.check_existence(GROUP)
    azure.close()
