"""Waiting and repeating, each to one deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import tenacity

from clouddeploy_providers.errors import DeadlineExceeded, Throttled, Transient

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

Result = TypeVar("Result")

RETRY_S = 60.0
"""How long a passing failure may last; clouds throttle for seconds, not for minutes."""


def wait_for(
    condition: Callable[[], bool],
    *,
    timeout_s: float,
    interval_s: float,
    cancel: Event,
    what: str,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns once `condition` holds.

    Raises:
        DeadlineExceeded: it did not hold in time.
        Transient: `cancel` was set.
    """
    deadline = clock() + timeout_s
    while not condition():
        if clock() > deadline:
            raise DeadlineExceeded(
                f"waited {timeout_s:.0f} s for {what}", why="it did not happen", hint="look at it, then repeat"
            )
        if cancel.wait(interval_s):
            raise Transient(f"waiting for {what} was stopped", hint="run the same command again")


def retrying(call: Callable[[], Result], *, cancel: Event, timeout_s: float = RETRY_S) -> Result:
    """Returns what `call` returns, repeating it with back-off and jitter while its failure is one that passes."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((Throttled, Transient)),
        wait=tenacity.wait_exponential_jitter(initial=0.2, max=5),
        stop=tenacity.stop_any(tenacity.stop_after_delay(timeout_s), tenacity.stop_when_event_set(cancel)),
        sleep=tenacity.sleep_using_event(cancel),
        reraise=True,
    )(call)
