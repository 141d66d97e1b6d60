"""Makes the plan true: resources, then kits for the reserved names, then the server, then the clients."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.errors import CapacityError, InvalidRequest, QuotaError
from clouddeploy_providers.resources import Kind, MachineSpec, Resource

from clouddeploy import scheduler
from clouddeploy.plan import Action, Change, Wanted
from clouddeploy.recovery import settle
from clouddeploy.removal import delete_steps
from clouddeploy.scheduler import Step
from clouddeploy.state import Record

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.journal import Journal
    from clouddeploy.keyring import Keyring
    from clouddeploy.remote.bootstrap import Release
    from clouddeploy.remote.host import Host
    from clouddeploy.scheduler import Event
    from clouddeploy.state import State

log = logging.getLogger(__name__)

DEFINITE = (InvalidRequest, CapacityError, QuotaError)
"""Refusals after which certainly nothing was made, so that the next try is a new request with a new token."""


@dataclass(frozen=True)
class SiteWork:
    """What is done on a machine once it exists; the deployment supplies it, so that this module knows no SSH."""

    kits: Callable[[str], Mapping[str, Path]]
    """Takes the server's address, provisions, and returns each participant's kit."""
    open: Callable[[str, ResourceRef], Host]
    install: Callable[[str, Host, Path], Release]
    start: Callable[[str, Host, Release], None]
    wait_ready: Callable[[str, Host, Release, str], None]
    """Takes the machine's address last: the server answers with our certificate, or a client is registered."""
    user_data: Callable[[Wanted], str]
    uninstall: Callable[[str, ResourceRef], None]
    """Stops and removes a site from a machine that stays."""
    machine_gone: Callable[[str], None]
    """Forgets the keys of a site's machine that was deleted."""


@dataclass
class Applied:
    """What one run of apply came to.

    Attributes:
        report: how every step ended.
        ready_after_s: by site, seconds from the start until the server was ready or the client registered.
        kits: by participant, the kit folder.
    """

    report: scheduler.Report
    ready_after_s: dict[str, float] = field(default_factory=dict)
    kits: dict[str, Path] = field(default_factory=dict)


