"""Makes the plan true: resources, then kits for the reserved names, then the server, then the clients."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind, Resource

from clouddeploy.openings import Openings, addresses_of, blocks_of
from clouddeploy.plan import Action, Change, Wanted
from clouddeploy.removal import after_strays, delete_steps, stray_steps
from clouddeploy.scheduler import Step
from clouddeploy.site_work import Progress, kits_step, site_steps

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import FirewallRule, ResourceRef

    from clouddeploy import scheduler
    from clouddeploy.ledger import Ledger
    from clouddeploy.recovery import Stray
    from clouddeploy.removal import Farewell
    from clouddeploy.resource_steps import Maker
    from clouddeploy.scheduler import Event
    from clouddeploy.site_work import SiteWork
    from clouddeploy.state import Record


@dataclass
class Applied:
    """What one run of apply came to.

    Attributes:
        report: how every step ended.
        ready_after_s: by site, seconds from the start until the server was ready or the client registered.
        kits: by participant, the kit folder.
        warnings: what the preflight found that is no reason to stop.
    """

    report: scheduler.Report
    ready_after_s: dict[str, float] = field(default_factory=dict)
    kits: dict[str, Path] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Applier:
    """One run of apply; lives as long as the run.

    Args:
        ledger: state and journal.
        maker: creates and updates.
        farewell: what else is done when a machine goes.
        work: what is done on machines.
        server: the server's site; None: the server is not of this deployment.
        server_firewall: the server's; None: it has none.
        sites: all of the deploy file, whatever is applied.
        server_rules: takes the blocks of the sites and returns the rules of the server's firewall; None: its port is
            not opened site by site.
        cancel: set by the first Ctrl-C; what is in flight is finished.
        clock: seconds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        maker: Maker,
        farewell: Farewell,
        work: SiteWork,
        server: str | None,
        sites: frozenset[str] = frozenset(),
        server_firewall: Wanted | None = None,
        server_rules: Callable[[Mapping[str, tuple[str, ...]]], tuple[FirewallRule, ...]] | None = None,
        cancel: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._maker = maker
        self._farewell = farewell
        self._work = work
        self._server = server
        self._sites = sites
        self._server_firewall = server_firewall
        self._server_rules = server_rules
        self._cancel = cancel
        self._clock = clock

    def run(
        self,
        changes: Sequence[Change],
        *,
        old: Mapping[str, ComputeProvider],
        strays: Sequence[Stray] = (),
        on_event: Callable[[Event], None],
    ) -> Applied:
        """Runs the plan to its end, or as far as it goes.

        Args:
            changes: the plan.
            old: by node, the provider that made a recorded resource which is to be deleted or replaced.
            strays: what a killed run made twice.
            on_event: called as things happen.
        """
        started, progress, state = self._clock(), Progress(), self._ledger.state

        def on_ready(site: str) -> None:
            progress.ready_after_s[site] = self._clock() - started
            self._ledger.journal.note("ready", site=site)

        doomed = [c.node for c in changes if c.action in {Action.REPLACE, Action.DELETE, Action.RELEASE}]
        stray = stray_steps(strays, cancel=self._maker.calls)
        steps = delete_steps(
            doomed, ledger=self._ledger, providers=old, farewell=self._farewell, cancel=self._maker.calls
        )
        steps = [*stray, *after_strays([*steps, *self._maker.steps(changes)], stray)]
        items = [change.wanted for change in changes if change.wanted is not None]
        leaving = frozenset(change.node for change in changes if change.wanted is None)
        nodes = frozenset(item.node for item in items) | (frozenset(state.resources) - leaving)
        if items:
            site = self._server or items[0].site.name
            steps.append(kits_step(site, nodes=nodes, state=state, work=self._work, progress=progress))
        opening_steps = self._opening_steps(items)
        steps += opening_steps.values()
        for site in dict.fromkeys(item.site.name for item in items):
            opening = opening_steps.get(site)
            steps += site_steps(
                site,
                server=self._server,
                ledger=self._ledger,
                work=self._work,
                progress=progress,
                on_ready=on_ready,
                waits_for=(opening.name,) if opening else (),
            )
        try:
            report = self._ledger.run(steps, cancel=self._cancel, on_event=on_event)
        finally:
            progress.close()
        return Applied(report=report, ready_after_s=progress.ready_after_s, kits=progress.kits)

    def _opening_steps(self, items: Sequence[Wanted]) -> dict[str, Step]:
        """Returns, by client, the step that opens the server's port to it once its address is known."""
        firewall = self._server_firewall
        if self._server_rules is None or firewall is None or self._server is None:
            return {}
        is_made = any(item.node == firewall.node for item in items)
        if not is_made and not _is_of(firewall, self._ledger.state.resources.get(firewall.node)):
            return {}  # where the server is about to move, the run that moves it opens its port
        node, rules_for, state = firewall.node, self._server_rules, self._ledger.state
        provider = self._maker.providers[self._server]

        def set_rules(sites: Mapping[str, tuple[str, ...]]) -> None:
            request = Resource(firewall.kind, firewall.name, firewall.owner, rules=rules_for(sites))
            made.append((request, provider.update(state.resources[node].ref, request, self._maker.calls)))

        made: list[tuple[Resource, ResourceRef]] = []
        openings = Openings(addresses_of(state.resources.values(), sites=self._sites), set_rules)

        def opened(_: object) -> None:
            if made:
                request, ref = made[-1]
                self._ledger.made("update", replace(firewall, rules=request.rules), ref)
            else:  # it was open already
                self._ledger.journal.done("update", node=node, name=firewall.name)

        def step(site: str) -> Step:
            machine = f"{site}/{Kind.MACHINE.value}"
            return Step(
                name=f"{site}/opening",
                site=site,
                title="open the server's port to it",
                needs=(machine, node),
                before=lambda: self._ledger.intend("update", firewall, token=""),
                work=lambda: openings.open(site, blocks_of(state.resources[machine])),
                after=opened,
            )

        clients = dict.fromkeys(item.site.name for item in items if item.site.name != self._server)
        return {site: step(site) for site in clients}


def _is_of(wanted: Wanted, record: Record | None) -> bool:
    """Tells whether what is recorded is what is wanted, in the same place."""
    if record is None:
        return False
    return (record.provider, dict(record.settings)) == (wanted.site.provider, dict(wanted.site.settings))
