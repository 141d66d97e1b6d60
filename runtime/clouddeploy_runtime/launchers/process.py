"""A job in a process of its own on this machine, with a socket to its parent and nothing else of the parent's."""

from __future__ import annotations

import getpass
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.job import confine, landlock
from clouddeploy_runtime.launchers import child
from clouddeploy_runtime.launchers.base import BadLauncher
from clouddeploy_runtime.launchers.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_runtime.job.buffers import BufferPool
    from clouddeploy_runtime.launchers.base import JobLaunch
    from clouddeploy_runtime.launchers.job_process import JobProcess

log = logging.getLogger(__name__)

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "CUDA_VISIBLE_DEVICES",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
)
"""The environment a job gets: what programs need to run, and none of what the parent knows."""
CUSTOM_PATH = "CLOUDDEPLOY_CUSTOM_PATH"
"""Folders with code that the site has put there for all jobs, as in PATH."""


@dataclass(frozen=True)
class ProcessLauncher:
    """Starts job processes on this machine.

    Attributes:
        is_confined: whether the kernel keeps a job to its own files.
        readable: trees that every job reads, such as data in a place of their own.
        writable: trees that every job writes.
        shares_memory: whether jobs get /dev/shm, which is one for all jobs of the machine: what one puts there under
            a name another can read and change. Without it Python's multiprocessing has no locks and queues, and
            PyTorch's data loaders no workers. True: most scripts need it.
        output: takes what a job prints, given its run folder; None: `log.txt` there.
    """

    is_confined: bool = True
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    shares_memory: bool = True
    output: Callable[[Path], Output] | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> ProcessLauncher:
        """Read the arguments of `process_launcher`, and say it once if jobs will not be confined.

        Raises:
            BadLauncher: one is of the wrong kind; names it.
        """
        made = cls(
            is_confined=_truth(arguments, "confine"),
            readable=_paths(arguments, "readable"),
            writable=_paths(arguments, "writable"),
            shares_memory=_truth(arguments, "share_memory"),
        )
        if not made.is_confined or landlock.version() == 0:
            cause = "the kernel has no Landlock" if made.is_confined else "local/resources.json says so"
            log.warning(
                "Jobs are not confined here (%s): their code can read and change what the user %s can, "
                "the site's private key, its audit log and other jobs among it",
                cause,
                _user(),
            )
        return made

    async def launch(self, job: JobLaunch, pool: BufferPool) -> JobProcess:
        """Starts a job's process.

        Args:
            job: what to run.
            pool: the parent's buffers for this job; takes back what the process releases.

        Raises:
            OSError: it cannot be started.
        """
        return await child.start(
            job,
            pool,
            words=lambda connection: ("clouddeploy_runtime.job.enter", *_words(job, connection)),
            environment=lambda temporary: self._environment(job, temporary),
            output=self.output or Output,
        )

    def _environment(self, job: JobLaunch, temporary: Path) -> dict[str, str]:
        code = [job.app_dir / "custom", *job.code]
        code += [Path(one) for one in os.environ.get(CUSTOM_PATH, "").split(os.pathsep) if one]
        data = () if job.data_dir is None else (job.data_dir,)
        bounds = confine.Bounds(
            code=_texts(*code),
            readable=_texts(job.app_dir, *data, *job.readable, *self.readable),
            writable=_texts(job.run_dir, temporary, *job.writable, *self.writable),
            hidden=_texts(*job.hidden),
            shares_memory=self.shares_memory,
            is_confined=self.is_confined,
        )
        return {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            **job.environment,
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(temporary),
            "XDG_CACHE_HOME": str(temporary / "cache"),  # the home stays closed
            confine.VARIABLE: msgspec.json.encode(bounds).decode(),
        }


async def launch(job: JobLaunch, pool: BufferPool) -> JobProcess:
    """Starts a job's process as a site does that has set nothing; see `ProcessLauncher.launch`."""
    return await ProcessLauncher().launch(job, pool)


def _words(job: JobLaunch, descriptor: int) -> list[str]:
    words = ["--fd", str(descriptor), "--parent", str(os.getpid()), "--job", job.job_id, "--role", job.role]
    words += ["--site", job.site, "--app", str(job.app_dir), "--run", str(job.run_dir), "--sites", ",".join(job.sites)]
    if job.data_dir is not None:
        words += ["--data", str(job.data_dir)]
    return words


def _texts(*paths: Path) -> tuple[str, ...]:
    return tuple(str(one.resolve()) for one in paths)


def _truth(arguments: Mapping[str, Any], key: str) -> bool:
    value = arguments.get(key, True)
    if not isinstance(value, bool):
        raise _bad(key, "true or false", value)
    return value


def _paths(arguments: Mapping[str, Any], key: str) -> tuple[Path, ...]:
    value = arguments.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one.startswith("/") for one in value):
        raise _bad(key, "a list of absolute paths", value)
    return tuple(Path(one) for one in value)


def _bad(key: str, wanted: str, value: Any) -> BadLauncher:
    return BadLauncher(
        f'"{key}" of process_launcher is {value!r}', why=f"it must be {wanted}", hint="Correct local/resources.json."
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
