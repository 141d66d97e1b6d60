"""Waiting and repeating, each to one deadline."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

import tenacity

from clouddeploy_providers.errors import DeadlineExceeded, Throttled, Transient

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from clouddeploy_providers.errors import ProviderError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

RETRY_S = 60.0
"""How long a passing failure may last; clouds throttle for seconds, and show what they have made within a minute."""


def stopped(what: str) -> Transient:
    """Returns what a wait raises that was told to end; the next run goes on from here."""
    return Transient(f"waiting for {what} was stopped", hint="run the same command again")


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

    A question that was throttled or lost is asked again: minutes of waiting must not end with one dropped connection.

    Raises:
        DeadlineExceeded: it did not hold in time.
        Transient: `cancel` was set.
        ProviderError: whatever else `condition` raises.
    """
    deadline = clock() + timeout_s
    while True:
        passing: ProviderError | None = None
        try:
            if condition():
                return
        except (Throttled, Transient) as error:
            log.debug("asking about %s again: %s", what, error)
            passing = error
        if clock() >= deadline:
            raise DeadlineExceeded(
                f"waited {timeout_s:.0f} s for {what}",
                why=str(passing or "it did not happen"),
                hint="look at it in the cloud's console, then run the same command again",
            ) from passing
        if cancel.wait(interval_s):
            raise stopped(what)


def retrying(
    call: Callable[[], Result],
    *,
    cancel: Event,
    also: tuple[type[ProviderError], ...] = (),
    timeout_s: float = RETRY_S,
) -> Result:
    """Returns what `call` returns, repeating it with back-off and jitter while its failure is one that passes.

    Args:
        call: may be repeated.
        cancel: ends the repeating.
        also: further errors that pass here, such as `NotFound` right after our own creation.
        timeout_s: no repetition starts later than this.

    Raises:
        Transient: `cancel` was set between two tries.
        ProviderError: the last one, or the first that does not pass.
    """

    def pause(seconds: float) -> None:
        if cancel.wait(seconds):
            raise stopped("the cloud to accept a request")

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((Throttled, Transient, *also)),
        wait=tenacity.wait_random_exponential(multiplier=0.3, max=5),
        stop=tenacity.stop_after_delay(timeout_s) | tenacity.stop_when_event_set(cancel),
        sleep=pause,
        reraise=True,
    )(call)
