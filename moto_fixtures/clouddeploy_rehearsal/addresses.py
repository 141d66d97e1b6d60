"""Public addresses that the emulated clouds give out; none is given out twice in a world."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC = {"aws": ("198.51.100.0/24", "198.18.0.0/16"), "azure": ("203.0.113.0/24", "198.19.0.0/16")}
"""Addresses that no real machine has: RFC 5737's for documentation and, when those are used up, RFC 2544's."""
LOOPBACK = {"aws": ("127.77.0.0/17",), "azure": ("127.77.128.0/18",), "onprem": ("127.77.192.0/18",)}
FIRST = 10
"""The first host number; lower ones are left to gateways and the like."""


def public(cloud: str) -> Iterator[str]:
    """Returns the addresses of a cloud whose hosts have a network of their own."""
    return _addresses(PUBLIC[cloud])


def loopback(cloud: str) -> Iterator[str]:
    """Returns the addresses of a cloud whose hosts are processes of this machine."""
    return _addresses(LOOPBACK[cloud])


def _addresses(blocks: tuple[str, ...]) -> Iterator[str]:
    hosts = itertools.chain.from_iterable(IPv4Network(block).hosts() for block in blocks)
    return map(str, itertools.islice(hosts, FIRST - 1, None))