class Applier:
    """One run of apply; lives as long as the run."""

    def __init__(
        self,
        *,
        state: State,
        journal: Journal,
        keyring: Keyring,
        providers: Mapping[str, ComputeProvider],
        server: str,
        work: SiteWork,
        cancel: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._journal = journal
        self._keyring = keyring
        self._providers = providers
        self._server = server
        self._work = work
        self._cancel = cancel
        self._clock = clock
        self._started = clock()
        self._hosts: dict[str, Host] = {}
        self._releases: dict[str, Release] = {}
        self._applied = Applied(report=scheduler.Report())

    def run(
        self, changes: Sequence[Change], *, old: Mapping[str, ComputeProvider], on_event: Callable[[Event], None]
    ) -> Applied:
        """Runs the plan to its end, or as far as it goes.

        Args:
            changes: the plan.
            old: by node, the provider that made a recorded resource which is to be deleted or replaced.
            on_event: called as things happen.
        """
        settle(self._journal, self._state)
        steps: list[Step] = []
        doomed = [change.node for change in changes if change.action in {Action.REPLACE, Action.DELETE}]
        steps += delete_steps(
            doomed,
            state=self._state,
            journal=self._journal,
            providers=old,
            cancel=self._cancel,
            uninstall=self._work.uninstall,
            machine_gone=self._work.machine_gone,
        )
        wanted = [change for change in changes if change.wanted is not None]
        for change in wanted:
            if change.action is not Action.KEEP:
                steps.append(self._resource_step(change, wanted))
        steps.append(self._kits_step(wanted))
        for site in dict.fromkeys(change.wanted.site.name for change in wanted if change.wanted):
            steps += self._site_steps(site)
        try:
            self._applied.report = scheduler.run(steps, cancel=self._cancel, on_event=on_event)
        finally:
            for host in self._hosts.values():
                host.close()
        return self._applied

    def _resource_step(self, change: Change, wanted: Sequence[Change]) -> Step:
        item = change.wanted
        assert item is not None  # noqa: S101 - narrowed by the caller
        site = item.site.name
        provider = self._providers[site]
        order = list(Kind)
        earlier = [
            other.node
            for other in wanted
            if other.wanted
            and other.wanted.site.name == site
            and order.index(other.wanted.kind) < order.index(item.kind)
        ]
        is_update = change.action is Action.UPDATE
        operation = "update" if is_update else "create"
        request: list[Resource] = []

        def before() -> None:
            request[:] = [self._resource(item, earlier)]
            self._journal.intend(
                operation,
                node=item.node,
                name=item.name,
                token=request[0].token,
                provider=item.site.provider,
                settings=item.site.settings,
            )

        def work() -> ResourceRef:
            if is_update:
                return provider.update(self._state.resources[item.node].ref, request[0], self._cancel)
            return provider.create(request[0], self._cancel)

        def after(ref: ResourceRef) -> None:
            self._state.resources[item.node] = Record(
                ref=ref,
                site=site,
                provider=item.site.provider,
                settings=item.site.settings,
                fingerprint=item.fingerprint,
            )
            self._state.save()
            self._journal.done(operation, node=item.node, name=item.name, id=ref.id)

        def failed(error: BaseException) -> None:
            if isinstance(error, DEFINITE):
                self._state.attempts[item.node] = self._state.attempts.get(item.node, 0) + 1
                self._state.save()
                self._journal.failed(operation, node=item.node, name=item.name, error=str(error))

        return Step(
            name=item.node,
            site=site,
            title=f"{operation} {item.kind.value}",
            needs=(*earlier, f"delete {item.node}"),
            before=before,
            work=work,
            after=after,
            failed=failed,
        )

    def _resource(self, item: Wanted, earlier: Sequence[str]) -> Resource:
        attempt = self._state.attempts.setdefault(item.node, 0)
        machine = None
        if item.kind is Kind.MACHINE:
            machine = MachineSpec(
                size=item.site.size,
                image=item.site.image,
                disk_gib=item.site.disk_gib,
                user=item.site.user,
                public_key=self._keyring.operator().public,
                user_data=self._work.user_data(item),
            )
        return Resource(
            kind=item.kind,
            name=item.name,
            owner=item.owner,
            rules=item.rules,
            machine=machine,
            needs=tuple(self._state.resources[node].ref for node in earlier),
            token=f"{item.name}/{attempt}",
        )

    def _kits_step(self, wanted: Sequence[Change]) -> Step:
        nodes = [change.node for change in wanted if change.wanted and change.wanted.site.name == self._server]
        address = f"{self._server}/{Kind.ADDRESS.value}"
        need = address if address in nodes else f"{self._server}/{Kind.MACHINE.value}"
        found: list[str] = []

        def before() -> None:
            found[:] = [self._state.resources[need].ref.outputs["address"]]

        def after(kits: Mapping[str, Path]) -> None:
            self._applied.kits = dict(kits)

        return Step(
            name="kits",
            site="project",
            title="sign kits",
            needs=(need,),
            before=before,
            work=lambda: self._work.kits(found[0]),
            after=after,
        )

    def _site_steps(self, site: str) -> list[Step]:
        machine = f"{site}/{Kind.MACHINE.value}"
        is_server = site == self._server

        def ref() -> ResourceRef:
            return self._state.resources[machine].ref

        def opened(host: Host) -> None:
            self._hosts[site] = host

        def installed(release: Release) -> None:
            self._releases[site] = release
            self._state.sites[site] = {"release": release.digest, "root": release.root, "python": release.python}
            self._state.save()

        def ready(_: Any) -> None:
            self._applied.ready_after_s[site] = self._clock() - self._started
            self._journal.note("ready", site=site)

        return [
            Step(
                f"{site}/connect",
                site,
                "connect",
                work=lambda: self._work.open(site, ref()),
                needs=(machine,),
                after=opened,
            ),
            Step(
                f"{site}/install",
                site,
                "install",
                work=lambda: self._work.install(site, self._hosts[site], self._applied.kits[site]),
                needs=(f"{site}/connect", "kits"),
                after=installed,
            ),
            Step(
                f"{site}/start",
                site,
                "start",
                work=lambda: self._work.start(site, self._hosts[site], self._releases[site]),
                needs=(f"{site}/install",) if is_server else (f"{site}/install", f"{self._server}/ready"),
            ),
            Step(
                f"{site}/ready",
                site,
                "answer with our certificate" if is_server else "register",
                work=lambda: self._work.wait_ready(
                    site, self._hosts[site], self._releases[site], ref().outputs["address"]
                ),
                needs=(f"{site}/start",),
                after=ready,
            ),
        ]
