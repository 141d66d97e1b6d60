"""What a subscription refuses, and what the provider makes of it; asked of the emulated Azure, without hosts."""

import threading
from dataclasses import replace

import pytest
from clouddeploy_providers.azure import permissions
from clouddeploy_providers.azure.provider import AzureProvider
from clouddeploy_providers.endpoints import REAL
from clouddeploy_providers.errors import AccessDenied, CapacityError, Conflict, InvalidRequest, QuotaError
from clouddeploy_providers.naming import resource_name
from clouddeploy_providers.resources import Demand, FirewallRule, Kind, MachineSpec, Need, Owner, Resource
from clouddeploy_rehearsal.azure.account import action_of
from clouddeploy_rehearsal.azure.store import MACHINES, Refused

pytestmark = pytest.mark.xdist_group("emulated-azure")

OWNER = Owner("0123abcd", "p", "s")
SSH = FirewallRule(port=22, sources=("192.0.2.1/32",), purpose="ssh")
SPEC = MachineSpec(None, None, 30, "fl", "ssh-ed25519 AAAA", "#cloud-config\n")
WESTUS2 = {"location": "westus2"}


def resource(kind, refs, spec=SPEC):
    rules, machine = ((SSH,), None) if kind is Kind.FIREWALL else ((), spec if kind is Kind.MACHINE else None)
    return Resource(kind, resource_name(OWNER, kind), OWNER, rules, machine, tuple(refs.values()))


def site(provider, *, spec=SPEC, cancel=None, until=None):
    refs = {}
    for kind in provider.kinds(is_server=True):
        if kind is until:
            break
        refs[kind] = provider.create(resource(kind, refs, spec), cancel or threading.Event())
    return refs


def problems(provider, *specs, addresses=1):
    specs = specs or (SPEC,)
    demand = Demand(specs, addresses, charged=specs, charged_addresses=addresses, deployment=OWNER.deployment)
    return {check.name: check for check in provider.check(demand) if not check.ok}


LINKED = {
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/locations/diskOperations/read",
    "Microsoft.Network/locations/operationResults/read",
    *(action for action in permissions.ACTIONS if action.endswith("/join/action")),
}
"""What Azure itself asks for beside a call: it joins things, makes disks, and answers for the end of one."""


def test_the_role_of_the_documentation_is_enough_from_birth_to_death_and_no_more(cloud, make, monkeypatch):
    """The emulator holds every call to the permissions."""
    used = set()
    lacks = cloud.account.lacks
    monkeypatch.setattr(cloud.account, "lacks", lambda *call: used.add(action_of(*call).lower()) or lacks(*call))
    cloud.account.permissions = [{"actions": list(permissions.ACTIONS), "notActions": []}]
    provider = make(dns_label="our-server")
    assert problems(provider) == {}
    assert provider.offers(Need(gpus=1))
    refs = site(provider)
    cloud.store.power_off(refs[Kind.MACHINE].id)
    started = provider.update(refs[Kind.MACHINE], resource(Kind.MACHINE, refs), threading.Event())
    assert started.outputs["power"] == "running"
    assert len(provider.find_all()) == len(provider.find(OWNER.deployment)) == len(refs)
    for ref in reversed(refs.values()):
        assert provider.read(ref) is not None
        provider.delete(ref, threading.Event())
    assert cloud.store.resources == {}
    assert used == {action.lower() for action in {*permissions.ACTIONS} - LINKED}


def test_the_emulated_azure_refuses_what_nobody_allowed(cloud, provider):
    """Else the test above would say nothing."""
    allowed = [one for one in permissions.ACTIONS if one != "Microsoft.Network/networkInterfaces/write"]
    cloud.account.permissions = [{"actions": allowed, "notActions": []}]
    with pytest.raises(AccessDenied, match="networkInterfaces/write") as caught:
        site(provider)
    assert "docs/permissions.md" in caught.value.hint


@pytest.mark.parametrize("action", permissions.RESOURCE_ACTIONS)
def test_a_missing_permission_is_named(action, cloud, provider):
    cloud.account.permissions = [{"actions": ["*"], "notActions": [action]}]
    found = [check for check in provider.check(Demand((), 0)) if check.name == "permissions"]
    assert [action in check.problem for check in found] == [True]
    assert "docs/permissions.md" in found[0].hint


def test_what_may_not_be_asked_is_a_warning_and_the_rest_is_still_said(cloud, provider):
    blind = ["Microsoft.Authorization/permissions/read", "Microsoft.Compute/skus/read"]
    cloud.account.permissions = [{"actions": ["*"], "notActions": blind}]
    cloud.account.unregistered = {"microsoft.network"}
    found = problems(provider)
    assert (found["permissions"].is_warning, found["size"].is_warning) == (True, True)
    assert not found["registration"].is_warning
    # Who may not ask for sizes leaves the zone to Azure.
    cloud.account.unregistered = set()
    assert site(provider)[Kind.MACHINE].outputs["zone"] == ""


