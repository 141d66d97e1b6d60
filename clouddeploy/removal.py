"""Steps that delete recorded resources, dependants first, each with its intent in the journal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind

from clouddeploy.scheduler import Step

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.ledger import Ledger
    from clouddeploy.recovery import Stray
    from clouddeploy.state import Record


@dataclass(frozen=True)
class Farewell:
    """What else is done when a machine goes; the deployment supplies it, so that this module knows no SSH."""

    uninstall: Callable[[str, ResourceRef], None]
    """Stops and removes a site, where deleting its machine does not do that."""
    machine_gone: Callable[[str], None]
    """Forgets the keys of a site's machine."""
    abandoned: frozenset[str] = frozenset()
    """Sites whose machine is not there to be cleaned up."""


def delete_steps(
    nodes: Sequence[str],
    *,
    ledger: Ledger,
    providers: Mapping[str, ComputeProvider],
    farewell: Farewell,
    cancel: threading.Event,
) -> list[Step]:
    """Returns one step per node, named `delete <node>`; within a site they follow each other in reverse creation order.

    What was adopted is left as it is: a site on it is removed, and the record.

    Args:
        nodes: recorded nodes to delete.
        ledger: takes intents and results.
        providers: by node, the provider that made it.
        farewell: what else is done when a machine goes.
        cancel: ends long waits.
    """
    order = list(Kind)
    records = {node: ledger.state.resources[node] for node in nodes}
    steps = []
    for site in dict.fromkeys(record.site for record in records.values()):
        mine = [node for node, record in records.items() if record.site == site]
        mine.sort(key=lambda node: -order.index(records[node].ref.kind))
        before: tuple[str, ...] = ()
        for node in mine:
            step = _step(
                node,
                records[node],
                before,
                ledger=ledger,
                provider=providers[node],
                farewell=farewell,
                cancel=cancel,
            )
            steps.append(step)
            before = (step.name,)
    return steps


def stray_steps(strays: Sequence[Stray], *, cancel: threading.Event) -> list[Step]:
    """Returns steps that delete what carries our tag and is recorded nowhere, dependants first.

    Args:
        strays: provider, what it found, and the site it belongs to.
        cancel: ends long waits.
    """
    order = list(Kind)
    steps: list[Step] = []
    last: dict[str, tuple[str, ...]] = {}
    for provider, ref, site in sorted(strays, key=lambda one: -order.index(one[1].kind)):
        step = Step(
            name=f"stray {ref.kind.value} {ref.id}",
            site=site,
            title=f"delete stray {ref.kind.value}",
            needs=last.get(site, ()),
            work=partial(provider.delete, ref, cancel),
        )
        steps.append(step)
        last[site] = (step.name,)
    return steps


def after_strays(steps: Sequence[Step], strays: Sequence[Step]) -> list[Step]:
    """Returns the steps with those of a site waiting for its strays: a stray holds firewall, address and name."""
    last = {step.site: step.name for step in strays}
    return [replace(step, needs=(*step.needs, last[step.site])) if step.site in last else step for step in steps]


def _step(
    node: str,
    record: Record,
    needs: tuple[str, ...],
    *,
    ledger: Ledger,
    provider: ComputeProvider,
    farewell: Farewell,
    cancel: threading.Event,
) -> Step:
    is_machine, is_adopted = record.ref.kind is Kind.MACHINE, record.ref.is_adopted

    def work() -> None:
        stays = is_machine and (is_adopted or not provider.ends_processes)
        if stays and record.site not in farewell.abandoned and provider.read(record.ref) is not None:
            farewell.uninstall(record.site, record.ref)
        if not is_adopted:
            provider.delete(record.ref, cancel)

    def after(_: object) -> None:
        if is_machine:
            farewell.machine_gone(record.site)
        ledger.deleted(node, record)

    return Step(
        name=f"delete {node}",
        site=record.site,
        title=f"{'release' if is_adopted else 'delete'} {record.ref.kind.value}",
        needs=needs,
        before=lambda: ledger.intend_delete(node, record),
        work=work,
        after=after,
    )
