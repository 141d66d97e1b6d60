"""The address from which the clouds see this machine; SSH is opened to it alone."""

from __future__ import annotations

import ipaddress
import urllib.request

from clouddeploy.errors import ConfigError

SOURCES = ("https://checkip.amazonaws.com", "https://api.ipify.org")
"""Two independent answers: one of them alone could open a stranger's door."""
TIMEOUT_S = 5


def detect() -> str:
    """Returns this machine's public address, on which both sources agree.

    Raises:
        ConfigError: they cannot be asked or differ. It never falls back to the whole internet.
    """
    answers = set()
    for source in SOURCES:
        try:
            with urllib.request.urlopen(source, timeout=TIMEOUT_S) as reply:  # noqa: S310 - constant https addresses
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
