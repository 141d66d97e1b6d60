import pytest
from clouddeploy_providers.azure import clients
from clouddeploy_providers.azure.provider import AzureProvider
from clouddeploy_providers.endpoints import REAL, AzureEndpoint
from clouddeploy_providers.errors import InvalidRequest

STACK = {
    "AZURE_RESOURCE_MANAGER_ENDPOINT": "https://management.local.azurestack.external/",
    "AZURE_AUTHORITY_HOST": "https://login.local.azurestack.external",
    "AZURE_CA_FILE": "/etc/ssl/stack.pem",
}


def test_without_a_word_it_is_the_public_cloud():
    cloud = clients.cloud_of(None, {})
    assert cloud == clients.CLOUDS["AzureCloud"]
    assert (cloud.is_known, cloud.ca_file) == (True, "")


@pytest.mark.parametrize("name", ["AzureUSGovernment", "AzureChinaCloud"])
def test_a_sovereign_cloud_is_chosen_by_its_name(name):
    cloud = clients.cloud_of(None, {"AZURE_CLOUD": name})
    assert cloud == clients.CLOUDS[name]
    assert "management.azure.com" not in cloud.url + cloud.scope


def test_a_cloud_of_ones_own_has_addresses_and_an_authority_whom_to_trust():
    cloud = clients.cloud_of(None, STACK)
    assert cloud.url == "https://management.local.azurestack.external"
    assert cloud.scope == "https://management.local.azurestack.external/.default"
    assert cloud.authority == "https://login.local.azurestack.external"
    assert cloud.ca_file == "/etc/ssl/stack.pem"
    assert not cloud.is_known


def test_a_rehearsal_does_not_look_at_the_environment():
    there = AzureEndpoint("https://localhost:1", "ca.pem", "t", "c", "s", "sub")
    cloud = clients.cloud_of(there, {**STACK, "AZURE_CLOUD": "AzureChinaCloud"})
    assert {cloud.url, cloud.authority} == {"https://localhost:1"}
    assert cloud.prices == "https://localhost:1/api/retail/prices"


@pytest.mark.parametrize(
    "environment",
    [
        {"AZURE_CLOUD": "AzureGermanCloud"},
        {"AZURE_RESOURCE_MANAGER_ENDPOINT": "http://management.local"},
        {"AZURE_AUTHORITY_HOST": "http://login.local"},
    ],
)
def test_an_unknown_cloud_and_an_unprotected_address_are_refused(environment):
    with pytest.raises(InvalidRequest) as caught:
        clients.cloud_of(None, environment)
    assert caught.value.hint


SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
MACHINE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm"
NETWORK = "/subscriptions/other/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/n"
REACH = {"user": "u", "identity_file": "~/.ssh/id", "host_key": "SHA256:" + "A" * 43}


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"location": "WestUS2"}, "azure westus2"),
        ({"location": "westus2", "subscription_id": "s"}, "azure westus2, subscription s"),
        ({"location": "westus2", "resource_group": "g"}, "azure westus2, group g"),
        ({"machine": MACHINE, **REACH}, f"azure machine {MACHINE}"),
    ],
)
def test_a_place_says_what_decides_where_things_are(settings, place, monkeypatch):
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION)
    assert AzureProvider(settings, REAL).place == place


def test_the_id_of_a_machine_tells_the_subscription(monkeypatch):
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    assert AzureProvider({"machine": MACHINE, **REACH}, REAL)._clients.subscription == SUBSCRIPTION


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "location"),
        ({"location": "westus2", "network": "n", "subnet": "s"}, "resource group"),
        ({"location": "westus2", "resource_group": "g", "network": "n"}, "subnet"),
        ({"location": "westus2", "network": NETWORK, "subnet": "s"}, "subscription"),
        ({"location": "westus2", "network": "/not/an/id", "subnet": "s"}, "ARM id"),
        ({"location": "westus2", "host_key": "x"}, "machine"),
        ({"machine": MACHINE}, "host_key"),
        ({"machine": MACHINE, **REACH, "host_key": "trust me"}, "host_key"),
        ({"machine": MACHINE, **REACH, "dns_label": "x"}, "dns_label"),
        ({"machine": "vm", **REACH}, "ARM id"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, named, monkeypatch):
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION)
    with pytest.raises(InvalidRequest, match=named) as caught:
        AzureProvider(settings, REAL)
    assert caught.value.hint
