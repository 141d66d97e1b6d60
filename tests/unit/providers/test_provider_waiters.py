import threading

import pytest
from clouddeploy_providers.errors import AccessDenied, DeadlineExceeded, NotFound, Throttled, Transient
from clouddeploy_providers.waiters import retrying, wait_for


class Clock:
    """Time that passes only when somebody waits; also the cancel event that is waited on."""

    def __init__(self, *, cancelled_at=None):
        self.now = 0.0
        self.cancelled_at = cancelled_at

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
        return self.is_set()

    def is_set(self):
        return self.cancelled_at is not None and self.now >= self.cancelled_at


def wait(condition, clock, *, timeout_s=10):
    wait_for(condition, timeout_s=timeout_s, interval_s=2, cancel=clock, what="the thing", clock=clock)


def test_what_holds_already_is_not_waited_for():
    clock = Clock()
    wait(lambda: True, clock)
    assert clock.now == 0


def test_a_condition_is_asked_until_it_holds():
    clock = Clock()
    wait(lambda: clock.now >= 5, clock)
    assert clock.now == 6


def test_a_condition_that_never_holds_ends_at_the_deadline():
    clock = Clock()
    with pytest.raises(DeadlineExceeded, match="10 s for the thing"):
        wait(lambda: False, clock)
    assert clock.now == 10


def test_a_cancelled_wait_ends_and_says_how_to_go_on():
    with pytest.raises(Transient, match="the thing was stopped") as caught:
        wait(lambda: False, Clock(cancelled_at=4))
    assert caught.value.hint


def test_a_question_that_was_throttled_is_asked_again():
    clock, failures = Clock(), [Throttled("slow down"), Transient("lost")]

    def condition():
        if failures:
            raise failures.pop()
        return True

    wait(condition, clock)
    assert clock.now == 4


def test_the_last_failure_is_the_reason_of_a_missed_deadline():
    def condition():
        raise Throttled("slow down")

    with pytest.raises(DeadlineExceeded, match="slow down") as caught:
        wait(condition, Clock())
    assert isinstance(caught.value.__cause__, Throttled)


def test_a_definite_failure_ends_the_wait_at_once():
    clock = Clock()

    def condition():
        raise AccessDenied("no")

    with pytest.raises(AccessDenied):
        wait(condition, clock)
    assert clock.now == 0


class Failing:
    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_passing_failures_are_repeated_with_growing_pauses():
    call = Failing(Throttled("a"), Transient("b"), Throttled("c"))
    assert retrying(call, cancel=Clock()) == "done"
    assert call.calls == 4


@pytest.mark.parametrize("error", [AccessDenied("no"), NotFound("no"), ValueError("a defect")])
def test_other_failures_are_not_repeated(error):
    call = Failing(error)
    with pytest.raises(type(error)):
        retrying(call, cancel=Clock())
    assert call.calls == 1


def test_not_found_right_after_our_own_creation_is_repeated_where_asked():
    call = Failing(NotFound("not yet"))
    assert retrying(call, cancel=Clock(), also=(NotFound,)) == "done"


def test_repeating_ends_at_the_deadline_with_the_last_failure():
    with pytest.raises(Throttled, match=r"[abc]"):  # how often it fits into the time is not the point
        retrying(Failing(Throttled("a"), Throttled("b"), Throttled("c")), cancel=threading.Event(), timeout_s=0.0001)


def test_repeating_ends_when_it_is_cancelled():
    call = Failing(*[Throttled("a")] * 50)
    with pytest.raises(Transient, match="stopped"):
        retrying(call, cancel=Clock(cancelled_at=0.0001))
    assert call.calls < 50
