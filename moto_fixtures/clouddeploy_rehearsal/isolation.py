"""A network of its own for this process: any address can be emulated in it, and nothing leaves it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

CLONE_NEWNET = 0x40000000
BRIDGE = "tb0"
BRIDGE_MAC = "02:00:c0:00:02:01"
"""Fixed: a bridge otherwise takes the lowest address of its ports, and hosts lose it whenever one comes or goes."""
CALLER = "192.0.2.1"
"""The address from which this process reaches the emulated world (RFC 5737 TEST-NET-1)."""


def is_isolated() -> bool:
    """Whether this process lives in a network made by `isolate`."""
    return (
        Path(f"/sys/class/net/{BRIDGE}").exists()
        or subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True, check=False).returncode == 0
    )


def isolate() -> None:
    """Enters a new network namespace with loopback and an empty bridge alone; does nothing when in one already.

    Call it in the main thread before others start: a namespace belongs to a thread, and new threads inherit it.
    Children inherit it too, and it vanishes with the last of them.

    Raises:
        OSError: this process may not.
    """
    if os.geteuid() != 0 or is_isolated():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    prepare()


def prepare() -> None:
    """Sets up loopback and the bridge in the network namespace this process is in."""
    for words in (
        ["link", "set", "lo", "up"],
        ["link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge"],
        ["addr", "add", f"{CALLER}/32", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
        # Every address is on this link or nowhere: what no host owns is unreachable at once.
        ["route", "add", "default", "dev", BRIDGE, "src", CALLER],
    ):
        subprocess.run(["ip", *words], check=True, capture_output=True)
