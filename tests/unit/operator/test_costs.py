from datetime import UTC, datetime

import pytest
from clouddeploy_providers.resources import Kind, Price, ResourceRef

from clouddeploy import costs
from clouddeploy.state import Record

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SIX_HOURS_AGO = "2026-11-25T06:00:00+00:00"


class Seller:
    """Sells machines for their disk's size in cents, and addresses for one."""

    def price(self, kind, spec):
        if kind is Kind.MACHINE:
            return Price(spec.disk_gib / 100, "list", "2026-11-01") if spec.size == "small" else None
        return Price(0.01, "list", "2026-11-01") if kind is Kind.ADDRESS else None


def record(kind, *, size="", created=SIX_HOURS_AGO, is_adopted=False):
    ref = ResourceRef(kind, str(kind), "id", {"size": size} if size else {}, is_adopted=is_adopted)
    return Record(ref, "s", "fake", {}, {"disk_gib": "30"} if kind is Kind.MACHINE else {}, created)


def costs_of(**records):
    resources = {f"s/{name}": one for name, one in records.items()}
    return {one.node: one for one in costs.of(resources, dict.fromkeys(resources, Seller()), now=NOW)}


def test_a_machine_costs_by_the_hour_since_it_was_made():
    found = costs_of(machine=record(Kind.MACHINE, size="small"), address=record(Kind.ADDRESS))
    assert found["s/machine"].usd == pytest.approx(6 * 0.30)
    assert found["s/address"].usd == pytest.approx(6 * 0.01)


def test_what_was_there_before_us_and_what_is_free_costs_nothing_here():
    found = costs_of(machine=record(Kind.MACHINE, size="small", is_adopted=True), firewall=record(Kind.FIREWALL))
    assert found == {}


def test_a_machine_of_unknown_price_or_age_is_shown_without_a_sum():
    found = costs_of(machine=record(Kind.MACHINE, size="secret"), other=record(Kind.MACHINE, size="small", created=""))
    assert (found["s/machine"].price, found["s/machine"].usd) == (None, None)
    assert (found["s/other"].hours, found["s/other"].usd) == (None, None)
