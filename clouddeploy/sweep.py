"""Finds what carries our tags in an account and no state knows, and removes it on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy import scheduler
from clouddeploy.removal import stray_steps
from clouddeploy.scheduler import Outcome

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import Found

    from clouddeploy.recovery import Place
    from clouddeploy.scheduler import Event


@dataclass(frozen=True)
class Stray:
    """One resource that no known deployment owns."""

    found: Found
    place: str
    provider: ComputeProvider


@dataclass(frozen=True)
class Swept:
    """What a sweep removed.

    Attributes:
        report: how every step ended.
        deleted: names of what is gone.
        left: names of what is still there.
    """

    report: scheduler.Report
    deleted: tuple[str, ...]
    left: tuple[str, ...]


def look(places: Sequence[Place], known: frozenset[str]) -> list[Stray]:
    """Returns everything of ours in these places that belongs to none of the known deployments.

    Args:
        places: where to look; two places may show the same account, and each thing is returned once.
        known: ids of deployments whose state is known; theirs is left to `destroy`.
    """
    strays: dict[tuple[str, str], Stray] = {}
    for place in places:
        for found in place.provider.find_all():
            if found.owner.deployment not in known:
                stray = Stray(found, place.provider.place, place.provider)
                strays.setdefault((found.ref.kind.value, found.ref.id.lower()), stray)
    return list(strays.values())


def remove(
    strays: Sequence[Stray],
    *,
    cancel: threading.Event,
    on_event: Callable[[Event], None],
    flush: Callable[[], None] = lambda: None,
) -> Swept:
    """Deletes them, dependants first, and asks the clouds again.

    Args:
        strays: from `look`, those that were chosen.
        cancel: set by the first Ctrl-C.
        on_event: called as things happen.
        flush: makes durable what was recorded of them.
    """
    steps = stray_steps(
        [(one.provider, one.found.ref, f"{one.found.owner.deployment}/{one.found.owner.site}") for one in strays],
        cancel=cancel,
    )
    report = scheduler.run(steps, cancel=cancel, on_event=on_event, flush=flush)
    done = {name for name, outcome in report.outcomes.items() if outcome is Outcome.DONE}
    deleted = tuple(
        one.found.ref.name for one in strays if f"stray {one.found.ref.kind.value} {one.found.ref.id}" in done
    )
    left = tuple(one.found.ref.name for one in strays if one.provider.read(one.found.ref) is not None)
    return Swept(report, deleted, left)
