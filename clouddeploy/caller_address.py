"""The address from which the clouds see this machine; SSH is opened to it alone."""

from __future__ import annotations

import ipaddress
import urllib.request
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES = ("https://checkip.amazonaws.com", "https://api.ipify.org")
"""Two independent answers: one of them alone could open a stranger's door."""
TIMEOUT_S = 5


def detect(sources: Sequence[str] = SOURCES) -> str:
    """Returns this machine's public address, on which all sources agree.

    Args:
        sources: addresses that answer with the one they were asked from.

    Raises:
        ConfigError: they cannot be asked or differ. It never falls back to the whole internet.
    """
    answers = set()
    for source in sources:
        try:
            with urllib.request.urlopen(source, timeout=TIMEOUT_S) as reply:  # noqa: S310 - the caller's, https by default
                answers.add(str(ipaddress.ip_address(reply.read(64).decode().strip())))
        except (OSError, ValueError) as error:
            raise ConfigError(
                "cannot find out this machine's public address",
                why=f"{source}: {error}",
                hint="name it in the deploy file: ssh_sources: [203.0.113.7/32]",
            ) from error
    if len(answers) != 1:
        raise ConfigError(
            "this machine's public address is not certain",
            why=f"{' and '.join(sorted(answers))} were seen; a proxy or VPN may be in the way",
            hint="name the right one in the deploy file: ssh_sources: [203.0.113.7/32]",
        )
    return answers.pop()
