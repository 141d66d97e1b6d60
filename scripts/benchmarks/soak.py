"""Runs job after job for hours on one federation, and says whether anything grows that should not.

A server and two clients; each job is a few rounds of a model of 20 MB. Memory, open files and threads of the three are
read between jobs, when nothing runs: of several readings within seconds the smallest, since what a job had is given
back a little after its end. Memory is what is no file: a process's part of a file changes with who else has it open.
What comes before the warm-up's end does not count. The line through all readings is that of least squares; its slope,
and what it rises from its first to its last reading, must stay below the limits. Jobs are deleted once there are more
than `--keep`: a thousand results are a lot of disk, and no leak.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import federation
import watching
from clouddeploy_rehearsal.probe import until
from measure import machine, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_runtime.admin.session import AdminSession

MEGABYTES, ROUNDS = 20.0, 3
EVERY_S, WARM_UP_S, SETTLE_S, IDLE_S = 30.0, 300.0, 2.5, 30.0
KEPT = 20
MIB_PER_HOUR, PERCENT = 5.0, 10.0
MORE_FILES, MORE_THREADS = 8, 8
"""gRPC opens and ends some of its own as it likes."""
FOLDERS = (Path("/dev/shm"), Path(tempfile.gettempdir()))  # noqa: S108 - they are only looked at
"""Where nothing of the federation should be; what others on this machine put there cannot be told from it."""


@dataclass(frozen=True)
class Reading:
    """One process between two jobs."""

    at_s: float
    """Since the start of the soak."""
    memory_mib: float
    """Its own and shared memory, without files."""
    whole_mib: float
    """With its part of files (Pss)."""
    files: int
    threads: int


@dataclass(frozen=True)
class Line:
    """The line of least squares through the memory of one process."""

    mib_per_hour: float
    growth_percent: float
    """From the first reading to the last, of what it was at the first."""


def line_through(at: Sequence[float], mib: Sequence[float]) -> Line:
    """Return the line through memory at times in seconds; a flat one through fewer than two points."""
    count = len(at)
    if count < 2:  # noqa: PLR2004 - a line takes two
        return Line(0.0, 0.0)
    middle_s, middle_mib = sum(at) / count, sum(mib) / count
    spread = sum((one - middle_s) ** 2 for one in at)
    slope = sum((s - middle_s) * (m - middle_mib) for s, m in zip(at, mib, strict=True)) / spread
    first = middle_mib + slope * (at[0] - middle_s)
    return Line(slope * 3600, 100 * slope * (at[-1] - at[0]) / first)


def verdict(readings: Sequence[Reading]) -> dict[str, Any]:
    """Return what came of one process, and what of it is too much."""
    at, first, last = [one.at_s for one in readings], readings[0], readings[-1]
    line = line_through(at, [one.memory_mib for one in readings])
    whole = line_through(at, [one.whole_mib for one in readings])
    quarter = max(1, len(readings) // 4)
    more_files, more_threads = (
        min(getattr(one, what) for one in readings[-quarter:]) - max(getattr(one, what) for one in readings[:quarter])
        for what in ("files", "threads")
    )
    wrong = {
        "memory": line.mib_per_hour > MIB_PER_HOUR or line.growth_percent > PERCENT,
        "files": more_files > MORE_FILES,
        "threads": more_threads > MORE_THREADS,
    }
    return {
        "first_mib": round(first.memory_mib, 2),
        "last_mib": round(last.memory_mib, 2),
        "peak_mib": round(max(one.memory_mib for one in readings), 2),
        "mib_per_hour": round(line.mib_per_hour, 3),
        "growth_percent": round(line.growth_percent, 2),
        "whole_mib_per_hour": round(whole.mib_per_hour, 3),
        "files": [first.files, last.files],
        "threads": [first.threads, last.threads],
        "readings": len(readings),
        "too_much": [what for what, is_wrong in wrong.items() if is_wrong],
        "series": [
            [round(one.at_s), round(one.memory_mib, 2), round(one.whole_mib, 2), one.files, one.threads]
            for one in readings
        ],
    }


class Soak:
    """One federation under jobs without end.

    Args:
        folder: for the federation, and as its TMPDIR, so that whatever stays there is its own.
        given: the options of the command line.
    """

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.given = given
        self.federation = federation.Federation(folder / "soak", environment={"TMPDIR": str(self.temporary)})
        self.job = federation.write_job(folder / "soaked", megabytes=given.megabytes, rounds=given.rounds)
        self.readings: dict[str, list[Reading]] = {name: [] for name in self.federation.names}
        self.kept: list[str] = []
        self.jobs = 0

    def run(self) -> dict[str, Any]:
        """Run jobs until the time is over; return what was seen."""
        before = {str(folder): ours_in(folder) for folder in FOLDERS}
        self.federation.start_all()
        try:
            self._run_jobs()
            with contextlib.suppress(TimeoutError):  # what is there after that is left behind
                until(lambda: not any(self._leftovers().values()), timeout_s=IDLE_S)
            left = self._leftovers()
            pids = {name: process.poll() for name, process in self.federation.running.items()}
        finally:
            self.federation.end()
        more = {name: ours_in(Path(name)) - count for name, count in before.items()}
        processes = {name: verdict(readings) for name, readings in self.readings.items()}
        reasons = [f"{name}: {what}" for name, one in processes.items() for what in one["too_much"]]
        reasons += [f"left behind: {what}" for what, count in left.items() if count]
        reasons += [f"{name} has ended with {code}" for name, code in pids.items() if code is not None]
        return {"jobs": self.jobs, "processes": processes, "left_behind": left, "elsewhere": more, "reasons": reasons}

    def _run_jobs(self) -> None:
        began = time.monotonic()
        next_reading = began + self.given.warm_up
        end = next_reading + self.given.hours * 3600
        with self.federation.session() as session:
            while True:
                self._run_one(session)
                now = time.monotonic()
                if now >= next_reading:
                    self._read(now - began)
                    next_reading = now + self.given.every
                if now >= end and self.readings[federation.SERVER]:
                    return
                time.sleep(self.given.pause)

    def _run_one(self, session: AdminSession) -> None:
        self.kept.append(self.federation.run_job(session, self.job).job_id)
        self.jobs += 1
        while len(self.kept) > self.given.keep:
            session.delete(self.kept.pop(0))

    def _read(self, at_s: float) -> None:
        """Read all three when the last job's processes are gone."""
        roots = {name: process.pid for name, process in self.federation.running.items()}
        until(
            lambda: all(len(watching.processes(pid)) == 1 for pid in roots.values()),
            timeout_s=IDLE_S,
            what="the end of the last job's processes",
        )
        kinds = ("Pss_(?:Anon|Shmem)", "Pss")
        least = {(name, kind): sys.maxsize for name in roots for kind in kinds}
        end = time.monotonic() + self.given.settle
        while time.monotonic() < end:
            for (name, kind), size in least.items():
                least[name, kind] = min(size, watching.own_memory(roots[name], kind))
            time.sleep(0.25)
        for name, pid in roots.items():
            mib, whole_mib = (least[name, kind] / watching.MIB for kind in kinds)
            reading = Reading(at_s, mib, whole_mib, watching.descriptors(pid), watching.threads(pid))
            self.readings[name].append(reading)
        said = ", ".join(f"{name} {one[-1].memory_mib:.1f} MiB" for name, one in self.readings.items())
        print(f"{at_s:.0f} s, {self.jobs} jobs: {said}", file=sys.stderr, flush=True)

    def _leftovers(self) -> dict[str, int]:
        """Return what is there and belongs to no job that is kept."""
        left = {"TMPDIR": len(list(self.temporary.iterdir()))}
        for name in self.federation.names:
            left[f"jobs folder of {name}"] = self._of_jobs(self.federation.folder / name / "jobs", name)
        return left

    def _of_jobs(self, folder: Path, name: str) -> int:
        """Count what should be gone: at a server deleted jobs and parts of new ones, at a site the jobs themselves."""
        if name == federation.SERVER:
            jobs = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
            return len(set(jobs) - set(self.kept)) + len(list(folder.glob(".incoming/*")))
        return len(list(folder.glob("*/job")))


