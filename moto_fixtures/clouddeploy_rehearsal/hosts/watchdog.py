"""Ends what the machines of a world without root left running, once the world is gone.

Runs as a program of its own and needs the standard library only: `python watchdog.py DIRECTORY`. Its standard input is
a pipe whose other end the world holds; the kernel closes that end even when the world is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "CLOUDDEPLOY_REHEARSAL_HOST"
"""Names the folder of its machine in the environment of every process that a machine starts."""
END_S = 5.0
POLL_S = 0.02


def marked(directory: Path) -> list[int]:
    """Returns the processes of the machines whose folder is `directory` or inside it."""
    wanted = f"\0{MARK}={directory}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                _, hit, after = (b"\0" + (entry / "environ").read_bytes()).partition(wanted)
                if hit and after[:1] in {b"", b"\0", b"/"}:
                    found.append(int(entry.name))
    return found


def end(directory: Path) -> None:
    """Kills those processes, and what they start meanwhile."""
    deadline = time.monotonic() + END_S
    while (pids := [pid for pid in marked(directory) if pid != os.getpid()]) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def main() -> None:
    """Waits for the end of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
