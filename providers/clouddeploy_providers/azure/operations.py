"""Long-running operations that end when they are told to, and the parts of an ARM id."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.errors import DeadlineExceeded
from clouddeploy_providers.waiters import stopped

if TYPE_CHECKING:
    from threading import Event

LOOK_S = 0.5
"""How soon a cancelled wait ends; the poller has its own interval, in its own thread."""
OPERATION_S = 900.0
"""Azure makes a machine within two minutes; deleting a full group may take ten."""


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


def group_of(arm_id: str) -> str:
    """Returns the group's name in an ARM id; its casing varies between Azure's services."""
    parts = arm_id.split("/")
    return parts[[part.lower() for part in parts].index("resourcegroups") + 1]
