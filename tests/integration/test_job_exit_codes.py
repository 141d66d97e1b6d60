"""A job's process of its own: what it runs, and how its end names site, cause and kind."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clouddeploy_runtime import jobs
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.messages import Abort, Done, Progress, Result, Task

DATA = Path(__file__).parents[1] / "unit" / "jobs" / "data"
COMMON = "nvflare.app_common"
EXECUTOR = f"{COMMON}.executors.in_process_client_api_executor.InProcessClientAPIExecutor"
TIMEOUT_S = 20


class Parent(Channel):
    """A parent gets its own buffers back, with the answer where the question was."""

    def __init__(self, connection):
        super().__init__(connection)
        real = self._mappings.buffer_of
        self._mappings.buffer_of = lambda frame, fds: self.pool.held(frame.key) if frame.is_yours else real(frame, fds)


class Process:
    """A job's process and the parent's end of its socket."""

    def __init__(self, app: Path, run: Path, *, role: str, **environment: str) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.settimeout(TIMEOUT_S)
        run.mkdir(exist_ok=True)
        words = ["--fd", theirs.fileno(), "--parent", os.getpid(), "--job", "j", "--role", role, "--app", app]
        words += ["--site", "server" if role == "controller" else "site-1", "--run", run, "--sites", "site-1,site-2"]
        self.log = run / "log.txt"
        with theirs, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clouddeploy_runtime.job", *(str(word) for word in words)],
                env={**os.environ, "PYTHONPATH": str(app / "custom"), **environment},
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                cwd=run,
            )
        self.socket = mine
        self.channel = Parent(mine)

    def receive(self):
        """Return the next message; a process that ends with something unread resets the socket before its end."""
        try:
            return self.channel.receive()
        except ConnectionResetError:
            return self.channel.receive()

    def end(self) -> tuple[int, Done | None]:
        """Read to the end; returns the exit status and the last word."""
        done = None
        while (received := self.receive()) is not None:
            if isinstance(received[0], Done):
                done = received[0]
        return self.process.wait(TIMEOUT_S), done

    def close(self) -> None:
        """End what is left."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a job's process; those that still run at the end are ended."""
    started = []

    def begin(app, *, role="trainer", **environment):
        started.append(Process(app, tmp_path / f"run-{len(started)}", role=role, **environment))
        return started[-1]

    yield begin
    for one in started:
        one.close()


@pytest.fixture
def app_of(tmp_path):
    """Return a function that writes an app with a script."""

    def make(script="", *, client=None, server=None):
        app = tmp_path / "app"
        (app / "config").mkdir(parents=True)
        (app / "custom").mkdir()
        (app / "custom" / "train.py").write_text(script)
        executor = {"path": EXECUTOR, "args": {"task_script_path": "train.py"}}
        usual = {"format_version": 2, "executors": [{"tasks": ["*"], "executor": executor}]}
        for side, document in (("client", client or usual), ("server", server)):
            (app / "config" / f"config_fed_{side}.json").write_text(json.dumps(document))
        return app

    return make


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(0)", 0, ""),
        ("import sys; sys.exit(3)", 101, "site-1: train.py ended with 3"),
        ("1 / 0", 101, "site-1: ZeroDivisionError: division by zero (train.py, line 1)"),
        ("raise MemoryError", 104, "site-1: MemoryError:  (train.py, line 1)"),
        ("import errno; raise OSError(errno.ENOSPC, 'No space left', 'x')", 104, "No space left"),
        ("raise RuntimeError('x' * 1_000_000)", 101, "site-1: RuntimeError: xxx"),
    ],
)
def test_the_end_of_a_script_is_told_by_status_and_reason(start, app_of, script, status, reason):
    found, done = start(app_of(script)).end()
    assert found == status
    assert reason in done.reason
    assert done.status == ("FINISHED:COMPLETED" if status == 0 else "FINISHED:EXECUTION_EXCEPTION")


