"""Back to nothing: deletes state ∪ what the clouds say is ours, then asks the clouds again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy import scheduler
from clouddeploy.recovery import close_all, settle
from clouddeploy.removal import delete_steps
from clouddeploy.scheduler import Outcome
from clouddeploy.state import Record

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.journal import Journal
    from clouddeploy.scheduler import Event
    from clouddeploy.state import State


@dataclass(frozen=True)
class Place:
    """A provider as some site used it."""

    name: str
    settings: Mapping[str, str]
    provider: ComputeProvider


@dataclass(frozen=True)
class Destroyed:
    """What one run of destroy came to.

    Attributes:
        report: how every step ended.
        deleted: names of the resources that are gone.
        left: what the clouds still have; empty after success.
    """

    report: scheduler.Report
    deleted: tuple[str, ...]
    left: tuple[str, ...]


def destroy(
    places: Sequence[Place],
    *,
    state: State,
    journal: Journal,
    uninstall: Callable[[str, ResourceRef], None],
    machine_gone: Callable[[str], None],
    cancel: threading.Event,
    on_event: Callable[[Event], None],
) -> Destroyed:
    """Deletes everything of this deployment in all its places. May be repeated; what is gone already is fine.

    Args:
        places: everywhere the deployment ever asked for something.
        state: loses what is gone.
        journal: takes intents and results.
        uninstall: stops and removes a site, where deleting its machine does not do that.
        machine_gone: called with the site of each machine that is gone.
        cancel: set by the first Ctrl-C.
        on_event: called as things happen.
    """
    settle(journal, state)
    _adopt_found(places, state, journal)
    providers = {node: _provider(record, places) for node, record in state.resources.items()}
    nodes = {node: record.ref.name for node, record in state.resources.items()}
    steps = delete_steps(
        list(nodes),
        state=state,
        journal=journal,
        providers=providers,
        cancel=cancel,
        uninstall=uninstall,
        machine_gone=machine_gone,
    )
    report = scheduler.run(steps, cancel=cancel, on_event=on_event)
    left = [ref.name for place in places for ref in place.provider.find(state.deployment)]
    left += [record.ref.name for node, record in state.resources.items() if record.ref.name not in left]
    if not left:
        close_all(journal)
    deleted = tuple(name for node, name in nodes.items() if report.outcomes.get(f"delete {node}") is Outcome.DONE)
    return Destroyed(report=report, deleted=deleted, left=tuple(left))


def _adopt_found(places: Sequence[Place], state: State, journal: Journal) -> None:
    """Adds what a killed run made and never recorded: the tag says that it is ours, the journal for which site."""
    nodes = journal.nodes()
    known = {(record.ref.kind, record.ref.name) for record in state.resources.values()}
    for place in places:
        for ref in place.provider.find(state.deployment):
            if (ref.kind, ref.name) not in known:
                stem = ref.name.replace(f"-{ref.kind.value}-{state.deployment}", "")
                node = nodes.get(ref.name, f"{stem}/{ref.kind.value}")
                site = node.split("/", maxsplit=1)[0]
                state.resources[node] = Record(
                    ref=ref, site=site, provider=place.name, settings=place.settings, fingerprint={}
                )
                known.add((ref.kind, ref.name))


def _provider(record: Record, places: Sequence[Place]) -> ComputeProvider:
    return next(p.provider for p in places if p.name == record.provider and dict(p.settings) == dict(record.settings))
