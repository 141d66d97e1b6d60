"""Runs steps that depend on each other: one thread owns all records, a pool of workers makes the blocking calls.

Workers never touch the state or the journal. A step's `before` and `after` run in the owning thread, its `work` in a
worker, so no lock is needed around what they write.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

MAX_WORKERS = 32
"""Enough for a federation of some dozens of sites; each waiting worker costs a thread and nothing else."""


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
    """

    name: str
    site: str
    title: str
    work: Callable[[], Any]
    needs: tuple[str, ...] = ()
    before: Callable[[], None] = lambda: None
    after: Callable[[Any], None] = lambda _result: None
    failed: Callable[[BaseException], None] = lambda _error: None


@dataclass(frozen=True)
class Event:
    """What happened to a step, as it happens."""

    site: str
    title: str
    phase: str
    """`start`, `done`, `failed` or `skipped`."""
    seconds: float = 0.0
    error: BaseException | None = None


@dataclass
class Report:
    """How a run ended.

    Attributes:
        outcomes: by step name.
        errors: by step name, for the failed ones.
        interrupted: the run was cancelled before every step had started.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)
    interrupted: bool = False


def run(steps: Sequence[Step], *, cancel: threading.Event, on_event: Callable[[Event], None]) -> Report:
    """Runs every step whose needs succeeded, as many at once as can be.

    A failed step takes only its dependants with it. When `cancel` is set nothing new starts; what is in flight is
    waited for and recorded, so that no result is lost.

    Args:
        steps: in any order; needs that name no step count as met.
        cancel: set by the first Ctrl-C.
        on_event: called in this thread.

    Raises:
        KeyboardInterrupt: a second Ctrl-C; the journal still knows what was in flight.
    """
    report = Report()
    names = {step.name for step in steps}
    waiting = list(steps)
    flying: dict[Future[Any], tuple[Step, float]] = {}
    pool = ThreadPoolExecutor(max_workers=MAX_WORKERS, thread_name_prefix="step")
    try:
        while waiting or flying:
            waiting = _start_ready(waiting, names, report, cancel=cancel, pool=pool, flying=flying, on_event=on_event)
            if not flying:
                break
            finished, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in finished:
                _record(*flying.pop(future), future, report, on_event)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    report.interrupted = cancel.is_set() and bool(waiting)
    for step in waiting:
        report.outcomes[step.name] = Outcome.SKIPPED
    return report


def _start_ready(
    waiting: list[Step],
    names: set[str],
    report: Report,
    *,
    cancel: threading.Event,
    pool: ThreadPoolExecutor,
    flying: dict[Future[Any], tuple[Step, float]],
    on_event: Callable[[Event], None],
) -> list[Step]:
    left = []
    for step in waiting:
        needs = [report.outcomes.get(need) for need in step.needs if need in names]
        if any(outcome in {Outcome.FAILED, Outcome.SKIPPED} for outcome in needs):
            report.outcomes[step.name] = Outcome.SKIPPED
            on_event(Event(step.site, step.title, "skipped"))
        elif cancel.is_set() or not all(outcome is Outcome.DONE for outcome in needs):
            left.append(step)
        else:
            step.before()
            on_event(Event(step.site, step.title, "start"))
            flying[pool.submit(step.work)] = (step, time.monotonic())
    if any(report.outcomes.get(step.name) is Outcome.SKIPPED for step in waiting) and left and left != waiting:
        # A skipped step may free its dependants for skipping too, in whatever order they were given.
        return _start_ready(left, names, report, cancel=cancel, pool=pool, flying=flying, on_event=on_event)
    return left


def _record(step: Step, started: float, future: Future[Any], report: Report, on_event: Callable[[Event], None]) -> None:
    seconds = time.monotonic() - started
    error = future.exception()
    if error is None:
        step.after(future.result())
        report.outcomes[step.name] = Outcome.DONE
        on_event(Event(step.site, step.title, "done", seconds))
        return
    if not isinstance(error, ClouddeployError):
        log.error("%s: %s failed unexpectedly", step.site, step.title, exc_info=error)
    step.failed(error)
    report.outcomes[step.name] = Outcome.FAILED
    report.errors[step.name] = error
    on_event(Event(step.site, step.title, "failed", seconds, error))
