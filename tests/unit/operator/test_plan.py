from dataclasses import replace
from pathlib import Path

from clouddeploy_providers.resources import Kind, ResourceRef

from clouddeploy.config import DeployConfig, SiteConfig
from clouddeploy.plan import Action, diff, firewall_rules, wanted_resources
from clouddeploy.state import Record

SITES = (SiteConfig("site-1", "aws", {}, size="t3.small"), SiteConfig("server1", "azure", {}))
KINDS = {"server1": [Kind.ADDRESS, Kind.FIREWALL, Kind.MACHINE], "site-1": [Kind.FIREWALL, Kind.MACHINE]}


def wanted(sites=SITES, sources=("192.0.2.1/32",)):
    rules = {
        "server1": firewall_rules(ssh_port=22, ssh_sources=sources, federation_port=8002),
        "site-1": firewall_rules(ssh_port=22, ssh_sources=sources, federation_port=None),
    }
    return wanted_resources(
        DeployConfig(Path("deploy.yml"), Path("project.yml"), Path("workspace"), sites),
        project="p",
        deployment="0123abcd",
        server="server1",
        kinds=KINDS,
        places={"server1": "azure westus2", "site-1": "aws us-west-2"},
        rules=rules,
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


def test_a_client_lets_nobody_in_but_the_operator():
    (rule,) = firewall_rules(ssh_port=22, ssh_sources=("192.0.2.1/32",), federation_port=None)
    assert (rule.port, rule.sources) == (22, ("192.0.2.1/32",))
