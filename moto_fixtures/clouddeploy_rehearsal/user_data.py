"""The few keys of a cloud-config that the emulated machines honour."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

import yaml


@dataclass(frozen=True)
class UserData:
    """What a machine is born with."""

    user: str
    authorized_keys: tuple[str, ...]
    host_private_key: str = field(repr=False)
    host_public_key: str
    commands: tuple[str, ...] = ()
    """Shell lines run once as root, before sshd answers."""


def parse(text: str) -> UserData:
    """Reads `users`, `ssh_keys` and `runcmd` of a cloud-config document.

    Raises:
        ValueError: it is no cloud-config, or lacks a user or a host key; a real machine could not be reached either.
    """
    if not text.startswith("#cloud-config"):
        raise ValueError("the user data is no cloud-config")
    document = yaml.safe_load(text)
    users = [user for user in document.get("users", []) if isinstance(user, dict)]
    keys = document.get("ssh_keys", {})
    if not users or "ed25519_private" not in keys:
        raise ValueError("the cloud-config names no user or no host key")
    commands = [line if isinstance(line, str) else shlex.join(map(str, line)) for line in document.get("runcmd", [])]
    return UserData(
        user=users[0]["name"],
        authorized_keys=tuple(users[0].get("ssh_authorized_keys", [])),
        host_private_key=keys["ed25519_private"],
        host_public_key=keys["ed25519_public"],
        commands=tuple(commands),
    )
