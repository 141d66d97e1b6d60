from dataclasses import replace
from pathlib import Path

from clouddeploy_providers.resources import Kind, Price, ResourceRef

from clouddeploy.config import DeployConfig, SiteConfig
from clouddeploy.drift import Drift
from clouddeploy.openings import firewall_rules
from clouddeploy.plan import Action, Plan, diff, wanted_resources
from clouddeploy.selection import Choice
from clouddeploy.state import Record

SITES = (SiteConfig("site-1", "aws", {}, size="t3.small"), SiteConfig("server1", "azure", {}))
KINDS = {"server1": [Kind.ADDRESS, Kind.FIREWALL, Kind.MACHINE], "site-1": [Kind.FIREWALL, Kind.MACHINE]}


def wanted(sites=SITES, sources=("192.0.2.1/32",)):
    rules = {
        "server1": firewall_rules(
            ssh_port=22, ssh_sources=sources, federation_ports=(8002,), federation_sources=("0.0.0.0/0",)
        ),
        "site-1": firewall_rules(ssh_port=22, ssh_sources=sources, federation_ports=(), federation_sources=()),
    }
    return wanted_resources(
        DeployConfig(Path("deploy.yml"), Path("project.yml"), Path("workspace"), sites),
        project="p",
        deployment="0123abcd",
        server="server1",
        kinds=KINDS,
        places={"server1": "azure westus2", "site-1": "aws us-west-2"},
        rules=rules,
        sizes={site.name: site.size or "" for site in sites},
    )


def recorded(items):
    return {
        item.node: Record(
            ResourceRef(item.kind, item.name, "id"), item.site.name, item.site.provider, {}, item.fingerprint
        )
        for item in items
    }


def actions(changes):
    return {change.node: change.action for change in changes}


def test_everything_is_created_the_server_first():
    changes = diff(wanted(), {})
    assert [change.node for change in changes] == [
        "server1/address",
        "server1/firewall",
        "server1/machine",
        "site-1/firewall",
        "site-1/machine",
    ]
    assert {change.action for change in changes} == {Action.CREATE}


def test_nothing_changes_when_all_is_recorded():
    items = wanted()
    assert set(actions(diff(items, recorded(items))).values()) == {Action.KEEP}


def test_another_size_replaces_the_machine_and_says_why():
    sites = (replace(SITES[0], size="m5.large"), SITES[1])
    changes = diff(wanted(sites), recorded(wanted()))
    (change,) = [change for change in changes if change.action is not Action.KEEP]
    assert (change.node, change.action, change.reason) == (
        "site-1/machine",
        Action.REPLACE,
        "size: t3.small → m5.large",
    )


def test_another_caller_address_updates_the_firewalls_only():
    changes = actions(diff(wanted(sources=("192.0.2.9/32",)), recorded(wanted())))
    assert {node for node, action in changes.items() if action is Action.UPDATE} == {
        "server1/firewall",
        "site-1/firewall",
    }
    assert Action.REPLACE not in changes.values()


def test_a_site_that_left_the_file_is_deleted_machine_first():
    changes = diff([item for item in wanted() if item.site.name == "server1"], recorded(wanted()))
    deleted = [change.node for change in changes if change.action is Action.DELETE]
    assert deleted == ["site-1/machine", "site-1/firewall"]


def changed(drift, node="site-1/machine", items=None):
    items = items or wanted()
    return next(change for change in diff(items, recorded(items), drift) if change.node == node)


def test_what_somebody_deleted_is_made_anew():
    change = changed({"site-1/machine": Drift("somebody deleted it", is_gone=True)})
    assert (change.action, change.reason) == (Action.REPLACE, "somebody deleted it")


def test_a_stopped_machine_is_started_and_not_replaced():
    change = changed({"site-1/machine": Drift("it is stopped", can_update=True)})
    assert (change.action, change.reason) == (Action.UPDATE, "it is stopped")


def test_rules_that_somebody_changed_are_set_again():
    change = changed({"site-1/firewall": Drift("somebody changed its rules", can_update=True)}, "site-1/firewall")
    assert change.action is Action.UPDATE


def test_a_firewall_that_is_gone_takes_its_machine_along():
    """A machine cannot have lost its firewall and still be the one that was made."""
    drift = {"site-1/firewall": Drift("somebody deleted it", is_gone=True)}
    assert changed(drift, "site-1/firewall").action is Action.REPLACE
    machine = changed(drift)
    assert (machine.action, machine.reason) == (
        Action.REPLACE,
        "it stands on the firewall, which is made anew",
    )
    assert changed(drift, "server1/machine").action is Action.KEEP


def test_only_the_chosen_site_is_looked_at():
    changes = diff(wanted(), {}, only=frozenset({"site-1"}))
    assert [change.node for change in changes] == ["site-1/firewall", "site-1/machine"]


def test_a_site_that_left_the_file_is_not_deleted_while_another_is_applied():
    items = [item for item in wanted() if item.site.name == "server1"]
    assert all(c.action is Action.KEEP for c in diff(items, recorded(wanted()), only=frozenset({"server1"})))


def test_something_adopted_is_released_and_not_deleted():
    records = recorded(wanted())
    machine = records["site-1/machine"]
    records["site-1/machine"] = replace(machine, ref=replace(machine.ref, is_adopted=True))
    changes = diff([item for item in wanted() if item.site.name == "server1"], records)
    assert actions(changes)["site-1/machine"] is Action.RELEASE
    assert actions(changes)["site-1/firewall"] is Action.DELETE


def test_a_new_machine_says_what_was_chosen_and_an_old_one_what_it_has():
    choice = Choice("m7i.large", image="ami-1", why="cheapest of 3 with 2 vCPUs")
    items = [replace(item, choice=choice) if item.node == "site-1/machine" else item for item in wanted()]
    new = next(change for change in diff(items, {}) if change.node == "site-1/machine")
    assert (new.size, new.image) == ("m7i.large", "ami-1")
    assert new.reason == "does not exist yet (cheapest of 3 with 2 vCPUs)"
    records = recorded(items)
    old = records["site-1/machine"]
    records["site-1/machine"] = replace(old, ref=replace(old.ref, outputs={"size": "t3.small", "image": "ami-0"}))
    kept = next(change for change in diff(items, records) if change.node == "site-1/machine")
    assert (kept.action, kept.size, kept.image) == (Action.KEEP, "t3.small", "ami-0")


def test_a_plan_adds_up_what_is_known():
    items = [replace(item, price=Price(0.25, "snapshot", "2026-01-19")) for item in wanted()]
    plan = Plan(changes=tuple(diff(items, recorded(items))))
    assert plan.pending == ()
    assert plan.usd_per_hour == 0.25 * len(items)


def test_what_was_adopted_costs_nothing_more():
    items = [replace(item, price=Price(0.25, "snapshot", "2026-01-19")) for item in wanted()]
    records = {
        node: replace(record, ref=replace(record.ref, is_adopted=True)) for node, record in recorded(items).items()
    }
    assert Plan(changes=tuple(diff(items, records))).usd_per_hour == 0


def test_a_stopped_machine_of_somebody_else_is_theirs_to_start():
    records = recorded(wanted())
    machine = records["site-1/machine"]
    records["site-1/machine"] = replace(machine, ref=replace(machine.ref, is_adopted=True))
    drift = {"site-1/machine": Drift("it is stopped", can_update=True)}
    change = next(change for change in diff(wanted(), records, drift) if change.node == "site-1/machine")
    assert (change.action, change.reason) == (
        Action.KEEP,
        "it is stopped; it is adopted, so its owner has to mend it",
    )
