import pytest
from clouddeploy_providers.resources import Kind, ResourceRef

from clouddeploy.drift import Drift, compare, observe
from clouddeploy.state import Record

MACHINE = {"address": "198.51.100.4", "size": "t3.small", "power": "running", "image": "ami-1"}


def ref(kind, **outputs):
    return ResourceRef(kind, "name", "id", outputs)


def record(kind, **outputs):
    return Record(ref(kind, **outputs), "site-1", "fake", {}, {})


def test_what_is_as_it_was_is_no_drift():
    assert compare(record(Kind.MACHINE, **MACHINE), ref(Kind.MACHINE, **MACHINE)) is None
    assert compare(record(Kind.FIREWALL, rules="22 from a"), ref(Kind.FIREWALL, rules="22 from a")) is None


@pytest.mark.parametrize(
    ("change", "drift"),
    [
        ({"power": "stopped"}, Drift("it is stopped", can_update=True)),
        ({"size": "m5.large"}, Drift("somebody changed its size to m5.large")),
        (
            {"address": "198.51.100.9"},
            Drift("its address is 198.51.100.9, and was 198.51.100.4", can_update=True, is_moved=True),
        ),
        ({"image": "ami-2"}, None),
    ],
)
def test_a_machine_that_somebody_changed(change, drift):
    assert compare(record(Kind.MACHINE, **MACHINE), ref(Kind.MACHINE, **{**MACHINE, **change})) == drift


def test_a_firewall_that_somebody_opened():
    assert compare(record(Kind.FIREWALL, rules="22 from a"), ref(Kind.FIREWALL, rules="22 from a, b")) == Drift(
        "somebody changed its rules to: 22 from a, b", can_update=True
    )


def test_a_record_of_an_older_version_has_no_rules_to_compare():
    assert compare(record(Kind.FIREWALL), ref(Kind.FIREWALL, rules="22 from a")) is None


def test_what_is_gone():
    assert compare(record(Kind.ADDRESS), None) == Drift("somebody deleted it", is_gone=True)


def test_every_cloud_is_asked_about_what_it_made():
    class Provider:
        def __init__(self, *there):
            self.there = there

        def read(self, one):
            return one if one.name in self.there else None

    records = {"a/machine": record(Kind.MACHINE), "b/machine": record(Kind.MACHINE)}
    providers = {"a/machine": Provider("name"), "b/machine": Provider()}
    assert observe(records, providers) == {"b/machine": Drift("somebody deleted it", is_gone=True)}
    assert observe({}, {}) == {}