def test_an_unregistered_namespace_comes_with_its_command(cloud, provider):
    cloud.account.unregistered = {"microsoft.compute"}
    found = problems(provider)["registration"]
    assert "Microsoft.Compute" in found.problem
    assert found.hint.startswith("az provider register --namespace Microsoft.Compute --subscription ")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"cores": 3}, ["Total Regional vCPUs", "0 of 3 used", "4 more needed"]),
        ({"standardBSFamily": 0}, ["standardBSFamily", "0 of 0 used"]),
        ({"virtualMachines": 1}, ["virtualMachines", "2 more"]),
        ({"StandardSkuPublicIpAddresses": 1}, ["StandardSkuPublicIpAddresses", "2 more"]),
    ],
    ids=["regional", "family", "machines", "addresses"],
)
def test_a_quota_that_is_too_small_comes_with_its_numbers_and_the_page_to_ask_for_more(limits, words, cloud, provider):
    cloud.account.limits = limits
    found = problems(provider, SPEC, SPEC, addresses=2)
    assert list(found) == ["quota"]
    assert [word for word in words if word not in found["quota"].problem] == []
    assert "QuotaMenuBlade" in found["quota"].hint


def test_a_machine_that_exists_counts_against_the_quota(cloud, provider):
    cloud.account.limits = {"cores": 3}
    assert problems(provider) == {}
    site(provider)
    assert "2 of 3 used, 2 more needed" in problems(provider)["quota"].problem


@pytest.mark.parametrize(
    ("spec", "restricted", "name"),
    [
        (replace(SPEC, size="Standard_None"), {}, "size"),
        (SPEC, {"Standard_B2s": ()}, "size"),
        (replace(SPEC, zones=("2",)), {"Standard_B2s": ("1", "2")}, "size"),
        (replace(SPEC, zones=("7",)), {}, "size"),
        (replace(SPEC, image="Canonical:ubuntu-24_04-lts:server:1.2.3"), {}, "image"),
        (replace(SPEC, image="ami-123"), {}, "image"),
        (replace(SPEC, size="Standard_D2ps_v5", image="Canonical:ubuntu-24_04-lts:server:latest"), {}, "image"),
        (
            replace(SPEC, size="Standard_NC24ads_A100_v4", image="Canonical:ubuntu-24_04-lts:server-gen1:latest"),
            {},
            "image",
        ),
    ],
)
def test_a_size_or_an_image_that_cannot_be_had_is_found_before(spec, restricted, name, cloud, provider):
    cloud.account.restricted = restricted
    found = problems(provider, spec)
    assert list(found) == [name]
    assert found[name].hint


def test_a_zone_that_is_restricted_is_left_out_and_an_arm_size_gets_its_own_image(cloud, provider):
    cloud.account.restricted = {"Standard_B2s": ("1",), "Standard_B2ms": ()}
    offers = {offer.size: offer for offer in provider.offers(Need(vcpus=2))}
    assert offers["Standard_B2s"].zones == ("2", "3")
    assert "Standard_B2ms" not in offers
    assert "server-arm64" in provider.resolve_image(replace(SPEC, size="Standard_D2ps_v5"))
    assert site(provider)[Kind.MACHINE].outputs["zone"] == "2"


@pytest.mark.parametrize("label", ["taken", "login-page", "Upper", "1st", "x"])
def test_a_label_that_cannot_be_had_is_found_before(label, cloud, make):
    cloud.account.taken_labels = {"taken"}
    assert list(problems(make(dns_label=label))) == ["label"]


def test_a_label_that_an_address_of_ours_has_already_is_fine(cloud, make):
    """A killed run made the address; the next preflight must not stumble over it."""
    provider = make(dns_label="ours")
    refs = site(provider, until=Kind.NETWORK)
    assert refs[Kind.ADDRESS].outputs["dns_name"] == "ours.westus2.cloudapp.azure.com"
    assert problems(provider) == {}
    # A label that is added later comes to the address that exists.
    moved = make(dns_label="renamed").create(resource(Kind.ADDRESS, {Kind.GROUP: refs[Kind.GROUP]}), threading.Event())
    assert moved.outputs["address"] == refs[Kind.ADDRESS].outputs["address"]
    assert moved.outputs["dns_name"].startswith("renamed.")


def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_made(cloud, make):
    cloud.account.unregistered, cloud.account.limits = {"microsoft.network"}, {"cores": 0}
    cloud.account.taken_labels = {"taken"}
    found = problems(make(dns_label="taken"), replace(SPEC, image="x"), replace(SPEC, size="None"))
    assert set(found) == {"registration", "size", "image", "quota", "label"}
    assert cloud.store.resources == {}


