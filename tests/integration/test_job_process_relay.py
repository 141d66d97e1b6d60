"""Real job processes, with the test in the place of the networked parents."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.job.messages import Abort, Done, Progress, Result, SiteFailed, Task
from clouddeploy_runtime.launchers import JobLaunch
from clouddeploy_runtime.launchers.outpost import OutpostLauncher
from clouddeploy_runtime.launchers.process import launch

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_APP = EXAMPLES / "jobs" / "breast-cancer" / "app"
SITES = ("site-1", "site-2")
EXECUTOR = "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor"
LOOP = """
from clouddeploy_runtime.job import client_api as flare
flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
"""


def app(folder, script, *, rounds=1, initial="def make():\n    import numpy\n    return {'w': numpy.zeros(3)}\n"):
    (folder / "config").mkdir(parents=True)
    (folder / "custom").mkdir()
    (folder / "custom" / "train.py").write_text(script)
    (folder / "custom" / "first.py").write_text(initial)
    args = {"num_rounds": rounds, "initial_model": "first:make"}
    workflow = {"id": "controller", "path": "nvflare.app_common.workflows.fedavg.FedAvg", "args": args}
    (folder / "config" / "config_fed_server.json").write_text(json.dumps({"workflows": [workflow]}))
    executor = {"tasks": ["train"], "executor": {"path": EXECUTOR, "args": {"task_script_path": "train.py"}}}
    (folder / "config" / "config_fed_client.json").write_text(json.dumps({"executors": [executor]}))
    return folder


LAUNCH = ContextVar("launch", default=launch)
"""How the processes are started."""


@asynccontextmanager
async def started(folder, role, site, run_dir, *, sites=SITES, data_dir=None):
    pool = BufferPool(64 << 20)
    process = await LAUNCH.get()(
        JobLaunch(job_id="job", role=role, site=site, app_dir=folder, run_dir=run_dir, sites=sites, data_dir=data_dir),
        pool,
    )
    try:
        yield process, pool
    finally:
        process.kill()
        await process.wait()
        process._socket.close()
        pool.close()


async def relay_site(site, process, controller, controller_pool, seen):
    """What the network does: bytes of one pool into another."""
    while (received := await process.receive()) is not None:
        message, buffer = received
        if isinstance(message, Result):
            copy = controller_pool.acquire(message.size)
            copy.view[: message.size] = buffer.view[: message.size]
            buffer.release()
            await controller.send(message, copy)
        elif isinstance(message, Done):
            seen[site] = message


async def federate(folder, tmp_path, *, data=None):
    """Run a job to the end of its controller; return its Done, its progress and what the trainers said last."""
    progress, seen, final = [], {}, None
    async with started(folder, "controller", "server", tmp_path / "server") as (controller, controller_pool):
        async with _all(folder, tmp_path, data) as trainers, asyncio.TaskGroup() as group:
            for site, (process, _) in trainers.items():
                group.create_task(relay_site(site, process, controller, controller_pool, seen))
            while (received := await controller.receive()) is not None:
                message, buffer = received
                if isinstance(message, Task):
                    for site in message.targets:
                        process, pool = trainers[site]
                        copy = pool.acquire(message.size)
                        copy.view[: message.size] = buffer.view[: message.size]
                        await process.send(message, copy)
                    buffer.release()
                elif isinstance(message, Progress):
                    progress.append(message)
                elif isinstance(message, Done):
                    final = message
            for process, _ in trainers.values():
                await process.send(Abort(reason=""))
            codes = [await process.wait() for process, _ in trainers.values()]
        return final, progress, seen, [await controller.wait(), *codes]


@asynccontextmanager
async def _all(folder, tmp_path, data):
    async with (
        started(folder, "trainer", "site-1", tmp_path / "1", data_dir=data and data / "site-1") as one,
        started(folder, "trainer", "site-2", tmp_path / "2", data_dir=data and data / "site-2") as two,
    ):
        yield {"site-1": one, "site-2": two}


def example_model():
    spec = importlib.util.spec_from_file_location("example_model", EXAMPLE_APP / "custom" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["process", "outpost"])
def way(request, tmp_path):
    """A job's process is a child of its parent, or runs elsewhere: to the parent it is the same."""
    elsewhere = OutpostLauncher.of("local", {}, tmp_path).launch
    token = LAUNCH.set(elsewhere if request.param == "outpost" else launch)
    yield request.param
    LAUNCH.reset(token)


