"""From machines to running sites: sign, connect, install, start, wait; the only part of a deployment that knows SSH."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from clouddeploy_providers import cloud_init
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.provisioner import Endpoint, Options, provision
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy import readiness, wheelhouse
from clouddeploy.access import CONNECT_TIMEOUT_S, Access
from clouddeploy.enrolment import Enroller
from clouddeploy.errors import HostUnreachable
from clouddeploy.remote import bootstrap
from clouddeploy.removal import Farewell
from clouddeploy.site_work import SiteWork

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_providers.resources import ResourceRef
    from clouddeploy_provision.project import Project

    from clouddeploy.config import DeployConfig
    from clouddeploy.keyring import Keyring
    from clouddeploy.plan import Wanted
    from clouddeploy.remote.host import Host
    from clouddeploy.remote.known_hosts import HostKeys
    from clouddeploy.secrets import Secret
    from clouddeploy.site_work import Address
    from clouddeploy.state import State

PROBE_TIMEOUT_S = 10.0
"""For a machine that should be up already: longer means somebody has to look at it."""
INSTALL_TIMEOUT_S = 600.0
READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Installation:
    """What a deployment does on its machines.

    Attributes:
        config: the deploy file.
        project: the project file.
        server: the server's site.
        workspace: kits and the certificate authority.
        cache: where wheels are kept between deployments.
        keyring: the deployment's SSH keys.
        host_keys: the pinned host keys.
        cancel: ends waits for machines.
    """

    config: DeployConfig
    project: Project
    server: str
    workspace: Path
    cache: Path
    keyring: Keyring
    host_keys: HostKeys
    cancel: threading.Event

    def work(self, passphrase: Secret) -> SiteWork:
        """Returns what is done on machines, with the passphrase of the certificate authority."""
        signing = _Signing(self, passphrase)
        return SiteWork(
            kits=signing.kits,
            open=self.open,
            install=signing.install,
            start=lambda _site, host, release: bootstrap.start(host, release),
            wait_ready=self._wait_ready,
            user_data=self.user_data,
        )

    def farewell(self, recorded: State, *, abandoned: frozenset[str] = frozenset()) -> Farewell:
        """Returns what is done when a machine goes."""
        return Farewell(
            uninstall=partial(self._uninstall, recorded), machine_gone=self._machine_gone, abandoned=abandoned
        )

    def open(self, site: str, machine: ResourceRef, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Host:
        """Connects to a site's machine under its pinned host key.

        Raises:
            DeployError: it is unreachable, or shows another key.
        """
        return Access(self.keyring, self.host_keys, timeout_s=timeout_s).open(site, machine, self.cancel)

    def probe(self, site: str, machine: ResourceRef) -> None:
        """Reaches a machine that exists already, before money is spent on those that do not.

        Raises:
            DeployError: it is unreachable, or shows another key.
        """
        self.open(site, machine, timeout_s=PROBE_TIMEOUT_S).close()

    def kit(self, participant: str) -> Path:
        """Returns the newest startup kit of a participant.

        Raises:
            ClouddeployError: nothing was provisioned yet.
        """
        return readiness.newest_kit(self.workspace / self.project.name, participant)

    def status(self, site: str, machine: ResourceRef, installed: Mapping[str, str]) -> tuple[str, str]:
        """Returns what a site's runtime says of itself, and details; `unreachable` when its machine is."""
        try:
            host = self.open(site, machine, timeout_s=PROBE_TIMEOUT_S)
        except ClouddeployError as error:
            return "unreachable", str(error)
        try:
            said = bootstrap.status(host, release_of(installed)) or {}
        finally:
            host.close()
        return str(said.get("state", "stopped")), str(said.get("detail") or "")

    def _wait_ready(self, site: str, host: Host, release: bootstrap.Release, address: str) -> None:
        if site == self.server:
            readiness.wait_server(
                address,
                self.project.port,
                name=self.server,
                roots=CaStore(self.workspace / self.project.name / "state").bundle(),
                timeout_s=READY_TIMEOUT_S,
                cancel=self.cancel,
            )
        else:
            readiness.wait_registered(site, host, release, timeout_s=READY_TIMEOUT_S, cancel=self.cancel)

    def user_data(self, wanted: Wanted, expires_at: str) -> str:
        """Returns what a machine is told at birth, with the bootstrap host key of its site."""
        key = self.keyring.bootstrap(wanted.site.name)
        return cloud_init.render(
            user=wanted.site.user,
            public_key=self.keyring.operator().public,
            host_private_key=key.private,
            host_public_key=key.public,
            hostname=wanted.name,
            expires_at=expires_at,
        )

    def _uninstall(self, recorded: State, site: str, machine: ResourceRef) -> None:
        """Removes a site from a machine that stays, also when its installation never came to its end."""
        installed = recorded.sites.get(site)
        if installed is None:
            return
        try:
            host = self.open(site, machine, timeout_s=PROBE_TIMEOUT_S)
        except HostUnreachable as error:
            hint = f"bring it back, or leave it as it is: --abandon {site}"
            raise HostUnreachable(error.what, why=error.why, hint=hint) from error
        try:
            release = release_of(installed) if installed else bootstrap.unfinished(host, self.project.name, site)
            bootstrap.uninstall(host, release)
        finally:
            host.close()

    def _machine_gone(self, site: str) -> None:
        """Forgets both host keys of a machine: the next one makes its own, and some clouds give it the same id."""
        self.keyring.forget_bootstrap(site)
        self.host_keys.forget(f"{site}/")


class _Signing:
    """Certificates and kits of one run; `kits` comes first."""

    def __init__(self, installation: Installation, passphrase: Secret) -> None:
        self._installation = installation
        self._passphrase = passphrase
        self._enroller: Enroller | None = None

    def kits(self, address: Address) -> Mapping[str, Path]:
        """Signs the kits of all sites but those whose key is made on their machine."""
        there = self._installation
        endpoint = Endpoint(host=address.host, port=there.project.port)
        hosts = (address.host, *address.names)
        report = provision(
            there.project,
            there.workspace,
            passphrase=self._passphrase.reveal_bytes(),
            extra_server_hosts=hosts,
            endpoint=endpoint,
            reuse_result=True,
            options=Options(enrolled=there.config.on_site),
        )
        self._enroller = Enroller(
            there.project, there.workspace, passphrase=self._passphrase, endpoint=endpoint, extra_server_hosts=hosts
        )
        return {name: kit for name, kit in report.kits.items() if name not in there.config.on_site}

    def install(self, site: str, host: Host, kit: Path | None) -> bootstrap.Release:
        """Installs a site with its kit, or with the key that its machine makes."""
        there = self._installation
        data, wheels = there.config.site(site).data, partial(wheelhouse.collect, cache=there.cache)
        if kit is None:
            assert self._enroller is not None  # noqa: S101 - kits are signed before anything is installed
            return self._enroller.install(
                site, host, data=data, wheelhouse_for=wheels, timeout_s=INSTALL_TIMEOUT_S
            ).release
        return bootstrap.install(
            host,
            project=there.project.name,
            site=site,
            kit=kit,
            data=data,
            wheelhouse_for=wheels,
            timeout_s=INSTALL_TIMEOUT_S,
        )


def release_of(installed: Mapping[str, str]) -> bootstrap.Release:
    """Returns what the state says is installed at a site."""
    return bootstrap.Release(installed["release"], installed["root"], installed["python"])