def test_a_quota_refused_like_a_conflict_leaves_nothing_and_waits_for_the_interface(cloud, provider, virtual_time):
    """Azure keeps the interface of a machine that failed for 180 seconds; giving up earlier would leave it for ever."""
    cloud.account.nic_reserved_s = 180.0
    clock = cloud.store.clock = provider._clock = provider._machines.clock = virtual_time
    finish = cloud.store._boot

    def refuse(_made):
        raise Refused(409, "OperationNotAllowed", "results in exceeding approved Total Regional Cores quota")

    cloud.store._boot = refuse
    refs = site(provider, until=Kind.MACHINE)
    began = clock()
    with pytest.raises(QuotaError):
        provider.create(resource(Kind.MACHINE, refs), clock)
    cloud.store._boot = finish
    assert 180 <= clock() - began <= 240
    left = {one["type"].rpartition("/")[2] for one in cloud.store.resources.values()}
    assert left == {"resourceGroups", "publicIPAddresses", "virtualNetworks", "networkSecurityGroups"}


def test_a_deletion_waits_as_long_as_azure_keeps_the_interface(cloud, provider, virtual_time):
    clock = cloud.store.clock = provider._clock = virtual_time
    machine = site(provider)[Kind.MACHINE]
    cloud.store._reserved[next(key for key in cloud.store.resources if key.endswith("-nic"))] = clock() + 200
    began = clock()
    provider.delete(machine, clock)
    assert 200 <= clock() - began <= 240
    assert not [key for key in cloud.store.resources if key.endswith(("-nic", "-disk")) or "virtualmachines" in key]


def test_a_zone_without_machines_is_followed_by_the_next_and_the_last_one_says_all(cloud, provider):
    scarce, boot = {"1"}, cloud.store._boot

    def sparse(made):
        if set(made["zones"]) & scarce:
            raise Refused(409, "ZonalAllocationFailed", "no capacity in the zone")
        boot(made)

    cloud.store._boot = sparse
    try:
        refs = site(provider)
        assert refs[Kind.MACHINE].outputs["zone"] == "2"
        assert [one["type"] for one in cloud.store.resources.values()].count("Microsoft.Compute/disks") == 1
        provider.delete(refs.pop(Kind.MACHINE), threading.Event())
        scarce.update("23")
        with pytest.raises(CapacityError) as caught:
            provider.create(resource(Kind.MACHINE, refs), threading.Event())
    finally:
        cloud.store._boot = boot
    assert [zone for zone in "123" if f"zone {zone}: " not in caught.value.why] == []
    assert len(provider.find(OWNER.deployment)) == len(refs)


def test_a_zone_without_machines_is_left_even_when_the_answer_that_said_so_was_lost(cloud, provider, monkeypatch):
    put, boot, lost = cloud.store.put, cloud.store._boot, []

    def lossy(arm_id, kind, body):
        answer = put(arm_id, kind, body)
        if kind == MACHINES and not lost:
            lost.append(arm_id)
            raise Refused(503, "ServiceUnavailable", "The answer is lost.")
        return answer

    def sparse(made):
        if made["zones"] == ["1"]:
            raise Refused(409, "AllocationFailed", "no capacity in the zone")
        boot(made)

    monkeypatch.setattr(cloud.store, "put", lossy)
    monkeypatch.setattr(cloud.store, "_boot", sparse)
    assert site(provider)[Kind.MACHINE].outputs["zone"] == "2"
    assert lost


@pytest.mark.parametrize(
    ("size", "secure_boot"),
    [("Standard_B2s", True), ("Standard_NC4as_T4_v3", False), ("Standard_D2ps_v5", None)],
    ids=["default", "gpu", "arm"],
)
def test_a_machine_boots_as_securely_as_its_size_and_image_allow(size, secure_boot, cloud, provider):
    machine = site(provider, spec=replace(SPEC, size=size))[Kind.MACHINE]
    body = cloud.store.resources[machine.id.lower()]["properties"]
    firmware = body.get("securityProfile", {}).get("uefiSettings", {})
    assert firmware.get("secureBootEnabled") is secure_boot
    assert "adminPassword" not in body["osProfile"]


def test_what_lost_its_tag_is_left_alone(cloud, provider):
    refs = site(provider)
    for ref in (refs[Kind.MACHINE], refs[Kind.FIREWALL], refs[Kind.GROUP]):
        cloud.store.resources[ref.id.lower()]["tags"] = {"owner": "somebody"}
        with pytest.raises(InvalidRequest, match="not ours"):
            provider.delete(ref, threading.Event())
        assert provider.read(ref) is not None
    with pytest.raises(Conflict):
        provider.create(resource(Kind.FIREWALL, refs), threading.Event())


