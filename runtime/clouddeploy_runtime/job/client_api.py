"""The client API: what a training script calls. `from clouddeploy_runtime.job import client_api as flare`.

flare.init()
while flare.is_running():
    model = flare.receive()
    flare.send(flare.FLModel(params=train(model.params), metrics={"loss": 0.1}, samples=100))

Scripts that say `import nvflare.client as flare` get this module, see `nvflare_alias`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job import frameworks, tensors
from clouddeploy_runtime.job.filters import Answer, BadFilter, Filters
from clouddeploy_runtime.job.initial_model import array
from clouddeploy_runtime.job.messages import Abort, Result, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from clouddeploy_runtime.job.buffers import Buffer
    from clouddeploy_runtime.job.channel import Channel

log = logging.getLogger("job")

SAMPLES = "NUM_STEPS_CURRENT_ROUND"
"""Where the reference's scripts say what an update weighs."""


class ClientApiMisuse(RuntimeFault):
    """A call of the client API came where it makes no sense."""

    error_code = "CLIENT_API_MISUSE"


class ParamsType(StrEnum):
    """Whether parameters are whole or what is to be added to those received."""

    FULL = "FULL"
    DIFF = "DIFF"


@dataclass
class FLModel:
    """Parameters on their way from or to the server.

    Attributes:
        params: by name. Received ones look into shared memory: read-only, and valid until the answer was sent.
        metrics: floats by name, averaged over the sites by samples.
        samples: what the parameters weigh, as a rule how many training samples stand behind them; any number above 0.
            None: what `meta` says, else 1.
        current_round: from 0.
        total_rounds: of the job.
        params_type: of `params`; None is FULL.
        meta: of a received one what the workflow says beside; of an answer `NUM_STEPS_CURRENT_ROUND` counts, as
            samples.
        optimizer_params: stay at the site.
    """

    params: Mapping[str, Any] | None = field(default_factory=dict)
    metrics: Mapping[str, float] | None = field(default_factory=dict)
    samples: float | None = None
    current_round: int | None = 0
    total_rounds: int | None = 0
    params_type: ParamsType | str | None = None
    meta: Mapping[str, Any] | None = None
    optimizer_params: Any = None


