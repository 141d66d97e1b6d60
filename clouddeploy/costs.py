"""What a deployment costs: list prices of what its state records, by the hour and since each thing was made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind, MachineSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import Price

    from clouddeploy.state import Record


@dataclass(frozen=True)
class Cost:
    """What one resource costs.

    Attributes:
        node: `<site>/<kind>`.
        name: the resource's.
        size: of a machine.
        price: per hour; None: free, or nobody knows.
        hours: since it was made; None: that was not recorded.
    """

    node: str
    name: str
    size: str
    price: Price | None
    hours: float | None

    @property
    def usd(self) -> float | None:
        """What it has cost, as if it had run all the time; None: unknown."""
        if self.price is None or self.hours is None:
            return None
        return self.price.usd_per_hour * self.hours


def of(
    resources: Mapping[str, Record], providers: Mapping[str, ComputeProvider], *, now: datetime | None = None
) -> list[Cost]:
    """Returns what each resource costs that is ours and has a price.

    Args:
        resources: by node, as recorded.
        providers: by node.
        now: the time; default: this moment.
    """
    moment = now or datetime.now(UTC)
    found = []
    for node, record in sorted(resources.items()):
        if record.ref.is_adopted:
            continue
        price = providers[node].price(record.ref.kind, _spec(record))
        if price is None and record.ref.kind is not Kind.MACHINE:
            continue
        hours = (moment - datetime.fromisoformat(record.created)).total_seconds() / 3600 if record.created else None
        found.append(Cost(node, record.ref.name, record.ref.outputs.get("size", ""), price, hours))
    return found


def _spec(record: Record) -> MachineSpec | None:
    if record.ref.kind is not Kind.MACHINE:
        return None
    return MachineSpec(
        size=record.ref.outputs.get("size") or None,
        image=None,
        disk_gib=int(record.fingerprint.get("disk_gib", "0")),
        user="",
        public_key="",
        user_data="",
    )
