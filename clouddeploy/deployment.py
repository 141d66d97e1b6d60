"""Deployment: one deploy.yml applied. The library behind the command line and everything else that deploys."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clouddeploy_providers import registry
from clouddeploy_providers.endpoints import REAL, Endpoints
from clouddeploy_providers.resources import Kind
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy import config, costs, drift, origins, readiness, recovery, state, verdict, wheelhouse
from clouddeploy.apply import Applied, Applier
from clouddeploy.audit import LOG, AuditTrail, Entry
from clouddeploy.clusters import wishes
from clouddeploy.destroy import Destroyed, destroy
from clouddeploy.errors import ConfigError, PreflightFailed
from clouddeploy.installation import Installation
from clouddeploy.journal import Journal, remembered
from clouddeploy.keyring import Keyring
from clouddeploy.kit_installation import KitInstallation
from clouddeploy.ledger import Ledger
from clouddeploy.places import Places
from clouddeploy.planner import Planner
from clouddeploy.remote.host_keys import forget_and_repin
from clouddeploy.remote.known_hosts import HostKeys
from clouddeploy.resource_steps import Maker
from clouddeploy.service_installation import ServiceInstallation
from clouddeploy.shells import Shells
from clouddeploy.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clouddeploy_provision.project import Project

    from clouddeploy.plan import Change, Plan
    from clouddeploy.removal import Farewell
    from clouddeploy.scheduler import Event
    from clouddeploy.secrets import Secret
    from clouddeploy.stores import StateStore

log = logging.getLogger(__name__)


def _ignore(_event: Event) -> None:
    """Takes events nobody asked for."""


@dataclass(frozen=True)
class SiteStatus:
    """One site as it is now."""

    name: str
    provider: str
    address: str
    state: str
    """What the site's runtime says of itself, `not deployed` or `unreachable`."""
    detail: str = ""
    drift: tuple[str, ...] = ()
    """How its resources differ from what was recorded; only when the clouds were asked."""


