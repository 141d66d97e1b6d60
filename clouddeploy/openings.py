"""Who may reach which port: SSH from the operator, the server's port from the sites or from anywhere."""

from __future__ import annotations

import ipaddress
import threading
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import FirewallRule, Kind

from clouddeploy.config import ANYWHERE, SITES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from clouddeploy.state import Record

WORLD = "0.0.0.0/0"
PURPOSES = ("federation", "admin")
"""Of a server's ports, in their order; a service may have more, which have numbers."""


def firewall_rules(
    *, ssh_port: int, ssh_sources: Sequence[str], federation_ports: Sequence[int], federation_sources: Sequence[str]
) -> tuple[FirewallRule, ...]:
    """Returns one site's rules: SSH from the operator, and at the server the federation's port.

    A server of the reference may have another port for admins; both are for the same sources.

    A client lets nobody in but the operator. A server whose sites are not known yet lets only the operator in.
    """
    ssh = FirewallRule(port=ssh_port, sources=collapsed(ssh_sources), purpose="ssh")
    if not federation_sources:
        return (ssh,)
    return (ssh, *_of_server((port, tuple(federation_sources)) for port in federation_ports))


def _of_server(openings: Iterable[tuple[int, tuple[str, ...]]]) -> Iterator[FirewallRule]:
    """Yields rules whose purposes differ, since Azure names its rules by them."""
    for number, (port, sources) in enumerate(openings):
        purpose = PURPOSES[number] if number < len(PURPOSES) else f"port-{number + 1}"
        yield FirewallRule(port=port, sources=sources, purpose=purpose)


def addresses_of(records: Iterable[Record], *, sites: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """Returns, by site, the blocks from which its machine dials out, as far as they are known.

    Args:
        records: everything recorded.
        sites: those that count: the address of a site that leaves may be a stranger's tomorrow.
    """
    return {
        record.site: blocks
        for record in records
        if record.ref.kind is Kind.MACHINE and record.site in sites and (blocks := blocks_of(record))
    }


def blocks_of(record: Record) -> tuple[str, ...]:
    """Returns the blocks from which a machine dials out: what the deploy file says (`egress`), else its address."""
    given = record.ref.outputs.get("egress", "")
    if given:
        return tuple(block.strip() for block in given.split(","))
    try:
        address = ipaddress.ip_address(record.ref.outputs.get("address", ""))
    except ValueError:
        return ()
    return (str(ipaddress.ip_network(address)),)


def federation_sources(
    wanted: str | tuple[str, ...], *, sites: Mapping[str, tuple[str, ...]], caller: Sequence[str]
) -> tuple[str, ...]:
    """Returns who may reach the server's port.

    Args:
        wanted: as the deploy file says.
        sites: by site, the blocks it dials out from; one entry each, so that a new site never displaces another.
        caller: the operator, who submits jobs.
    """
    if wanted == ANYWHERE:
        return (WORLD,)
    if wanted == SITES:
        return collapsed([*caller, *(block for blocks in sites.values() for block in blocks)])
    return collapsed(wanted)


def collapsed(blocks: Iterable[str]) -> tuple[str, ...]:
    """Returns the same addresses without blocks that lie in others, which Azure refuses; what is no block stays."""
    networks: dict[str, IPv4Network | IPv6Network] = {}
    others = set()
    for block in blocks:
        try:
            networks[block] = ipaddress.ip_network(block)
        except ValueError:
            others.add(block)  # the placeholder of a plan that asked nobody
    largest = {block for block, one in networks.items() if not any(_is_within(one, it) for it in networks.values())}
    return tuple(sorted(largest | others))


def _is_within(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one != other and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one != other and one.subnet_of(other)


def with_ssh(text: str, *, ssh_port: int, ssh_sources: Sequence[str]) -> tuple[FirewallRule, ...]:
    """Returns recorded rules (rules_text) with another opening for SSH and nothing else changed."""
    parts = (part.partition(" from ") for part in filter(None, text.split("; ")))
    others = [(int(port), tuple(sources.split(", "))) for port, _, sources in parts if int(port) != ssh_port]
    return (FirewallRule(ssh_port, collapsed(ssh_sources), "ssh"), *_of_server(others))


class Openings:
    """Opens the server's port to one site after another; sites come up in any order, each in its own thread.

    Args:
        known: by site, blocks that are open already.
        apply: makes the server's firewall equal to these blocks; called by one thread at a time.
    """

    def __init__(
        self, known: Mapping[str, tuple[str, ...]], apply: Callable[[Mapping[str, tuple[str, ...]]], None]
    ) -> None:
        self._known = dict(known)
        self._apply = apply
        self._lock = threading.Lock()

    def open(self, site: str, blocks: tuple[str, ...]) -> None:
        """Opens the port to a site; returns once its cloud says so.

        Raises:
            ProviderError: the cloud refused.
        """
        with self._lock:
            if self._known.get(site) == blocks:
                return
            after = {**self._known, site: blocks}
            self._apply(after)
            self._known = after
