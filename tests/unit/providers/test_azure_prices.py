import contextlib
import json
from types import SimpleNamespace

import pytest
from azure.core.exceptions import ServiceRequestError
from clouddeploy_providers.azure.clients import CLOUDS, RETAIL_PRICES
from clouddeploy_providers.azure.prices import PATIENCE_S, PER_QUESTION, Prices
from clouddeploy_providers.azure.sizes import Sizes, is_arm
from clouddeploy_providers.resources import Price

SIZE = "Standard_D2s_v5"
ITEM = {
    "armSkuName": SIZE,
    "retailPrice": 0.1,
    "unitOfMeasure": "1 Hour",
    "type": "Consumption",
    "productName": "Virtual Machines Dsv5 Series",
    "skuName": "D2s v5",
    "meterName": "D2s v5",
}


class Answers:
    """Stands in for the HTTP client; each answer is a page, or an error to raise."""

    def __init__(self, *pages):
        self.pages, self.asked = list(pages), []

    def send_request(self, request):
        self.asked.append(request.url)
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return SimpleNamespace(raise_for_status=lambda: None, json=lambda: json.loads(page))


def page(*items, link=None):
    return json.dumps({"Items": items, "NextPageLink": link})


def prices(*pages, location="westus2", clock=lambda: 0.0):
    answers = Answers(*pages)
    made = Prices(
        CLOUDS["AzureCloud"],
        location,
        today=lambda: "2026-11-25",
        clock=clock,
        connect=lambda: contextlib.nullcontext(answers),
    )
    made.asked = answers.asked
    return made


def test_before_anything_is_asked_the_snapshot_says_its_day():
    known = prices().size(SIZE)
    assert (known.usd_per_hour, known.source) == (0.096, "snapshot")
    assert known.as_of < "2026"
    assert prices(location="nowhere").size(SIZE) is None
    assert prices().size("Standard_None") is None


def test_what_was_answered_counts_from_then_on():
    asked = prices(page(ITEM))
    asked.ask([SIZE])
    assert asked.size(SIZE) == Price(0.1, "Azure retail prices", "2026-11-25")
    assert "westus2" in asked.asked[0]


@pytest.mark.parametrize(
    "other",
    [
        {"productName": "Virtual Machines Dsv5 Series Windows"},
        {"skuName": "D2s v5 Spot"},
        {"meterName": "D2s v5 Low Priority"},
        {"productName": "Dsv5 Series Cloud Services"},
        {"type": "Reservation", "unitOfMeasure": "1 Hour"},
        {"unitOfMeasure": "1 GiB Hour"},
    ],
)
def test_only_linux_on_demand_counts(other):
    asked = prices(page({**ITEM, "retailPrice": 0.01, **other}))
    asked.ask([SIZE])
    assert asked.size(SIZE).source == "snapshot"


def test_all_pages_are_read_but_none_of_somebody_else():
    more = f"{RETAIL_PRICES}?$skip=100"
    asked = prices(page(link=more), page(ITEM, link="https://prices.example.com/api/retail/prices?$skip=200"))
    asked.ask([SIZE])
    assert asked.size(SIZE).usd_per_hour == 0.1
    assert asked.asked[1:] == [more]


@pytest.mark.parametrize(
    "broken", [ServiceRequestError("no network"), "<html>", "{}", page({**ITEM, "retailPrice": None}), "[]"]
)
def test_without_an_answer_the_snapshot_has_to_do(broken):
    asked = prices(broken)
    asked.ask([SIZE])
    assert asked.size(SIZE).source == "snapshot"


def test_many_sizes_are_asked_in_several_questions_and_not_for_ever():
    names = [f"Standard_X{number}" for number in range(2 * PER_QUESTION + 1)]
    asked = prices(page(), page(), page())
    asked.ask(names)
    assert len(asked.asked) == 3
    times = iter([0.0, 1.0, PATIENCE_S + 1, PATIENCE_S + 2])
    slow = prices(page(), clock=lambda: next(times))
    slow.ask(names)
    assert len(slow.asked) == 1


def test_a_machine_costs_its_disk_too_in_steps_as_azure_sells_them():
    known = prices()
    small, same, large = (known.machine(SIZE, gib).usd_per_hour for gib in (30, 32, 33))
    assert 0.096 < small == same < large
    assert known.machine("Standard_None", 30) is None
    assert known.address().usd_per_hour == 0.005


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("Standard_D2ps_v5", True),
        ("Standard_D4pds_v6", True),
        ("Standard_B2pts_v2", True),
        ("Standard_D2s_v5", False),
        ("Standard_NP10s", False),
        ("Standard_B2s", False),
        ("Standard_E4-2s_v5", False),
    ],
)
def test_an_arm_size_is_known_by_its_name(size, expected):
    assert is_arm(size) is expected


def sku(name, has, *, zones=("1", "2"), restrictions=(), kind="virtualMachines"):
    return SimpleNamespace(
        resource_type=kind,
        name=name,
        family="f",
        capabilities=[SimpleNamespace(name=key, value=value) for key, value in has.items()],
        location_info=[SimpleNamespace(zones=list(zones))],
        restrictions=list(restrictions),
    )


def sizes(*skus):
    asked = []
    listing = SimpleNamespace(list=lambda **given: asked.append(given) or iter(skus))
    return Sizes(SimpleNamespace(resource_skus=listing), "westus2"), asked


@pytest.mark.parametrize(
    ("name", "gpus", "memory_gib", "model"),
    [
        ("Standard_NC4as_T4_v3", "1", 16, "NVIDIA T4"),
        ("Standard_NC24ads_A100_v4", "1", 80, "NVIDIA A100"),
        ("Standard_ND96asr_v4", "8", 40, "NVIDIA A100"),
        ("Standard_ND96amsr_A100_v4", "8", 80, "NVIDIA A100"),
        ("Standard_NC40ads_H100_v5", "1", 94, "NVIDIA H100"),
        ("Standard_ND96isr_H100_v5", "8", 80, "NVIDIA H100"),
        ("Standard_NV6ads_A10_v5", "0.1667", 4, "NVIDIA A10"),
        ("Standard_NV36ads_A10_v5", "1", 24, "NVIDIA A10"),
        ("Standard_NX1_v9", "1", 0, ""),
    ],
)
def test_which_gpu_a_size_has_is_known_by_its_name(name, gpus, memory_gib, model):
    known, _ = sizes(sku(name, {"vCPUs": "6", "MemoryGB": "55", "GPUs": gpus}))
    offer = known.all()[name.lower()].offer
    assert (offer.gpu_memory_gib, offer.gpu_name) == (memory_gib, model)
    assert offer.gpus >= 1


def test_restrictions_take_zones_away_or_the_whole_size_and_the_list_is_asked_once():
    zone = SimpleNamespace(type="Zone", restriction_info=SimpleNamespace(zones=["1"]))
    location = SimpleNamespace(type="Location", restriction_info=None)
    has = {"vCPUs": "2", "MemoryGB": "8", "HyperVGenerations": "V1,V2"}
    known, asked = sizes(
        sku("A", has, restrictions=[zone]),
        sku("B", has, restrictions=[location]),
        sku("C", {**has, "TrustedLaunchDisabled": "True"}, zones=()),
        sku("D", has, kind="disks"),
    )
    assert known.all()["a"].offer.zones == ("2",)
    assert known.all()["b"].is_restricted
    assert not known.all()["c"].has_trusted_launch
    assert set(known.all()) == {"a", "b", "c"}
    assert known.zones() == ("1", "2")
    assert asked == [{"filter": "location eq 'westus2'"}]
