"""What a machine is told at birth, as cloud-config. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class HostKey:
    """An ed25519 key pair in OpenSSH's form."""

    private: str = field(repr=False)
    public: str
    """One line without comment: `ssh-ed25519 AAAA…`."""


def generate_host_key() -> HostKey:
    """Returns a new key pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return HostKey(private=private, public=public)


def render(*, user: str, public_key: str, host_private_key: str, host_public_key: str, hostname: str) -> str:
    """Returns the cloud-config: one administrator with one key, one host key, no password anywhere.

    The host key travels in user data, which the cloud's API shows to whoever may read it. It serves the first contact
    only; the operator replaces it right then.

    Source:
        https://docs.cloud-init.io/en/latest/reference/modules.html (users-groups, ssh)
    """
    document = {
        "hostname": hostname,
        "preserve_hostname": False,
        "users": [
            {
                "name": user,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "lock_passwd": True,
                "ssh_authorized_keys": [public_key],
            }
        ],
        "ssh_deletekeys": True,
        "ssh_genkeytypes": ["ed25519"],
        "ssh_keys": {"ed25519_private": host_private_key, "ed25519_public": host_public_key},
        "disable_root": True,
        "ssh_pwauth": False,
        "package_update": False,
    }
    return "#cloud-config\n" + yaml.safe_dump(document, sort_keys=False)
