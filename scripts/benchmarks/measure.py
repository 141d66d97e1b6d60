"""Runs commands as a user would, and measures them from outside: wall-clock time and peak memory."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Run:
    """One finished command."""

    wall_s: float
    peak_mib: float
    """Largest resident set of the process, its children aside."""


def run(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; a number of a command that did not do its work would be none.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}:\n{output.decode(errors='replace')[-2000:]}")
    return Run(wall_s, usage.ru_maxrss / 1024)


def median(runs: Sequence[Run]) -> Run:
    """Return the middle of several runs; each number for itself."""
    return Run(statistics.median(one.wall_s for one in runs), statistics.median(one.peak_mib for one in runs))


def machine() -> dict[str, object]:
    """Return what this machine is; a number without it says little."""
    processor = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kib = re.findall(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "processor": processor[0] if processor else platform.machine(),
        "memory_gib": round(int(kib[0]) / (1 << 20), 1),
        "linux": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def versions(*names: str) -> dict[str, str]:
    """Return the versions of distributions as they are installed here."""
    return {name: importlib.metadata.version(name) for name in names}


def show(results: Mapping[str, object], rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    """Print the numbers: one JSON object, or a table whose first row is its head."""
    if as_json:
        print(json.dumps(results))
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
