"""Long-running operations that end when they are told to, and the parts of an ARM id."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from azure.core.polling.base_polling import LocationPolling, StatusCheckPolling
from azure.mgmt.core.polling.arm_polling import ARMPolling, AzureAsyncOperationPolling, BodyContentPolling

from clouddeploy_providers.errors import Conflict, DeadlineExceeded, Transient
from clouddeploy_providers.waiters import retrying, stopped, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

OPERATION_S = 900.0
"""Azure makes a machine within two minutes; deleting a full group may take ten."""

IN_USE_S = 240.0
"""Azure keeps a network interface reserved for 180 seconds after its machine (rancher/machine#359)."""


class Operation(ARMPolling):
    """Waits for a long-running operation while it is begun: `begin_…(…, polling=Operation(…)).result()`.

    The SDK would wait in a thread of its own for each, which nobody can end.

    Args:
        name: of what is made or deleted, for messages.
        interval_s: how often Azure is asked, unless it says otherwise.
        cancel: ends the waiting.
        needs_last: the result is read once more at the end, since Azure decides on something meanwhile; otherwise it
            is the first answer.

    Raises:
        Transient: `cancel` was set; the operation goes on in Azure, and the next run finds its result.
        DeadlineExceeded: it did not end in time.
        AzureError: it failed; the caller translates.
    """

    def __init__(self, name: str, *, interval_s: float, cancel: Event, needs_last: bool = True) -> None:
        if needs_last:
            super().__init__(timeout=interval_s)
        else:
            ways = [_ToldByStatus(), LocationPolling(), BodyContentPolling(), StatusCheckPolling()]
            super().__init__(timeout=interval_s, lro_algorithms=ways)
        self._name = name
        self._cancel = cancel
        self._needs_last = needs_last
        self._deadline = time.monotonic() + OPERATION_S
        self._first: Callable[[], Any] = lambda: None

    def initialize(self, client: Any, initial_response: Any, deserialization_callback: Callable[[Any], Any]) -> None:
        """Called by the SDK with the first answer; returns when the operation has ended."""
        super().initialize(client, initial_response, deserialization_callback)
        self._first = partial(deserialization_callback, initial_response)
        self.run()

    def resource(self) -> Any:
        """Returns the result."""
        return super().resource() if self._needs_last else self._first()

    def _sleep(self, delay: float) -> None:
        if self._cancel.wait(delay):
            raise stopped(self._name)
        if time.monotonic() > self._deadline:
            raise DeadlineExceeded(f"Azure is not done with {self._name} after {OPERATION_S:.0f} s", hint="apply again")


class _ToldByStatus(AzureAsyncOperationPolling[Any, Any]):
    """Ends with the operation's status."""

    def get_final_get_url(self, pipeline_response: Any) -> None:  # noqa: ARG002 - the SDK's signature
        return None


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
