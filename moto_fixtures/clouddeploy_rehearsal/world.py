"""An emulated world: AWS, Azure and on-premises hosts, all of it in one network namespace."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from clouddeploy_providers.cloud_init import generate_host_key
from clouddeploy_providers.endpoints import AwsEndpoint, AzureEndpoint, Endpoints, SshEndpoint

from clouddeploy_rehearsal.addresses import loopback, public
from clouddeploy_rehearsal.aws import AwsCloud
from clouddeploy_rehearsal.azure.server import AzureCloud
from clouddeploy_rehearsal.faults import Faults
from clouddeploy_rehearsal.fleet import Fleet
from clouddeploy_rehearsal.hosts.namespace import NamespaceHost
from clouddeploy_rehearsal.isolation import is_isolated, isolate
from clouddeploy_rehearsal.user_data import UserData

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from clouddeploy_rehearsal.faults import Watch

__all__ = ["Faults", "World", "isolate", "load_endpoints", "save_endpoints"]

USER = "rehearsal"
NAMED_HOSTS = "192.0.2.{}"
"""On-premises hosts that are given by name get addresses of RFC 5737 TEST-NET-1."""


class World:
    """Emulated clouds and hosts for the time of a `with` block; call `isolate` before.

    Args:
        directory: a folder for its files; made if absent.
        faults: what goes wrong.
        as_root: whether its hosts are network namespaces with a real sshd and firewall, or processes of the caller on
            loopback addresses; None: the former for root.
        fleet: other machines than those.
    """

    def __init__(
        self,
        directory: Path,
        *,
        faults: Faults | None = None,
        as_root: bool | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        faults = faults or Faults()
        self._lag_s = faults.lag_s
        self._directory = directory
        self._fleet = fleet or Fleet(directory, as_root=os.geteuid() == 0 if as_root is None else as_root)
        pool = public if self._fleet.as_root else loopback
        self._loopback = loopback("onprem")
        self.aws = AwsCloud(self._fleet, faults, addresses=pool("aws"))
        self.azure = AzureCloud(self._fleet, faults, addresses=pool("azure"))
        self.endpoints = Endpoints(caller_address=self._fleet.caller)
        self._named = 100

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts both clouds; clears what a killed world has left in the folder.

        Raises:
            RuntimeError: the process is in the machine's own network, where emulated addresses must not appear.
        """
        if self._fleet.as_root and not is_isolated():
            raise RuntimeError("call isolate() first: a world's hosts need a network of their own")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fleet.start()
        self.endpoints = replace(
            self.endpoints,
            aws=replace(self.aws.start(), lag_s=self._lag_s),
            azure=replace(self.azure.start(self._directory), lag_s=self._lag_s),
            ssh_port=self._fleet.ssh_port,
        )

    def close(self) -> None:
        """Ends the clouds and every host."""
        self.azure.close()
        self.aws.close()
        self._fleet.close()

    def add_host(self, address: str, *, name: str) -> SshEndpoint:
        """Starts an on-premises host; returns how to reach it, and adds it to `endpoints`.

        Args:
            address: as the deploy file has it: an address, which the host gets, or a name.
            name: its host name.
        """
        try:
            own = str(ipaddress.ip_address(address))
        except ValueError:
            own, self._named = NAMED_HOSTS.format(self._named), self._named + 1
        if not self._fleet.as_root:
            own = next(self._loopback)
        host_key, user_key = generate_host_key(), generate_host_key()
        identity = self._directory / f"{name}.identity"
        descriptor = os.open(identity, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(user_key.private)
        given = UserData(USER, (user_key.public,), host_key.private, host_key.public)
        self._fleet.boot(f"onprem {name}", name=name, addresses=[own], user_data=given, rules=None)
        there = SshEndpoint(own, self._fleet.ssh_port, USER, host_key.public, str(identity))
        self.endpoints = replace(self.endpoints, hosts={**self.endpoints.hosts, address: there})
        return there

    def watch(self, watch: Watch | None) -> None:
        """Has every call to the clouds watched, in the thread that answers it; its name says which cloud it went to.

        Args:
            watch: takes the place of the one before; None: nobody watches any more.
        """
        for name, counter in (("aws", self.aws.counter), ("azure", self.azure.counter)):
            counter.watch = partial(_named, watch, name) if watch is not None else None

    def reboot(self) -> None:
        """Cuts the power of all running machines, clouds' and on premises, and gives it back; their disks stay."""
        for host in self._fleet.running():
            host.reboot()

    def plug(self, *, is_in: bool) -> int:
        """Pulls the network cables of all running hosts, or puts them in again; the clouds stay reachable.

        Returns:
            How many hosts have a cable: network namespaces do, processes on loopback addresses do not.
        """
        hosts = [host for host in self._fleet.running() if isinstance(host, NamespaceHost)]
        for host in hosts:
            host.plug(is_in=is_in)
        return len(hosts)

    def resources(self) -> list[str]:
        """Returns everything that exists in both clouds now, asked of the clouds and not of any state."""
        return [*self.aws.resources(), *self.azure.resources()]

    def create_count(self, kind: str) -> int:
        """Returns how many machines a cloud has ever created.

        Args:
            kind: `aws` or `azure`.
        """
        return {"aws": self.aws.created, "azure": self.azure.store.created}[kind]

    def machines_created(self) -> int:
        """Returns how many machines were ever created in both clouds."""
        return self.aws.created + self.azure.store.created


def _named(watch: Watch, cloud: str, call: str, is_answered: bool) -> bool:
    return watch(f"{cloud} {call}", is_answered)


def save_endpoints(endpoints: Endpoints, path: Path) -> None:
    """Writes endpoints, credentials included, to a file for its owner only; it appears complete or not at all."""
    aside = path.with_suffix(".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(endpoints), file)
    aside.replace(path)


def load_endpoints(path: Path) -> Endpoints:
    """Returns what `save_endpoints` wrote."""
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Endpoints(
        aws=AwsEndpoint(**raw["aws"]) if raw["aws"] else None,
        azure=AzureEndpoint(**raw["azure"]) if raw["azure"] else None,
        hosts={address: SshEndpoint(**host) for address, host in raw["hosts"].items()},
        ssh_port=raw["ssh_port"],
        caller_address=raw["caller_address"],
    )
