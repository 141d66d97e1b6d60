"""What a machine is told at birth, as cloud-config. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clouddeploy_providers.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPIRES_AT = "%Y-%m-%dT%H:%M:%SZ"
"""How `MachineSpec.expires_at` is written."""
EXPIRY = "clouddeploy-expiry"
"""Name of the units that switch a machine off."""


@dataclass(frozen=True)
class HostKey:
    """An ed25519 key pair in OpenSSH's form."""

    private: str = field(repr=False)
    public: str
    """One line without comment: `ssh-ed25519 AAAA…`."""


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml where PyYAML was built with it: the same text in a seventh of the time."""


def generate_host_key() -> HostKey:
    """Returns a new key pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return HostKey(private=private, public=public)


def read_host_key(private: str) -> HostKey:
    """Returns the key pair that a private key belongs to.

    Raises:
        ValueError: it is no OpenSSH private key, or it has a passphrase.
    """
    public = serialization.load_ssh_private_key(private.encode(), password=None).public_key()
    text = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return HostKey(private=private, public=text)


def render(
    *, user: str, public_key: str, host_private_key: str, host_public_key: str, hostname: str, expires_at: str = ""
) -> str:
    """Returns the cloud-config: one administrator with one key, one host key, no password anywhere.

    The host key travels in user data, which the cloud's API shows to whoever may read it. It serves the first contact
    only; the operator replaces it right then.

    Args:
        user: the administrator's account.
        public_key: the operator's, one OpenSSH line.
        host_private_key: the first host key.
        host_public_key: its other half.
        hostname: what the machine calls itself.
        expires_at: when it switches itself off, `2026-11-25T18:00:00Z`; empty: never. It needs no credential of the
            cloud for that. What a machine that is off still costs is the cloud's matter: EC2 can make it a
            termination, Azure goes on charging for it until somebody deallocates or deletes it.

    Raises:
        InvalidRequest: `expires_at` is no such time.

    Source:
        https://docs.cloud-init.io/en/latest/reference/modules.html (users-groups, ssh, write-files, runcmd)
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
        **(_expiry(expires_at) if expires_at else {}),
    }
    return "#cloud-config\n" + yaml.dump(document, Dumper=DUMPER, sort_keys=False)


def _expiry(expires_at: str) -> dict[str, Any]:
    """Returns the units that switch the machine off at that time, and at every later start.

    `Persistent` alone would not do: a timer whose only time lay before the last start of its service never elapses
    again, so a machine that somebody starts after its end would stay on. Hence the second trigger, and the condition
    that makes it harmless until then.

    Source:
        systemd.timer(5) (OnBootSec in the past elapses at once), systemd.service(5) (ExecCondition: 1 to 254 skips)
    """
    try:
        end = datetime.strptime(expires_at, EXPIRES_AT).replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidRequest(
            f"{expires_at!r} is no time to end at", why=str(error), hint="UTC, as in 2026-11-25T18:00:00Z"
        ) from error
    is_over = f"""/bin/sh -c 'test "$$(date +%%s)" -ge {end.timestamp():.0f}'"""  # systemd reads $ and % first
    service = {
        "Unit": {"Description": "Switches this machine off, since its time is over"},
        "Service": {"Type": "oneshot", "ExecCondition": is_over, "ExecStart": "/usr/bin/systemctl poweroff"},
    }
    timer = {
        "Unit": {"Description": f"Switches this machine off at {expires_at}"},
        "Timer": {
            "OnCalendar": f"{end:%Y-%m-%d %H:%M:%S} UTC",
            "OnBootSec": "30s",
            "Persistent": "true",
            "AccuracySec": "1s",
            "Unit": f"{EXPIRY}.service",
        },
        "Install": {"WantedBy": "timers.target"},
    }
    return {
        "write_files": [
            {
                "path": f"/etc/systemd/system/{EXPIRY}.{suffix}",
                "owner": "root:root",
                "permissions": "0644",
                "content": _unit_file(unit),
            }
            for suffix, unit in (("service", service), ("timer", timer))
        ],
        "runcmd": [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", f"{EXPIRY}.timer"]],
    }


def _unit_file(sections: Mapping[str, Mapping[str, str]]) -> str:
    parts = [
        "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in keys.items()), ""])
        for name, keys in sections.items()
    ]
    return "\n".join(parts)
