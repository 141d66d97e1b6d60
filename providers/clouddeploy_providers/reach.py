"""How a machine is reached and recognised that was not made here: its deploy file has to say it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_providers.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

REACHED = ("user", "identity_file", "host_key")
"""Settings without which such a machine could not be reached or recognised; they mean the same at every provider."""
JUMP = ("jump", "jump_host_key", "jump_identity_file")
"""Settings of a machine that is reached from another one: `user@bastion:22`, its host key, and the key for it."""
HOST_KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}|(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+={0,2}( .*)?")
"""A fingerprint as ssh-keygen prints it, or a public key line."""
HOST_KEY_HINT = "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the machine prints `SHA256:…`"
PORTS = range(1, 65536)
_JUMP = re.compile(
    r"(?P<user>[A-Za-z0-9_][^@\s\"'%,\x00-\x1f\x7f]*)@"
    r"(\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<address>[A-Za-z0-9_][A-Za-z0-9._-]*))(:(?P<port>\d{1,5}))?"
)
"""No word begins with a hyphen, which OpenSSH would take for an option."""
_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:][0-9A-Fa-f:.]*")
"""A host name or an IP address, as it may stand in an ssh_config."""
_USER = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9._-]*\\)?[A-Za-z0-9_][A-Za-z0-9._-]*\$?(@[A-Za-z0-9][A-Za-z0-9.-]*)?", re.ASCII
)
"""An account as POSIX or a domain writes it: `fl`, `first.last`, `DOMAIN\\user`, `user@example.com`."""


@dataclass(frozen=True)
class Jump:
    """Where and as whom to log in to a jump host."""

    user: str
    address: str
    port: int

    @property
    def place(self) -> str:
        """Address and port as one word."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def parse_jump(text: str) -> Jump:
    """Returns what `user@bastion:22` says; without a port it is 22.

    Raises:
        InvalidRequest: it says something else.
    """
    found = _JUMP.fullmatch(text)
    port = int(found["port"] or 22) if found else 0
    if found is None or port not in PORTS:
        raise InvalidRequest(
            f"the jump host {text!r} is not written as it must be",
            why="account, address and port are needed to log in there",
            hint="jump: user@bastion.example.com:22",
        )
    return Jump(found["user"], found["six"] or found["address"], port)


def check_login(settings: Mapping[str, str], place: str) -> None:
    """Refuses an account or an address that could say more than that in OpenSSH's configuration.

    Args:
        settings: the site's; an `address` is looked at where there is one.
        place: the machine, for messages.

    Raises:
        InvalidRequest: one of them has a character that no such name has.
    """
    if not _USER.fullmatch(settings["user"]):
        raise InvalidRequest(
            f"the user of {place} is {settings['user']!r}",
            why="an account is letters, digits and . _ -, with DOMAIN\\ before it or @domain after it",
            hint="user: clouddeploy",
        )
    if not _ADDRESS.fullmatch(settings.get("address", "localhost")):
        raise InvalidRequest(
            f"the address of {place} is {settings['address']!r}",
            why="it is neither a host name nor an IP address",
            hint="address: 192.0.2.20",
        )


def jump_outputs(settings: Mapping[str, str], place: str) -> dict[str, str]:
    """Returns how the jump host of a machine is reached; nothing where it has none.

    Args:
        settings: the site's; `jump_identity_file` is `identity_file` unless it says otherwise.
        place: the machine, for messages.

    Raises:
        InvalidRequest: something is missing or wrong, or nothing says what the other settings are for.
    """
    given = {key: settings[key] for key in JUMP if settings.get(key)}
    if not given:
        return {}
    if "jump" not in given:
        raise InvalidRequest(
            f"{place} has {', '.join(sorted(given))} but no jump",
            why="nothing says which jump host they are of",
            hint="add jump: user@bastion.example.com:22, or remove them",
        )
    parse_jump(given["jump"])
    if not HOST_KEY.fullmatch(given.get("jump_host_key", "")):
        raise InvalidRequest(
            f"the jump_host_key of {place} is neither a SHA256 fingerprint nor a public key",
            why="without it nobody could tell whether the jump host is who it says",
            hint=HOST_KEY_HINT.replace("the machine", "the jump host"),
        )
    return {"jump_identity_file": settings["identity_file"], **given}


def inside(outputs: Mapping[str, str], access: Mapping[str, str]) -> dict[str, str]:
    """Returns a machine's outputs with the address at which its jump host, which is inside, reaches it.

    Args:
        outputs: as its cloud has them.
        access: how it is reached, with a `jump` or without.
    """
    return {**outputs, **({"address": outputs["private_address"]} if "jump" in access else {})}