class Deployment:
    """Plans, applies, shows and destroys one deploy file.

    Args:
        file: the deploy.yml.
        endpoints: where the clouds answer; a rehearsal gives its own.
        directory: keys and, unless it is shared, state; default `.clouddeploy/<name of the file>/` beside the file.
        workspace: kits and the certificate authority; default as the file says.
        cache: where wheels are kept between deployments; default `wheelhouse.default_cache()`.
        cancel: set it to stop after what is in flight.
        ssh_sources: who may reach port 22, instead of what the file says.
        installation: what is done on machines; a test without machines gives its own.
        kit_installation: the same, where the deploy file names one kit and no project.
        service_installation: the same, where it names one service.

    Raises:
        ClouddeployError: the deploy file or the project file has problems; nothing was contacted.
    """

    def __init__(
        self,
        file: Path,
        *,
        endpoints: Endpoints = REAL,
        directory: Path | None = None,
        workspace: Path | None = None,
        cache: Path | None = None,
        cancel: threading.Event | None = None,
        ssh_sources: tuple[str, ...] = (),
        installation: type[Installation] = Installation,
        kit_installation: type[KitInstallation] = KitInstallation,
        service_installation: type[ServiceInstallation] = ServiceInstallation,
    ) -> None:
        loaded = config.load(file)
        self.config = replace(loaded, ssh_sources=ssh_sources) if ssh_sources else loaded
        self.directory = directory or file.parent / ".clouddeploy" / file.stem
        self.workspace = workspace or self.config.workspace
        self.cancel = cancel or threading.Event()
        self._endpoints = endpoints
        self._keyring = Keyring(self.directory / "keys")
        self._host_keys = HostKeys(self.directory / "known_hosts")
        where = (self.config, cache or wheelhouse.default_cache(), self._keyring, self._host_keys, self.cancel)
        kinds = (installation, kit_installation, service_installation)
        self.installation = origins.work_of(where, workspace=self.workspace, recorded=self.recorded, kinds=kinds)
        done = self.installation
        self.project: Project | None = done.project if isinstance(done, Installation) else None
        """What the project file says; None: one kit or one service is deployed alone."""
        self.facts = self.installation.facts
        self.server = self.facts.server
        servers = (self.server,) if self.server is not None else ()
        config.check_sites(self.config, servers=servers, clients=self.facts.clients)
        used = dict.fromkeys(site.provider for site in self.config.sites)
        config.check_settings(self.config, {name: registry.load(name).setting_names for name in used})
        self._places = Places(endpoints)
        self._places.by_site(self.config.sites)  # wrong settings are refused now, and not in the middle of a run
        wishes.check(self.config, server=self.server)
        self._planner = Planner(self.config, self.installation, endpoints=endpoints, places=self._places)

    def plan(self, *, is_offline: bool = False, sites: frozenset[str] = frozenset()) -> Plan:
        """Returns what apply would do.

        Args:
            is_offline: contact nobody: no drift, prices of the snapshot, sizes and images as far as they are named.
            sites: only these; empty: all.

        Raises:
            ClouddeployError: a cloud refuses the credentials or does not answer.
        """
        self._check_chosen(sites)
        return self._planner.plan(self.recorded(), is_offline=is_offline, only=sites)

    def apply(
        self,
        passphrase: Secret | None = None,
        *,
        sites: frozenset[str] = frozenset(),
        abandoned: frozenset[str] = frozenset(),
        on_event: Callable[[Event], None] = _ignore,
    ) -> Applied:
        """Makes the plan true. May be repeated, also after a kill at any moment.

        Args:
            passphrase: of the project's certificate authority; None: one kit is deployed alone.
            sites: only these; empty: all.
            abandoned: sites on machines of somebody else that are not there any more to be cleaned up.
            on_event: called as things happen, in this thread.

        Raises:
            PreflightFailed: something would not work; nothing was created.
            PartialFailure: some sites failed, the others are fine.
            Interrupted: cancelled; the same call resumes.
            ClouddeployError: the first error, when every site failed.
        """
        self._check_chosen(sites)
        with self.held("apply", on_event) as (ledger, tell):
            recorded, journal = ledger.state, ledger.journal
            recorded.project = self.facts.project
            strays = self._recover(ledger)
            plan = self._planner.plan(recorded, is_offline=False, only=sites)
            self._refuse_or_probe(plan, ledger)
            self._planner.pin(plan, recorded)
            recorded.save()  # the deployment's id must be on disk before anything is tagged with it
            journal.note("apply", deployment=recorded.deployment)
            self._keyring.operator()  # made once, before many threads ask for it
            applied = Applier(
                ledger=ledger,
                maker=self._maker(ledger),
                farewell=self._farewell(recorded, abandoned),
                work=self.installation.work(passphrase),
                server=self.server,
                sites=self._names,
                server_firewall=plan.server_firewall,
                server_rules=self._planner.server_rules(plan.ssh_sources),
                cancel=self.cancel,
            ).run(plan.changes, old=self._places.by_node(recorded.resources), strays=strays, on_event=tell)
        verdict.raise_for(
            applied.report,
            "apply",
            sites=sites or self._names,
            server=self.server,
            is_cancelled=self.cancel.is_set(),
            costs=verdict.running(recorded),
        )
        return replace(applied, warnings=(*plan.warnings, *self.installation.advice(recorded)))

    def status(self, *, is_refresh: bool = False) -> list[SiteStatus]:
        """Asks every site how it is, and with `is_refresh` the clouds how their resources are."""
        recorded = self.recorded()
        seen: dict[str, drift.Drift] = {}
        if is_refresh:
            seen = drift.observe(recorded.resources, self._places.by_node(recorded.resources))
        return [
            replace(
                self._status(recorded, site.name, site.provider),
                drift=tuple(
                    f"{recorded.resources[node].ref.kind.value}: {one.reason}"
                    for node, one in seen.items()
                    if recorded.resources[node].site == site.name
                ),
            )
            for site in self.config.sites
        ]

    def destroy(
        self,
        *,
        keep_address: bool = False,
        abandoned: frozenset[str] = frozenset(),
        on_event: Callable[[Event], None] = _ignore,
    ) -> Destroyed:
        """Deletes everything this deployment made and verifies it with the clouds. May be repeated.

        Args:
            keep_address: leave the server's address reserved, since others have it in their allow-lists.
            abandoned: sites on machines of somebody else that are not there any more to be cleaned up.
            on_event: called as things happen.

        Raises:
            PartialFailure: something is left; says what.
            Interrupted: cancelled; the same call resumes.
        """
        with self.held("destroy", on_event) as (ledger, tell):
            recorded = ledger.state
            ledger.journal.note("destroy", deployment=recorded.deployment)
            result = destroy(
                self._places.ever_used(self.config.sites, recorded, ledger.journal),
                ledger=ledger,
                farewell=self._farewell(recorded, abandoned),
                keeps_address_of=self.server if keep_address else None,
                calls=threading.Event(),
                cancel=self.cancel,
                on_event=tell,
            )
            if not result.left:
                recorded.expires_at = ""
                self._keyring.forget()
                (self.directory / "known_hosts").unlink(missing_ok=True)
            recorded.save()
        verdict.raise_for(
            result.report,
            "destroy",
            sites=self._names,
            server=None,
            is_cancelled=self.cancel.is_set(),
            costs=verdict.running(recorded),
        )
        verdict.raise_if_left(result.left)
        return result

    def refresh_access(self, *, on_event: Callable[[Event], None] = _ignore) -> list[Change]:
        """Opens SSH to the address from which this machine is seen now, and to no other; changes nothing else.

        Raises:
            ConfigError: that address cannot be found out for certain.
        """
        with self.held("access refresh", on_event) as (ledger, tell):
            changes = self._planner.ssh_changes(ledger.state)
            report = ledger.run(self._maker(ledger).steps(changes), cancel=self.cancel, on_event=tell)
        verdict.raise_for(
            report,
            "access refresh",
            sites=self._names,
            server=None,
            is_cancelled=self.cancel.is_set(),
            costs="",
        )
        return changes

    def repin(self, site: str, host_key: str) -> tuple[str, ...]:
        """Makes a host key that a person has read on a machine's console the only accepted one of its site.

        Args:
            site: whose machine.
            host_key: `SHA256:…`.

        Returns:
            What was pinned before.

        Raises:
            ConfigError: the site has no machine here, it is pinned in the deploy file, or that is no fingerprint.
        """
        with self.held("access repin", _ignore) as (ledger, _):
            record = ledger.state.resources.get(f"{site}/{Kind.MACHINE.value}")
            if record is None:
                raise ConfigError(f"{site} has no machine yet", hint="see `clouddeploy status`")
            if record.ref.outputs.get("host_key"):
                raise ConfigError(
                    f"the host key of {site} is not pinned here",
                    why="its machine was there before us, so the deploy file says which key it has",
                    hint=f"correct host_key of {site} in {self.config.file}",
                )
            return forget_and_repin(self._host_keys, site, record.ref.id, host_key=host_key)

    def recorded(self) -> state.State:
        """Returns the state as it is now; a copy, which nobody saves."""
        return state.State.load(self.directory, store=self._store())

    def shells(self) -> Shells:
        """Returns the machines for OpenSSH's own client."""
        return Shells(self.recorded(), directory=self.directory, keyring=self._keyring, pins=self._host_keys.path)

    def costs(self) -> list[costs.Cost]:
        """Returns what everything costs that this deployment has made."""
        recorded = self.recorded().resources
        return costs.of(recorded, self._places.by_node(recorded))

    def kit(self, participant: str) -> Path:
        """Returns the newest startup kit of a participant.

        Raises:
            ClouddeployError: nothing was provisioned yet.
        """
        return self.installation.kit(participant)

    def deployment_id(self) -> str | None:
        """Returns the id that everything of this deployment is tagged with; None before the first apply."""
        recorded = self.recorded()
        # A state that was lost is made up again from the journal, and what carries its id is no stray.
        return recorded.deployment if recorded.serial or remembered(self._store()).deployment else None

    def places(self) -> list[recovery.Place]:
        """Returns every place that the deploy file names."""
        return list({id(p): p for p in (self._places.of(s.provider, s.settings) for s in self.config.sites)}.values())

    def _store(self) -> StateStore:
        return open_store(self.config.state, self.directory, endpoints=self._endpoints)

    @contextmanager
    def held(self, command: str, on_event: Callable[[Event], None]) -> Iterator[tuple[Ledger, Callable[[Event], None]]]:
        """Holds the deployment for one command; gives its records, and a listener that also writes the audit trail."""
        store = self._store()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with store.locked(command):
            recorded = state.State.load(self.directory, store=store)
            trail = AuditTrail(self.directory / LOG, command=command, deployment=recorded.deployment, store=store)
            ledger = Ledger(recorded, Journal(self.directory / "journal.jsonl", store=store))

            seen: list[Entry] = []

            def tell(event: Event) -> None:
                if event.phase != "start":
                    detail = str(event.error) if event.error else ""
                    seen.append(Entry(event.title, result=event.phase, node=event.site, detail=detail))
                on_event(event)

            def write() -> None:
                trail.record_all(seen)
                seen.clear()

            ledger.also_flush.append(write)

            trail.record(command, result="started")
            try:
                yield ledger, tell
                write()
            except BaseException as error:
                with suppress(ClouddeployError):  # that nothing can be written is not the error that matters
                    write()
                    if isinstance(error, ClouddeployError):
                        trail.record(command, result="refused", detail=str(error))
                raise
            trail.record(command, result="ended")

    def _maker(self, ledger: Ledger) -> Maker:
        return Maker(
            ledger=ledger,
            providers=self._places.by_site(self.config.sites),
            public_key=lambda: self._keyring.operator().public,
            user_data=self.installation.user_data,
            expires_at=ledger.state.expires_at,
            calls=threading.Event(),
        )

    def _recover(self, ledger: Ledger) -> list[recovery.Stray]:
        """Closes what a kill left open; returns what it made twice."""
        recorded, journal = ledger.state, ledger.journal
        recovery.settle(journal, recorded)
        if not recovery.needs_search(journal):
            return []
        wanted = self._planner.wanted_places(recorded)
        places = self._places.ever_used(self.config.sites, recorded, journal)
        recovery.wait_for_lag(places, recorded, journal, cancel=self.cancel)
        strays = recovery.adopt_found(places, recorded, journal, wanted=wanted)
        recovery.close_unwanted(journal, recorded, wanted)
        return strays

    @property
    def _names(self) -> frozenset[str]:
        return frozenset(site.name for site in self.config.sites)

    def _farewell(self, recorded: state.State, abandoned: frozenset[str]) -> Farewell:
        known = self._names | {record.site for record in recorded.resources.values()}
        if abandoned - known:
            raise ConfigError(
                f"{', '.join(sorted(abandoned - known))} is no site of this deployment",
                hint=f"one of {', '.join(sorted(known))}",
            )
        return self.installation.farewell(recorded, abandoned=abandoned)

    def _check_chosen(self, sites: frozenset[str]) -> None:
        unknown = sorted(sites - self._names)
        if unknown:
            raise ConfigError(
                f"{', '.join(unknown)} is no site of {self.config.file}",
                hint=f"one of {', '.join(site.name for site in self.config.sites)}",
            )
        if sites and self.server is not None and self.server not in sites:
            recorded = state.State.load(self.directory, store=self._store())
            if f"{self.server}/{Kind.MACHINE.value}" not in recorded.resources:
                raise ConfigError(
                    f"{', '.join(sorted(sites))} cannot run without the server",
                    why=f"{self.server} was not applied yet",
                    hint=f"add --site {self.server}, or apply all",
                )

    def _refuse_or_probe(self, plan: Plan, ledger: Ledger) -> None:
        """Refuses before money is spent: what the clouds say, and machines that exist already and are not reached."""
        if plan.problems:
            raise PreflightFailed(
                "the clouds are not ready for this deployment", why="; ".join(plan.problems), hint="nothing was created"
            )
        providers = self._places.by_site(self.config.sites)
        for change in plan.changes:
            if change.wanted is None or not providers[change.wanted.site.name].creates_nothing:
                continue
            site = change.wanted.site.name
            if change.node in ledger.state.resources and ledger.state.sites.get(site):
                continue
            ref = providers[site].create(readiness.adoption(change.wanted), self.cancel)
            self.installation.probe(site, ref)

    def _status(self, recorded: state.State, site: str, provider: str) -> SiteStatus:
        record = recorded.resources.get(f"{site}/{Kind.MACHINE.value}")
        installed = recorded.sites.get(site)
        if record is None or not installed:
            return SiteStatus(site, provider, address="", state="not deployed")
        said, detail = self.installation.status(site, record.ref, installed)
        return SiteStatus(site, provider, record.ref.outputs.get("address", ""), state=said, detail=detail)
