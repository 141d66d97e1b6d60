import json
from datetime import date

import pytest
from botocore.exceptions import ClientError
from clouddeploy_providers.aws.prices import Prices
from clouddeploy_providers.resources import Kind, Price


def product(size, usd, **changed):
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": usd}}
    given = {
        "product": {"attributes": {"instanceType": size}},
        "terms": {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}},
        "publicationDate": "2026-11-20T00:00:00Z",
    }
    return json.dumps({**given, **changed})


class PriceList:
    """Answers GetProducts in pages."""

    def __init__(self, *pages, error=None):
        self.pages, self.error, self.asked = pages, error, []

    def get_paginator(self, verb):
        assert verb == "get_products"
        return self

    def paginate(self, **given):
        self.asked.append(given)
        if self.error:
            raise ClientError({"Error": {"Code": self.error, "Message": "no"}}, "GetProducts")
        return [{"PriceList": list(page)} for page in self.pages]


def test_without_a_network_prices_are_those_of_the_snapshot_which_says_its_date():
    price = Prices("us-east-1").of_size("t3.small")
    assert (price.usd_per_hour, price.source) == (0.0208, "snapshot")
    assert date.fromisoformat(price.as_of)


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", "eu-central-1", "eu-west-1"])
def test_common_sizes_have_a_price_and_a_larger_one_costs_more(region):
    prices = Prices(region)
    for family in ("t3", "t3a", "m5", "m6i", "m7i", "c5", "c6i", "c7i", "r5", "r6i", "g4dn", "g5"):
        small, large = (prices.of_size(f"{family}.{size}").usd_per_hour for size in ("xlarge", "2xlarge"))
        assert 0 < small < large


def test_a_machine_costs_its_disk_and_its_address_too():
    found = Prices("us-east-1").of(Kind.MACHINE, size="t3.small", disk_gib=73)
    assert found.usd_per_hour == pytest.approx(0.0208 + 73 * 0.08 / 730 + 0.005)


def test_an_address_costs_and_a_firewall_does_not():
    prices = Prices("us-east-1")
    assert prices.of(Kind.ADDRESS, size="", disk_gib=0).usd_per_hour == 0.005
    assert prices.of(Kind.FIREWALL, size="", disk_gib=0) is None


def test_a_region_or_size_that_the_snapshot_lacks_has_no_price():
    assert Prices("us-east-1").of_size("x99.huge") is None
    assert Prices("ap-south-2").of(Kind.MACHINE, size="t3.small", disk_gib=30) is None


def test_the_price_list_wins_on_every_page_and_what_is_not_in_it_keeps_the_snapshots():
    there = PriceList([product("t3.small", "0.5")], [product("t3.large", "0.7")])
    prices = Prices("us-east-1")
    prices.refresh(there)
    assert prices.of_size("t3.small") == Price(0.5, "AWS price list", "2026-11-20")
    assert prices.of_size("t3.large").usd_per_hour == 0.7
    assert prices.of_size("m5.large").source == "snapshot"
    [asked] = there.asked
    assert {"Type": "TERM_MATCH", "Field": "regionCode", "Value": "us-east-1"} in asked["Filters"]


@pytest.mark.parametrize(
    "entry",
    [
        product("t3.small", "0.0000000000"),
        product("t3.small", "1", terms={}),
        product("t3.small", "1", product={"attributes": {}}),
    ],
)
def test_an_entry_that_is_no_hourly_price_is_passed_over(entry):
    prices = Prices("us-east-1")
    prices.refresh(PriceList([entry]))
    assert prices.of_size("t3.small").source == "snapshot"


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException", "UnrecognizedClientException"])
def test_a_price_list_that_cannot_be_read_is_no_reason_to_stop_and_is_asked_for_again(code):
    prices = Prices("us-east-1")
    prices.refresh(PriceList(error=code))
    assert prices.of_size("t3.small").source == "snapshot"
    prices.refresh(PriceList([product("t3.small", "0.5")]))
    assert prices.of_size("t3.small").usd_per_hour == 0.5


def test_a_price_list_is_read_once():
    there, prices = PriceList([product("t3.small", "0.5")]), Prices("us-east-1")
    for _ in range(2):
        prices.refresh(there)
    assert len(there.asked) == 1
