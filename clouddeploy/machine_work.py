"""What a deployment does on its machines wherever its kits come from; with `remote` the only part that knows SSH."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from clouddeploy_providers import cloud_init
from clouddeploy_providers.resources import Kind
from clouddeploy_runtime._version import __version__
from clouddeploy_runtime.errors import ClouddeployError
from packaging.requirements import Requirement

from clouddeploy import wheelhouse
from clouddeploy.access import CONNECT_TIMEOUT_S, Access
from clouddeploy.clusters.work import ClusterWork
from clouddeploy.errors import HostUnreachable
from clouddeploy.remote import bootstrap
from clouddeploy.remote.container import Image
from clouddeploy.removal import Farewell
from clouddeploy.site_work import SiteWork

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.config import DeployConfig
    from clouddeploy.facts import Facts
    from clouddeploy.keyring import Keyring
    from clouddeploy.plan import Signature, Wanted
    from clouddeploy.remote.host import Host
    from clouddeploy.remote.known_hosts import HostKeys
    from clouddeploy.remote.wheels import PythonTarget, Wheelhouse
    from clouddeploy.secrets import Secret
    from clouddeploy.site_work import Install, Kits
    from clouddeploy.state import State

PROBE_TIMEOUT_S = 10.0
"""For a machine that should be up already: longer means somebody has to look at it."""
INSTALL_TIMEOUT_S = 600.0
READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class MachineWork(ABC):
    """What a deployment does on its machines; where kits and facts come from is for those that derive from it.

    Attributes:
        config: the deploy file.
        cache: where wheels are kept between deployments.
        keyring: the deployment's SSH keys.
        host_keys: the pinned host keys.
        cancel: ends waits for machines.
        refusal: why what the deploy file names cannot be used, raised by whatever would use it; what was made with it
            can still be ended.
    """

    kits_title: ClassVar[str] = "sign kits"
    """How the step that gives each participant its kit is shown."""
    ready_title: ClassVar[str] = "answer with our certificate"
    """How the step is shown that waits for the server."""

    config: DeployConfig
    cache: Path
    keyring: Keyring
    host_keys: HostKeys
    cancel: threading.Event
    refusal: ClouddeployError | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What the engine needs to know of the federation."""

    @abstractmethod
    def signatures(self) -> tuple[Signature, ...]:
        """Returns what will happen to each participant's certificate; changes nothing.

        Raises:
            ClouddeployError: kits cannot be made as the deploy file says.
        """

    @abstractmethod
    def kits_and_install(self, passphrase: Secret | None) -> tuple[Kits, Install]:
        """Returns what gives each participant its kit, and what installs it; see `SiteWork`.

        Args:
            passphrase: of the certificate authority, if there is one.
        """

    @abstractmethod
    def renew(self, site: str, host: Host, digest: str) -> bootstrap.Release:
        """Installs the newest that there is for a site without signing anything; a site that runs another is stopped.

        Args:
            site: the site.
            host: its machine.
            digest: of the kit it has, which it keeps if its key was made there.
        """

    @abstractmethod
    def wait_ready(self, site: str, host: Host, release: bootstrap.Release, address: str) -> None:
        """Returns once the server answers with its certificate, or the client is registered."""

    @abstractmethod
    def kit(self, participant: str) -> Path:
        """Returns the newest startup kit of a participant.

        Raises:
            ClouddeployError: there is none here.
        """

    @property
    def clusters(self) -> ClusterWork:
        """What is done for sites that are pods and have no machine."""
        room = self.keyring.operator_file.absolute().parent.parent / "prepared"
        facts = self.facts
        return ClusterWork(self.config, project=facts.project, server=facts.server, cancel=self.cancel, room=room)

    def require_usable(self) -> None:
        """Raises the refusal, if there is one."""
        if self.refusal is not None:
            raise self.refusal

    def work(self, passphrase: Secret | None) -> SiteWork:
        """Returns what is done on machines, with the passphrase of the certificate authority, if there is one."""
        kits, install = self.kits_and_install(passphrase)
        work = SiteWork(
            kits=kits,
            open=self.open,
            install=install,
            start=self.start,
            wait_ready=self._wait_good,
            user_data=self.user_data,
            kits_title=self.kits_title,
            ready_title=self.ready_title,
        )
        return self.clusters.beside(work)

    def _wait_good(self, site: str, host: Host, release: bootstrap.Release, address: str) -> None:
        self.wait_ready(site, host, release, address)
        bootstrap.confirm(host, release)

    def start(self, site: str, host: Host, release: bootstrap.Release) -> None:
        """Starts a site, unless it runs."""
        del site
        bootstrap.start(host, release)

    def wheels(
        self, *, requirements: tuple[str, ...] | None = None, extra: tuple[str, ...] = ()
    ) -> Callable[[PythonTarget], Wheelhouse]:
        """Returns what gives the Python environment for a machine; see `wheelhouse.collect`."""
        return partial(wheelhouse.collect, cache=self.cache, requirements=requirements, extra=extra)

    def image(
        self, site: str, *, asked: tuple[str, ...] = (), is_theirs: bool = False, is_newest: bool = False
    ) -> Callable[[PythonTarget], Image] | None:
        """Returns what gives the container image that a site runs in; None: it runs in an environment of wheels.

        Args:
            site: the site.
            asked: what its kit asks for beside the runtime, as requirements.
            is_theirs: whether the reference runs its kit, and not our runtime.
            is_newest: whether the image's name is looked up anew; see `Image`.
        """
        reference = self.config.site(site).container
        if reference is None:
            return None
        made = Image(
            reference,
            module="nvflare" if is_theirs else "clouddeploy_runtime",
            version="" if is_theirs else __version__,
            packages=tuple(one.name for one in map(Requirement, asked) if one.marker is None),
            is_newest=is_newest,
        )
        return lambda _target: made

    def put(
        self, site: str, host: Host, kit: Path, wheelhouse_for: Callable[[PythonTarget], Wheelhouse | Image]
    ) -> bootstrap.Release:
        """Installs a site from the folder of its kit."""
        return bootstrap.install(
            host,
            project=self.facts.project,
            site=site,
            kit=kit,
            data=self.config.site(site).data,
            wheelhouse_for=wheelhouse_for,
            timeout_s=INSTALL_TIMEOUT_S,
        )

    def outdated(self, recorded: State) -> tuple[str, ...]:
        """Returns the sites whose machine has something else than apply would install, certificates left aside."""
        del recorded
        return ()

    def advice(self, recorded: State) -> tuple[str, ...]:
        """Returns what is left for people to do once everything runs."""
        del recorded
        return ()

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

    def status(self, site: str, machine: ResourceRef, installed: Mapping[str, str]) -> tuple[str, str]:
        """Returns what a site's runtime says of itself, and details; `unreachable` when its machine is."""
        if self.clusters.has(site):
            return self.clusters.status(site, machine)
        try:
            host = self.open(site, machine, timeout_s=PROBE_TIMEOUT_S)
        except ClouddeployError as error:
            return "unreachable", str(error)
        try:
            said = bootstrap.status(host, release_of(installed)) or {}
        finally:
            host.close()
        return str(said.get("state", "stopped")), str(said.get("detail") or "")

    def pod_log(self, site: str, recorded: State, *, lines: int) -> str | None:
        """Returns the end of what a site's pod has printed; None: it has a machine, or no place yet."""
        record = recorded.resources.get(f"{site}/{Kind.MACHINE.value}")
        return self.clusters.log(site, record.ref, lines=lines) if record and self.clusters.has(site) else None

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
            project = self.facts.project
            release = release_of(installed) if installed else bootstrap.unfinished(host, project, site)
            bootstrap.uninstall(host, release)
        finally:
            host.close()

    def _machine_gone(self, site: str) -> None:
        """Forgets both host keys of a machine: the next one makes its own, and some clouds give it the same id."""
        self.keyring.forget_bootstrap(site)
        self.host_keys.forget(f"{site}/")


def release_of(installed: Mapping[str, str]) -> bootstrap.Release:
    """Returns what the state says is installed at a site."""
    return bootstrap.Release(installed["release"], installed["root"], installed["python"])