@dataclass(frozen=True)
class Wishes:
    """What the executor's entry in the configuration says of the script.

    Attributes:
        tasks: patterns of the tasks it does; others fail.
        train: what its training task is called, besides `train`.
        evaluate: what its evaluation task is called, besides `evaluate` and `validate`.
        filters: of this side.
        to_framework: makes the script's kind of tensor from a read-only array; None: the array itself, a bfloat16 as
            float32.
        config: what `get_config` returns.
    """

    tasks: tuple[str, ...] = ("*",)
    train: str = "train"
    evaluate: str = "evaluate"
    filters: Filters = field(default_factory=Filters)
    to_framework: Callable[[NDArray[np.generic]], Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Context:
    channel: Channel
    site: str
    job_id: str
    data_dir: Path | None
    wishes: Wishes
    task: Task | None = None
    received: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    narrow: Mapping[str, np.dtype[Any]] = field(default_factory=dict)
    """What came in a narrow type, and is sent back in it."""
    buffer: Buffer | None = None
    """What `received` looks into, unless it was widened."""
    model: FLModel | None = None
    """What the script gets for `task`, until it has answered."""
    waiting: tuple[Task, Buffer | None] | None = None
    """The next task, when the server went on before the script."""
    has_ended: bool = False
    abort: str | None = None
    fault: BadFilter | None = None
    """Why nothing is exchanged any more: a filter failed."""


_context: list[_Context] = []
"""One training script runs in one process, so its API has one context; the process's start fills it."""


def enter(channel: Channel, *, site: str, job_id: str, data_dir: Path | None, wishes: Wishes | None = None) -> None:
    """Prepares the API; the job process calls it before the script runs."""
    _context[:] = [_Context(channel, site, job_id, data_dir, wishes or Wishes())]


def aborted() -> str | None:
    """Returns why the job was stopped; None when it was not, as when it is simply over."""
    return _current().abort


def failed() -> BadFilter | None:
    """Returns the failure of a filter, which ends this site's part whatever the script does; None: there is none."""
    return _current().fault


@contextlib.contextmanager
def _filtering(context: _Context) -> Iterator[None]:
    try:
        yield
    except BadFilter as fault:
        context.has_ended, context.fault = True, fault
        raise


def init(rank: str | None = None, config_file: str | None = None) -> None:
    """Begins; kept, with its arguments, for scripts written for the reference."""
    del rank, config_file
    _current()


def is_running() -> bool:
    """Whether there is something to do: waits for the next task, which `receive` returns then; False at the end.

    With a task that is not answered it does not wait: a script may ask in its loops whether it can stop.

    Raises:
        ClientApiMisuse: the task is none that the configuration gives to this script.
    """
    context = _current()
    if context.model is not None and not context.has_ended:
        context.waiting = context.waiting or _next(context, time.monotonic())  # or the end
    return receive() is not None


def receive(timeout: float | None = None) -> FLModel | None:
    """Waits for the next task and returns its model; until that is answered, the same one again.

    Returns:
        None when the job is over, or nothing came within the timeout.

    Raises:
        ClientApiMisuse: the task is none that the configuration gives to this script.
    """
    context = _current()
    if context.has_ended:
        return None
    if context.model is None:
        until = math.inf if timeout is None else time.monotonic() + timeout
        received, context.waiting = context.waiting or _next(context, until), None
        if received is not None:
            context.model = _model(context, *received)
    return None if context.has_ended else context.model


def _next(context: _Context, until: float) -> tuple[Task, Buffer | None] | None:
    """Returns the next task; None at the end, which is noted, or when it is too late."""
    while True:
        try:
            received = context.channel.receive(until=until)
        except TimeoutError:
            return None
        if received is None:
            context.has_ended = True
            return None
        message, buffer = received
        if isinstance(message, Abort):
            context.has_ended, context.abort = True, message.reason or None
            return None
        if isinstance(message, Task):
            return message, buffer


def _model(context: _Context, task: Task, buffer: Buffer | None) -> FLModel:
    """Returns what the script gets for a task, which is the current one from now on."""
    context.task = task
    if not any(fnmatchcase(task.name, pattern) for pattern in _patterns(context.wishes)):
        raise ClientApiMisuse(
            f"no executor does the task {task.name!r}", why=f"tasks: {', '.join(context.wishes.tasks)}"
        )
    context.buffer = buffer
    raw = {} if buffer is None else tensors.read(buffer.view[: task.size])
    asked = frameworks.WIRE.get(str(task.meta.get(frameworks.WIRE_KEY)))
    narrow = {frameworks.BFLOAT16} if asked is None else {frameworks.BFLOAT16, asked}
    context.narrow = {name: one.dtype for name, one in raw.items() if one.dtype in narrow}
    wide = {name: frameworks.widened(raw[name], dtype) for name, dtype in context.narrow.items()}
    context.received = {**raw, **wide}
    with _filtering(context):
        params: Mapping[str, Any] = context.wishes.filters.on_data(context.received, task.name)
    to_framework = context.wishes.to_framework
    if to_framework is not None:
        # Narrow on the wire alone is the job's wish; a model that is of bfloat16 itself the script gets as such.
        own = context.narrow if asked is None else {}
        params = {
            name: to_framework(frameworks.narrowed(one, own.get(name, one.dtype))) for name, one in params.items()
        }
    return FLModel(
        params=params,
        params_type=ParamsType.FULL,
        current_round=task.round,
        total_rounds=task.total_rounds,
        meta=dict(task.meta),
    )


def send(model: FLModel, clear_cache: bool = True) -> None:
    """Answers the task that was received last.

    Raises:
        ClientApiMisuse: there is none, or it was answered; a difference names what was not received; or the answer
            weighs nothing.
        BadFilter: a filter failed, now or before; nothing is sent.
    """
    del clear_cache  # the memory that it would keep is the server's again
    context = _current()
    if context.fault is not None:
        raise context.fault
    if context.task is None:
        raise ClientApiMisuse("send() without a task", why="it answers the last receive()", hint="call receive() first")
    weight = _weight(model)
    task, context.task, context.model = context.task, None, None
    params = _outgoing(context, task, model)
    size = tensors.size_of(params)
    buffer = _place(context, params, size)
    tensors.write(params, buffer.view)
    meta: dict[str, Any] = {
        "samples": weight,
        "metrics": {name: float(value) for name, value in (model.metrics or {}).items()},
    }
    context.channel.send(Result(task.task_id, context.site, task.name, task.round, meta, size), buffer)


def _weight(model: FLModel) -> float:
    given = model.samples if model.samples is not None else (model.meta or {}).get(SAMPLES, 1)
    try:
        weight = given if isinstance(given, int) and not isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ClientApiMisuse(
            f"an answer cannot weigh {given!r}", why="a weight is a number above 0", hint=f"set samples, or {SAMPLES}"
        )
    return weight


def _place(context: _Context, params: Mapping[str, NDArray[np.generic]], size: int) -> Buffer:
    """Returns where an answer goes: over the question, which saves its memory once more, if nothing is read there."""
    lent, context.buffer = context.buffer, None
    if lent is None:
        return context.channel.pool.acquire(size)
    whole = np.frombuffer(lent.view, np.uint8)
    is_read = any(np.may_share_memory(one, whole) for one in params.values())
    if is_read or lent.view.readonly or size > lent.capacity:
        return context.channel.pool.acquire(size)
    return lent


def _outgoing(context: _Context, task: Task, model: FLModel) -> Mapping[str, NDArray[np.generic]]:
    """Returns whole parameters: filtered; what a filter took out is what the server sent."""
    own = {name: frameworks.widened(array(value, name)) for name, value in (model.params or {}).items()}
    is_difference = model.params_type == ParamsType.DIFF
    answer = Answer(context.received, is_difference=is_difference, steps=(model.meta or {}).get(SAMPLES, 1))
    with _filtering(context):
        params = dict(context.wishes.filters.on_result(own, task.name, answer))
    if is_difference:
        strangers = params.keys() - context.received.keys()
        if strangers:
            names = ", ".join(sorted(strangers))
            raise ClientApiMisuse("the difference cannot be added", why=f"nothing of the name was received: {names}")
        params = {name: _sum(context.received[name], one) for name, one in params.items()}
    for name in own.keys() - params.keys():
        if name in context.received:
            params[name] = context.received[name]
    narrow = {name: frameworks.narrowed(one, context.narrow.get(name, one.dtype)) for name, one in params.items()}
    return frameworks.for_wire(narrow, task.meta.get(frameworks.WIRE_KEY))


def _sum(received: NDArray[np.generic], difference: NDArray[np.generic]) -> NDArray[np.generic]:
    total: NDArray[np.generic] = np.add(received, difference).astype(received.dtype, copy=False)
    return total


def _patterns(wishes: Wishes) -> tuple[str, ...]:
    # The reference calls an evaluation `validate`, in configurations, and `evaluate`, in its client API.
    names = {"evaluate", "validate", wishes.evaluate}
    return (*wishes.tasks, *(names if names & set(wishes.tasks) else ()))


def is_train() -> bool:
    """Whether the task received last asks for training."""
    return get_task_name() in {"train", _current().wishes.train}


def is_evaluate() -> bool:
    """Whether the task received last asks for an evaluation."""
    return get_task_name() in {"evaluate", "validate", _current().wishes.evaluate}


def is_submit_model() -> bool:
    """Whether the task received last asks for the site's best model, as a cross-site evaluation does."""
    return get_task_name() == "submit_model"


def get_task_name() -> str:
    """Returns the name of the task received last; empty when it was answered."""
    task = _current().task
    return "" if task is None else task.name


def get_site_name() -> str:
    """Returns the site's name."""
    return _current().site


def get_job_id() -> str:
    """Returns the job's id."""
    return _current().job_id


def system_info() -> dict[str, Any]:
    """Returns the names of site and job, as the reference calls them."""
    return {"site_name": get_site_name(), "job_id": get_job_id()}


def get_config() -> dict[str, Any]:
    """Returns the arguments of the executor."""
    return dict(_current().wishes.config)


def log_metric(key: str, value: Any, data_type: Any = None, **kwargs: Any) -> bool:
    """Writes a metric into the job's log at the site; scripts know it as `log`."""
    del data_type
    log.info("%s: %s %s", key, value, kwargs or "")
    return True


def shutdown() -> None:
    """Ends the script's part; the job goes on with the other sites."""
    _current().has_ended = True


def clear() -> None:
    """Drops the task received last."""
    context = _current()
    context.task = context.model = None


def data_dir() -> Path:
    """Returns the folder with the site's data.

    Raises:
        ClientApiMisuse: the site was given none.
    """
    folder = _current().data_dir
    if folder is None:
        raise ClientApiMisuse("this site has no data folder", hint="name one in the deploy file: data")
    return folder


def _current() -> _Context:
    if not _context:
        raise ClientApiMisuse("the client API works inside a job only", hint="submit the script as a job")
    return _context[0]
