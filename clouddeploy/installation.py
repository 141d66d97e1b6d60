"""A project's sites on their machines: sign, install, start, wait."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Need
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_provision.provisioner import Endpoint, Options, preview, provision

from clouddeploy import enrolment, readiness, wheelhouse
from clouddeploy.enrolment import Enroller
from clouddeploy.errors import ConfigError
from clouddeploy.facts import Facts
from clouddeploy.machine_work import INSTALL_TIMEOUT_S, READY_TIMEOUT_S, MachineWork
from clouddeploy.plan import Signature
from clouddeploy.remote import bootstrap, egress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_provision.project import Project

    from clouddeploy.remote.host import Host
    from clouddeploy.secrets import Secret
    from clouddeploy.site_work import Address, Install, Kits


@dataclass(frozen=True)
class Installation(MachineWork):
    """What a deployment of a project does on its machines: its kits are signed here.

    Attributes:
        project: the project file.
        workspace: kits and the certificate authority.
    """

    project: Project
    workspace: Path

    @cached_property
    def facts(self) -> Facts:
        """What the project file says."""
        servers, clients = self.project.servers, self.project.clients
        return Facts(
            project=self.project.name,
            server=servers[0].name,
            clients=tuple(one.name for one in clients),
            ports=(self.project.port,),
            capacities={
                one.name: Need(gpus=one.gpus, gpu_memory_gib=one.gib_per_gpu)
                for one in (*servers, *clients)
                if one.gpus
            },
        )

    def signatures(self) -> tuple[Signature, ...]:
        """Returns what provisioning will do to each participant's certificate; changes nothing.

        Raises:
            ClouddeployError: kits cannot be made as the deploy file says.
        """
        on_site = self.config.on_site
        central = [site.name for site in self.config.sites if site.name not in on_site]
        enrolment.check(self.project, self.workspace, on_site=sorted(on_site), central=central)
        changes = preview(self.project, self.workspace, options=Options(enrolled=on_site))
        made = [Signature(one.name, one.outcome, one.reason) for one in changes if one.name not in on_site]
        for site in sorted(on_site):
            reason = enrolment.due(self.project, self.workspace, site)
            made.append(Signature(site, "reissued" if reason else "kept", reason))
        return tuple(made)

    def kits_and_install(self, passphrase: Secret | None) -> tuple[Kits, Install]:
        """Returns what signs kits, with the passphrase of the certificate authority, and what installs them."""
        if passphrase is None:
            raise ConfigError(
                "kits cannot be signed",
                why="the passphrase of the certificate authority was not given",
                hint="name a file with --passphrase-file",
            )
        signing = _Signing(self, passphrase)
        return signing.kits, signing.install

    def kit(self, participant: str) -> Path:
        """Returns the newest startup kit of a participant.

        Raises:
            ClouddeployError: nothing was provisioned yet.
        """
        return readiness.newest_kit(self.workspace / self.project.name, participant)

    def renew(self, site: str, host: Host, digest: str) -> bootstrap.Release:
        """Installs the newest kit of the workspace, or leaves the kit whose key was made there."""
        if site not in self.config.on_site:
            return self.install_kit(site, host, self.kit(site), is_newest=True)
        prepared = bootstrap.prepare(
            host,
            project=self.project.name,
            site=site,
            data=self.config.site(site).data,
            wheelhouse_for=self.image(site, is_newest=True) or self.wheels(),
            timeout_s=INSTALL_TIMEOUT_S,
        )
        return bootstrap.activate(host, prepared, digest, timeout_s=INSTALL_TIMEOUT_S)

    def install_kit(self, site: str, host: Host, kit: Path, *, is_newest: bool = False) -> bootstrap.Release:
        """Installs a site with its kit, and what the kit asks for beside the runtime.

        Args:
            site: the site.
            host: its machine.
            kit: its startup kit.
            is_newest: whether the name of its container image is looked up anew.
        """
        asked = wheelhouse.asked_for(kit)
        image = self.image(site, asked=asked, is_newest=is_newest)
        return self.put(site, host, kit, image or self.wheels(extra=asked))

    def start(self, site: str, host: Host, release: bootstrap.Release) -> None:
        """Starts a site, unless it runs; a client only once its machine has a way out to the server, which answers."""
        if site != self.facts.server:
            egress.check(host, site, release)
        super().start(site, host, release)

    def wait_ready(self, site: str, host: Host, release: bootstrap.Release, address: str) -> None:
        """Returns once the server answers with our certificate, or the client is registered."""
        if site == self.facts.server:
            readiness.wait_server(
                address,
                self.project.port,
                name=site,
                roots=CaStore(self.workspace / self.project.name / "state").bundle(),
                timeout_s=READY_TIMEOUT_S,
                cancel=self.cancel,
            )
        else:
            readiness.wait_registered(site, host, release, timeout_s=READY_TIMEOUT_S, cancel=self.cancel)


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
        if kit is not None:
            return there.install_kit(site, host, kit)
        assert self._enroller is not None  # noqa: S101 - kits are signed before anything is installed
        return self._enroller.install(
            site,
            host,
            data=there.config.site(site).data,
            wheelhouse_for=there.image(site) or there.wheels(),
            timeout_s=INSTALL_TIMEOUT_S,
        ).release
