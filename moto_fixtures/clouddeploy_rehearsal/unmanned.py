"""A fleet whose machines are nothing: for what is asked of the clouds and not of the machines."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from clouddeploy_rehearsal.fleet import Fleet
from clouddeploy_rehearsal.isolation import CALLER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from clouddeploy_rehearsal.hosts.host import RunningHost
    from clouddeploy_rehearsal.user_data import UserData


class UnmannedFleet(Fleet):
    """Takes its time to boot a machine, and then there is none.

    Args:
        directory: not used.
        boot_s: how long a machine takes to boot.
    """

    def __init__(self, directory: Path, *, boot_s: float = 0.0) -> None:
        super().__init__(directory, as_root=False)
        self._boot_s = boot_s
        self._closed = threading.Event()

    @property
    def caller(self) -> str:
        """An address that is nobody's."""
        return CALLER

    @property
    def ssh_port(self) -> int:
        """The usual port, at which nobody answers."""
        return 22

    def start(self) -> None:
        """Does nothing."""

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
        """Returns after the time that a boot takes."""
        del machine, name, addresses, user_data, rules, switched_off
        self._closed.wait(self._boot_s)

    def host(self, machine: str) -> RunningHost | None:
        """There is none."""
        del machine
        return None

    def kill(self, machine: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Ends the boots that are under way."""
        self._closed.set()
        super().close()
