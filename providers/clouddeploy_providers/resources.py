"""What crosses the provider boundary: immutable values, no SDK types."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(StrEnum):
    """The kinds of thing a deployment owns, in the order in which they can be created."""

    GROUP = "group"
    """A container of other resources; only some clouds have one (an Azure resource group)."""
    ADDRESS = "address"
    """A static public address."""
    NETWORK = "network"
    FIREWALL = "firewall"
    MACHINE = "machine"
    """A machine with its disk and network interface; they live and die together."""


@dataclass(frozen=True)
class Owner:
    """Who a resource belongs to; written as tags at birth and searched for later."""

    deployment: str
    """Eight hexadecimal digits, unique per deployment."""
    project: str
    site: str


@dataclass(frozen=True)
class FirewallRule:
    """Lets TCP traffic to one port in. Everything else stays out."""

    port: int
    sources: tuple[str, ...]
    """CIDR blocks, at least one."""
    purpose: str
    """Short name, unique in its firewall: `ssh`, `federation`."""


@dataclass(frozen=True)
class MachineSpec:
    """The machine wanted."""

    size: str | None
    """The cloud's name of the size; None: the provider's default for a small site."""
    image: str | None
    """A pinned image id as `resolve_image` returned it; None: the provider's default image, resolved at creation."""
    disk_gib: int
    user: str
    """The administrator's account; key-only."""
    public_key: str
    """The operator's public key, one OpenSSH line."""
    user_data: str = field(repr=False)
    """A cloud-config document (cloud_init.render). Holds the bootstrap host key, so it is never logged."""


@dataclass(frozen=True)
class Resource:
    """One thing wanted in a cloud."""

    kind: Kind
    name: str
    """Deterministic (naming.resource_name); the same intent always has the same name."""
    owner: Owner
    rules: tuple[FirewallRule, ...] = ()
    """For a firewall."""
    machine: MachineSpec | None = None
    """For a machine."""
    needs: tuple[ResourceRef, ...] = ()
    """References to what was made before and this depends on: group, address, network, firewall."""
    token: str = ""
    """Idempotency token (deployment, name and attempt number); the same token never makes two."""

    def needed(self, kind: Kind) -> ResourceRef | None:
        """Returns the reference of the given kind among `needs`."""
        return next((ref for ref in self.needs if ref.kind is kind), None)


@dataclass(frozen=True)
class ResourceRef:
    """How a provider finds a thing again. Holds no secret; it is stored in the state file."""

    kind: Kind
    name: str
    id: str
    """The cloud's own identifier (`i-…`, `eipalloc-…`, an ARM id)."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Facts worth keeping. ADDRESS: `address`. MACHINE: `address` (the one to reach it at), `private_address`,
    `ssh_port`, `user`, `image`, `size`, `zone`."""


@dataclass(frozen=True)
class Check:
    """One finding of a provider's preflight."""

    name: str
    ok: bool
    problem: str = ""
    hint: str = ""
