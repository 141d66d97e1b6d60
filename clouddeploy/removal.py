"""Steps that delete recorded resources, dependants first, each with its intent in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind

from clouddeploy.scheduler import Step

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.journal import Journal
    from clouddeploy.state import Record, State


def delete_steps(
    nodes: Sequence[str],
    *,
    state: State,
    journal: Journal,
    providers: Mapping[str, ComputeProvider],
    cancel: threading.Event,
    uninstall: Callable[[str, ResourceRef], None],
    machine_gone: Callable[[str], None],
) -> list[Step]:
    """Returns one step per node, named `delete <node>`; within a site they follow each other in reverse creation order.

    Args:
        nodes: recorded nodes to delete.
        state: forgets each resource once its provider says that it is gone.
        journal: takes intents and results.
        providers: by node, the provider that made it.
        cancel: ends long waits.
        uninstall: stops and removes a site, where deleting its machine does not do that.
        machine_gone: called with the site, before the state forgets its machine.
    """
    order = list(Kind)
    records = {node: state.resources[node] for node in nodes}
    steps = []
    for site in dict.fromkeys(record.site for record in records.values()):
        mine = [node for node, record in records.items() if record.site == site]
        mine.sort(key=lambda node: -order.index(records[node].ref.kind))
        before: tuple[str, ...] = ()
        for node in mine:
            steps.append(
                _step(
                    node,
                    records[node],
                    before,
                    state=state,
                    journal=journal,
                    provider=providers[node],
                    cancel=cancel,
                    uninstall=uninstall,
                    machine_gone=machine_gone,
                )
            )
            before = (steps[-1].name,)
    return steps


def _step(
    node: str,
    record: Record,
    needs: tuple[str, ...],
    *,
    state: State,
    journal: Journal,
    provider: ComputeProvider,
    cancel: threading.Event,
    uninstall: Callable[[str, ResourceRef], None],
    machine_gone: Callable[[str], None],
) -> Step:
    def work() -> None:
        if record.ref.kind is Kind.MACHINE and not provider.ends_processes:
            uninstall(record.site, record.ref)
        provider.delete(record.ref, cancel)

    def after(_: object) -> None:
        state.resources.pop(node, None)
        # A name may be used again; its token must not: clouds remember tokens of what is gone.
        state.attempts[node] = state.attempts.get(node, 0) + 1
        if record.ref.kind is Kind.MACHINE:
            state.sites.pop(record.site, None)
            machine_gone(record.site)
        state.save()
        journal.done("delete", node=node, name=record.ref.name)

    return Step(
        name=f"delete {node}",
        site=record.site,
        title=f"delete {record.ref.kind.value}",
        needs=needs,
        before=lambda: journal.intend(
            "delete", node=node, name=record.ref.name, provider=record.provider, settings=record.settings
        ),
        work=work,
        after=after,
    )
