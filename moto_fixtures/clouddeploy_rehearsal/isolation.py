"""A network of its own for this process: any address can be emulated in it, and nothing leaves it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
BRIDGE = "tb0"
BRIDGE_MAC = "02:00:c0:00:02:01"
"""Fixed: a bridge otherwise takes the lowest address of its ports, and hosts lose it whenever one comes or goes."""
CALLER = "192.0.2.1"
"""The address from which this process reaches the emulated world (RFC 5737 TEST-NET-1)."""
OWN = Path("/proc/thread-self/ns/net")
"""The calling thread's network, which in a thread other than the main one may differ from `/proc/self`'s."""


def is_isolated() -> bool:
    """Whether this process lives in a network made by `isolate`."""
    # Not /sys/class/net: sysfs goes on showing the network in which it was mounted.
    return subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True, check=False).returncode == 0


def isolate() -> None:
    """Enters a new network namespace with loopback and an empty bridge alone; does nothing when in one already.

    Call it in the main thread before others start: a namespace belongs to a thread, and new threads inherit it.
    Children inherit it too, and it vanishes with the last of them. A namespace that somebody made for this process and
    left empty (`unshare --net`) is used as it is. The machine's own network is never touched.

    Raises:
        OSError: this process may not.
    """
    if os.geteuid() != 0 or is_isolated():
        return
    if not _is_fresh():
        _call("unshare", CLONE_NEWNET)
    _prepare()


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Lives in a network of its own for the time of a `with` block, then returns; for the main thread of a test run."""
    with OWN.open("rb") as before:
        isolate()
        try:
            yield
        finally:
            _call("setns", before.fileno(), CLONE_NEWNET)


def _is_fresh() -> bool:
    """Whether nothing is up, not even loopback: so a namespace is born, and so no machine's own network is."""
    shown = subprocess.run(["ip", "-json", "link", "show", "up"], capture_output=True, check=True).stdout
    return not any(json.loads(shown or b"[]"))


def _prepare() -> None:
    for words in (
        ["link", "set", "lo", "up"],
        ["link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge"],
        ["addr", "add", f"{CALLER}/32", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
        # Every address is on this link or nowhere: what no host owns is unreachable at once.
        ["route", "add", "default", "dev", BRIDGE, "src", CALLER],
    ):
        subprocess.run(["ip", *words], check=True, capture_output=True)


def _call(function: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
