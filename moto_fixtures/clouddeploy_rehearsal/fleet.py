"""The machines of all emulated clouds: boots, addresses, firewalls, ends them."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from clouddeploy_rehearsal.hosts import namespace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from clouddeploy_rehearsal.hosts.namespace import NamespaceHost
    from clouddeploy_rehearsal.user_data import UserData


class Fleet:
    """Owns every host of a world."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hosts: dict[str, NamespaceHost] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def boot(
        self,
        machine: str,
        *,
        name: str,
        addresses: Sequence[str],
        user_data: UserData,
        rules: Sequence[tuple[int, int, str]] | None,
    ) -> None:
        """Starts a machine under its id; returns once its sshd answers.

        Args:
            machine: the id in its cloud.
            name: its host name.
            addresses: the first is where its own traffic comes from.
            user_data: what it is born with.
            rules: its firewall; None: it has none.
        """
        directory = self._directory / f"host-{next(self._numbers)}"
        host = namespace.boot(
            name, directory=directory, addresses=addresses, user_data=user_data, spawner=self._spawner
        )
        if rules is not None:
            host.set_rules(rules)
        with self._lock:
            self._hosts[machine] = host

    def host(self, machine: str) -> NamespaceHost | None:
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
