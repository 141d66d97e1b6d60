"""Steps that create and update resources, each with its intent and its result in the ledger."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clouddeploy_providers.errors import CapacityError
from clouddeploy_providers.resources import Kind, MachineSpec, Resource

from clouddeploy.plan import BENEATH, Action
from clouddeploy.scheduler import Step

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.ledger import Ledger
    from clouddeploy.plan import Change, Wanted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Maker:
    """What every creation needs.

    Attributes:
        ledger: takes intents and results.
        providers: by site.
        public_key: the operator's, one OpenSSH line.
        user_data: takes the machine and when it switches itself off.
        expires_at: when machines in clouds switch themselves off; empty: never.
        calls: ends the waits inside cloud calls.
    """

    ledger: Ledger
    providers: Mapping[str, ComputeProvider]
    public_key: Callable[[], str]
    user_data: Callable[[Wanted, str], str]
    expires_at: str
    calls: threading.Event

    def steps(self, changes: Sequence[Change]) -> list[Step]:
        """Returns a step for every change that makes or mends something."""
        items = [change.wanted for change in changes if change.wanted is not None]
        return [
            self._step(change.wanted, items, is_update=change.action is Action.UPDATE)
            for change in changes
            if change.wanted is not None and change.action is not Action.KEEP
        ]

    def _step(self, item: Wanted, items: Sequence[Wanted], *, is_update: bool) -> Step:
        earlier = tuple(
            other.node for other in items if other.site.name == item.site.name and other.kind in BENEATH[item.kind]
        )
        record = self.ledger.state.resources.get(item.node)
        if record is not None and (record.ref.is_adopted or not record.fingerprint):
            is_update = False  # it is looked up again; what is adopted stays as it is, what is ours gets its rules
        request = _Request(self, item, earlier, operation="update" if is_update else "create")
        return Step(
            name=item.node,
            site=item.site.name,
            title=f"{request.operation} {item.kind.value}",
            needs=(*earlier, f"delete {item.node}"),
            before=request.before,
            work=request.work,
            after=request.after,
            failed=request.failed,
            again=request.again,
        )


class _Request:
    """One resource on its way; `before`, `after`, `failed` and `again` run in the owning thread, `work` in a worker."""

    def __init__(self, maker: Maker, item: Wanted, earlier: Sequence[str], *, operation: str) -> None:
        self.operation = operation
        self._maker = maker
        self._item = item
        self._earlier = earlier
        self._siblings = list(item.choice.siblings) if item.choice else []
        self._resource: Resource | None = None
        self._ref: ResourceRef | None = None

    def before(self) -> None:
        ledger = self._maker.ledger
        record = ledger.state.resources.get(self._item.node)
        self._ref = record.ref if record is not None else None
        token = ledger.token(self._item)
        needs = tuple(ledger.state.resources[node].ref for node in self._earlier)
        item = self._item
        self._resource = Resource(item.kind, item.name, item.owner, rules=item.rules, needs=needs, token=token)
        ledger.intend(self.operation, self._item, token)

    def work(self) -> ResourceRef:
        assert self._resource is not None  # noqa: S101 - `before` has run
        provider = self._maker.providers[self._item.site.name]
        if self.operation == "update":
            assert self._ref is not None  # noqa: S101 - only what is recorded is updated
            return provider.update(self._ref, self._resource, self._maker.calls)
        # Keys are made here and not in `before`: that takes two writes for each site, and all others would wait.
        return provider.create(replace(self._resource, machine=self._machine()), self._maker.calls)

    def after(self, ref: ResourceRef) -> None:
        self._maker.ledger.made(self.operation, self._item, ref, expires_at=self._maker.expires_at)

    def failed(self, error: BaseException) -> None:
        self._maker.ledger.refused(self.operation, self._item, error)

    def again(self, error: BaseException) -> bool:
        """Moves on to the next size that will do, when this one has no capacity in any zone."""
        if not isinstance(error, CapacityError) or not self._siblings or self._item.choice is None:
            return False
        size, state = self._siblings.pop(0), self._maker.ledger.state
        log.warning("%s: no capacity for %s, trying %s", self._item.site.name, self._item.choice.size, size)
        self._item = replace(self._item, choice=replace(self._item.choice, size=size))
        assert self._item.choice is not None  # noqa: S101 - it was just made
        state.pins[self._item.site.name] = self._item.choice.as_pin(self._item.size_text, self._item.place)
        self._maker.ledger.touch()
        return True

    def _machine(self) -> MachineSpec | None:
        item, maker = self._item, self._maker
        if item.kind is not Kind.MACHINE:
            return None
        choice = item.choice
        return MachineSpec(
            size=(choice.size if choice else item.site.size) or None,
            image=(choice.image if choice else item.site.image) or None,
            disk_gib=item.site.disk_gib,
            user=item.site.user,
            public_key=maker.public_key(),
            user_data=maker.user_data(item, maker.expires_at),
            zones=item.site.zones,
            expires_at=maker.expires_at,
        )
