"""The processes of a federation on this machine: found by a variable that all of them have, and by locks they hold."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.launchers import orphans
from clouddeploy_runtime.lifecycle import PID_FILE, SHUTDOWN_FILE
from clouddeploy_runtime.places import STATE_VARIABLE

from clouddeploy.errors import PocState
from clouddeploy.poc import record as records
from clouddeploy.remote.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Iterable

MARK = "CLOUDDEPLOY_POC"
"""Variable with the workspace, in the environment of every process that `poc` starts."""
START_S = 60.0
POLL_S = 0.05
_KILL_S = 5.0
_SUPERVISOR_FILE = "daemon_pid.fl"
_PROC = Path("/proc")


def launch(workspace: Path, record: records.Record, name: str) -> None:
    """Starts a participant by its kit's start.sh, which verifies the kit and leaves a supervisor behind.

    Raises:
        RemoteCommandFailed: start.sh said no; its last words are in it.
    """
    site = site_folder(workspace, name)
    host = LocalHost(site, is_apart=True)  # Ctrl-C at the terminal is for `poc`, which lets it finish
    (site / "status.json").unlink(missing_ok=True)  # of an earlier start: it would say that this one is ready
    (site / SHUTDOWN_FILE).unlink(missing_ok=True)
    variables = {
        MARK: str(workspace),
        "CLOUDDEPLOY_PYTHON": sys.executable,
        "CLOUDDEPLOY_WORKSPACE": str(site),
        STATE_VARIABLE: str(workspace / records.STATE),
    }
    if name == record.server:
        variables["CLOUDDEPLOY_BIND"] = record.address
    words = ["env", *(f"{key}={value}" for key, value in variables.items())]
    start = workspace / record.kits[name] / "startup" / "start.sh"
    host.run([*words, "bash", str(start)], timeout_s=START_S)


def site_folder(workspace: Path, name: str) -> Path:
    """Returns a participant's own workspace."""
    return workspace / records.SITES / name


def is_running(workspace: Path, name: str) -> bool:
    """Tells whether a participant, or its supervisor, runs: each holds the lock of a file for as long as it lives."""
    site = site_folder(workspace, name)
    return any(_is_locked(site / file) for file in (_SUPERVISOR_FILE, PID_FILE))


def state(workspace: Path, name: str) -> str:
    """Returns what a participant says of itself, `starting` when it says nothing yet, or `stopped`."""
    if not is_running(workspace, name):
        return "stopped"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return str(json.loads((site_folder(workspace, name) / "status.json").read_bytes())["state"])
    return "starting"


def running(workspace: Path) -> dict[int, str]:
    """Returns the processes that `poc` has started for this workspace, and their commands; jobs are not among them."""
    mark = f"\0{MARK}={workspace}\0".encode()
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in b"\0" + (entry / "environ").read_bytes():
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = words.decode(errors="replace").strip()
    return found


def end(workspace: Path, names: Iterable[str], *, timeout_s: float) -> bool:
    """Asks participants to stop, and ends what does not within the time; returns whether all went by themselves.

    A supervisor takes the file that asks away when it starts, so one that was just being started is asked again.
    """
    waiting = set(names)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        waiting = {name for name in waiting if is_running(workspace, name)}
        for name in waiting:
            (site_folder(workspace, name) / SHUTDOWN_FILE).touch()
        if not waiting:
            return True
        time.sleep(POLL_S)
    return False


def end_all(workspace: Path, *, timeout_s: float) -> bool:
    """Ends every process of the workspace, also of a start that was killed halfway; see `end`."""
    sites = workspace / records.SITES
    names = [entry.name for entry in sites.iterdir()] if sites.is_dir() else []
    deadline = time.monotonic() + timeout_s
    while True:
        went = end(workspace, names, timeout_s=max(0.0, deadline - time.monotonic()))
        if not running(workspace) or time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    went &= not _kill(workspace)
    orphans.end_below(workspace)
    for name in names:
        (sites / name / SHUTDOWN_FILE).unlink(missing_ok=True)
    return went


def _kill(workspace: Path) -> bool:
    """Ends what is left at once; returns whether there was anything.

    Raises:
        PocState: something does not end.
    """
    deadline, had_any = time.monotonic() + _KILL_S, False
    while left := running(workspace):
        had_any = True
        if time.monotonic() > deadline:
            shown = "; ".join(f"{pid} {command[:80]}" for pid, command in left.items())
            raise PocState("processes do not end", why=shown, hint="end them by hand, then try again")
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    return had_any


def free_port() -> int:
    """Returns a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((records.LOCALHOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Tells whether nobody listens on a port of this machine."""
    with socket.socket() as probe:
        # As servers do: connections of an earlier one that are not forgotten yet are in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((records.LOCALHOST, port))
        except OSError:
            return False
        return True


def _is_locked(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
