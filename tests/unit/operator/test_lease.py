import json
import threading

import pytest
from clouddeploy_providers.errors import Transient
from clouddeploy_providers.object_store import MemoryObjects
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.errors import LockedError, StateError
from clouddeploy.stores.lease import KEY, Lease

TTL_S = 60.0


class Clock:
    """Stands still until somebody sets it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Faulty:
    """Passes calls on; loses requests or answers while it is told to."""

    def __init__(self, objects):
        self.objects = objects
        self.lose_requests = False
        self.lose_answers = 0

    def get(self, key):
        if self.lose_requests:
            raise Transient("no connection")
        return self.objects.get(key)

    def put(self, key, body, *, version):
        if self.lose_requests:
            raise Transient("no connection")
        new = self.objects.put(key, body, version=version)
        if self.lose_answers:
            self.lose_answers -= 1
            raise Transient("the answer was lost")
        return new

    def list(self, prefix):
        return self.objects.list(prefix)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def objects(clock):
    return Faulty(MemoryObjects(clock=clock))


@pytest.fixture
def lease(objects, clock):
    """Makes leases, each as another process would; gives them all back."""
    made = []

    def make(**given):
        made.append(Lease(given.pop("objects", objects), "s3://b/p", clock=clock, ttl_s=TTL_S, **given))
        return made[-1]

    yield make
    objects.lose_requests = False
    for one in made:
        one.release()


def said(objects):
    return json.loads(objects.get(KEY).body)


def test_a_held_lock_is_refused_and_names_its_holder_and_how_long_it_may_last(lease, clock):
    lease().acquire("apply")
    clock.now += 20
    with pytest.raises(LockedError, match="apply, pid") as caught:
        lease().acquire("destroy")
    assert caught.value.exit_code == ExitCode.LOCKED
    assert "in 42 s" in caught.value.hint


def test_a_lock_that_was_given_back_is_free_at_once_and_nobody_has_to_be_fenced(lease):
    first, second = lease(), lease()
    first.acquire("apply")
    first.release()
    second.acquire("destroy")
    assert (second.generation, second.unsealed) == (2, ())
    second.check()


@pytest.mark.parametrize(("waited", "is_free"), [(TTL_S, False), (TTL_S + 2, False), (TTL_S + 2.5, True)])
def test_a_killed_holders_lock_is_over_after_its_time_and_not_before(lease, clock, waited, is_free):
    lease().acquire("apply")
    clock.now += waited
    second = lease()
    if not is_free:
        with pytest.raises(LockedError):
            second.acquire("destroy")
        return
    second.acquire("destroy")
    assert (second.generation, second.unsealed) == (2, (1,))


def test_the_holder_stops_to_believe_before_anybody_may_take_the_lock(lease, clock):
    first = lease()
    first.acquire("apply")
    clock.now += TTL_S - 1
    first.check()
    clock.now += 1
    with pytest.raises(LockedError, match="may not write"):
        first.check()


def test_a_robbed_holder_is_told_by_whom(lease, clock):
    first, second = lease(), lease()
    first.acquire("apply")
    clock.now += TTL_S + 3
    second.acquire("destroy")
    with pytest.raises(LockedError, match="held now by: destroy, pid"):
        first.check()
    first.release()
    assert said(second._objects)["token"] == second.token
    assert not said(second._objects)["is_free"]


def test_a_thief_that_dies_leaves_both_to_be_fenced(lease, clock):
    for command in ("apply", "destroy"):
        lease().acquire(command)
        clock.now += TTL_S + 3
    third = lease()
    third.acquire("sweep")
    assert third.unsealed == (1, 2)
    third.sealed()
    third.release()
    fourth = lease()
    fourth.acquire("apply")
    assert (fourth.generation, fourth.unsealed) == (4, ())


def test_of_many_at_once_one_gets_it(lease):
    leases = [lease() for _ in range(8)]
    start = threading.Barrier(len(leases))
    results = []

    def take(one):
        start.wait()
        try:
            one.acquire("apply")
        except LockedError:
            results.append("refused")
        else:
            results.append("held")

    threads = [threading.Thread(target=take, args=(one,)) for one in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["held", *["refused"] * 7]


def test_the_lock_is_renewed_while_it_is_held(objects):
    short = Lease(objects, "s3://b/p", ttl_s=0.06)
    short.acquire("apply")
    until(lambda: said(objects)["renewals"] >= 4)
    short.release()
    assert said(objects)["is_free"]


def test_a_renewal_whose_answer_was_lost_is_no_lost_race(lease, objects):
    one = lease()
    one.acquire("apply")
    objects.lose_answers = 1
    with pytest.raises(Transient):
        one._write()
    one._write()
    one.check()
    assert said(objects)["token"] == one.token


def test_an_acquisition_whose_answer_was_lost_is_found_again(lease, objects):
    one = lease()
    objects.lose_answers = 1
    with pytest.raises(Transient):
        one.acquire("apply")
    one.acquire("apply")
    assert (one.generation, one.unsealed) == (1, ())


def test_a_lock_that_cannot_be_given_back_is_a_warning(lease, objects, caplog):
    one = lease()
    one.acquire("apply")
    objects.lose_requests = True
    one.release()
    assert "could not be given back" in caplog.text


def test_who_holds_it_now_may_be_unknown(lease, objects, clock):
    one = lease()
    one.acquire("apply")
    clock.now += TTL_S
    objects.lose_requests = True
    with pytest.raises(LockedError, match="not known"):
        one.check()


def test_a_damaged_lock_is_an_error_with_what_to_do(lease, objects):
    objects.put(KEY, b"{", version=None)
    with pytest.raises(StateError, match="cannot read the lock") as caught:
        lease().acquire("apply")
    assert "delete that object" in caught.value.hint


def test_a_lock_object_that_was_deleted_does_not_start_the_count_over(lease):
    one = lease(last_generation=lambda: 7)
    one.acquire("apply")
    assert one.generation == 8


def test_storage_that_ignores_conditions_is_refused_at_the_first_lock(clock):
    class Careless(MemoryObjects):
        def put(self, key, body, *, version):
            there = self.get(key)
            return super().put(key, body, version=there.version if there else None)

    one = Lease(Careless(clock=clock), "s3://b/p", clock=clock)
    with pytest.raises(StateError, match="cannot keep a shared state") as caught:
        one.acquire("apply")
    assert "If-None-Match" in caught.value.why


def until(condition):
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come true")


def test_renewals_that_fail_for_a_while_are_repeated(objects, caplog):
    short = Lease(objects, "s3://b/p", ttl_s=0.3)
    short.acquire("apply")
    objects.lose_requests = True
    until(lambda: "could not be renewed" in caplog.text)
    objects.lose_requests = False
    renewals = said(objects)["renewals"]
    until(lambda: said(objects)["renewals"] > renewals)
    short.check()
    short.release()


def test_a_renewal_that_meets_another_holder_ends_the_hold(objects):
    short = Lease(objects, "s3://b/p", ttl_s=0.3)
    short.acquire("apply")
    other = {**said(objects), "holder": "destroy, pid 1", "token": "another", "is_free": True}
    objects.put(KEY, json.dumps(other).encode(), version=objects.get(KEY).version)
    until(lambda: short._is_lost)
    with pytest.raises(LockedError, match="destroy, pid 1 held the lock meanwhile"):
        short.check()
    short.release()
    assert said(objects) == other
