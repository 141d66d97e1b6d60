"""Provisioning killed with SIGKILL at a write: results that were there stay, the next run makes a complete one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kill_provisioning.py")
EACH = 12
"""A run changes the file system 90 to 400 times; so many of these points are tried, evenly spread, first and last
included. More of them take about a second for every six: kill_provisioning.py SCENARIO 1000 tries all."""


@pytest.mark.parametrize(
    "scenario",
    ["first run", "a site more", "renewal after a revocation", pytest.param("archives", marks=pytest.mark.nightly)],
)
def test_killed_at_a_write(scenario):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), scenario, str(EACH)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tried"] >= EACH - 2, found
    assert found["points"] > 80
    assert found["wrong"] == {}
