"""Whether a site's process lives: `python -m clouddeploy_runtime.liveness WORKSPACE [--ready]`, for container engines.

Needs no connection and next to no time: the process holds a lock while it lives, and writes how it is.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.lifecycle import PID_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

READY = frozenset({"registered", "serving"})


def problem(workspace: Path, *, is_ready: bool) -> str:
    """Return what is wrong with the site of a workspace; empty: nothing.

    Args:
        workspace: where it works.
        is_ready: whether it also has to serve, or to be registered.
    """
    try:
        with (workspace / PID_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "" if not is_ready else _unready(workspace)
    except OSError as exc:
        return f"{workspace / PID_FILE} cannot be read: {exc.strerror}"
    return f"no process holds {workspace / PID_FILE}"


def _unready(workspace: Path) -> str:
    try:
        state = json.loads((workspace / "status.json").read_bytes())["state"]
    except (OSError, ValueError, LookupError, TypeError) as exc:
        return f"{workspace / 'status.json'} cannot be read: {exc}"
    return "" if state in READY else f"it is {state!r}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what is wrong; returns the exit status: 0 or 1."""
    parser = argparse.ArgumentParser(prog="clouddeploy_runtime.liveness")
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--ready", action="store_true", help="it also serves, or is registered")
    given = parser.parse_args(arguments)
    found = problem(given.workspace, is_ready=given.ready)
    if found:
        sys.stderr.write(f"{found}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
