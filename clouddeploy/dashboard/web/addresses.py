"""Where a request comes from: the network says it, unless a proxy that is trusted says better."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from clouddeploy.dashboard.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER = b"x-forwarded-for"
_MOST = 20
"""Addresses in a header that are looked at; no way leads over more proxies."""

Network = IPv4Network | IPv6Network


def networks(given: Iterable[str]) -> tuple[Network, ...]:
    """Returns the networks of trusted proxies.

    Raises:
        Invalid: one is none.
    """
    found = []
    for one in given:
        try:
            found.append(ip_network(one))
        except ValueError as error:
            raise Invalid(
                f"{one!r} is no address or network", why=str(error), hint="10.0.0.5 or 10.0.0.0/24"
            ) from error
    return tuple(found)


def origin(peer: str, forwarded: Iterable[bytes], trusted: tuple[Network, ...]) -> str:
    """Returns the address that counts for limits and the audit log.

    Proxies add what they see at the end; what stands before the first address that is no trusted proxy's, whoever sent
    the request made up.

    Args:
        peer: whose connection it is.
        forwarded: the headers `X-Forwarded-For`, in their order.
        trusted: proxies that are believed.
    """
    if not trusted or not is_among(peer, trusted):
        return peer
    found = peer
    for one in reversed(b",".join(forwarded).split(b",")[-_MOST:]):
        given = _address(one.decode("latin-1").strip())
        if given is None:
            return found
        found = str(given)
        if not is_among(found, trusted):
            return found
    return found


def is_among(address: str, networks: tuple[Network, ...]) -> bool:
    """Tells whether an address is in one of some networks."""
    given = _address(address)
    return given is not None and any(given in one for one in networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
