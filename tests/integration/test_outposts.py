"""A job elsewhere ends when its site, its line or its outpost does, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.messages import Done, Task
from clouddeploy_runtime.launchers import JobLaunch
from clouddeploy_runtime.launchers.outpost import OutpostLauncher

from tests.integration.test_job_process_relay import BUSY, app


def commands():
    """Return the command line of each process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
    return found


def far_processes(folder):
    """Return the outposts whose job lies in a folder, and the jobs themselves."""
    jobs = {pid for pid, words in commands().items() if str(folder) in " ".join(words)}
    return jobs | {pid for pid in commands() if pid in {parent_of(job) for job in jobs}} - {os.getpid(), 1}


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


async def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def interrupted(folder, act):
    """Start a trainer elsewhere, give it a task, do something to it; return its status, its words and its end."""
    pool = BufferPool(64 << 20)
    job = JobLaunch(
        job_id="job",
        role="trainer",
        site="site-1",
        app_dir=app(folder / "app", BUSY),
        run_dir=folder / "run",
        sites=("site-1",),
        data_dir=None,
    )
    process = await OutpostLauncher.of("local", {}, folder).launch(job, pool)
    model = {"w": np.arange(3.0)}
    buffer = pool.acquire(tensors.size_of(model))
    tensors.write(model, buffer.view)
    await process.send(Task("t", "train", 0, 1, ["site-1"], {}, buffer.size), buffer)
    await until(lambda: "busy" in (folder / "run" / "log.txt").read_text())
    if (work := act(process, folder)) is not None:
        await work
    said = []
    while (received := await process.receive()) is not None:
        said.append(received[0])
    code = await process.wait()
    await until(lambda: not far_processes(folder))
    pool.close()
    return code, [one for one in said if isinstance(one, Done)], (folder / "run" / "log.txt").read_text()


def kill_site(process, _):
    os.kill(process.pid, signal.SIGKILL)


def kill_outpost(_, folder):
    for job in [pid for pid, words in commands().items() if str(folder) in " ".join(words)]:
        os.kill(parent_of(job), signal.SIGKILL)


def ask(process, _):
    process.terminate()


@pytest.mark.fault("the site's end of an outpost killed", "the job elsewhere ends")
def test_a_job_elsewhere_ends_when_its_site_is_gone(tmp_path):
    code, said, _ = asyncio.run(interrupted(tmp_path, kill_site))
    assert (code, said) == (-signal.SIGKILL, [])


@pytest.mark.fault("an outpost killed", "named in the job's log")
def test_an_outpost_that_is_lost_is_named(tmp_path):
    code, said, log = asyncio.run(interrupted(tmp_path, kill_outpost))
    assert (code, said) == (104, [])
    assert "The process of the job is lost" in log


def test_a_job_elsewhere_that_is_asked_to_end_ends_as_one_here(tmp_path):
    code, said, _ = asyncio.run(interrupted(tmp_path, ask))
    assert (code, said) == (-signal.SIGTERM, [])


async def stop_one_that_does_not_answer(process, folder):
    for job in [pid for pid, words in commands().items() if str(folder) in " ".join(words)]:
        os.kill(parent_of(job), signal.SIGSTOP)
    await process.stop("enough", grace_s=0.5)


@pytest.mark.fault("an outpost that does not answer, stopped", "removed by its engine")
def test_an_outpost_that_does_not_answer_is_removed_before_its_site_gives_up(tmp_path):
    code, said, _ = asyncio.run(interrupted(tmp_path, stop_one_that_does_not_answer))
    assert (code, said) == (-signal.SIGKILL, [])
