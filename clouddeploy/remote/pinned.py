"""OpenSSH's `KnownHostsCommand`: `python -m clouddeploy.remote.pinned PINS NAME HOST TYPE KEY`.

Prints the key that a host shows, as a line of a known_hosts file, when it is pinned for the machine NAME; else nothing,
and OpenSSH refuses. Pins are fingerprints, so no known_hosts file could be written from them.

Source:
    ssh_config(5), KnownHostsCommand
"""

from __future__ import annotations

import sys
from pathlib import Path

from clouddeploy.errors import HostKeyChanged, HostKeyUnknown
from clouddeploy.remote.known_hosts import HostKeys

NO_KEY = "NONE"
"""What OpenSSH gives while it only orders algorithms."""


def line(pins: Path, name: str, host: str, kind: str, key: str) -> str:
    """Returns the line that makes OpenSSH accept the key, or an empty text."""
    if key == NO_KEY:
        return ""
    try:
        HostKeys(pins).check(name, f"{kind} {key}")
    except (HostKeyUnknown, HostKeyChanged) as error:
        sys.stderr.write(f"{error}\n")
        return ""
    return f"{host} {kind} {key}\n"


def main() -> None:
    """Answers OpenSSH."""
    pins, name, host, kind, key = sys.argv[1:]
    sys.stdout.write(line(Path(pins), name, host, kind, key))


if __name__ == "__main__":
    main()
