"""Where the clouds answer. The default is the real clouds and the user's own credentials; a rehearsal replaces both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class AwsEndpoint:
    """An EC2, SSM and STS endpoint with its own credentials."""

    url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    lag_s: float = 0.0
    """How long the emulator hides what is new."""


@dataclass(frozen=True)
class AzureEndpoint:
    """A Resource Manager and Entra ID endpoint with its own credentials and certificate authority."""

    url: str
    """Both the Resource Manager and the authority answer here, e.g. `https://localhost:8443`."""
    ca_file: str
    tenant_id: str
    client_id: str
    client_secret: str = field(repr=False)
    subscription_id: str
    polling_interval_s: float = 0.2
    lag_s: float = 0.0
    """How long the emulator hides what is new."""


@dataclass(frozen=True)
class SshEndpoint:
    """Stands in for one on-premises host of `deploy.yml`."""

    address: str
    port: int
    user: str
    host_key: str
    """Public host key, one OpenSSH line without comment: `ssh-ed25519 AAAA…`."""
    identity_file: str


@dataclass(frozen=True)
class Endpoints:
    """What a rehearsal changes, and all that it changes."""

    aws: AwsEndpoint | None = None
    azure: AzureEndpoint | None = None
    hosts: Mapping[str, SshEndpoint] = field(default_factory=dict)
    """On-premises hosts by their address in `deploy.yml`."""
    ssh_port: int = 22
    """The SSH port of machines in the clouds; not 22 only for a rehearsal without root."""
    caller_address: str | None = None
    """The address from which this machine reaches the clouds; None: detect it."""


REAL = Endpoints()