def test_a_class_that_is_not_run_here_ends_with_102_and_its_name(start, app_of):
    executor = {"tasks": ["*"], "executor": {"path": "nvflare.x.PTLearner", "args": {}}}
    found, done = start(app_of(client={"format_version": 2, "executors": [executor]})).end()
    assert (found, "nvflare.x.PTLearner cannot be run" in done.reason) == (102, True)


def test_a_wrong_configuration_ends_with_103_and_its_key(start, app_of):
    found, done = start(app_of(client={"format_version": 2})).end()
    assert (found, '"executors" needs at least one entry' in done.reason) == (103, True)


def test_an_abort_ends_a_script_with_9(start, app_of):
    script = "import nvflare.client as flare\nflare.init()\nwhile flare.is_running():\n    flare.receive()\n"
    process = start(app_of(script))
    process.channel.send(Abort("aborted by lead"))
    found, done = process.end()
    assert (found, done.status, done.reason) == (9, "FINISHED:ABORTED", "site-1: aborted by lead")


def test_a_controller_whose_parent_ends_says_so_nowhere_and_ends(start, app_of):
    workflow = {"path": f"{COMMON}.workflows.fedavg.FedAvg", "args": {"model": {"w": [1]}}}
    process = start(app_of(server={"format_version": 2, "workflows": [workflow]}), role="controller")
    assert isinstance(process.receive()[0], Task)
    process.socket.close()
    assert process.process.wait(TIMEOUT_S) in {9, 104}


def test_an_environment_variable_reaches_the_script_by_its_configuration(start, app_of):
    executor = {"path": EXECUTOR, "args": {"task_script_path": "train.py", "task_script_args": "{$MINE} {SITE_NAME}"}}
    client = {"format_version": 2, "executors": [{"tasks": ["*"], "executor": executor}]}
    script = "import sys\nassert sys.argv[1:] == ['here', 'site-1'], sys.argv\n"
    assert start(app_of(script, client=client), MINE="here").end()[0] == 0


def test_a_job_of_the_reference_runs_unchanged_from_its_hocon_files(start, tmp_path):
    """ScatterAndGather, a numpy persistor and a script of the reference's client API: three rounds of +1.5."""
    with jobs.normalised(DATA / "gather") as folder:
        jobs.load(folder)
        shutil.copytree(folder, tmp_path / "job")
    app = tmp_path / "job" / "gather"
    controller = start(app, role="controller")
    trainers = {name: start(app) for name in ("site-1", "site-2")}
    rounds = []
    while (received := controller.receive()) is not None:
        message, buffer = received
        if isinstance(message, Progress):
            rounds.append((message.round, message.metrics))
        if not isinstance(message, Task):
            continue
        params = tensors.read(buffer.view[: message.size])
        for name, trainer in trainers.items():
            forward(trainer.channel, message, params)
            answer, given = trainer.receive()
            assert answer.meta == {"samples": 10, "metrics": {"accuracy": 0.5}}
            values = tensors.read(given.view[: answer.size])
            forward(controller.channel, Result(message.task_id, name, "train", message.round, answer.meta, 0), values)
            given.release()
        buffer.release()
    assert controller.process.wait(TIMEOUT_S) == 0, controller.log.read_text()
    model = tensors.read(memoryview((controller.log.parent / "global_model.safetensors").read_bytes()))
    assert model["numpy_key"].tolist() == [[5.5, 6.5, 7.5], [8.5, 9.5, 10.5], [11.5, 12.5, 13.5]]
    assert model["numpy_key"].dtype == np.float32
    assert rounds == [(1, {"accuracy": 0.5}), (2, {"accuracy": 0.5}), (3, {"accuracy": 0.5})]
    assert "IntimeModelSelector is left out" in controller.log.read_text()
    for trainer in trainers.values():
        trainer.channel.send(Abort(""))  # without a reason: the job is over
        assert trainer.end()[0] == 0
        assert "job j at site-1" in trainer.log.read_text()


def forward(channel, message, params):
    size = tensors.size_of(params)
    buffer = channel.pool.acquire(size)
    tensors.write(params, buffer.view)
    message.size = size
    channel.send(message, buffer)
