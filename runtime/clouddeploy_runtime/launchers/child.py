"""The start of a process of a job as a child of this one, with a socket between them and nothing else in common."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING

from clouddeploy_runtime.job import confine
from clouddeploy_runtime.launchers import ending as endings
from clouddeploy_runtime.launchers import orphans
from clouddeploy_runtime.launchers.job_process import JobProcess
from clouddeploy_runtime.launchers.temporary import Temporary

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from clouddeploy_runtime.job.buffers import BufferPool
    from clouddeploy_runtime.launchers.base import JobLaunch
    from clouddeploy_runtime.launchers.output import Output

_CHILDREN = orphans.Children()
"""Of this process, as the kernel counts them: whoever starts jobs, none may take another's for what a job left."""


async def start(
    job: JobLaunch,
    pool: BufferPool,
    *,
    words: Callable[[int], Sequence[str]],
    environment: Callable[[Path], Mapping[str, str]],
    output: Callable[[Path], Output],
    mark: str = "",
    farewell: tuple[signal.Signals, float] | None = None,
) -> JobProcess:
    """Start a Python module of ours as a job's process.

    Args:
        job: what to run.
        pool: this process's buffers for the job; takes back what the child releases.
        words: the module and its arguments, given the number of the socket's descriptor.
        environment: all that the child gets, given its folder for temporary files.
        output: takes what it prints, given its run folder.
        mark: tells its processes from others of the same run folder.
        farewell: see `JobProcess`.

    Raises:
        OSError: it cannot be started.
    """
    confine.guard_parent()
    confine.adopt()
    job.run_dir.mkdir(parents=True, exist_ok=True)
    marked = job.run_dir.resolve() / mark
    await asyncio.to_thread(orphans.end_earlier, marked)
    oom_kills = endings.oom_kills()
    with contextlib.ExitStack() as undo:
        temporary = Temporary()
        undo.callback(temporary.remove)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(mine.close)
        with theirs:
            mine.setblocking(False)
            printed = output(job.run_dir)
            try:
                process = await _start(
                    words(theirs.fileno()),
                    job.run_dir,
                    {**environment(temporary.path), orphans.MARK: str(marked)},
                    output=printed.writer,
                    connection=theirs.fileno(),
                )
            finally:
                printed.started()
        undo.pop_all()
    return JobProcess(
        process,
        mine,
        pool,
        job=job,
        output=printed,
        temporary=temporary,
        children=_CHILDREN,
        oom_kills=oom_kills,
        farewell=farewell,
    )


async def _start(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], *, output: int, connection: int
) -> asyncio.subprocess.Process:
    with _CHILDREN.starting():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m"),  # -P: the run folder holds what the job has written
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=environment,
            pass_fds=(connection,),
            start_new_session=True,
        )
        _CHILDREN.add(process.pid)
    return process
