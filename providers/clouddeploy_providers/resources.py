"""What crosses the provider boundary: immutable values, no SDK types."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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


def rules_text(rules: Sequence[FirewallRule]) -> str:
    """Returns rules as one comparable text; who reads a firewall and who wants one write the same."""
    return "; ".join(
        f"{port} from {', '.join(sorted(sources))}"
        for port, sources in sorted((rule.port, set(rule.sources)) for rule in rules)
    )


@dataclass(frozen=True)
class Need:
    """What a site asks of its machine when it names no size. Zero means: whatever there is."""

    gpus: int = 0
    gpu_memory_gib: float = 0
    """Of each GPU."""
    vcpus: int = 0
    memory_gib: float = 0


@dataclass(frozen=True)
class Price:
    """A list price without egress, taxes and discounts."""

    usd_per_hour: float
    source: str
    """Where it comes from: `AWS price list`, `Azure retail prices`, `snapshot`."""
    as_of: str
    """The day it was valid, ISO 8601."""


@dataclass(frozen=True)
class Offer:
    """A machine size that a provider sells in its place now."""

    size: str
    vcpus: int
    memory_gib: float
    gpus: int = 0
    gpu_memory_gib: float = 0
    """Of each GPU."""
    gpu_name: str = ""
    architecture: str = "x86_64"
    """`x86_64` or `arm64`."""
    zones: tuple[str, ...] = ()
    """Where it is sold; empty when the place has no zones."""
    price: Price | None = None
    """None: unknown."""

    def satisfies(self, need: Need) -> bool:
        """Tells whether the size is large enough."""
        return (
            self.gpus >= need.gpus
            and (not need.gpus or self.gpu_memory_gib >= need.gpu_memory_gib)
            and self.vcpus >= need.vcpus
            and self.memory_gib >= need.memory_gib
        )


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
    zones: tuple[str, ...] = ()
    """The zones to try in this order; empty: all that offer the size."""
    expires_at: str = ""
    """When the machine switches itself off (cloud_init), `2026-11-25T18:00:00Z`; a tag here, and on AWS it makes the
    switch a termination. Empty: never."""


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
    """Facts worth keeping. ADDRESS: `address`, and `dns_name` where it has one. FIREWALL: `rules` (rules_text).
    MACHINE: `address` (the one to reach it at), `private_address`, `ssh_port`, `user`, `image`, `size`, `zone`,
    `power` (`running` or `stopped`); an adopted one also `identity_file` and `host_key`."""
    is_adopted: bool = False
    """It was there before us: used, never changed, never deleted."""


@dataclass(frozen=True)
class Found:
    """A resource in an account that carries our tags, whoever made it."""

    ref: ResourceRef
    owner: Owner


@dataclass(frozen=True)
class Demand:
    """Everything that a deployment is about to ask of one place, for its preflight."""

    machines: tuple[MachineSpec, ...]
    """Those that do not exist yet."""
    addresses: int = 0
    """Static public addresses that do not exist yet."""
    charged: tuple[MachineSpec, ...] = ()
    """Those of all places with this one's `quota_scope`, this one included; empty: another place's demand has them."""
    charged_addresses: int = 0
    deployment: str = ""
    """Whose demand it is; what belongs to others is left alone even in trials."""
    names: frozenset[str] = frozenset()
    """Names of everything demanded. What exists under such a name with the deployment's tag was made by a run that was
    killed, or is about to be replaced, so it counts as demanded and not as used."""


@dataclass(frozen=True)
class Check:
    """One finding of a provider's preflight."""

    name: str
    """What was looked at: `permissions`, `quota`, `size`, `image`, `network`, `registration`, `label`, `machine`."""
    ok: bool
    problem: str = ""
    hint: str = ""
    """What to do; names the missing permission or the link to the quota."""
    is_warning: bool = False
    """With `ok` False: worth saying, but no reason to stop."""
