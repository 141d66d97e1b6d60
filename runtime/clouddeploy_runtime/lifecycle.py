"""What both long-lived parents share: the status file and the ways to be told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

State = Literal["starting", "connecting", "registered", "serving", "stopped"]
SHUTDOWN_FILE = "shutdown.fl"
_SHUTDOWN_POLL_S = 0.5


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


class StatusFile:
    """`status.json` in the workspace: what a deployer reads to know how a site is."""

    def __init__(self, workspace: Path, *, name: str) -> None:
        self._path = workspace / "status.json"
        self._name = name

    def write(self, state: State, *, port: int, detail: str = "") -> None:
        """Record a state with the time it began."""
        document = {
            "state": state,
            "since": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "pid": os.getpid(),
            "name": self._name,
            "port": port,
            "detail": detail,
        }
        write_atomically(self._path, json.dumps(document, indent=2).encode() + b"\n")


class StopSignal:
    """Set by SIGTERM, SIGINT or a file `shutdown.fl` in the workspace."""

    def __init__(self, workspace: Path) -> None:
        self._file = workspace / SHUTDOWN_FILE
        self._event = asyncio.Event()

    def set(self) -> None:
        """Ask the process to stop."""
        self._event.set()

    async def wait(self) -> None:
        """Return once the process should stop; consumes the file, so that the next start is not stopped by it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._event.set)
        while not self._event.is_set():
            if self._file.exists():
                self._file.unlink()
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), _SHUTDOWN_POLL_S)


async def until(stop: StopSignal, *work: asyncio.Task[None]) -> None:
    """Return once the process should stop; raise what ended a part of it that runs for as long as it does.

    A parent whose scheduler is dead would look well for ever, so it ends, and its supervisor starts it again.
    """
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({stopping, *work}, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        stopping.cancel()
