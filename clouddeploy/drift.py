"""What the clouds have now, beside what was recorded: changes made behind our back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind

from clouddeploy.config import CLUSTERED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.config import SiteConfig
    from clouddeploy.state import Record

MAX_QUESTIONS = 16
"""At once; more would only be throttled."""
RUNNING = "running"


@dataclass(frozen=True)
class Drift:
    """How one recorded resource differs from what its cloud has."""

    reason: str
    is_gone: bool = False
    can_update: bool = False
    """Whether the provider's `update` mends it; else it is replaced."""
    is_moved: bool = False
    """Whether it is reached at another address."""


def observe(records: Mapping[str, Record], providers: Mapping[str, ComputeProvider]) -> dict[str, Drift]:
    """Asks the clouds about everything recorded; returns, by node, what differs.

    Args:
        records: by node.
        providers: by node, the provider that made it.

    Raises:
        ProviderError: a cloud could not be asked.
    """
    if not records:
        return {}
    with ThreadPoolExecutor(max_workers=MAX_QUESTIONS, thread_name_prefix="read") as pool:
        seen = dict(zip(records, pool.map(lambda node: providers[node].read(records[node].ref), records), strict=True))
    found = {node: compare(records[node], seen[node]) for node in records}
    return {node: drift for node, drift in found.items() if drift is not None}


def of_settings(records: Mapping[str, Record], sites: Sequence[SiteConfig]) -> dict[str, Drift]:
    """Returns, by node, what the deploy file has in another way, where that takes effect without a new machine.

    Args:
        records: by node.
        sites: of the deploy file.
    """
    found = {}
    for site in sites:
        record = records.get(f"{site.name}/{Kind.MACHINE.value}")
        if record is None or site.provider not in CLUSTERED or record.provider != site.provider:
            continue
        before, now = record.settings, site.settings
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            reason = f"another {', '.join(changed)} in the deploy file"
            found[f"{site.name}/{Kind.MACHINE.value}"] = Drift(reason, can_update=True)
    return found


def compare(record: Record, seen: ResourceRef | None) -> Drift | None:
    """Returns how a resource differs from its record, or None."""
    if seen is None:
        return Drift("somebody deleted it", is_gone=True)
    then, now = record.ref.outputs, seen.outputs

    def differs(key: str) -> bool:
        return key in now and key in then and now[key] != then[key]

    moved = f"its address is {now.get('address')}, and was {then.get('address')}"
    if record.ref.kind is Kind.MACHINE:
        if now.get("power", RUNNING) != RUNNING:
            return Drift(f"it is {now['power']}", can_update=True)
        if differs("size"):
            return Drift(f"somebody changed its size to {now['size']}")
        return Drift(moved, can_update=True, is_moved=True) if differs("address") else None
    if differs("rules"):
        return Drift(f"somebody changed its rules to: {now['rules'] or 'none'}", can_update=True)
    return Drift(moved) if differs("address") else None
