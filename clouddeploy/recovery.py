"""What a kill has left: intents without a result are closed, what was made and never recorded is found again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy.errors import Interrupted
from clouddeploy.state import Record

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import Kind, ResourceRef

    from clouddeploy.journal import Intent, Journal
    from clouddeploy.state import State

POLL_S = 1.0
Stray = tuple["ComputeProvider", "ResourceRef", str]
"""What exists beside what it should be: where, what, and for which site it was made."""


@dataclass(frozen=True)
class Place:
    """A provider as some site used it."""

    name: str
    settings: Mapping[str, str]
    provider: ComputeProvider


def settle(journal: Journal, state: State) -> None:
    """Closes each open intent whose result the state has; the kill came between the two writes.

    An intent that stays open is a call that may have happened. Repeating it is safe: same name, same token, and a
    provider's `create` finds what the first call made.
    """
    for intent in journal.open_intents():
        record = state.resources.get(intent.node)
        if intent.operation == "delete" and record is None:
            journal.done("delete", node=intent.node, name=intent.name)
        elif intent.operation != "delete" and record is not None:
            journal.done(intent.operation, node=intent.node, name=intent.name, id=record.ref.id)


def close_all(journal: Journal) -> None:
    """Closes every intent once the clouds have said that nothing of the deployment is left."""
    for intent in journal.open_intents():
        journal.failed(intent.operation, node=intent.node, name=intent.name, error="destroyed")


def close_unwanted(journal: Journal, state: State, wanted: Mapping[str, Place]) -> None:
    """Closes intents for what nobody asks for any more and no cloud has, so that they are not looked for for ever."""
    for intent in journal.open_intents():
        if intent.node not in wanted and intent.node not in state.resources:
            journal.failed(intent.operation, node=intent.node, name=intent.name, error="not found, and not wanted")


def adopt_found(places: Sequence[Place], state: State, journal: Journal, *, wanted: Mapping[str, Place]) -> list[Stray]:
    """Adds what a killed run made and never recorded: the tag says that it is ours, the journal for which site.

    Args:
        places: where to look.
        state: takes the records.
        journal: knows for which node a name was asked.
        wanted: by node, the place where it will be asked for again, which finds it there.

    Returns:
        What is there twice, or beside what is recorded under its name: a call whose answer was lost, and which was
        repeated before the cloud could show the first one, or in another place. To be deleted.
    """
    nodes = journal.nodes()
    strays: list[Stray] = []
    known = {(record.ref.kind, record.ref.name): record.ref.id for record in state.resources.values()}
    for place, ref in _everything(places, state, nodes, wanted):
        node = node_of(ref, nodes, state.deployment)
        site = node.split("/", maxsplit=1)[0]
        recorded = known.get((ref.kind, ref.name))
        if recorded is None and node in wanted and wanted[node] is not place:
            strays.append((place.provider, ref, site))
        elif recorded is None:
            known[ref.kind, ref.name] = ref.id
            if node not in wanted:
                state.resources[node] = Record(
                    ref=ref, site=site, provider=place.name, settings=place.settings, fingerprint={}
                )
        elif recorded.lower() != ref.id.lower():
            strays.append((place.provider, ref, site))
    return strays


def _everything(
    places: Sequence[Place], state: State, nodes: Mapping[str, str], wanted: Mapping[str, Place]
) -> list[tuple[Place, ResourceRef]]:
    """Returns each thing once, though several places of one account show it; from where it is wanted, if that does."""
    found: dict[tuple[Kind, str], tuple[Place, ResourceRef]] = {}
    for place in places:
        for ref in place.provider.find(state.deployment):
            key = (ref.kind, ref.id.lower())
            if key not in found or wanted.get(node_of(ref, nodes, state.deployment)) is place:
                found[key] = (place, ref)
    return sorted(found.values(), key=lambda one: (one[1].kind, one[1].name, one[1].id))


def wait_for_lag(
    places: Sequence[Place],
    state: State,
    journal: Journal,
    *,
    cancel: threading.Event,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Returns once every creation whose answer was lost can be seen, or would be seen if it had happened.

    Clouds show a new thing only after some seconds; who looks earlier takes it for never made.

    Raises:
        Interrupted: cancelled; what may exist is still looked for next time.
    """
    while True:
        waiting = [intent for intent in needs_search(journal) if _may_be_hidden(intent, places, now())]
        names = {intent.name for intent in waiting}
        if not names or names <= {ref.name for place in places for ref in place.provider.find(state.deployment)}:
            return
        if cancel.wait(POLL_S):
            raise Interrupted(
                "waiting for the clouds to show what was just made was stopped",
                why=f"{', '.join(sorted(names))} may exist",
                hint="run the same command again",
            )


def needs_search(journal: Journal) -> list[Intent]:
    """Returns the creations of which it is not known whether they happened."""
    return [intent for intent in journal.open_intents() if intent.operation == "create"]


def node_of(ref: ResourceRef, nodes: Mapping[str, str], deployment: str) -> str:
    """Returns the node of a resource that was found: as the journal has it, else after its name."""
    stem = ref.name.replace(f"-{ref.kind.value}-{deployment}", "")
    return nodes.get(ref.name, f"{stem}/{ref.kind.value}")


def _may_be_hidden(intent: Intent, places: Sequence[Place], now: datetime) -> bool:
    if not intent.time:
        return False
    asked = (intent.provider, dict(intent.settings))
    lags = (place.provider.lag_s for place in places if (place.name, dict(place.settings)) == asked)
    lag_s = max(lags, default=0.0)
    return 0 <= (now - datetime.fromisoformat(intent.time)).total_seconds() < lag_s
