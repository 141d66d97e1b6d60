"""When a training ends before its last round, and which round was the best."""

from __future__ import annotations

import pytest
from clouddeploy_runtime.job import early_stop
from clouddeploy_runtime.job.controller import BadWorkflow
from clouddeploy_runtime.job.early_stop import Condition, EarlyStop


def follow(stop, values):
    """Return for each round whether it was the best, up to the one that is the last."""
    seen = []
    for value in values:
        metrics = {} if value is None else {"accuracy": value}
        seen.append(stop.is_best(metrics))
        if stop.why(metrics):
            break
    return seen


@pytest.mark.parametrize(
    ("text", "values", "rounds"),
    [
        ("accuracy >= 0.8", [0.5, 0.8, 0.9], 2),
        ("accuracy > 0.8", [0.5, 0.8, 0.9], 3),
        ("accuracy <= 0.1", [0.5, 0.1, 0.0], 2),
        ("accuracy < 0.1", [0.5, 0.1, 0.0], 3),
        ("accuracy = 1", [0.5, 1.0, 0.0], 2),
        ("accuracy >= 2", [0.5, 0.8, 0.9], 3),
    ],
)
def test_the_first_round_that_fulfils_the_condition_is_the_last(text, values, rounds):
    assert len(follow(EarlyStop(early_stop.parse(text)), values)) == rounds


def test_patience_ends_a_training_that_does_not_become_better():
    stop = EarlyStop(early_stop.parse("accuracy >= 2"), patience=2)
    assert follow(stop, [0.5, 0.7, 0.7, 0.6, 0.9]) == [True, True, False, False]
    assert "has not become better for 2 rounds" in stop.why({"accuracy": 0.6})


def test_a_metric_that_is_missing_or_no_number_is_never_the_best_and_ends_nothing():
    stop = EarlyStop(early_stop.parse("accuracy >= 0.5"), patience=3)
    assert follow(stop, [None, None, None, None, float("nan"), 0.1, 0.2]) == [False] * 5 + [True, True]


def test_another_process_goes_on_with_the_same_patience():
    stop = EarlyStop(early_stop.parse("accuracy >= 2"), patience=2)
    follow(stop, [0.5, 0.4])
    other = EarlyStop(early_stop.parse("accuracy >= 2"), patience=2, state=stop.state)
    assert follow(other, [0.5, 0.9]) == [False]


def test_without_a_condition_no_round_is_the_best_or_the_last():
    assert follow(EarlyStop(None, patience=1), [0.5, 0.4, 0.3]) == [False] * 3


def test_a_key_metric_alone_finds_the_best_round_and_ends_nothing():
    found = early_stop.wanted(None, key_metric="accuracy", lower_is_better=True)
    assert found == Condition("accuracy", "<", None)
    assert follow(EarlyStop(found), [0.5, 0.4, 0.6]) == [True, True, False]


@pytest.mark.parametrize("text", ["accuracy", "accuracy > high", "accuracy ~ 1", "a >= 1 2", "a >= nan", 3])
def test_a_condition_that_cannot_be_read_is_refused(text):
    with pytest.raises(BadWorkflow, match="stop_cond"):
        early_stop.parse(text)
