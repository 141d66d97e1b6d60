"""Deployment: one deploy.yml applied. The library behind the command line and everything else that deploys."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from clouddeploy_providers import cloud_init, registry
from clouddeploy_providers.endpoints import REAL, Endpoints
from clouddeploy_providers.resources import Kind, MachineSpec
from clouddeploy_provision import project as project_file
from clouddeploy_provision.provisioner import Endpoint, provision
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy import caller_address, config, readiness, state, wheelhouse
from clouddeploy.access import CONNECT_TIMEOUT_S, Access
from clouddeploy.apply import Applied, Applier, SiteWork
from clouddeploy.destroy import Destroyed, Place, destroy
from clouddeploy.errors import Interrupted, PartialFailure, PreflightFailed
from clouddeploy.journal import Journal
from clouddeploy.keyring import Keyring
from clouddeploy.plan import Action, Change, diff, firewall_rules, wanted_resources
from clouddeploy.remote import bootstrap
from clouddeploy.remote.known_hosts import HostKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.plan import Wanted
    from clouddeploy.remote.host import Host
    from clouddeploy.scheduler import Event, Report
    from clouddeploy.secrets import Secret

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 10.0
"""For a machine that should be up already: longer means somebody has to look at it."""
INSTALL_TIMEOUT_S = 600.0
READY_TIMEOUT_S = 120.0

PlaceKey = tuple[str, tuple[tuple[str, str], ...]]
"""A provider's name and its settings, sorted."""


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


