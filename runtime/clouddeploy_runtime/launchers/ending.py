"""Why a job's process ended, in words."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_VMSTAT = Path("/proc/vmstat")
_CGROUPS = Path("/sys/fs/cgroup")
_COUNTER = "oom_kill"


@dataclass(frozen=True)
class Ending:
    """What is known of a process that has ended.

    Attributes:
        code: its exit status; negative for a signal.
        was_memory_short: the kernel ended a process for want of memory while it ran.
        fault: what it did that its parent ended it for.
        grace_s: it was asked to end, and killed after so long.
        was_killed: its parent killed it, without any of these.
    """

    code: int
    was_memory_short: bool = False
    fault: str = ""
    grace_s: float | None = None
    was_killed: bool = False


def describe(ending: Ending, *, site: str, role: Literal["controller", "trainer"]) -> str:
    """Return one clause that names site and cause: `site-1: the trainer ended with exit code 7`."""
    return f"{site}: the {role} {_how(ending)}"


def _how(ending: Ending) -> str:
    if ending.fault:
        return f"was ended by its parent: {ending.fault}"
    if ending.code >= 0:
        return f"ended with exit code {ending.code}"
    if ending.code == -signal.SIGKILL:
        if ending.grace_s is not None:
            return f"did not end within {ending.grace_s:g} s of being asked to, and was killed"
        if ending.was_killed:
            return "was killed by its parent"
        if ending.was_memory_short:
            return "was killed by the kernel: out of memory"
    return f"was killed by signal {-ending.code} ({_name(-ending.code)})"


def _name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return "unknown"
    text = signal.strsignal(number)
    return f"{name}, {text.lower()}" if text else name


def oom_kills() -> int:
    """Return how many processes the kernel has ended for want of memory.

    Of this process's control group where there is one, so that another's trouble is not taken for ours; else of the
    whole machine.
    """
    for line in _lines(Path("/proc/self/cgroup")):
        if line.startswith("0::/") and line != "0::/":
            found = _count(_CGROUPS / line.removeprefix("0::/") / "memory.events")
            if found is not None:
                return found
    return _count(_VMSTAT) or 0


def _count(path: Path) -> int | None:
    for line in _lines(path):
        name, _, number = line.partition(" ")
        if name == _COUNTER and number.isdecimal():
            return int(number)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
