import threading

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.scheduler import Outcome, Step, run


def step(name, needs=(), work=lambda: None, **rest):
    return Step(name=name, site=name[0], title=name, needs=needs, work=work, **rest)


def run_all(steps, cancel=None):
    events = []
    report = run(steps, cancel=cancel or threading.Event(), on_event=events.append)
    return report, events


def test_needs_come_first_in_whatever_order_they_were_given():
    done = []
    steps = [
        step("c", needs=("b",), work=lambda: done.append("c")),
        step("b", needs=("a",), work=lambda: done.append("b")),
        step("a", work=lambda: done.append("a")),
    ]
    report, _ = run_all(steps)
    assert done == ["a", "b", "c"]
    assert set(report.outcomes.values()) == {Outcome.DONE}


def test_independent_steps_run_at_the_same_time():
    both = threading.Barrier(2, timeout=5)
    report, _ = run_all([step("a", work=both.wait), step("b", work=both.wait)])
    assert not report.errors


def test_a_failure_takes_its_dependants_along_and_nobody_else():
    def fail():
        raise ClouddeployError("no")

    failures = []
    steps = [
        step("a3", needs=("a2",)),
        step("a1", work=fail, failed=failures.append),
        step("a2", needs=("a1",)),
        step("b1"),
    ]
    report, _ = run_all(steps)
    assert report.outcomes == {"a1": Outcome.FAILED, "a2": Outcome.SKIPPED, "a3": Outcome.SKIPPED, "b1": Outcome.DONE}
    assert [str(error) for error in failures] == ["no"]


def test_before_and_after_run_in_the_owning_thread_and_work_does_not():
    threads = {}
    owner = threading.current_thread()
    note = lambda what: threads.__setitem__(what, threading.current_thread())  # noqa: E731
    run_all([step("a", before=lambda: note("before"), work=lambda: note("work"), after=lambda _: note("after"))])
    assert (threads["before"], threads["after"]) == (owner, owner)
    assert threads["work"] is not owner


def test_cancel_records_what_is_in_flight_and_starts_nothing_new():
    cancel = threading.Event()
    recorded = []
    steps = [step("a", work=cancel.set, after=recorded.append), step("b", needs=("a",))]
    report, _ = run_all(steps, cancel)
    assert recorded == [None]
    assert report.interrupted
    assert report.outcomes["b"] is Outcome.SKIPPED
