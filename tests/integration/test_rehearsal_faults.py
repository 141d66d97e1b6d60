"""Rehearsals in which something goes wrong on the way, from the command line: they succeed, and say what was met."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clouddeploy_runtime.errors import ExitCode

EXAMPLE = Path(__file__).parents[2] / "examples" / "hybrid" / "deploy.yml"
pytestmark = [pytest.mark.xdist_group("world"), pytest.mark.timeout(300)]


def rehearse(*faults, unprivileged=False):
    words = [word for fault in faults for word in ("--fault", fault)]
    command = [sys.executable, "-m", "clouddeploy.cli", "rehearse", str(EXAMPLE), "--output", "json", *words]
    done = subprocess.run(
        [*command, *(["--unprivileged"] if unprivileged else [])],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="network cables need root")
@pytest.mark.nightly
def test_throttled_lagging_scarce_partitioned_and_killed_it_still_succeeds_and_leaves_nothing():
    status, answer = rehearse("capacity", "throttle", "lag", "kill=40", "partition")
    assert status == 0, answer
    hits = {fault["name"]: fault["hits"] for fault in answer["data"]["faults"]}
    assert (hits["kill"], hits["partition"]) == (1, 2)
    assert min(hits.values()) >= 1, hits
    assert answer["data"]["resources"]["left"] == []
    assert answer["data"]["job"]["status"] == "FINISHED:COMPLETED"


@pytest.mark.nightly
def test_a_kill_beyond_the_last_call_is_not_met():
    status, answer = rehearse("kill=99999", unprivileged=True)
    assert status == 0, answer
    assert answer["data"]["faults"] == [{"name": "kill", "hits": 0}]
    assert answer["data"]["resources"]["left"] == []


@pytest.mark.parametrize(("fault", "word"), [("fire", "kill=N"), ("partition", "network cable")])
def test_a_fault_that_cannot_be_is_bad_input(fault, word):
    status, answer = rehearse(fault, unprivileged=True)
    assert (status, answer["exit_code"], answer["error_code"]) == (ExitCode.BAD_INPUT, 4, "INVALID_CONFIG")
    assert word in answer["message"]
    assert answer["hint"]
