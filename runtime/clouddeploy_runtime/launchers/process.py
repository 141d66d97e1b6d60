"""A job in a process of its own on this machine, with a socket to its parent and nothing else of the parent's."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime.job import confine, landlock
from clouddeploy_runtime.launchers import ending as endings
from clouddeploy_runtime.launchers import orphans
from clouddeploy_runtime.launchers.base import BadLauncher, JobLaunch
from clouddeploy_runtime.launchers.job_process import JobProcess
from clouddeploy_runtime.launchers.output import Output
from clouddeploy_runtime.launchers.temporary import Temporary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.job.buffers import BufferPool

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
_CHILDREN = orphans.Children()
"""Of this process, as the kernel counts them: whoever starts jobs, none may take another's for what a job left."""


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
    """

    is_confined: bool = True
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    shares_memory: bool = True

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
        confine.guard_parent()
        confine.adopt()
        job.run_dir.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(orphans.end_earlier, job.run_dir.resolve())
        oom_kills = endings.oom_kills()
        with contextlib.ExitStack() as undo:
            temporary = Temporary()
            undo.callback(temporary.remove)
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(mine.close)
            with theirs:
                mine.setblocking(False)
                output = Output(job.run_dir)
                try:
                    process = await self._start(job, theirs.fileno(), output.writer, temporary.path)
                finally:
                    output.started()
            undo.pop_all()
        return JobProcess(
            process,
            mine,
            pool,
            job=job,
            output=output,
            temporary=temporary,
            children=_CHILDREN,
            oom_kills=oom_kills,
        )

    async def _start(self, job: JobLaunch, connection: int, output: int, temporary: Path) -> asyncio.subprocess.Process:
        with _CHILDREN.starting():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "clouddeploy_runtime.job.enter"),  # -P: the run folder holds what the job has written
                *_words(job, connection),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=job.run_dir,
                env=self._environment(job, temporary),
                pass_fds=(connection,),
                start_new_session=True,
            )
            _CHILDREN.add(process.pid)
        return process

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
            orphans.MARK: str(job.run_dir.resolve()),
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
