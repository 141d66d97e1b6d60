import pytest
from clouddeploy_providers.resources import Need, Offer, Price

from clouddeploy.config import SiteConfig
from clouddeploy.errors import ConfigError
from clouddeploy.selection import Choice, choose, need_text, pinned, wanted_size

SOLD = [
    Offer("a.small", 2, 4, price=Price(0.02, "snapshot", "2026-01-19")),
    Offer("arm.small", 2, 4, architecture="arm64", price=Price(0.01, "snapshot", "2026-01-19")),
    Offer("a.large", 4, 16, price=Price(0.1, "snapshot", "2026-01-19")),
    Offer("b.large", 4, 32, price=Price(0.2, "snapshot", "2026-01-19")),
    Offer("g.large", 8, 32, gpus=1, gpu_memory_gib=16, gpu_name="T4", price=Price(0.6, "snapshot", "2026-01-19")),
    Offer("g.huge", 8, 32, gpus=1, gpu_memory_gib=80, gpu_name="A100"),
]


def offers(need):
    return [offer for offer in SOLD if offer.satisfies(need)]


def chosen(site, *, capacity=None, ask=offers, default="a.small"):
    return choose(site, capacity=capacity, default_size=default, offers=ask, place="fake")


def site(**given):
    return SiteConfig("site-1", "fake", {}, **given)


def test_a_named_size_is_taken_as_it_is():
    assert chosen(site(size="z.odd")) == Choice("z.odd", why="named")


def test_without_a_wish_it_is_the_providers_small_one():
    assert chosen(site()).size == "a.small"


def test_the_cheapest_that_has_what_is_needed():
    choice = chosen(site(need=Need(vcpus=4, memory_gib=8)))
    assert (choice.size, choice.price.usd_per_hour) == ("a.large", 0.1)
    assert choice.why == "cheapest of 4 with 4 vCPUs, 8 GiB of memory"


def test_another_architecture_is_never_chosen_unasked():
    assert chosen(site(need=Need(vcpus=2))).size == "a.small"


def test_what_the_project_file_says_of_the_site_is_the_default_need():
    assert chosen(site(), capacity=Need(gpus=1)).size == "g.large"
    assert chosen(site(need=Need(vcpus=4)), capacity=Need(gpus=1)).size == "a.large"
    assert chosen(site(size="a.small"), capacity=Need(gpus=1)).size == "a.small"


def test_memory_is_meant_of_each_gpu():
    assert chosen(site(need=Need(gpus=1, gpu_memory_gib=40))).size == "g.huge"


def test_a_need_that_nothing_satisfies_names_it_and_the_place():
    with pytest.raises(ConfigError, match="no machine size in fake has 9 GPUs of 16 GiB"):
        chosen(site(need=Need(gpus=9, gpu_memory_gib=16)))


def test_siblings_have_at_least_as_much_and_are_cheapest_first():
    assert chosen(site(size="a.large", siblings=True)).siblings == ("b.large", "g.large", "g.huge")
    assert chosen(site(need=Need(vcpus=4), siblings=True)).siblings == ("b.large", "g.large", "g.huge")
    assert chosen(site(size="a.large")).siblings == ()


def test_a_size_that_is_not_sold_has_no_siblings():
    assert chosen(site(size="z.odd", siblings=True)).siblings == ()


def test_where_machines_have_no_sizes_nothing_is_chosen():
    assert chosen(site(), capacity=Need(gpus=1), default="") == Choice("")


def test_a_plan_that_must_not_ask_says_what_apply_will_choose():
    choice = chosen(site(need=Need(gpus=2)), ask=None)
    assert (choice.size, choice.why) == ("", "the cheapest with 2 GPUs, chosen at apply")


def known(site, pins, *, ask=None, place="fake"):
    return pinned(site, capacity=None, pins=pins, offers=ask, place=place)


def test_what_was_chosen_once_stays_for_the_same_wish_in_the_same_place():
    wish = site(need=Need(gpus=1))
    pins = {"site-1": Choice("g.large", image="img").as_pin(wanted_size(wish, None), "fake")}
    assert known(wish, pins) == Choice("g.large", image="img", why="pinned")
    assert known(site(need=Need(gpus=2)), pins) is None
    assert known(site(need=Need(gpus=1), image="other"), pins) is None
    assert known(wish, pins, place="another region") is None
    assert known(wish, {}) is None


def test_siblings_that_are_asked_for_later_stand_beside_what_was_chosen():
    wish = site(size="a.large", siblings=True)
    pins = {"site-1": Choice("a.large").as_pin("a.large", "fake")}
    assert known(wish, pins, ask=offers).siblings == ("b.large", "g.large", "g.huge")


@pytest.mark.parametrize(
    ("need", "text"),
    [
        (Need(gpus=1, gpu_memory_gib=16), "1 GPU of 16 GiB"),
        (Need(gpus=2, vcpus=4, memory_gib=7.5), "2 GPUs, 4 vCPUs, 7.5 GiB of memory"),
        (Need(), ""),
    ],
)
def test_a_need_in_words(need, text):
    assert need_text(need) == text
