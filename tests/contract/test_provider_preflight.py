"""What every provider promises about the time before anything is created: checks, offers, prices."""

from dataclasses import replace
from datetime import date

import pytest
from clouddeploy_providers.endpoints import Endpoints
from clouddeploy_providers.errors import AuthenticationError
from clouddeploy_providers.resources import Demand, Kind, Need

pytestmark = pytest.mark.xdist_group("emulated-clouds")

UNKNOWN_SIZES = ("no.such.size", "nor.such.one")
TOO_MANY = 1000


def demand_of(machines, *, addresses=0):
    """A demand of a place that shares its quota with no other."""
    return Demand(machines, addresses, charged=machines, charged_addresses=addresses)


def problems(checks):
    return [check for check in checks if not check.ok]


def refusals(checks):
    return [check for check in problems(checks) if not check.is_warning]


@pytest.fixture
def offline(case):
    """The provider in a network that ends at this machine."""
    away = Endpoints(
        aws=replace(case.endpoints.aws, url="http://127.0.0.1:9") if case.endpoints.aws else None,
        azure=replace(case.endpoints.azure, url="https://localhost:9") if case.endpoints.azure else None,
    )
    return type(case.shared)(case.settings, away)


def test_the_constructor_contacts_nobody(offline):
    """A provider is made for `plan` too, which works without a network."""
    assert offline.place
    assert offline.kinds(is_server=True)


def test_check_finds_nothing_wrong_where_nothing_is(case, site):
    demand = demand_of((site.spec(), site.spec()), addresses=1)
    before = case.everything()
    assert refusals(site.provider.check(demand)) == []
    assert problems(site.provider.check(demand)) == problems(site.provider.check(demand))
    assert case.everything() == before


def test_an_empty_demand_is_fine(site):
    assert refusals(site.provider.check(Demand(()))) == []


def test_check_says_everything_that_is_wrong_at_once_and_creates_nothing(case, site):
    """Whoever corrects one thing after the other starts a deployment five times."""
    if not case.has_sizes:
        pytest.skip("it has no sizes and no quota")
    wrong = tuple(site.spec(size=size) for size in UNKNOWN_SIZES)
    before = case.everything()
    found = refusals(site.provider.check(demand_of((*wrong, *[site.spec()] * TOO_MANY), addresses=TOO_MANY)))
    assert [size for size in UNKNOWN_SIZES if not any(size in check.problem for check in found)] == []
    assert len([check for check in found if check.name == "quota"]) >= 2
    assert [check for check in found if not (check.name and check.problem and check.hint)] == []
    assert case.everything() == before


def test_refused_credentials_raise_since_nothing_else_can_be_asked(case, site):
    with pytest.raises(AuthenticationError) as caught:
        case.wrong_provider().check(Demand((site.spec(),)))
    assert caught.value.hint


@pytest.mark.parametrize("need", [Need(), Need(vcpus=4, memory_gib=15), Need(gpus=1), Need(gpus=1, gpu_memory_gib=16)])
def test_offers_satisfy_the_need_the_cheapest_first_and_those_without_a_price_last(case, need):
    offers = case.shared.offers(need)
    assert bool(offers) == case.has_sizes
    assert [offer for offer in offers if not offer.satisfies(need)] == []
    prices = [offer.price.usd_per_hour if offer.price else float("inf") for offer in offers]
    assert prices == sorted(prices)
    assert len({offer.size for offer in offers}) == len(offers)


def test_an_offer_says_what_it_is_where_it_is_sold_and_where_its_price_comes_from(case):
    for offer in case.shared.offers(Need()):
        assert offer.vcpus > 0
        assert offer.memory_gib > 0
        assert offer.architecture in {"x86_64", "arm64"}
        assert not offer.gpus or offer.gpu_name
        if offer.price is not None:
            assert offer.price.usd_per_hour > 0
            assert offer.price.source
            assert date.fromisoformat(offer.price.as_of)


def test_nobody_sells_everything(case):
    assert case.shared.offers(Need(vcpus=100_000)) == []


def test_the_default_size_is_one_that_is_offered_and_priced(case):
    assert bool(case.shared.default_size) == case.has_sizes
    if case.has_sizes:
        [offer] = [offer for offer in case.shared.offers(Need()) if offer.size == case.shared.default_size]
        assert offer.price is not None


def test_a_size_that_is_offered_can_be_created(case, make_site, cancel):
    if not case.has_sizes:
        pytest.skip("it has no sizes")
    size = case.shared.offers(Need(vcpus=2, memory_gib=2))[0].size
    site = make_site(case.shared, is_server=False)
    assert site.create(cancel, size=size)[Kind.MACHINE].outputs["size"] == size


def test_a_price_is_known_without_asking_anybody(case, make_site, offline):
    """`plan` works without a network and shows what it would cost, with the day of the list."""
    for is_server in (True, False):
        site = make_site(offline, is_server=is_server)
        prices = {kind: offline.price(kind, site.resource(kind).machine) for kind in site.kinds}
        assert (prices[Kind.MACHINE] is not None) == case.has_sizes
        assert prices.get(Kind.FIREWALL) is None
        for price in filter(None, prices.values()):
            assert price.usd_per_hour > 0
            assert price.source
            assert date.fromisoformat(price.as_of)
        if Kind.ADDRESS in prices:
            assert prices[Kind.ADDRESS] is not None


def test_a_larger_disk_costs_more_and_an_unknown_size_nothing_that_is_known(case, site, offline):
    if not case.has_sizes:
        pytest.skip("it has no sizes")
    small, large = (offline.price(Kind.MACHINE, replace(site.spec(), disk_gib=gib)) for gib in (30, 300))
    assert small.usd_per_hour < large.usd_per_hour
    assert offline.price(Kind.MACHINE, site.spec(size=UNKNOWN_SIZES[0])) is None
