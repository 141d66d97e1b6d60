"""How much memory this process may use: the machine's, or what a control group leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def limit_bytes(own: Path = _OWN, groups: Path = _CGROUPS) -> int:
    """Return the smallest limit that counts for this process; its groups' parents have limits too.

    Source:
        cgroups(7); memory.max of version 2, memory.limit_in_bytes of version 1.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.strip("/")
        for folder in (group, *(one for one in group.parents if one.is_relative_to(root))):
            found += _number(folder / name)
    return min(found)


def _number(path: Path) -> list[int]:
    try:
        return [int(path.read_text(encoding="ascii"))]
    except (OSError, ValueError):  # none, or `max`
        return []