def ours_in(folder: Path) -> int:
    """Return how many entries of a folder of the machine have a name as we give them."""
    return len([path for path in folder.iterdir() if path.name.startswith("clouddeploy")])


def main() -> None:
    """Soak and print; ends with 1 when something grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--hours", type=float, default=1.0, help="after the warm-up")
    parser.add_argument("--warm-up", type=float, default=WARM_UP_S, metavar="SECONDS")
    parser.add_argument("--every", type=float, default=EVERY_S, metavar="SECONDS", help="between two readings")
    parser.add_argument("--settle", type=float, default=SETTLE_S, metavar="SECONDS", help="a reading takes so long")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="between two jobs")
    parser.add_argument("--megabytes", type=float, default=MEGABYTES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--keep", type=int, default=KEPT, metavar="JOBS")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        found = Soak(Path(name), given).run()
    results = {
        "hours": given.hours,
        "megabytes": given.megabytes,
        "rounds": given.rounds,
        "passed": not found["reasons"],
        **found,
        "must": {"mib_per_hour": MIB_PER_HOUR, "growth_percent": PERCENT},
        "machine": machine(),
    }
    head = ("", "first MiB", "last MiB", "MiB/h", "%", "files", "threads")
    columns = ("first_mib", "last_mib", "mib_per_hour", "growth_percent", "files", "threads")
    rows = [head] + [(name, *(str(one[key]) for key in columns)) for name, one in found["processes"].items()]
    show(results, rows, as_json=given.output == "json")
    if found["reasons"]:
        sys.exit("; ".join(found["reasons"]))


if __name__ == "__main__":
    main()
