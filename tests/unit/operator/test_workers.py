import threading

from clouddeploy_rehearsal.probe import until

from clouddeploy.workers import Workers


def results(workers, count):
    found = []
    while len(found) < count:
        found += workers.results()
    return {one.key: one.value if one.error is None else one.error for one in found}


def test_each_call_has_its_result():
    with Workers[str](2) as workers:
        for number in range(5):
            workers.begin(str(number), lambda number=number: number * 2)
        assert results(workers, 5) == {"0": 0, "1": 2, "2": 4, "3": 6, "4": 8}


def test_as_many_calls_as_there_are_threads_are_under_way_at_once():
    together = threading.Barrier(3)
    with Workers[str](3) as workers:
        for name in "abc":
            workers.begin(name, lambda: together.wait(5) >= 0)
        assert results(workers, 3) == dict.fromkeys("abc", True)


def test_a_failure_is_a_result_too():
    error = ValueError("no")

    def fail():
        raise error

    with Workers[str](1) as workers:
        workers.begin("a", fail)
        workers.begin("b", lambda: 1)
        assert results(workers, 2) == {"a": error, "b": 1}


def test_it_ends_without_waiting_and_what_has_not_begun_never_does():
    go_on, begun = threading.Event(), []
    before = set(threading.enumerate())
    with Workers[str](1) as workers:
        workers.begin("long", lambda: begun.append("long") or go_on.wait(5))
        until(lambda: begun)
        workers.begin("next", lambda: begun.append("next"))
    go_on.set()
    until(lambda: set(threading.enumerate()) <= before)
    assert begun == ["long"]
