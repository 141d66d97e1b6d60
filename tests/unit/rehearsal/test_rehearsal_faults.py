"""The faults of a rehearsal: how they are named, when they hit, what the trap does to whom."""

import os
import signal
import subprocess
import sys

import pytest
from clouddeploy_rehearsal import calls
from clouddeploy_rehearsal.faults import Counter, Faults
from clouddeploy_runtime.errors import ExitCode

from clouddeploy import rehearsal_faults
from clouddeploy.errors import ConfigError
from clouddeploy.killable import AFTER, BEFORE, TORN, Point, points_of
from clouddeploy.trap import ANY_CALL, Trap

ARM = "/subscriptions/s/resourcegroups/g"


def test_faults_are_named_on_the_command_line():
    wish = rehearsal_faults.parse(["lag", "kill=17", "throttle", "lag"], as_root=False)
    assert wish == rehearsal_faults.Wish(("lag", "kill", "throttle"), kill_at=17)
    faults = wish.of_clouds()
    assert (faults.lag_s > 0, faults.throttle_every > 0, faults.scarce_zones) == (True, True, 0)
    assert rehearsal_faults.parse([], as_root=False) == rehearsal_faults.Wish()


@pytest.mark.parametrize("text", ["", "fire", "kill", "kill=", "kill=0", "kill=-1", "lag=3", "Lag", "capacity,lag"])
def test_an_unknown_fault_is_bad_input_and_names_the_known_ones(text):
    with pytest.raises(ConfigError) as error:
        rehearsal_faults.parse([text], as_root=True)
    assert error.value.exit_code == ExitCode.BAD_INPUT
    assert "kill=N" in error.value.why
    assert error.value.hint


def test_without_root_there_is_no_cable_to_pull():
    assert rehearsal_faults.parse(["partition"], as_root=True).names == ("partition",)
    with pytest.raises(ConfigError, match="needs root"):
        rehearsal_faults.parse(["partition"], as_root=False)


def test_the_zone_that_is_asked_first_has_no_capacity_and_stays_so():
    faults = Faults(scarce_zones=1)
    asked = [("west", "b"), ("west", "a"), ("west", "b"), ("east", "a"), ("west", "")]
    free = [faults.has_capacity("small", place=place, zone=zone) for place, zone in asked]
    assert free == [False, True, False, False, True]
    assert faults.tally.hits("capacity") == 3


def test_a_lost_call_is_not_handled_and_a_lost_answer_was():
    seen = []

    def watch(call, is_answered):
        seen.append((call, is_answered))
        return call == ("lost answer" if is_answered else "lost call")

    counter = Counter(Faults(), watch=watch)
    assert [counter.next(call) for call in ("lost call", "lost answer", "fine")] == ["drop", "", ""]
    assert [counter.loses_answer(call) for call in ("lost answer", "fine")] == [True, False]
    assert len(seen) == 5


def test_a_throttled_call_counts_as_answered():
    seen = []
    counter = Counter(Faults(throttle_every=1), watch=lambda call, is_answered: bool(seen.append(is_answered)))
    assert counter.next("x") == "throttle"
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("PUT", ARM, "PUT resourcegroup"),
        ("GET", "/subscriptions/s/resourcegroups?api-version=1", "GET resourcegroups"),
        ("PUT", f"{ARM}/providers/Microsoft.Compute/virtualMachines/m?x=1", "PUT virtualmachines"),
        ("GET", "/subscriptions/s/providers/Microsoft.Compute/locations/x/operations/abc", "GET operation"),
        ("POST", "/tenant/oauth2/v2.0/token", "POST token"),
    ],
)
def test_calls_to_azure_are_named_after_their_type(method, path, name):
    assert calls.azure(method, path) == name


def test_a_call_has_two_points_and_a_write_can_be_torn():
    whats = ["aws RunInstances", "write journal.jsonl", "fsync journal.jsonl", "aws RunInstances"]
    assert points_of(whats) == [
        Point("aws RunInstances", 1, BEFORE),
        Point("aws RunInstances", 1, AFTER),
        Point("write journal.jsonl", 1, TORN),
        Point("fsync journal.jsonl", 1, BEFORE),
        Point("fsync journal.jsonl", 1, AFTER),
        Point("aws RunInstances", 2, BEFORE),
        Point("aws RunInstances", 2, AFTER),
    ]


@pytest.mark.parametrize(
    ("point", "lost"),
    [
        (Point("aws b", 2, BEFORE), ("aws b", False)),
        (Point("aws b", 1, AFTER), ("aws b", True)),
        (Point(ANY_CALL, 3, AFTER), ("aws b", True)),
        (Point("aws c", 1, AFTER), None),
    ],
)
def test_a_trap_kills_once_at_its_point(point, lost):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        trap = Trap(point)
        trap.process.set_result(victim.pid)
        happened = []
        for call in ("aws b", "aws a", "aws b", "aws b"):
            for is_answered in (False, True):
                if trap.watch(call, is_answered):
                    happened.append((call, is_answered))
                    break
        assert happened == ([lost] if lost else [])
        assert trap.is_sprung == bool(lost)
        trap.wait_until_quiet()
        if not lost:
            os.kill(victim.pid, signal.SIGTERM)
        assert victim.wait() == -(signal.SIGKILL if lost else signal.SIGTERM)
