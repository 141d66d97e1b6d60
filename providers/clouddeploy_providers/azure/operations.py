"""Long-running operations that end when they are told to, and the parts of an ARM id."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.errors import Conflict, DeadlineExceeded, Transient
from clouddeploy_providers.waiters import retrying, stopped, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

LOOK_S = 0.5
"""How soon a cancelled wait ends; the poller has its own interval, in its own thread."""
OPERATION_S = 900.0
"""Azure makes a machine within two minutes; deleting a full group may take ten."""

IN_USE_S = 240.0
"""Azure keeps a network interface reserved for 180 seconds after its machine (rancher/machine#359)."""


def finished(poller: Any, name: str, cancel: Event) -> Any:
    """Returns the result of an operation.

    Raises:
        Transient: `cancel` was set; the operation goes on in Azure, and the next run finds its result.
        DeadlineExceeded: it did not end in time.
        AzureError: it failed; the caller translates.
    """
    deadline = time.monotonic() + OPERATION_S
    while not poller.done():
        poller.wait(LOOK_S)
        if cancel.is_set():
            raise stopped(name)
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"Azure is not done with {name} after {OPERATION_S:.0f} s", hint="apply again")
    return poller.result()


def let_go(
    delete: Callable[[], None], name: str, *, interval_s: float, cancel: Event, clock: Callable[[], float]
) -> None:
    """Deletes something, again and again while Azure holds it.

    The time counts from the first refusal: the machine before it may take minutes, and only then its interface is
    reserved.

    Raises:
        Transient: `cancel` was set.
        DeadlineExceeded: Azure did not let it go in time; says why.
        ProviderError: whatever else `delete` raises.
    """

    def is_gone() -> bool:
        try:
            delete()
        except Conflict as error:
            raise Transient(error.what, why=error.why, hint=error.hint) from error  # the last one is kept
        return True

    try:
        retrying(delete, cancel=cancel, timeout_s=OPERATION_S)
    except Conflict:
        if cancel.wait(interval_s):
            raise stopped(name) from None
        what = f"{name} to be let go"
        wait_for(is_gone, timeout_s=IN_USE_S, interval_s=interval_s, cancel=cancel, what=what, clock=clock)


def group_of(arm_id: str) -> str:
    """Returns the group's name in an ARM id; its casing varies between Azure's services."""
    parts = arm_id.split("/")
    return parts[[part.lower() for part in parts].index("resourcegroups") + 1]


def name_of(arm_id: str) -> str:
    """Returns the last part of an ARM id."""
    return arm_id.rstrip("/").rsplit("/", 1)[1]


def subscription_of(arm_id: str) -> str:
    """Returns the subscription in an ARM id."""
    return arm_id.split("/")[2]
