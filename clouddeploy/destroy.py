"""Back to nothing: deletes state ∪ what the clouds say is ours, then asks the clouds again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind, MachineSpec, Owner, Resource

from clouddeploy.recovery import adopt_found, close_all, settle, wait_for_lag
from clouddeploy.removal import after_strays, delete_steps, stray_steps
from clouddeploy.scheduler import Outcome
from clouddeploy.state import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clouddeploy_providers.base import ComputeProvider

    from clouddeploy import scheduler
    from clouddeploy.ledger import Ledger
    from clouddeploy.recovery import Place
    from clouddeploy.removal import Farewell
    from clouddeploy.scheduler import Event
    from clouddeploy.state import State


@dataclass(frozen=True)
class Destroyed:
    """What one run of destroy came to.

    Attributes:
        report: how every step ended.
        deleted: names of the resources that are gone.
        released: names of what was there before us, and still is.
        kept: names of what was to be kept.
        left: what the clouds still have; empty after success.
    """

    report: scheduler.Report
    deleted: tuple[str, ...]
    released: tuple[str, ...]
    kept: tuple[str, ...]
    left: tuple[str, ...]


def destroy(
    places: Sequence[Place],
    *,
    ledger: Ledger,
    farewell: Farewell,
    keeps_address_of: str | None = None,
    calls: threading.Event,
    cancel: threading.Event,
    on_event: Callable[[Event], None],
) -> Destroyed:
    """Deletes everything of this deployment in all its places. May be repeated; what is gone already is fine.

    Args:
        places: everywhere the deployment ever asked for something.
        ledger: loses what is gone.
        farewell: what else is done when a machine goes.
        keeps_address_of: the site whose address stays reserved; None: none does.
        calls: ends the waits inside cloud calls.
        cancel: set by the first Ctrl-C; what is in flight is finished.
        on_event: called as things happen.
    """
    state, journal = ledger.state, ledger.journal
    settle(journal, state)
    wait_for_lag(places, state, journal, cancel=cancel)
    strays = adopt_found(places, state, journal, wanted={})
    _remember_machines(places, ledger)
    keep = _kept_with_address(state, keeps_address_of) if keeps_address_of else frozenset()
    doomed = {node: record for node, record in state.resources.items() if node not in keep}
    providers = {node: _provider(record, places) for node, record in doomed.items()}
    stray = stray_steps(strays, cancel=calls)
    deletions = delete_steps(list(doomed), ledger=ledger, providers=providers, farewell=farewell, cancel=calls)
    report = ledger.run([*stray, *after_strays(deletions, stray)], cancel=cancel, on_event=on_event)
    kept = {record.ref.id.lower(): record.ref.name for node, record in state.resources.items() if node in keep}
    left = _left(places, state, kept=frozenset(kept), keep=keep)
    if not left:
        close_all(journal)
    done = {node: r for node, r in doomed.items() if report.outcomes.get(f"delete {node}") is Outcome.DONE}
    return Destroyed(
        report=report,
        deleted=tuple(record.ref.name for record in done.values() if not record.ref.is_adopted),
        released=tuple(record.ref.name for record in done.values() if record.ref.is_adopted),
        kept=tuple(kept.values()),
        left=left,
    )


def _kept_with_address(state: State, server: str) -> frozenset[str]:
    """Returns the nodes that stay when the server's address is to survive: it, and the group it lies in."""
    kinds = (Kind.GROUP, Kind.ADDRESS)
    nodes = {f"{server}/{kind.value}" for kind in kinds} & set(state.resources)
    return frozenset(nodes) if f"{server}/{Kind.ADDRESS.value}" in nodes else frozenset()


def _remember_machines(places: Sequence[Place], ledger: Ledger) -> None:
    """Adds machines on premises that only the journal still knows: no cloud finds them by a tag.

    What was installed on them has to be removed, and nobody else would.
    """
    by_settings = {(place.name, *sorted(place.settings.items())): place for place in places}
    for node, intent in ledger.journal.made().items():
        place = by_settings.get((intent.provider, *sorted(intent.settings.items())))
        if node in ledger.state.resources or place is None or not place.provider.creates_nothing:
            continue
        site = node.split("/", maxsplit=1)[0]
        spec = MachineSpec(None, None, 0, "", public_key="", user_data="")
        owner = Owner(ledger.state.deployment, ledger.state.project, site)
        ref = place.provider.create(Resource(Kind.MACHINE, intent.name, owner, machine=spec), threading.Event())
        ledger.state.resources[node] = Record(ref, site, place.name, place.settings, {})
        ledger.state.sites.setdefault(site, {})


def _left(places: Sequence[Place], state: State, *, kept: frozenset[str], keep: frozenset[str]) -> tuple[str, ...]:
    left = [ref.name for place in places for ref in place.provider.find(state.deployment) if ref.id.lower() not in kept]
    left += [r.ref.name for node, r in state.resources.items() if node not in keep and r.ref.name not in left]
    return tuple(left)


def _provider(record: Record, places: Sequence[Place]) -> ComputeProvider:
    return next(p.provider for p in places if p.name == record.provider and dict(p.settings) == dict(record.settings))
