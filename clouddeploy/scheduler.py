"""Runs steps that depend on each other: one thread owns all records, a pool of workers makes the blocking calls.

Workers never touch the state or the journal. A step's `before` and `after` run in the owning thread, its `work` in a
worker, so no lock is needed around what they write.
"""

from __future__ import annotations

import gc
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.workers import Workers

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from clouddeploy.workers import Result

log = logging.getLogger(__name__)

MIN_WORKERS, MAX_WORKERS = 16, 128
PAUSE_S = 0.03
"""Between two writes: what ends meanwhile shares the next one. Where little happens, nobody waits for it."""


def workers_for(sites: int) -> int:
    """Returns how many workers do the steps of so many sites.

    One for each site, whose machine is awaited for long, and a quarter more for what is quick. Twice as many would be
    slower: they compute in turns, and each that waits for its turn costs time.
    """
    return min(MAX_WORKERS, max(MIN_WORKERS, sites * 5 // 4))


class Outcome(StrEnum):
    """How a step ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        name: unique; other steps name it in `needs`.
        site: whose step it is, for the reader of events.
        title: what happens, for the reader of events: `create machine`.
        needs: names of steps that must have succeeded before.
        work: the blocking call, run in a worker.
        before: run in the owning thread just before `work` starts.
        after: run in the owning thread with what `work` returned.
        failed: run in the owning thread with what `work` raised.
        again: run in the owning thread with what `work` raised; whether another try, `before` included, may do better.
    """

    name: str
    site: str
    title: str
    work: Callable[[], Any]
    needs: tuple[str, ...] = ()
    before: Callable[[], None] = lambda: None
    after: Callable[[Any], None] = lambda _result: None
    failed: Callable[[BaseException], None] = lambda _error: None
    again: Callable[[BaseException], bool] = lambda _error: False


@dataclass(frozen=True)
class Event:
    """What happened to a step, as it happens."""

    site: str
    title: str
    phase: str
    """`start`, `done`, `again`, `failed` or `skipped`."""
    seconds: float = 0.0
    error: BaseException | None = None


@dataclass
class Report:
    """How a run ended.

    Attributes:
        outcomes: by step name.
        errors: by step name, for the failed ones.
        sites: by step name, whose step it was.
        interrupted: the run was cancelled before every step had started.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def run(
    steps: Sequence[Step],
    *,
    cancel: threading.Event,
    on_event: Callable[[Event], None],
    flush: Callable[[], None] = lambda: None,
) -> Report:
    """Runs every step whose needs succeeded, as many at once as can be.

    A failed step takes only its dependants with it. When `cancel` is set nothing new starts; what is in flight is
    waited for and recorded, so that no result is lost.

    Args:
        steps: in any order; needs that name no step count as met.
        cancel: set by the first Ctrl-C.
        on_event: called in this thread.
        flush: makes durable what `before` and `after` have recorded; called in this thread before any work starts that
            builds on it, and at the end. Many steps that end at once cost one write.

    Raises:
        KeyboardInterrupt: a second Ctrl-C; the journal still knows what was in flight.
    """
    report = Report(sites={step.name: step.site for step in steps})
    names = frozenset(step.name for step in steps)
    waiting = list(steps)
    flying: dict[str, tuple[Step, float]] = {}
    with _undisturbed(), Workers[str](min(len(steps), workers_for(len(set(report.sites.values()))))) as workers:
        while waiting or flying:
            ready, waiting = _sort_out(waiting, names, report, cancel=cancel, on_event=on_event)
            for step in ready:
                step.before()
                on_event(Event(step.site, step.title, "start"))
            flush()
            flushed = time.monotonic()
            for step in ready:
                flying[step.name] = (step, time.monotonic())
                workers.begin(step.name, step.work)
            if not flying:
                break
            for result in workers.results(not_before=flushed + PAUSE_S):
                step, since = flying.pop(result.key)
                if not _record(step, time.monotonic() - since, result, report, on_event):
                    waiting.append(step)
        flush()
    report.interrupted = cancel.is_set() and bool(waiting)
    for step in waiting:
        report.outcomes[step.name] = Outcome.SKIPPED
    return report


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps what there is already out of the search for garbage.

    The clouds' SDKs are a million objects; to look through them would stop every thread for a quarter of a second.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _sort_out(
    waiting: Sequence[Step],
    names: frozenset[str],
    report: Report,
    *,
    cancel: threading.Event,
    on_event: Callable[[Event], None],
) -> tuple[list[Step], list[Step]]:
    """Returns the steps that can start now and those that wait; what never will is skipped."""
    ready: list[Step] = []
    left: list[Step] = []
    for step in waiting:
        needs = [report.outcomes.get(need) for need in step.needs if need in names]
        if any(outcome in {Outcome.FAILED, Outcome.SKIPPED} for outcome in needs):
            report.outcomes[step.name] = Outcome.SKIPPED
            on_event(Event(step.site, step.title, "skipped"))
        elif cancel.is_set() or not all(outcome is Outcome.DONE for outcome in needs):
            left.append(step)
        else:
            ready.append(step)
    if len(ready) + len(left) < len(waiting):
        # A skipped step may free its dependants for skipping too, in whatever order they were given.
        more, left = _sort_out(left, names, report, cancel=cancel, on_event=on_event)
        ready += more
    return ready, left


def _record(step: Step, seconds: float, result: Result[str], report: Report, on_event: Callable[[Event], None]) -> bool:
    """Notes how a step ended; False when it is to be tried again."""
    error = result.error
    if error is None:
        step.after(result.value)
        report.outcomes[step.name] = Outcome.DONE
        on_event(Event(step.site, step.title, "done", seconds))
        return True
    if not isinstance(error, ClouddeployError):
        log.error("%s: %s failed unexpectedly", step.site, step.title, exc_info=error)
    step.failed(error)
    if step.again(error):
        on_event(Event(step.site, step.title, "again", seconds, error))
        return False
    report.outcomes[step.name] = Outcome.FAILED
    report.errors[step.name] = error
    on_event(Event(step.site, step.title, "failed", seconds, error))
    return True
