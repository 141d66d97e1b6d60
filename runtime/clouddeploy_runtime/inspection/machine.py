"""What a parent says of the machine that it runs on; read from the kernel, without a program."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_KIB = 1024


def report(workspace: Path, *, started: float) -> dict[str, Any]:
    """Return system, processors, memory, load, disk and the process itself; sizes in bytes, times in seconds.

    What the kernel does not tell is left out.

    Args:
        workspace: whose disk is looked at.
        started: when this process started, in seconds since 1970.
    """
    memory = _sizes(_PROC / "meminfo")
    process = _sizes(_PROC / "self" / "status")
    found: dict[str, Any] = {
        "host": platform.node(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "pid": os.getpid(),
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "memory_total_bytes": memory.get("MemTotal"),
        "memory_free_bytes": memory.get("MemAvailable"),
        "swap_total_bytes": memory.get("SwapTotal"),
        "swap_free_bytes": memory.get("SwapFree"),
        "process_memory_bytes": process.get("VmRSS"),
        "process_peak_bytes": process.get("VmHWM"),
        "process_uptime_s": round(time.time() - started, 1),
        "machine_uptime_s": _uptime_s(),
    }
    with contextlib.suppress(OSError):
        found["load"] = [round(one, 2) for one in os.getloadavg()]
    with contextlib.suppress(OSError):
        disk = shutil.disk_usage(workspace)
        found |= {"disk_total_bytes": disk.total, "disk_free_bytes": disk.free}
    return {name: value for name, value in found.items() if value is not None}


def _sizes(path: Path) -> dict[str, int]:
    """Return the lines `Name: 123 kB` of a file of the kernel's, in bytes; see proc_meminfo(5), proc_pid_status(5)."""
    found = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            words = value.split()
            if len(words) == 2 and words[1] == "kB" and words[0].isdigit():  # noqa: PLR2004 - a number and its unit
                found[name] = int(words[0]) * _KIB
    return found


def _uptime_s() -> float | None:
    try:
        return float((_PROC / "uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None
