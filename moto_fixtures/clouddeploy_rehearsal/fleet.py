"""The machines of all emulated clouds: boots, addresses, firewalls, ends them."""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_rehearsal.hosts import namespace, unprivileged
from clouddeploy_rehearsal.isolation import CALLER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from clouddeploy_rehearsal.hosts.host import RunningHost
    from clouddeploy_rehearsal.user_data import UserData

log = logging.getLogger(__name__)


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
        self._ends: dict[str, threading.Timer] = {}
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
        switched_off: Callable[[], None] | None = None,
    ) -> None:
        """Starts a machine under its id; returns once its SSH answers.

        A machine whose user data say when it switches itself off does so, at once if that time has passed.

        Args:
            machine: the id in its cloud.
            name: its host name.
            addresses: the last is where its own traffic comes from.
            user_data: what it is born with.
            rules: its firewall; None: it has none.
            switched_off: called once after the machine has switched itself off, in a thread of its own, so that its
                cloud can tell; not called for a machine that was killed before.
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
            if user_data.expires_at is not None:
                left_s = max(0.0, (user_data.expires_at - datetime.now(UTC)).total_seconds())
                self._ends[machine] = end = threading.Timer(left_s, self._switch_off, (machine, switched_off))
                end.daemon = True
                end.start()

    def host(self, machine: str) -> RunningHost | None:
        """Returns a running machine."""
        with self._lock:
            return self._hosts.get(machine)

    def running(self) -> list[RunningHost]:
        """Returns every running machine."""
        with self._lock:
            return list(self._hosts.values())

    def reboot(self, machine: str) -> None:
        """Cuts a machine's power and gives it back; returns when its SSH answers again. An absent one is fine."""
        host = self.host(machine)
        if host is not None:
            host.reboot()

    def kill(self, machine: str) -> None:
        """Ends a machine; an absent one is fine."""
        self._end(machine)

    def close(self) -> None:
        """Ends every machine."""
        for machine in list(self._hosts):
            self.kill(machine)
        for end in self._ends.values():
            end.cancel()
            end.join()  # a machine that is just switching itself off needs what is closed below
        self._spawner.shutdown()
        if self._yard is not None:
            self._yard.close()

    def _switch_off(self, machine: str, switched_off: Callable[[], None] | None) -> None:
        log.info("the time of machine %s is over", machine)
        if self._end(machine) and switched_off is not None:
            switched_off()

    def _end(self, machine: str) -> bool:
        """Ends a machine; returns whether it was there."""
        with self._lock:
            host = self._hosts.pop(machine, None)
            end = self._ends.get(machine)
        if end is not None:
            end.cancel()
        if host is not None:
            host.kill()
        return host is not None
