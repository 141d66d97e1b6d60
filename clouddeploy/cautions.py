"""What a plan says although it is no reason to stop: open doors, ends of lives, settings that wait. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_providers.resources import Kind

from clouddeploy.config import ANYWHERE, CLUSTERED, SITES
from clouddeploy.ledger import EXPIRY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clouddeploy.config import DeployConfig
    from clouddeploy.state import State

WORLDS = frozenset({"0.0.0.0/0", "::/0"})


def of_openings(config: DeployConfig, *, server: str | None, ssh_sources: Sequence[str]) -> Iterator[str]:
    """Yields what is open to more than may be meant, or to less."""
    if config.service is not None:
        if config.federation_sources == ANYWHERE:
            yield (
                "the service's ports are open to the world, and the service alone decides who may use it. "
                "`federation_sources` with CIDR blocks opens them to those alone"
            )
    elif config.federation_sources == ANYWHERE and server is not None:
        instead = (
            "`federation_sources: sites` opens it to the sites alone"
            if config.kit is None
            else "`federation_sources` with the blocks of the sites opens it to them alone"
        )
        yield (
            "the server's port is open to the world: mutual TLS decides who may speak, but anybody may knock. "
            f"{instead}"
        )
    for site in config.sites if config.federation_sources == SITES else ():
        if site.provider == "onprem" and site.name != server and not site.settings.get("egress"):
            yield (
                f"{site.name}: without `egress` the server's port opens to the address of its machine, which may be "
                "another than the one it is seen from"
            )
    for block in ssh_sources:
        if block in WORLDS:
            yield f"port 22 of the machines is open to the world: {block}"


def of_containers(config: DeployConfig) -> Iterator[str]:
    """Yields what decides which image a site runs in, beside the deploy file."""
    for site in config.sites:
        if site.container is not None and "@sha256:" not in site.container:
            yield (
                f"{site.name}: {site.container} has no digest, so whoever may write to its registry decides what runs "
                "there; `container: …@sha256:…` names one image for good"
            )


def of_clusters(config: DeployConfig, *, server: str | None) -> Iterator[str]:
    """Yields what a cluster does otherwise than a machine."""
    for site in config.sites:
        if site.provider not in CLUSTERED:
            continue
        if config.ttl is not None:
            yield f"{site.name}: a pod does not end by itself after a ttl; `clouddeploy destroy` ends it"
        is_open = config.federation_sources == ANYWHERE and site.settings.get("service") == "LoadBalancer"
        if site.name == server and is_open:
            yield (
                "the server's load balancer is open to the world: mutual TLS decides who may speak, but anybody may "
                "knock. `federation_sources` with the blocks of the sites opens it to them alone"
            )
        if site.name != server and config.federation_sources == SITES and not site.settings.get("egress"):
            yield f"{site.name}: without `egress` the server's port does not open to it: name its cluster's way out"


def of_kit(config: DeployConfig) -> Iterator[str]:
    """Yields what goes out and who comes in because a deploy file says so that may have come with a kit from others."""
    if config.kit is None:
        return
    for site in config.sites:
        if site.data is not None:
            yield f"{site.name}: everything in {site.data} is copied to its machine"
        if site.container is not None:
            yield f"{site.name}: it runs in the image {site.container}, which has its private key, and sees its data"
    if config.ssh_sources:
        yield f"SSH is open to what the deploy file names, not to your address: {', '.join(config.ssh_sources)}"


def of_lifetime(config: DeployConfig, recorded: State) -> Iterator[str]:
    """Yields the machines whose end is another than the deploy file says; a timer is set at birth only."""
    for node, record in recorded.resources.items():
        if record.ref.kind is not Kind.MACHINE or record.ref.is_adopted or "size" not in record.ref.outputs:
            continue
        expiry = record.fingerprint.get(EXPIRY, "")
        if config.ttl is not None and not expiry:
            yield f"{node} was made without a ttl and will not switch itself off; replace it to change that"
        if config.ttl is None and expiry:
            yield f"{node} was made with a ttl and switches itself off at {expiry}"


def of_settings(config: DeployConfig, recorded: State) -> Iterator[str]:
    """Yields the settings that were changed and are part of no place: they take effect at birth only."""
    for site in config.sites:
        mine = [record for record in recorded.resources.values() if record.site == site.name]
        changed = {
            key
            for record in mine
            if not record.ref.is_adopted and record.provider == site.provider and site.provider not in CLUSTERED
            for key in {*record.settings, *site.settings}
            if record.settings.get(key) != site.settings.get(key)
        }
        if changed:
            yield f"{site.name}: another {', '.join(sorted(changed))} takes effect when its resources are made anew"
