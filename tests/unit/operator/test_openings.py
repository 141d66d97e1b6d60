import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from clouddeploy_providers.errors import Transient
from clouddeploy_providers.resources import FirewallRule, Kind, ResourceRef, rules_text

from clouddeploy.openings import Openings, addresses_of, federation_sources, firewall_rules, with_ssh
from clouddeploy.state import Record

CALLER = ("192.0.2.1/32",)
SITES = {"site-1": ("198.51.100.4/32",), "site-2": ("203.0.113.0/28",)}


def machine(site, **outputs):
    return Record(ResourceRef(Kind.MACHINE, "m", "id", outputs), site, "fake", {}, {})


def test_a_client_lets_nobody_in_but_the_operator():
    (rule,) = firewall_rules(ssh_port=22, ssh_sources=CALLER, federation_ports=(), federation_sources=("0.0.0.0/0",))
    assert rule == FirewallRule(22, CALLER, "ssh")


def test_a_server_whose_sites_are_unknown_lets_nobody_in_but_the_operator():
    """An empty list of sources must not become everybody."""
    rules = firewall_rules(ssh_port=22, ssh_sources=CALLER, federation_ports=(8002,), federation_sources=())
    assert [rule.purpose for rule in rules] == ["ssh"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("anywhere", ("0.0.0.0/0",)),
        ("sites", ("192.0.2.1/32", "198.51.100.4/32", "203.0.113.0/28")),
        (("10.0.0.0/8",), ("10.0.0.0/8",)),
    ],
)
def test_who_may_reach_the_server(wanted, expected):
    assert federation_sources(wanted, sites=SITES, caller=CALLER) == expected


def test_a_machine_dials_out_from_its_address_or_from_where_the_file_says():
    records = [
        machine("site-1", address="198.51.100.4"),
        machine("site-2", address="10.0.0.7", egress="203.0.113.9/32, 203.0.113.10/32"),
        machine("site-3", address="host.example"),
        machine("site-4", address="2001:db8::7"),
    ]
    sites = frozenset({"site-1", "site-2", "site-3", "site-4"})
    assert addresses_of([*records, machine("gone", address="198.51.100.99")], sites=sites) == {
        "site-1": ("198.51.100.4/32",),
        "site-2": ("203.0.113.9/32", "203.0.113.10/32"),
        "site-4": ("2001:db8::7/128",),
    }


def test_sites_that_come_up_at_once_do_not_displace_each_other():
    applied, names = [], [f"site-{n}" for n in range(20)]
    barrier = threading.Barrier(len(names))
    openings = Openings({}, lambda sites: applied.append(dict(sites)))

    def come_up(name):
        barrier.wait(timeout=5)
        openings.open(name, (f"198.51.100.{name[5:]}/32",))

    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        list(pool.map(come_up, names))
    assert sorted(applied[-1]) == sorted(names)
    assert [len(sites) for sites in applied] == list(range(1, len(names) + 1))


def test_what_is_open_already_is_not_asked_for_again():
    applied = []
    openings = Openings(SITES, applied.append)
    openings.open("site-1", SITES["site-1"])
    assert applied == []
    openings.open("site-1", ("198.51.100.5/32",))
    assert applied == [{**SITES, "site-1": ("198.51.100.5/32",)}]


def test_an_opening_that_was_refused_is_tried_again_by_the_next_one():
    answers = [Transient("not now"), None]

    def apply(_sites):
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    openings = Openings({}, apply)
    with pytest.raises(Transient):
        openings.open("site-1", SITES["site-1"])
    openings.open("site-1", SITES["site-1"])
    assert answers == []


def test_blocks_that_overlap_become_one():
    """Azure refuses a rule with a block and a part of it."""
    sites = {"site-1": ("203.0.113.0/24",), "site-2": ("203.0.113.7/32",), "site-3": ("2001:db8::7/128",)}
    assert federation_sources("sites", sites=sites, caller=CALLER) == (
        "192.0.2.1/32",
        "2001:db8::7/128",
        "203.0.113.0/24",
    )


def test_only_the_opening_for_ssh_moves():
    rules = with_ssh("22 from 192.0.2.1/32; 8002 from 0.0.0.0/0, ::/0", ssh_port=22, ssh_sources=("198.51.100.7/32",))
    assert rules_text(rules) == "22 from 198.51.100.7/32; 8002 from 0.0.0.0/0, ::/0"


def test_a_servers_two_ports_are_rules_of_two_names_also_after_ssh_has_moved():
    """Azure names a rule by its purpose."""
    first = firewall_rules(
        ssh_port=22, ssh_sources=CALLER, federation_ports=(8002, 8003), federation_sources=("0.0.0.0/0",)
    )
    moved = with_ssh(rules_text(first), ssh_port=22, ssh_sources=("198.51.100.7/32",))
    for rules in (first, moved):
        assert [(rule.port, rule.purpose) for rule in rules] == [(22, "ssh"), (8002, "federation"), (8003, "admin")]
