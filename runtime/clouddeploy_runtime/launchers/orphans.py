"""What a job started and left behind when it ended.

A job's process adopts the orphans among what it started, and its parent those that are left when it ends. So a direct
child of the parent that the parent has not started itself belongs to a job that is gone. No control group is needed,
which only few users may make.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

MARK = "CLOUDDEPLOY_JOB_FOLDER"
"""Variable that every process of a job has in its environment, with the job's run folder, unless it wipes it."""
_LIMIT_S = 2.0
"""A job that starts processes faster than they can be killed must not keep its parent busy for ever."""
_PAUSE_S = 0.002
_PROC = Path("/proc")


class Children:
    """The job processes that this process has started; safe for several threads."""

    def __init__(self) -> None:
        self._own: set[int] = set()
        self._lock = threading.Lock()
        self._starting = 0
        self._starts = 0

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Stand around the start of a process, up to `add`: until then it looks like one that was left behind."""
        with self._lock:
            self._starting += 1
            self._starts += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def add(self, pid: int) -> None:
        """Note a process that runs."""
        with self._lock:
            self._own.add(pid)

    def ended(self, pid: int) -> None:
        """Forget a process that was waited for, and kill what it has left behind, with all that this started."""
        with self._lock:
            self._own.discard(pid)
        deadline = time.monotonic() + _LIMIT_S
        while (found := self._orphans()) is None or found:
            _end(found or {})
            if time.monotonic() > deadline:
                log.warning("Processes that a job has left behind cannot be ended: %s", sorted(found or ()))
                return
            time.sleep(_PAUSE_S)

    def _orphans(self) -> dict[int, str] | None:
        """Return the state of each; None when a job was started meanwhile, so that it may be among them."""
        with self._lock:
            before = self._starts
            if self._starting:
                return None
        mine = {pid: state for pid, (parent, state) in _processes().items() if parent == os.getpid()}
        with self._lock:
            if self._starts != before:
                return None
            own = set(self._own)
        return {pid: state for pid, state in mine.items() if pid not in own and _is_of_a_job(pid)}


def end_earlier(folder: Path) -> None:
    """Kill what an earlier start of a job has left in this folder: its parent was killed, and could not clear up.

    Two starts of one job would share its files and its GPUs. Processes that wiped their environment are not found.
    """
    mark = f"\0{MARK}={folder}\0".encode()
    for pid in _processes():
        with contextlib.suppress(OSError):
            if mark in b"\0" + (_PROC / str(pid) / "environ").read_bytes():
                log.warning("A process that an earlier start of a job has left in %s is ended: %s", folder, pid)
                _signal(pid, signal.SIGKILL)


def end_below(folder: Path) -> None:
    """Kill what the jobs below a folder have left: their parent was killed, and this is its next start.

    What runs there now is no use to anybody, since the way to its parent is gone, and it may use a GPU.
    """
    mark = f"\0{MARK}={folder}/".encode()
    for pid in _processes():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and mark in b"\0" + (_PROC / str(pid) / "environ").read_bytes():
                log.warning("A process that a job has left below %s is ended: %s", folder, pid)
                _signal(pid, signal.SIGKILL)


def _end(found: dict[int, str]) -> None:
    for pid, state in found.items():
        if state == "Z":
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        else:
            _signal(pid, signal.SIGSTOP)  # first, so that none starts another while the rest is looked for
    for pid in _below({pid for pid, state in found.items() if state != "Z"}):
        _signal(pid, signal.SIGKILL)


def _is_of_a_job(pid: int) -> bool:
    """Tell whether a job started this child: our own have our session, which no process of a job can join."""
    try:
        if os.getsid(pid) == os.getsid(0):
            return False
        # A job can wipe its environment, but it cannot take PR_SET_NO_NEW_PRIVS back.
        if _is_without_privileges(str(pid)) and not _is_without_privileges("self"):
            return True
        return f"\0{MARK}=".encode() in b"\0" + (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False


def _is_without_privileges(pid: str) -> bool:
    return "\nNoNewPrivs:\t1\n" in (_PROC / pid / "status").read_text()


def _below(roots: set[int]) -> set[int]:
    """Return these processes and all that descend from them."""
    found, processes = set(roots), _processes()
    while more := {pid for pid, (parent, _) in processes.items() if parent in found} - found:
        found |= more
    return found


def _processes() -> dict[int, tuple[int, str]]:
    """Return the parent and the state of each process."""
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                found[int(entry.name)] = (int(parent), state)
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
