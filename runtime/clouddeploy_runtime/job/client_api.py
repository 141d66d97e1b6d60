"""The client API: what a training script calls. `from clouddeploy_runtime.job import client_api as flare`.

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    flare.send(flare.FLModel(params=train(model.params), metrics={"loss": 0.1}, samples=100))
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.messages import Abort, Result, Task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from clouddeploy_runtime.job.channel import Channel

log = logging.getLogger("job")


class ClientApiMisuse(RuntimeFault):
    """A call of the client API came where it makes no sense."""

    error_code = "CLIENT_API_MISUSE"


@dataclass(frozen=True)
class FLModel:
    """Parameters on their way from or to the server.

    Attributes:
        params: by name. Received ones look into shared memory: read-only, and valid until the next `receive`.
        metrics: floats by name, averaged over the sites by samples.
        samples: how many training samples stand behind the parameters.
        current_round: from 0.
    """

    params: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: int = 1
    current_round: int = 0
    total_rounds: int = 0


@dataclass
class _Context:
    channel: Channel
    site: str
    job_id: str
    data_dir: Path | None
    task: Task | None = None
    has_ended: bool = False


_context: list[_Context] = []
"""One training script runs in one process, so its API has one context; the process's start fills it."""


def enter(channel: Channel, *, site: str, job_id: str, data_dir: Path | None) -> None:
    """Prepares the API; the job process calls it before the script runs."""
    _context[:] = [_Context(channel, site, job_id, data_dir)]


def init() -> None:
    """Begins; kept for scripts written for the reference."""
    _current()


def is_running() -> bool:
    """Whether the job goes on."""
    return not _current().has_ended


def receive() -> FLModel | None:
    """Waits for the next task and returns its model; None when the job is over."""
    context = _current()
    context.task = None
    received = None if context.has_ended else context.channel.receive()
    if received is None:
        context.has_ended = True
        return None
    task, buffer = received
    if not isinstance(task, Task):
        context.has_ended = isinstance(task, Abort)
        return None
    context.task = task
    params = {} if buffer is None else tensors.read(buffer.view[: task.size])
    return FLModel(params=params, current_round=task.round, total_rounds=task.total_rounds)


def send(model: FLModel) -> None:
    """Answers the task that was received last.

    Raises:
        ClientApiMisuse: there is none, or it was answered.
    """
    context = _current()
    if context.task is None:
        raise ClientApiMisuse("send() without a task", why="it answers the last receive()", hint="call receive() first")
    task, context.task = context.task, None
    params = {name: np.asarray(array) for name, array in model.params.items()}
    size = tensors.size_of(params)
    buffer = context.channel.pool.acquire(size)
    tensors.write(params, buffer.view)
    meta: dict[str, Any] = {
        "samples": int(model.samples),
        "metrics": {name: float(value) for name, value in model.metrics.items()},
    }
    context.channel.send(Result(task.task_id, context.site, task.name, task.round, meta, size), buffer)


def is_train() -> bool:
    """Whether the task received last asks for training."""
    return _is("train")


def is_evaluate() -> bool:
    """Whether the task received last asks for an evaluation."""
    return _is("evaluate")


def get_site_name() -> str:
    """Returns the site's name."""
    return _current().site


def get_job_id() -> str:
    """Returns the job's id."""
    return _current().job_id


def data_dir() -> Path:
    """Returns the folder with the site's data.

    Raises:
        ClientApiMisuse: the site was given none.
    """
    folder = _current().data_dir
    if folder is None:
        raise ClientApiMisuse("this site has no data folder", hint="name one in the deploy file: data")
    return folder


def _is(name: str) -> bool:
    task = _current().task
    return task is not None and task.name == name


def _current() -> _Context:
    if not _context:
        raise ClientApiMisuse("the client API works inside a job only", hint="submit the script as a job")
    return _context[0]
