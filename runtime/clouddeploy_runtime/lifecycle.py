"""What both long-lived parents share: one per workspace, the status file, and the ways to be told to stop.

A parent ends with 0 when it was asked to stop, with `RESTART_STATUS` when it was asked to start again, and with a code
of `errors.ExitCode` otherwise. The kit's sub_start.sh starts it again, at once after `RESTART_STATUS`, after a growing
pause after any other one, and not at all after 0 and after `ExitCode.BAD_INPUT`, which another start would not change.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import time
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Literal

from clouddeploy_runtime.errors import AlreadyRunning, RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

State = Literal["starting", "connecting", "registered", "serving", "stopped"]
Cause = Literal["", "signal", "file", "admin"]
RESTART_STATUS = 75
"""Exit status of a parent that wants to be started again: EX_TEMPFAIL of sysexits.h, which no `ExitCode` is."""
SHUTDOWN_FILE = "shutdown.fl"
PID_FILE = "pid.fl"
SUPERVISED_VARIABLE = "CLOUDDEPLOY_SUPERVISED"
"""Set by sub_start.sh, whose own messages are in start.log: a supervised process logs to its files alone."""
_SHUTDOWN_POLL_S = 0.5
_LOCK_S = 1.0
_LOCK_POLL_S = 0.05


class RestartRequested(RuntimeFault):
    """An admin asked for a restart; passes through `serve`, which cleans up, to the process's edge."""

    error_code = "RESTART_REQUESTED"


class WorkspaceUnusable(RuntimeFault):
    """The folder for jobs, logs and status cannot be made or written."""

    error_code = "WORKSPACE_UNUSABLE"


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace a file so that a reader sees the old content or the new, never a part, after a power failure too.

    Args:
        path: the file.
        content: all of it.
        mode: of the new file, from its first byte on; the process's umask takes from it.

    Raises:
        OSError: it could not be written; the old content is there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    # The new name is in the folder, which has to reach the disk as well: fsync(2), NOTES.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def only_one(workspace: Path) -> Iterator[None]:
    """Make the workspace and hold it for this process, since two would ruin it for each other.

    The lock is the kernel's and ends with the process, so the file, which is there for people, may be left over.
    A supervisor writes the process's number into it, which is another one outside of a container; without one we do,
    and say so: the next supervisor ends what one before it has left, and nothing else.

    Raises:
        AlreadyRunning: another process holds it.
        WorkspaceUnusable: the folder or the file in it cannot be made.
    """
    path = workspace / PID_FILE
    try:
        workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = locked(path, what=workspace)
    except OSError as exc:
        raise WorkspaceUnusable(
            f"The workspace {workspace} cannot be used",
            why=exc.strerror or str(exc),
            hint="Correct that, or name another folder with NVFL_WORKSPACE.",
        ) from exc
    with file:
        if is_supervised():
            yield
            return
        with contextlib.suppress(OSError):  # a full disk; the lock counts
            file.truncate(0)
            file.write(f"{os.getpid()}\nby hand\n".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def locked(path: Path, *, what: Path) -> IO[bytes]:
    """Open a file and lock it for as long as it is open; waits a little, since scripts hold it while they look.

    Args:
        path: created when it is missing.
        what: the folder that it stands for.

    Raises:
        AlreadyRunning: another process has the lock.
        OSError: the file cannot be opened.
    """
    deadline = time.monotonic() + _LOCK_S
    while True:
        file = path.open("ab", buffering=0)
        try:
            if _is_locked(file) and _is_at(path, file):
                return file
            if time.monotonic() >= deadline:
                raise AlreadyRunning(
                    f"{what} is in use",
                    why="another process of this participant runs there",
                    hint="Stop it with stop_fl.sh, or give this one a folder of its own.",
                )
        except BaseException:
            file.close()
            raise
        file.close()
        time.sleep(_LOCK_POLL_S)


def _is_locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Tell whether a file still has its name: who had the lock before may have taken it away since it was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def is_supervised() -> bool:
    """Tell whether sub_start.sh started this process."""
    return bool(os.environ.get(SUPERVISED_VARIABLE))


class StatusFile:
    """`status.json` in the workspace: what a deployer reads to know how a site is."""

    def __init__(self, workspace: Path, *, name: str) -> None:
        self._path = workspace / "status.json"
        self._name = name
        self._is_failing = False

    def write(self, state: State, *, port: int, detail: str = "") -> None:
        """Record a state with the time it began.

        A disk that is full must not end a site: what cannot be written is logged, once until it works again.
        """
        document = {
            "state": state,
            "since": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "pid": os.getpid(),
            "name": self._name,
            "port": port,
            "detail": detail,
        }
        try:
            write_atomically(self._path, json.dumps(document, indent=2).encode() + b"\n")
        except OSError as exc:
            if not self._is_failing:
                log.warning("%s cannot be written and shows an old state: %s", self._path, exc.strerror or exc)
            self._is_failing = True
        else:
            self._is_failing = False


class StopSignal:
    """Set by SIGTERM, SIGINT, a file `shutdown.fl` in the workspace, or an admin.

    Attributes:
        cause: what set it first; empty while nothing has.
        is_restart: whether the process is to start again.
    """

    def __init__(self, workspace: Path) -> None:
        self.cause: Cause = ""
        self.is_restart = False
        self._file = workspace / SHUTDOWN_FILE
        self._event = asyncio.Event()

    def set(self) -> None:
        """Ask the process to stop, as an admin does."""
        self._set("admin")

    def restart(self) -> None:
        """Ask the process to stop and to be started again; harmless when it stops already."""
        if not self._event.is_set():
            self.is_restart = True
            self._set("admin")

    def _set(self, cause: Cause) -> None:
        if not self._event.is_set():
            self.cause = cause
            self._event.set()

    async def wait(self) -> None:
        """Return once the process should stop; consumes the file, so that the next start is not stopped by it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._set, "signal")
        while not self._event.is_set():
            if self._file.exists():
                self._file.unlink(missing_ok=True)  # the supervisor may have been quicker
                self._set("file")
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), _SHUTDOWN_POLL_S)


async def until(stop: StopSignal, *work: asyncio.Task[None]) -> None:
    """Return once the process should stop; raise what ended a part of it that runs for as long as it does.

    A parent whose scheduler is dead would look well for ever, so it ends, and its supervisor starts it again.

    Raises:
        RestartRequested: it should stop and start again.
    """
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({stopping, *work}, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        stopping.cancel()
    if stop.is_restart:
        raise RestartRequested("The process starts again", why="an admin asked for it")


async def settle(*, at_most_s: float) -> None:
    """Let the other tasks end that were told to: `grpc.aio.Server.stop` returns before the calls it cancels have.

    Whatever is left when the event loop closes is cancelled by asyncio.run, and gRPC then logs it as a fault.
    """
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=at_most_s)