def test_a_group_in_which_somebody_put_something_stays(cloud, provider):
    refs = site(provider)
    key = f"{refs[Kind.GROUP].id}/providers/Microsoft.Storage/storageAccounts/theirs"
    cloud.store.add_theirs(key, {})
    for kind in (Kind.MACHINE, Kind.FIREWALL, Kind.NETWORK, Kind.ADDRESS):
        provider.delete(refs[kind], threading.Event())
    with pytest.raises(InvalidRequest, match="theirs") as caught:
        provider.delete(refs[Kind.GROUP], threading.Event())
    assert caught.value.hint
    del cloud.store.resources[key.lower()]
    provider.delete(refs[Kind.GROUP], threading.Event())
    assert cloud.store.resources == {}


def test_in_a_group_of_somebody_else_what_is_ours_is_found_and_goes_alone(cloud, make):
    groups = make()._resources.resource_groups
    groups.create_or_update("theirs", {**WESTUS2})
    provider = make(resource_group="theirs")
    assert problems(provider) == {}
    refs = site(provider)
    assert refs[Kind.GROUP].is_adopted
    found = provider.find(OWNER.deployment)
    assert [ref.kind for ref in found] == [Kind.ADDRESS, Kind.NETWORK, Kind.FIREWALL, Kind.MACHINE]
    assert {one.owner for one in provider.find_all()} == {OWNER}
    for ref in reversed(found):
        provider.delete(ref, threading.Event())
    assert [one["name"] for one in cloud.store.resources.values()] == ["theirs"]


def test_a_group_or_network_that_does_not_exist_is_found_before(make):
    assert "resource_group" in problems(make(resource_group="absent"))["group"].hint
    groups = make()._resources.resource_groups
    groups.create_or_update("theirs", {**WESTUS2})
    absent = problems(make(resource_group="theirs", network="absent", subnet="s"))
    assert "network" in absent["network"].hint


@pytest.mark.parametrize(
    "settings",
    [
        {"resource_group": "g", "network": "n", "subnet": "s"},
        {"network": "/subscriptions/x/resourceGroups/h/providers/Microsoft.Network/virtualNetworks/n", "subnet": "s"},
    ],
    ids=["by-name", "by-id"],
)
def test_a_rehearsal_has_what_the_deploy_file_says_is_there(settings, cloud, make):
    cloud.add_theirs({**WESTUS2, **settings})
    assert cloud.resources() == []
    provider = make(**settings)
    assert problems(provider) == {}
    refs = site(provider)
    assert refs[Kind.NETWORK].is_adopted
    for ref in reversed(refs.values()):
        if not ref.is_adopted:
            provider.delete(ref, threading.Event())
    assert cloud.resources() == []
    assert cloud.store.theirs <= set(cloud.store.resources)


def test_a_network_elsewhere_or_without_the_subnet_or_with_rules_of_its_own_is_said(cloud, make):
    there = {"resource_group": "g", "network": "n", "subnet": "s"}
    cloud.add_theirs({"location": "eastus", **there})
    assert "eastus" in problems(make(**there))["network"].problem
    cloud.store.resources.clear()
    cloud.add_theirs({**WESTUS2, **there})
    assert "subnet other" in problems(make(**{**there, "subnet": "other"}))["network"].problem
    [network] = [one for key, one in cloud.store.resources.items() if key.endswith("/n")]
    network["properties"]["subnets"][0]["properties"]["networkSecurityGroup"] = {"id": "/their/rules"}
    assert problems(make(**there))["network"].is_warning


def test_the_environment_leads_to_another_resource_manager(served, cloud, monkeypatch):
    """As an operator of a sovereign or private cloud says it; nothing of a rehearsal is in the endpoints."""
    there = served[1]
    for name, value in {
        "AZURE_RESOURCE_MANAGER_ENDPOINT": there.url,
        "AZURE_AUTHORITY_HOST": there.url,
        "AZURE_CA_FILE": there.ca_file,
        "AZURE_RETAIL_PRICES_URL": f"{there.url}/api/retail/prices",
        "AZURE_TENANT_ID": there.tenant_id,
        "AZURE_CLIENT_ID": there.client_id,
        "AZURE_CLIENT_SECRET": there.client_secret,
        "AZURE_SUBSCRIPTION_ID": there.subscription_id,
    }.items():
        monkeypatch.setenv(name, value)
    provider = AzureProvider(WESTUS2, REAL)
    assert problems(provider) == {}
    assert provider.offers(Need(vcpus=2))[0].price.source == "Azure retail prices"
    named = AzureProvider({**WESTUS2, "tenant_id": there.tenant_id}, REAL)
    assert named.find(OWNER.deployment) == []
    for one in (provider, named):
        one._clients.close()
