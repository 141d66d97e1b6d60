"""Runs of deployments in processes of their own: stopped as by an interrupt, and resumed by the same call."""

import pytest
from clouddeploy_rehearsal.probe import until

from clouddeploy.dashboard.runs import Run, Runs
from clouddeploy.secrets import Secret
from tests.integration.dashboard.browsing import free_port, laboratory

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def file(tmp_path):
    laboratory(tmp_path / "dashboard" / "deployments" / "lab", port=free_port())
    return tmp_path / "dashboard" / "deployments" / "lab" / "deploy.yml"


def start(runs, file, verb):
    ended = []
    runs.start(Run("lab", verb, "me", "now"), file=file, passphrase=Secret("of the authority"), ended=ended.append)
    return ended


def test_an_apply_that_was_stopped_leaves_what_it_recorded_and_destroy_takes_it_away(file):
    runs = Runs()
    ended = start(runs, file, "apply")
    until(lambda: runs.last("lab", file=file).lines, timeout_s=60)
    runs.cancel("lab")
    until(lambda: ended, timeout_s=60)
    assert ended[0].result["error"]["code"] == "INTERRUPTED"
    assert ended[0].result["resources"] == 1
    destroyed = start(runs, file, "destroy")
    until(lambda: destroyed, timeout_s=60)
    assert destroyed[0].result == {"error": None, "text": "1 deleted, nothing left.", "resources": 0, "usd_per_hour": 0}


def test_a_dashboard_that_ends_stops_its_runs_after_what_is_in_flight(file):
    runs = Runs()
    ended = start(runs, file, "rehearse")
    until(lambda: runs.last("lab", file=file).lines, timeout_s=60)
    runs.close()
    until(lambda: ended, timeout_s=60)
    assert ended[0].result["error"]["code"] == "INTERRUPTED"