def test_the_example_ends_with_the_weighted_mean_of_a_computation_without_processes(tmp_path, way):
    data = EXAMPLES / "hybrid" / "data"
    final, progress, seen, codes = asyncio.run(federate(EXAMPLE_APP, tmp_path, data=data))
    assert (final.status, final.reason) == ("FINISHED:COMPLETED", "")
    assert codes == [0, 0, 0]
    assert {done.status for done in seen.values()} == {"FINISHED:COMPLETED"}
    assert [(one.round, one.total_rounds) for one in progress] == [(n, 5) for n in range(1, 6)]

    model = example_model()
    train = [model.load(data / site / "train.csv") for site in SITES]
    test = [model.load(data / site / "test.csv") for site in SITES]
    sizes = [len(labels) for _, labels in train]
    params, losses = model.initial(), []
    for _ in range(5):
        updates = [model.fit(params, *part) for part in train]
        losses.append(sum(n * model.loss(u, *p) for n, u, p in zip(sizes, updates, train, strict=True)) / sum(sizes))
        params = {
            name: sum(n * update[name] for n, update in zip(sizes, updates, strict=True)) / sum(sizes)
            for name in params
        }
    stored = safetensors.numpy.load_file(tmp_path / "server" / "global_model.safetensors")
    assert stored.keys() == params.keys()
    for name, array in params.items():
        np.testing.assert_allclose(stored[name], array, rtol=0, atol=1e-6)
    np.testing.assert_allclose([one.metrics["loss"] for one in progress], losses, atol=1e-9)
    correct = sum(len(labels) * model.accuracy(params, features, labels) for features, labels in test)
    assert final.metrics["test_accuracy"] == pytest.approx(correct / sum(len(labels) for _, labels in test))
    assert final.metrics["test_accuracy"] > 0.93
    assert "round 5: loss" in (tmp_path / "1" / "log.txt").read_text()


async def first_task(folder, tmp_path, *, act=None):
    """Send one task to a trainer; return what it said last, its exit code and how long it took to end."""
    done = None
    async with started(folder, "trainer", "site-1", tmp_path / "run") as (process, pool):
        model = {"w": np.arange(3.0)}
        buffer = pool.acquire(tensors.size_of(model))
        tensors.write(model, buffer.view)
        await process.send(Task("t", "train", 0, 1, ["site-1"], {}, buffer.size), buffer)
        if act is not None:
            await act(process, tmp_path / "run")
        begin = time.monotonic()
        while (received := await process.receive()) is not None:
            if isinstance(received[0], Done):
                done = received[0]
        return done, await process.wait(), time.monotonic() - begin


@pytest.mark.fault("script raises", "named with its line")
def test_a_script_that_raises_is_named_with_its_line_and_its_traceback_stays_in_the_log(tmp_path, way):
    folder = app(tmp_path / "app", LOOP + "    raise ValueError('no such column')\n")
    done, code, _ = asyncio.run(first_task(folder, tmp_path))
    assert done.status == "FINISHED:EXECUTION_EXCEPTION"
    assert "ValueError: no such column (train.py, line 8)" in done.reason
    assert "Traceback" not in done.reason
    assert code == 101
    assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()


def test_a_script_that_leaves_by_os_exit_ends_the_process_without_a_last_message(tmp_path, way):
    folder = app(tmp_path / "app", LOOP + "    import os\n    os._exit(7)\n")
    done, code, _ = asyncio.run(first_task(folder, tmp_path))
    assert (done, code) == (None, 7)


async def _until(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


BUSY = LOOP + "    import time\n    print('busy', flush=True)\n    time.sleep(60)\n"


@pytest.mark.fault("job process killed", "known by its signal")
def test_a_killed_trainer_is_known_by_its_signal(tmp_path, way):
    async def kill(process, run_dir):
        await _until(lambda: "busy" in (run_dir / "log.txt").read_text())
        process.kill()

    done, code, seconds = asyncio.run(first_task(app(tmp_path / "app", BUSY), tmp_path, act=kill))
    assert (done, code) == (None, -9)
    assert seconds < 5


def test_an_abort_ends_a_script_that_waits_for_its_next_task(tmp_path, way):
    async def abort(process, _run_dir):
        await process.send(Abort(reason="enough"))

    done, code, seconds = asyncio.run(first_task(app(tmp_path / "app", LOOP), tmp_path, act=abort))
    assert (done.status, done.reason, code) == ("FINISHED:ABORTED", "site-1: enough", 9)
    assert seconds < 10


def test_the_environment_and_the_descriptors_of_the_parent_stay_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDDEPLOY_CA_PASSPHRASE", "not for scripts")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for scripts")
    script = (
        "import os, json\n"
        "links = {n: os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if n.isdigit() "
        "and os.path.lexists(f'/proc/self/fd/{n}')}\n"
        "print(json.dumps([sorted(os.environ), [l for l in links.values() if l.startswith('/')]]))\n"
    )
    (tmp_path / "secret").write_text("key")
    with (tmp_path / "secret").open() as held:
        os.set_inheritable(held.fileno(), True)
        folder = app(tmp_path / "app", script)
        asyncio.run(first_task(folder, tmp_path))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "CLOUDDEPLOY_CA_PASSPHRASE" not in log
    assert "AWS_SECRET_ACCESS_KEY" not in log
    assert str(tmp_path / "secret") not in log
    assert '"PATH"' in log


