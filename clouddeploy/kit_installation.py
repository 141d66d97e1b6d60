"""One startup kit on its machine, without its project: verify, install, start, wait; nothing is signed."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from clouddeploy_providers.errors import DeadlineExceeded
from clouddeploy_providers.resources import Kind
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy import lone_kit, readiness, wheelhouse
from clouddeploy.errors import ConfigError, ServerNotReached
from clouddeploy.lone_kit import Maker
from clouddeploy.machine_work import READY_TIMEOUT_S, MachineWork
from clouddeploy.remote import bootstrap, egress, nvflare

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clouddeploy.config import DeployConfig
    from clouddeploy.facts import Facts
    from clouddeploy.keyring import Keyring
    from clouddeploy.lone_kit import LoneKit
    from clouddeploy.plan import Signature
    from clouddeploy.remote.host import Host
    from clouddeploy.remote.known_hosts import HostKeys
    from clouddeploy.secrets import Secret
    from clouddeploy.site_work import Address, Install, Kits
    from clouddeploy.state import State

DIAL_S = 5.0
"""To tell a way that is closed from a server that does not take the client; both had minutes before."""
NVFLARE = "nvflare==2.9.0"
"""What runs a kit of the reference unless the deploy file names another version."""


@dataclass(frozen=True)
class KitInstallation(MachineWork):
    """What a deployment of one kit does on its machine.

    Attributes:
        lone: the kit.
        ready_timeout_s: how long the server may take to answer, or the client to register.
    """

    kits_title: ClassVar[str] = "verify the kit"

    lone: LoneKit
    ready_timeout_s: float = READY_TIMEOUT_S

    @classmethod
    def of(
        cls,
        where: tuple[DeployConfig, Path, Keyring, HostKeys, threading.Event],
        kit: Path,
        recorded: Callable[[], State],
    ) -> Self:
        """Returns what is done for a kit; one that is not there or not valid any more has left something to end.

        Args:
            where: the other attributes, in their order.
            kit: the folder.
            recorded: returns the state.

        Raises:
            ClouddeployError: it cannot be used, and nothing was made with it.
        """
        try:
            return cls(*where, lone=lone_kit.read(kit))
        except ClouddeployError as error:
            known = recorded()
            sites = {record.site for record in known.resources.values()} | set(known.sites)
            if not sites:
                raise
            [site, *_] = sorted(sites)
            is_server = f"{site}/{Kind.ADDRESS.value}" in known.resources
            stand_in = lone_kit.unreadable(kit, site, project=known.project, is_server=is_server)
            return cls(*where, lone=stand_in, refusal=error)

    def __post_init__(self) -> None:
        """Refuses a runtime for a kit that brings its own."""
        if self.refusal is None and self.config.runtime is not None and self.lone.maker is not Maker.NVFLARE:
            raise ConfigError(
                f"{self.config.file}: runtime cannot be chosen for this kit",
                why=f"{self.lone.folder} was not made by NVFLARE, and runs with this version of clouddeploy-runtime",
                hint="remove the key runtime",
            )

    @property
    def facts(self) -> Facts:
        """What the kit says."""
        return self.lone.facts

    def signatures(self) -> tuple[Signature, ...]:
        """Returns nothing: the kit is what it is."""
        self.require_usable()
        return ()

    def kits_and_install(self, passphrase: Secret | None) -> tuple[Kits, Install]:
        """Returns what verifies the kit and what installs it; there is no passphrase, since nothing is signed."""
        del passphrase
        self.require_usable()
        return self._kits, self._install

    def kit(self, participant: str) -> Path:
        """Returns the kit.

        Raises:
            ConfigError: it is not this participant's.
        """
        if participant != self.lone.participant:
            raise ConfigError(
                f"there is no startup kit of {participant} here",
                why=f"{self.config.file} deploys the kit of {self.lone.participant} alone",
                hint="ask the project admin for it",
            )
        return self.lone.folder

    def advice(self, recorded: State) -> tuple[str, ...]:
        """Returns what has to be entered in the DNS before clients find the server."""
        record = recorded.resources.get(f"{self.lone.participant}/{Kind.MACHINE.value}")
        address = record.ref.outputs.get("address", "") if record else ""
        if not self.lone.is_server or not address:
            return ()
        if any(is_led_to(host, address) for host in self.lone.hosts):
            return ()
        ports = " and ".join(str(port) for port in self.lone.ports)
        name = self.lone.server
        if is_address(name):
            return (f"clients go to {name}, and this server is at {address}: ask for kits with that address",)
        todo = f"let the name {name} lead to {address} (a DNS record of type A), port {ports}"
        return (f"clients go to {name}, which does not lead to this server yet: {todo}",)

    def _kits(self, _address: Address) -> Mapping[str, Path]:
        """Reads the kit once more: it may have been exchanged since the deployment was opened."""
        found = lone_kit.read(self.lone.folder)
        if found != self.lone:
            raise ConfigError(
                f"{self.lone.folder} is another kit than before",
                why="it was exchanged while the machine was made",
                hint="run the same command again",
            )
        return {found.participant: found.folder}

    def _install(self, site: str, host: Host, kit: Path | None, *, is_newest: bool = False) -> bootstrap.Release:
        del kit
        is_ours = self.lone.maker is Maker.OURS
        asked = wheelhouse.asked_for(self.lone.folder)
        image = self.image(site, asked=asked, is_theirs=not is_ours, is_newest=is_newest)
        with lone_kit.alone(self.lone, below="" if is_ours else nvflare.KIT) as folder:
            if is_ours:
                return self.put(site, host, folder, image or self.wheels(extra=asked))
            nvflare.supervise(folder)
            theirs = requirements_of(self.lone, runtime=self.config.runtime)
            return self.put(site, host, folder, image or self.wheels(requirements=theirs))

    def renew(self, site: str, host: Host, digest: str) -> bootstrap.Release:
        """Installs the kit, as it is now, with the newest of what runs it."""
        del digest
        self.require_usable()
        return self._install(site, host, None, is_newest=True)

    def wait_ready(self, site: str, host: Host, release: bootstrap.Release, address: str) -> None:
        """Returns once the server answers with the kit's certificate, or the client is registered.

        Raises:
            ServerNotReached: the client runs, but its server does not take it.
            ProviderError: the server does not answer.
        """
        lone = self.lone
        if lone.is_server:
            readiness.wait_server(
                address,
                lone.ports[0],
                name=lone.tls_name,
                roots=lone.roots,
                timeout_s=self.ready_timeout_s,
                cancel=self.cancel,
            )
            return
        try:
            readiness.wait_registered(site, host, release, timeout_s=self.ready_timeout_s, cancel=self.cancel)
        except DeadlineExceeded as error:
            egress.check(host, site, release, place=(lone.server, lone.ports[0]), timeout_s=DIAL_S)
            said = bootstrap.status(host, release) or {}
            detail = said.get("detail") or "nobody answered there as this project's server"
            raise ServerNotReached(
                f"{site} runs, but could not register with its server at {lone.endpoint}",
                why=f"after {self.ready_timeout_s:.0f} s it is {said.get('state', 'stopped')}: {detail}",
                hint=f"does {lone.endpoint} lead to the running server, and is its port open to {address}? "
                "Then apply again",
            ) from error


def requirements_of(lone: LoneKit, *, runtime: str | None) -> tuple[str, ...]:
    """Returns what runs a kit of the reference, and what that kit asks for besides; nothing for one of ours.

    Args:
        lone: the kit.
        runtime: as the deploy file has it.
    """
    if lone.maker is Maker.OURS:
        return ()
    return (runtime or NVFLARE, *wheelhouse.asked_for(lone.folder))


def is_address(host: str) -> bool:
    """Tells whether this is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_led_to(host: str, address: str) -> bool:
    """Tells whether a host name, asked of this machine's resolver, leads to an address."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return False
    return address in {entry[4][0] for entry in found}
