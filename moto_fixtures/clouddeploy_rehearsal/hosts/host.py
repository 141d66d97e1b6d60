"""What a fleet may do with one of its machines, whatever it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class RunningHost(Protocol):
    """One running machine."""

    addresses: list[str]
    """The first is the one its own traffic comes from."""

    def add_address(self, address: str) -> None:
        """Gives the machine one more address, from which its traffic comes from now on."""

    def remove_address(self, address: str) -> None:
        """Takes an address away; an absent one is fine."""

    def set_rules(self, rules: Sequence[tuple[int, int, str]]) -> None:
        """Lets in TCP from (first port, last port, CIDR block) and answers to what went out, nothing else."""

    def reboot(self) -> None:
        """Ends all processes of the machine and boots it again from its disk; returns when its SSH answers."""

    def kill(self) -> None:
        """Ends the machine as if its power were cut; returns when all its processes are gone."""
