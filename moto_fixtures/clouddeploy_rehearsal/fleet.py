"""The machines of all emulated clouds: boots, addresses, firewalls, ends them."""

from __future__ import annotations

import itertools
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from clouddeploy_rehearsal.hosts import namespace, unprivileged
from clouddeploy_rehearsal.isolation import CALLER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from clouddeploy_rehearsal.hosts.host import RunningHost
    from clouddeploy_rehearsal.user_data import UserData


class Fleet:
    """Owns every host of a world.

    Args:
        directory: for what the hosts have.
        as_root: hosts are network namespaces; else processes on loopback addresses.
    """

    def __init__(self, directory: Path, *, as_root: bool) -> None:
        self.as_root = as_root
        self._directory = directory
        self._hosts: dict[str, RunningHost] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
        self._yard: unprivileged.Yard | None = None

    @property
    def caller(self) -> str:
        """The address from which this process reaches the hosts."""
        return CALLER if self.as_root else "127.0.0.1"

    @property
    def ssh_port(self) -> int:
        """The port at which every host's SSH answers."""
        return 22 if self._yard is None else self._yard.port

    def start(self) -> None:
        """Clears what a killed world has left in the folder; its hosts have died with it."""
        for old in self._directory.glob("host-*"):
            shutil.rmtree(old)
        if not self.as_root:
            self._yard = unprivileged.Yard(self._directory)

    def boot(
        self,
        machine: str,
        *,
        name: str,
        addresses: Sequence[str],
        user_data: UserData,
        rules: Sequence[tuple[int, int, str]] | None,
    ) -> None:
        """Starts a machine under its id; returns once its SSH answers.

        Args:
            machine: the id in its cloud.
            name: its host name.
            addresses: the last is where its own traffic comes from.
            user_data: what it is born with.
            rules: its firewall; None: it has none.
        """
        directory = self._directory / f"host-{next(self._numbers)}"
        host: RunningHost
        if self._yard is None:
            host = namespace.boot(
                name, directory=directory, addresses=addresses, user_data=user_data, spawner=self._spawner
            )
        else:
            host = unprivileged.boot(
                name, directory=directory, addresses=addresses, user_data=user_data, yard=self._yard
            )
        if rules is not None:
            host.set_rules(rules)
        with self._lock:
            self._hosts[machine] = host

    def host(self, machine: str) -> RunningHost | None:
        """Returns a running machine."""
        with self._lock:
            return self._hosts.get(machine)

    def kill(self, machine: str) -> None:
        """Ends a machine; an absent one is fine."""
        with self._lock:
            host = self._hosts.pop(machine, None)
        if host is not None:
            host.kill()

    def close(self) -> None:
        """Ends every machine."""
        for machine in list(self._hosts):
            self.kill(machine)
        self._spawner.shutdown()
        if self._yard is not None:
            self._yard.close()
