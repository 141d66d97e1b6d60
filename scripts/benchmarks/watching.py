"""What processes take, read from /proc: memory, open files, threads, computing time."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MIB, GIB = 1 << 20, 1 << 30
POLL_S = 0.1
"""The kernel walks all pages of a process to add up its Pss: of gigabytes that takes milliseconds each time."""


def processes(root: int) -> list[int]:
    """Return a process and all that it has started."""
    found = [root]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def own_memory(pid: int, kind: str = "Pss") -> int:
    """Return the memory of one process in bytes, its part of what it shares; 0 when it is gone.

    Args:
        pid: the process.
        kind: a line of `smaps_rollup`, or a pattern for several, which are added: `Pss` is all; `Pss_File` of it is the
            part of files, which depends on who else has them open on this machine.
    """
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return sum(int(kib) for kib in re.findall(rf"^{kind}:\s+(\d+) kB", text, re.MULTILINE)) * 1024
    return 0


def memory(root: int) -> int:
    """Return the memory of a process with all that it has started, in bytes; what they share counts once."""
    return sum(map(own_memory, processes(root)))


def descriptors(pid: int) -> int:
    """Return how many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def cpu_s(pid: int) -> float:
    """Return the seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def watched(groups: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield the largest memory so far of each process with all that it has started, in bytes."""
    peaks = dict.fromkeys(groups, 0)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            for name, root in groups.items():
                peaks[name] = max(peaks[name], memory(root))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()