class Deployment:
    """Plans, applies, shows and destroys one deploy file.

    Args:
        file: the deploy.yml.
        endpoints: where the clouds answer; a rehearsal gives its own.
        directory: state, journal and keys; default `.clouddeploy/<name of the file>/` beside the file.
        workspace: kits and the certificate authority; default as the file says.
        cache: where wheels are kept between deployments; default `wheelhouse.default_cache()`.
        cancel: set it to stop after what is in flight.

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
    ) -> None:
        self.config = config.load(file)
        self.project = project_file.load(self.config.project)
        servers = tuple(one.name for one in self.project.servers)
        config.check_sites(self.config, servers=servers, clients=tuple(one.name for one in self.project.clients))
        types = {site.provider: registry.load(site.provider) for site in self.config.sites}
        config.check_settings(self.config, {name: provider.setting_names for name, provider in types.items()})
        self.server = servers[0]
        self.directory = directory or file.parent / ".clouddeploy" / file.stem
        self.workspace = workspace or self.config.workspace
        self.cancel = cancel or threading.Event()
        self._cache = cache or wheelhouse.default_cache()
        self._endpoints = endpoints
        self._keyring = Keyring(self.directory / "keys")
        self._host_keys = HostKeys(self.directory / "known_hosts")
        self._providers: dict[str, ComputeProvider] = {
            site.name: types[site.provider](site.settings, endpoints) for site in self.config.sites
        }

    def plan(self) -> list[Change]:
        """Returns what apply would do, contacting no cloud."""
        recorded = state.State.load(self.directory)
        return self._diff(recorded, ssh_sources=self.config.ssh_sources or self._expected_sources(recorded))

    def apply(self, passphrase: Secret, *, on_event: Callable[[Event], None] = _ignore) -> Applied:
        """Makes the plan true. May be repeated, also after a kill at any moment.

        Args:
            passphrase: of the project's certificate authority.
            on_event: called as things happen, in this thread.

        Raises:
            PreflightFailed: something would not work; nothing was created.
            PartialFailure: some sites failed, the others are fine.
            Interrupted: cancelled; the same call resumes.
            ClouddeployError: the first error, when every site failed.
        """
        with state.locked(self.directory, "apply"):
            recorded = state.State.load(self.directory)
            recorded.project = self.project.name
            self._preflight(recorded)
            changes = self._diff(recorded, ssh_sources=self._ssh_sources())
            recorded.save()  # the deployment's id must be on disk before anything is tagged with it
            journal = Journal(self.directory / "journal.jsonl")
            journal.note("apply", deployment=recorded.deployment)
            old = {node: self._provider_of(record) for node, record in recorded.resources.items()}
            applier = Applier(
                state=recorded,
                journal=journal,
                keyring=self._keyring,
                providers=self._providers,
                server=self.server,
                work=self._site_work(passphrase, recorded),
                cancel=self.cancel,
            )
            applied = applier.run(changes, old=old, on_event=on_event)
        self._raise_for(applied.report, "apply")
        return applied

    def status(self) -> list[SiteStatus]:
        """Asks every site how it is."""
        recorded = state.State.load(self.directory)
        return [self._status(recorded, site.name, site.provider) for site in self.config.sites]

    def destroy(self, *, on_event: Callable[[Event], None] = _ignore) -> Destroyed:
        """Deletes everything this deployment made and verifies it with the clouds. May be repeated.

        Raises:
            PartialFailure: something is left; says what.
            Interrupted: cancelled; the same call resumes.
        """
        with state.locked(self.directory, "destroy"):
            recorded = state.State.load(self.directory)
            journal = Journal(self.directory / "journal.jsonl")
            journal.note("destroy", deployment=recorded.deployment)
            result = destroy(
                self._places(recorded, journal),
                state=recorded,
                journal=journal,
                uninstall=partial(self._uninstall, recorded),
                machine_gone=self._machine_gone,
                cancel=self.cancel,
                on_event=on_event,
            )
            recorded.save()
            if not result.left:
                self._keyring.forget()
                (self.directory / "known_hosts").unlink(missing_ok=True)
        self._raise_for(result.report, "destroy")
        if result.left:
            raise PartialFailure(
                f"{len(result.left)} resource(s) are still there", why=", ".join(result.left), hint="run destroy again"
            )
        return result

    def _diff(self, recorded: state.State, *, ssh_sources: tuple[str, ...]) -> list[Change]:
        wanted = wanted_resources(
            self.config,
            project=self.project.name,
            deployment=recorded.deployment,
            server=self.server,
            kinds=self._kinds(),
            places={name: provider.place for name, provider in self._providers.items()},
            rules={
                name: firewall_rules(
                    ssh_port=self._endpoints.ssh_port,
                    ssh_sources=ssh_sources,
                    federation_port=self.project.port if name == self.server else None,
                )
                for name in self._providers
            },
        )
        return diff(wanted, recorded.resources)

    def _kinds(self) -> dict[str, Sequence[Kind]]:
        return {name: provider.kinds(is_server=name == self.server) for name, provider in self._providers.items()}

    def _expected_sources(self, recorded: state.State) -> tuple[str, ...]:
        """Returns the address that apply will let in, as far as it can be known without asking anybody."""
        if self._endpoints.caller_address:
            return (f"{self._endpoints.caller_address}/32",)
        rules = (record.fingerprint.get("rules", "") for record in recorded.resources.values())
        known = next((text.split(" from ")[1].split(";")[0] for text in rules if text.startswith("ssh ")), "")
        return tuple(known.split(", ")) if known else ("this machine's address",)

    def _ssh_sources(self) -> tuple[str, ...]:
        if self.config.ssh_sources:
            return self.config.ssh_sources
        if not any(Kind.FIREWALL in kinds for kinds in self._kinds().values()):
            return ("127.0.0.1/32",)  # no firewall of ours will ever carry it
        return (f"{self._endpoints.caller_address or caller_address.detect()}/32",)

    def _preflight(self, recorded: state.State) -> None:
        problems = []
        for sites in self._by_place().values():
            specs = [MachineSpec(s.size, s.image, s.disk_gib, s.user, public_key="", user_data="") for s in sites]
            names = ", ".join(site.name for site in sites)
            checks = self._providers[sites[0].name].check(specs)
            problems += [f"{names}: {check.name}: {check.problem}. {check.hint}" for check in checks if not check.ok]
        if problems:
            raise PreflightFailed(
                "the clouds are not ready for this deployment", why="; ".join(problems), hint="nothing was created"
            )
        for wanted in self._diff(recorded, ssh_sources=("127.0.0.1/32",)):
            if wanted.wanted and self._providers[wanted.wanted.site.name].creates_nothing:
                self._probe(wanted.wanted, recorded)

    def _by_place(self) -> dict[PlaceKey, list[config.SiteConfig]]:
        """Returns the sites that share a provider and its settings; one question to the cloud serves them all."""
        places: dict[PlaceKey, list[config.SiteConfig]] = {}
        for site in self.config.sites:
            places.setdefault(_place_of(site.provider, site.settings), []).append(site)
        return places

    def _probe(self, wanted: Wanted, recorded: state.State) -> None:
        """Reaches a machine that exists already, before money is spent on those that do not."""
        record = recorded.resources.get(wanted.node)
        if record is not None and wanted.site.name in recorded.sites:
            return
        ref = self._providers[wanted.site.name].create(readiness.adoption(wanted), self.cancel)
        self._open(wanted.site.name, ref, timeout_s=PROBE_TIMEOUT_S).close()

    def _site_work(self, passphrase: Secret, recorded: state.State) -> SiteWork:
        data = {site.name: site.data for site in self.config.sites}

        def install(site: str, host: Host, kit: Path) -> bootstrap.Release:
            return bootstrap.install(
                host,
                project=self.project.name,
                site=site,
                kit=kit,
                data=data[site],
                wheelhouse_for=partial(wheelhouse.collect, cache=self._cache),
                timeout_s=INSTALL_TIMEOUT_S,
            )

        def kits(address: str) -> Mapping[str, Path]:
            report = provision(
                self.project,
                self.workspace,
                passphrase=passphrase.reveal().encode(),
                extra_server_hosts=(address,),
                endpoint=Endpoint(host=address, port=self.project.port),
                reuse_result=True,
            )
            return report.kits

        def wait_ready(site: str, host: Host, release: bootstrap.Release, address: str) -> None:
            if site == self.server:
                kit = self.kit(self.server)
                readiness.wait_tls(address, self.project.port, kit=kit, timeout_s=READY_TIMEOUT_S, cancel=self.cancel)
            else:
                readiness.wait_registered(site, host, release, timeout_s=READY_TIMEOUT_S, cancel=self.cancel)

        return SiteWork(
            kits=kits,
            open=self._open,
            install=install,
            start=lambda _site, host, release: bootstrap.start(host, release),
            wait_ready=wait_ready,
            user_data=self._user_data,
            uninstall=partial(self._uninstall, recorded),
            machine_gone=self._machine_gone,
        )

    def kit(self, participant: str) -> Path:
        """Returns the newest startup kit of a participant.

        Raises:
            ClouddeployError: nothing was provisioned yet.
        """
        return readiness.newest_kit(self.workspace / self.project.name, participant)

    def _user_data(self, wanted: Wanted) -> str:
        key = self._keyring.bootstrap(wanted.site.name)
        return cloud_init.render(
            user=wanted.site.user,
            public_key=self._keyring.operator().public,
            host_private_key=key.private,
            host_public_key=key.public,
            hostname=wanted.name,
        )

    def _open(self, site: str, machine: ResourceRef, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Host:
        return Access(self._keyring, self._host_keys, timeout_s=timeout_s).open(site, machine, self.cancel)

    def _machine_gone(self, site: str) -> None:
        """Forgets both host keys of a machine: the next one makes its own, and some clouds give it the same id."""
        self._keyring.forget_bootstrap(site)
        self._host_keys.forget(f"{site}/")

    def _status(self, recorded: state.State, site: str, provider: str) -> SiteStatus:
        record = recorded.resources.get(f"{site}/{Kind.MACHINE.value}")
        installed = recorded.sites.get(site)
        if record is None or installed is None:
            return SiteStatus(site, provider, address="", state="not deployed")
        address = record.ref.outputs.get("address", "")
        try:
            host = self._open(site, record.ref, timeout_s=PROBE_TIMEOUT_S)
        except ClouddeployError as error:
            return SiteStatus(site, provider, address, state="unreachable", detail=str(error))
        try:
            said = bootstrap.status(host, _release(installed)) or {}
        finally:
            host.close()
        return SiteStatus(
            site, provider, address, state=str(said.get("state", "stopped")), detail=str(said.get("detail") or "")
        )

    def _uninstall(self, recorded: state.State, site: str, machine: ResourceRef) -> None:
        installed = recorded.sites.get(site)
        if installed is None:
            return
        host = self._open(site, machine, timeout_s=PROBE_TIMEOUT_S)
        try:
            bootstrap.uninstall(host, _release(installed))
        finally:
            host.close()

    def _provider_of(self, record: state.Record) -> ComputeProvider:
        return registry.load(record.provider)(record.settings, self._endpoints)

    def _places(self, recorded: state.State, journal: Journal) -> list[Place]:
        used = [(site.provider, site.settings) for site in self.config.sites]
        used += [(record.provider, record.settings) for record in recorded.resources.values()]
        used += [(intent.provider, intent.settings) for intent in journal.open_intents() if intent.provider]
        places: dict[PlaceKey, Place] = {}
        for name, settings in used:
            key = _place_of(name, settings)
            if key not in places:
                places[key] = Place(name, settings, registry.load(name)(settings, self._endpoints))
        return list(places.values())

    def _raise_for(self, report: Report, command: str) -> None:
        if not report.errors:
            if report.interrupted:
                raise Interrupted(
                    f"{command} was stopped",
                    why="by request, after what was in flight",
                    hint=f"run {command} again to resume",
                )
            return
        failed = {
            name.removeprefix("delete ").split("/", maxsplit=1)[0]: error for name, error in report.errors.items()
        }
        sites = {site.name for site in self.config.sites}
        first = next(iter(failed.values()))
        if sites <= set(failed) or len(sites) == 1 or self.server in failed or "kits" in failed:
            # Nothing works without the server, so its error is the answer and not one of several.
            raise failed.get(self.server, failed.get("kits", first))
        raise PartialFailure(
            f"{command} failed at {', '.join(sorted(failed))}",
            why="; ".join(f"{site}: {error}" for site, error in sorted(failed.items())),
            hint=f"the other sites are fine and were left alone; mend this and run {command} again",
        ) from first


def _place_of(provider: str, settings: Mapping[str, str]) -> PlaceKey:
    """Returns what tells one place from another."""
    return provider, tuple(sorted(settings.items()))


def _release(installed: Mapping[str, str]) -> bootstrap.Release:
    return bootstrap.Release(installed["release"], installed["root"], installed["python"])


def pending(changes: list[Change]) -> list[Change]:
    """Returns the changes that do something."""
    return [change for change in changes if change.action is not Action.KEEP]