def peak_bytes(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


async def answered(folder, run_dir, *, sites, answer):
    """Drive a controller alone: `answer(site, task)` is what a site says.

    Returns its last message, its peak memory after a round and the descriptors its updates came in.
    """
    done, peak, fds = None, 0, set()
    async with started(folder, "controller", "server", run_dir, sites=sites) as (process, pool):
        inbox = asyncio.Queue()

        async def collect():
            while (received := await process.receive()) is not None:
                inbox.put_nowait(received)
            inbox.put_nowait(None)

        collecting = asyncio.create_task(collect())
        while (received := await inbox.get()) is not None:
            message, buffer = received
            if isinstance(message, Task):
                buffer.release()
                for site in message.targets:
                    reply, model = answer(site, message)
                    if model is None:
                        await process.send(reply)
                        continue
                    given = pool.acquire(tensors.size_of(model))
                    fds.add(given.fd)
                    tensors.write(model, given.view)
                    await process.send(
                        Result(message.task_id, site, message.name, message.round, reply, given.size), given
                    )
                    # The next update comes once this one is folded in and its buffer is back, or the job has failed.
                    await _until(lambda key=given.key: key in pool._free or collecting.done())
                    if collecting.done():
                        break
            elif isinstance(message, Progress):
                peak = peak_bytes(process.pid)
            elif isinstance(message, Done):
                done = message
        await collecting
    return done, peak, fds


@pytest.fixture
def silent(tmp_path):
    return app(tmp_path / "app", "")


def test_a_failed_site_ends_a_job_that_needs_it_and_is_named_with_its_cause(silent, tmp_path):
    def answer(site, task):
        if site == "site-2":
            return SiteFailed(task.task_id, site, "site-2: ValueError: no such column (train.py, line 8)"), None
        return {"samples": 1, "metrics": {}}, {"w": np.ones(3)}

    done, _, _ = asyncio.run(answered(silent, tmp_path / "run", sites=SITES, answer=answer))
    assert done.status == "FINISHED:EXECUTION_EXCEPTION"
    assert "site-2: ValueError: no such column" in done.reason


@pytest.mark.fault("site sends other shapes", "named with parameter and shapes")
def test_a_site_with_other_shapes_is_named_with_parameter_and_both_shapes(silent, tmp_path):
    def answer(site, task):
        return {"samples": 1, "metrics": {}}, {"w": np.ones(3 if site == "site-1" else 4)}

    done, _, _ = asyncio.run(answered(silent, tmp_path / "run", sites=SITES, answer=answer))
    assert done.status == "FINISHED:EXECUTION_EXCEPTION"
    for word in ("site-2", "'w'", "(3,)", "(4,)"):
        assert word in done.reason


def test_memory_and_buffers_do_not_grow_with_the_number_of_sites(tmp_path):
    mib = 8
    count = mib << 17  # float64
    initial = f"def make():\n    import numpy\n    return {{'w': numpy.zeros({count})}}\n"
    folder = app(tmp_path / "app", "", initial=initial)
    model = {"w": np.ones(count)}
    peaks = {}
    for number in (2, 12):
        sites = tuple(f"site-{n}" for n in range(number))
        done, peaks[number], fds = asyncio.run(
            answered(
                folder,
                tmp_path / str(number),
                sites=sites,
                answer=lambda _site, _task: ({"samples": 1, "metrics": {}}, model),
            )
        )
        assert done.status == "FINISHED:COMPLETED", done.reason
        assert len(fds) == 1  # one buffer, made once, carried every update
    assert peaks[2] > mib << 20  # it was measured
    assert peaks[12] - peaks[2] < mib << 20


def test_an_abort_ends_a_controller_that_waits_for_its_sites(silent, tmp_path):
    async def run():
        async with started(silent, "controller", "server", tmp_path / "run") as (process, _pool):
            done = None
            while (received := await process.receive()) is not None:
                message, buffer = received
                if isinstance(message, Task):
                    buffer.release()
                    await process.send(Abort(reason="enough"))
                elif isinstance(message, Done):
                    done = message
            return done

    done = asyncio.run(run())
    assert done.status != "FINISHED:COMPLETED"
    assert "enough" in done.reason
