"""One service on its machine: check, install, start, wait until it answers; nothing is signed, nobody registers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from clouddeploy_providers.errors import DeadlineExceeded
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy import readiness, service
from clouddeploy.errors import ConfigError, ServiceFailed
from clouddeploy.facts import Facts
from clouddeploy.machine_work import READY_TIMEOUT_S, MachineWork
from clouddeploy.remote import bootstrap
from clouddeploy.service import Service

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from clouddeploy.config import DeployConfig
    from clouddeploy.keyring import Keyring
    from clouddeploy.plan import Signature
    from clouddeploy.remote.host import Host
    from clouddeploy.remote.known_hosts import HostKeys
    from clouddeploy.secrets import Secret
    from clouddeploy.site_work import Address, Install, Kits
    from clouddeploy.state import State

LOG_LINES = 15


@dataclass(frozen=True)
class ServiceInstallation(MachineWork):
    """What a deployment of one service does on its machine.

    Attributes:
        service: the service.
        ready_timeout_s: how long it may take to answer.
    """

    kits_title: ClassVar[str] = "check the service"
    ready_title: ClassVar[str] = "answer"

    service: Service
    ready_timeout_s: float = READY_TIMEOUT_S

    @classmethod
    def of(
        cls,
        where: tuple[DeployConfig, Path, Keyring, HostKeys, threading.Event],
        folder: Path,
        recorded: Callable[[], State],
    ) -> Self:
        """Returns what is done for a service; one that cannot be used any more has left something to end.

        Args:
            where: the other attributes, in their order.
            folder: of the service.
            recorded: returns the state.

        Raises:
            ClouddeployError: it cannot be used, and nothing was made with it.
        """
        try:
            return cls(*where, service=service.read(folder, deploy_file=where[0].file))
        except ClouddeployError as error:
            known = recorded()
            if not known.resources and not known.sites:
                raise
            return cls(*where, service=Service(folder, known.project, command=(), ports=()), refusal=error)

    @property
    def facts(self) -> Facts:
        """What the service says: it is a server without clients."""
        return Facts(
            project=self.service.name,
            server=self.config.sites[0].name,
            ports=self.service.ports,
            is_signed_here=False,
        )

    def signatures(self) -> tuple[Signature, ...]:
        """Returns nothing: there is nothing to sign."""
        self.require_usable()
        return ()

    def outdated(self, recorded: State) -> tuple[str, ...]:
        """Returns the site, where its machine has another content than the folder."""
        site = self.config.sites[0].name
        installed = recorded.sites.get(site)
        if not installed:
            return ()
        with service.supervised(self.service) as folder, tempfile.TemporaryDirectory() as aside:
            _, digest = bootstrap.pack(folder, "kit", Path(aside))
        return () if installed["release"] == digest else (site,)

    def kits_and_install(self, passphrase: Secret | None) -> tuple[Kits, Install]:
        """Returns what checks the service and what installs it; there is no passphrase, since nothing is signed."""
        del passphrase
        self.require_usable()
        return self._kits, self._install

    def kit(self, participant: str) -> Path:
        """Has none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"there is no startup kit of {participant} here",
            why=f"{self.config.file} deploys a service",
            hint="name the deploy file of the federation",
        )

    def renew(self, site: str, host: Host, digest: str) -> bootstrap.Release:
        """Installs the service as it is now."""
        del digest
        self.require_usable()
        return self._install(site, host, None)

    def wait_ready(self, site: str, host: Host, release: bootstrap.Release, address: str) -> None:
        """Returns once the service answers as its file says.

        Raises:
            ServiceFailed: it does not, or ended again and again.
        """
        one = self.service
        question = readiness.Question(address, one.ports[0], path=one.path, certificate=one.certificate)

        def ask() -> readiness.Supervised:
            said = bootstrap.status(host, release) or {}
            state, detail = said.get("state"), str(said.get("detail") or "")
            failed = (detail or "it was stopped") if state == "stopped" else ""
            return readiness.Supervised(state == "serving", failed, detail)

        try:
            why = readiness.wait_service(question, ask, timeout_s=self.ready_timeout_s, cancel=self.cancel)
        except DeadlineExceeded as error:
            why = f"after {self.ready_timeout_s:.0f} s: {error.why}"
        if why:
            tail = bootstrap.logs(host, release, lines=LOG_LINES).strip()
            raise ServiceFailed(
                f"{site} does not serve at {address}, port {one.ports[0]}",
                why=f"{why}; the end of its log:\n{tail}" if tail else why,
                hint=f"look at it: clouddeploy logs {site} --file {self.config.file}; then apply again",
            )

    def _kits(self, _address: Address) -> Mapping[str, Path]:
        """Reads the service once more: it may have been changed since the deployment was opened."""
        found = service.read(self.service.folder, deploy_file=self.config.file)
        if found != self.service:
            raise ConfigError(
                f"{self.service.folder / service.FILE} is another than before",
                why="it was changed while the machine was made",
                hint="run the same command again",
            )
        return {self.config.sites[0].name: found.folder}

    def _install(self, site: str, host: Host, kit: Path | None) -> bootstrap.Release:
        del kit
        with service.supervised(self.service) as folder:
            return self.put(site, host, folder, self.wheels(requirements=self.service.requirements))
