"""Killed with SIGKILL at calls to clouds and at writes: repeated, all is there once; destroyed, nothing is left."""

from pathlib import Path

import pytest

from clouddeploy import crash_matrix

pytestmark = pytest.mark.xdist_group("emulated-clouds")

HYBRID = Path(__file__).parents[2] / "examples" / "hybrid" / "deploy.yml"
FEW = 2
"""A point takes one to two seconds; `scripts/bench deploy` tries all, and so does `-m nightly`."""
PROJECT = """
api_version: 3
name: crash
participants:
  - {name: server1, type: server, org: hub, fed_learn_port: 8002, admin_port: 8002}
  - {name: site-1, type: client, org: org_a}
  - {name: admin@example.com, type: admin, org: hub, role: project_admin}
builders:
  - {path: nvflare.lighter.impl.workspace.WorkspaceBuilder}
  - {path: nvflare.lighter.impl.cert.CertBuilder}
"""
AWS_SERVER = """
version: 1
project: project.yml
sites:
  server1: {provider: aws, region: us-west-2, size: t3.small}
  site-1: {provider: azure, location: westus2, size: Standard_B2s}
"""


@pytest.fixture
def aws_server(tmp_path):
    (tmp_path / "project.yml").write_text(PROJECT)
    (tmp_path / "deploy.yml").write_text(AWS_SERVER)
    return tmp_path / "deploy.yml"


def tried(file, directory, *, choose, verb="apply"):
    (directory / "matrix").mkdir()
    found = crash_matrix.run(file, directory=directory / "matrix", verb=verb, choose=choose)
    assert found.wrong == {}
    assert (found.duplicates, found.orphans) == (0, 0)
    assert found.kills + len(found.missed) == len(found.by_point)
    return found


def naming(*words):
    """Chooses the points at which a call or write of these names is made."""
    return lambda points: [point for point in points if any(word in point.what for word in words)]


def test_the_example_killed_where_machines_are_made_and_at_points_evenly_spread(tmp_path):
    making, spread = naming("aws RunInstances", "azure PUT virtualmachines"), crash_matrix.spread(FEW)
    found = tried(HYBRID, tmp_path, choose=lambda points: list(dict.fromkeys([*making(points), *spread(points)])))
    assert {(point.what, point.moment) for point in making(found.by_point)} == {
        (what, moment) for what in ("aws RunInstances", "azure PUT virtualmachines") for moment in ("before", "after")
    }
    assert not making(found.missed)
    assert found.kills >= FEW
    assert found.calls > 30
    assert found.writes > 30


@pytest.mark.nightly  # the test before is the sample
def test_an_address_that_was_allocated_unheard_is_adopted(aws_server, tmp_path):
    """AllocateAddress knows no idempotency token; the tags that an address is born with stand in for it."""
    found = tried(aws_server, tmp_path, choose=naming("AllocateAddress"))
    assert found.kills >= 2
    assert not found.missed


@pytest.mark.nightly
def test_destroy_killed_at_points_evenly_spread(aws_server, tmp_path):
    found = tried(aws_server, tmp_path, verb="destroy", choose=crash_matrix.spread(FEW))
    assert found.kills >= FEW - 1


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", ["apply", "destroy"])
@pytest.mark.parametrize("server", ["azure", "aws"])
def test_killed_at_every_point(server, verb, aws_server, tmp_path):
    file = {"azure": HYBRID, "aws": aws_server}[server]
    found = tried(file, tmp_path, verb=verb, choose=list)
    assert found.kills > 100
