"""What every way to start a job's process has in common, and all that the parents know of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from clouddeploy_runtime.errors import ExitCode, RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_runtime.job.buffers import Buffer, BufferPool
    from clouddeploy_runtime.job.messages import Message
    from clouddeploy_runtime.jobs.spec import Need


class BadLauncher(RuntimeFault):
    """`local/resources.json` names a launcher that there is not, or gives it arguments that it cannot use."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_LAUNCHER"


@dataclass(frozen=True)
class JobLaunch:
    """What a job process has to know, and what it may touch.

    Attributes:
        site: the participant on whose side it runs.
        app_dir: the job's code and settings; it reads them.
        run_dir: where it works and leaves its results; it writes there, and its output is `log.txt` in it.
        sites: the job's clients.
        data_dir: the site's data; it reads them.
        environment: further variables, such as CUDA_VISIBLE_DEVICES of a reservation.
        code: further folders that Python imports from, such as `local/custom` of the kit.
        hidden: the kit and the workspace: closed to the job, but for what the other attributes name inside them.
        readable: further trees that it reads.
        writable: further trees that it writes.
        study: that the job belongs to.
        wishes: of the job, by launcher: what its `launcher_spec` says for this site.
        need: what it takes here, by its `resource_spec`; None: it does not say.
    """

    job_id: str
    role: Literal["controller", "trainer"]
    site: str
    app_dir: Path
    run_dir: Path
    sites: tuple[str, ...]
    data_dir: Path | None
    environment: Mapping[str, str] = field(default_factory=dict)
    code: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    study: str = "default"
    wishes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    need: Need | None = None


class Running(Protocol):
    """The parent's end of a running job process."""

    @property
    def pid(self) -> int:
        """The process's number on this machine."""

    async def send(self, message: Message, buffer: Buffer | None = None) -> None:
        """Sends a message; a buffer stays the parent's.

        Raises:
            OSError: the process is gone.
            MessageTooLarge: it does not fit into one packet.
        """

    async def receive(self) -> tuple[Message, Buffer | None] | None:
        """Returns the next message; None once the process has ended and everything was read."""

    async def wait(self) -> int:
        """Returns the exit status once the process has ended; negative for a signal."""

    def ending(self) -> str:
        """Returns how the process ended, with its site, as one clause; empty while it runs."""

    def printed(self) -> str:
        """Returns the last lines of what the process has printed; from its parent's memory, not from its folder."""

    def complain(self, what: str) -> None:
        """Notes that it said what makes no sense just now; one that does so over and over is ended.

        Args:
            what: is named as the cause then.
        """

    def terminate(self) -> None:
        """Asks the process to end; harmless when it has."""

    def kill(self) -> None:
        """Ends the process; harmless when it has ended."""

    async def stop(self, reason: str, *, grace_s: float) -> None:
        """Asks the job to end, and ends it when it has not after `grace_s`; harmless when it has ended."""


class Launcher(Protocol):
    """One way to start job processes."""

    async def launch(self, job: JobLaunch, pool: BufferPool) -> Running:
        """Starts a job's process.

        Args:
            job: what to run.
            pool: the parent's buffers for this job; takes back what the process releases.

        Raises:
            OSError: it cannot be started.
        """
