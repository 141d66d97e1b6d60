"""Filters: what is taken out of parameters, or changed in them, before they leave a side or when they come in.

`task_data_filters` see what goes from the server to a site, `task_result_filters` what comes back, each at the side
whose configuration names them; a site puts those of its privacy scope before a job's own. A parameter that a filter
takes out keeps, for whoever is behind it, the value it had before: the server averages a site's update with the model's
own value, which the server knows already.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.job import frameworks, tensors
from clouddeploy_runtime.job.buffers import Buffer
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.messages import Result, Task

if TYPE_CHECKING:
    import socket

    from numpy.typing import NDArray

    from clouddeploy_runtime.job.messages import Message

    Params = Mapping[str, NDArray[np.generic]]
    Changes = Mapping[str, NDArray[np.floating[Any]]]

_KINDS = frozenset({"WEIGHT_DIFF", "WEIGHTS"})
"""What the reference calls whole parameters and differences."""


class BadFilter(RuntimeFault):
    """A filter's arguments are wrong, it failed, or what it returned is no parameters; nothing passes it then."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_FILTER"


class ParentGone(RuntimeFault):
    """The process that started this one does not listen any more."""

    error_code = "PARENT_GONE"


class Filter:
    """Base of all filters; a job's own, in custom/, derives from it and overrides `process`."""

    def process(self, params: Params, task: str) -> Params:
        """Returns what goes on.

        Args:
            params: by name; read-only, and valid during this call.
            task: the task's name.
        """
        raise NotImplementedError

    def process_answer(self, params: Params, task: str, answer: Answer) -> Params:  # noqa: ARG002 - for others
        """Returns what goes on of a site's answer, at that site; what `process` does unless it is overridden.

        Args:
            params: as above.
            task: as above.
            answer: what the parameters are.
        """
        return self.process(params, task)


class ExcludeVars(Filter):
    """Takes parameters out by name.

    Args:
        exclude_vars: a list of whole names, or a regular expression that is looked for anywhere in a name.
        data_kinds: as `ChangeFilter` takes them.

    Raises:
        BadFilter: it is neither; running without it would let through what should stay.
    """

    def __init__(self, exclude_vars: list[str] | str, data_kinds: list[str] | None = None) -> None:
        _check_kinds(self, data_kinds)
        is_list = isinstance(exclude_vars, list) and all(isinstance(name, str) for name in exclude_vars)
        if not exclude_vars or not (is_list or isinstance(exclude_vars, str)):
            raise BadFilter("ExcludeVars cannot be used", why='"exclude_vars" must be a list of names, or a pattern')
        try:
            self._pattern = re.compile(exclude_vars) if isinstance(exclude_vars, str) else None
        except re.error as exc:
            raise BadFilter(f"ExcludeVars cannot use the pattern {exclude_vars!r}", why=str(exc)) from exc
        self._names = frozenset(() if self._pattern else exclude_vars)

    def process(self, params: Params, task: str) -> Params:  # noqa: ARG002 - the same for every task
        """Returns the others."""
        return {name: array for name, array in params.items() if not self._is_excluded(name)}

    def _is_excluded(self, name: str) -> bool:
        return bool(self._pattern.search(name)) if self._pattern else name in self._names


@dataclass(frozen=True)
class Answer:
    """What an answer's parameters are, for filters of changes.

    Attributes:
        received: what the server sent, whole: what it will compare the answer with.
        is_difference: whether the parameters are to be added to that.
        steps: local training steps behind them, as the script says; 1: it does not.
    """

    received: Params
    is_difference: bool = False
    steps: Any = 1


class ChangeFilter(Filter):
    """Base of the filters that work on what training has changed, be that sent as a difference or as a whole.

    The reference's filters take a whole model's parameters for changes. Here the changes are computed from what was
    received, so that a script cannot get round such a filter by the form of its answer.

    Args:
        data_kinds: `WEIGHTS`, `WEIGHT_DIFF`; read, and without effect: both kinds are filtered.

    Raises:
        BadFilter: they name another kind.
    """

    def __init__(self, data_kinds: list[str] | None = None) -> None:
        _check_kinds(self, data_kinds)

    def change(self, changes: Changes, steps: float) -> Changes:
        """Returns what goes on of the changes.

        Args:
            changes: by name, at least one number in all of them together; finite, float32 or float64.
            steps: local training steps behind them, above 0.
        """
        raise NotImplementedError

    def process(self, params: Params, task: str) -> Params:  # noqa: ARG002 - whatever they are
        """Never lets anything through: parameters alone do not say what has changed."""
        raise BadFilter(f"the filter {type(self).__name__} cannot be used", why=f"{task}: this is no site's answer")

    def process_answer(self, params: Params, task: str, answer: Answer) -> Params:  # noqa: ARG002 - the same for every task
        """Returns what goes on of an answer, in the form that it has.

        Raises:
            BadFilter: it cannot be compared with what was received, or holds what is no number.
        """
        if not any(one.size for one in params.values()):
            return params  # an evaluation sends none
        changes = {name: self._change_of(name, one, answer) for name, one in params.items()}
        steps = checked(self, "steps", answer.steps)
        changed = self.change(changes, steps)
        if answer.is_difference:
            return changed
        return {
            name: _fitted(np.add(_wide(answer.received[name]), one), params[name].dtype)
            for name, one in changed.items()
        }

    def _change_of(self, name: str, array: NDArray[np.generic], answer: Answer) -> NDArray[np.floating[Any]]:
        known = answer.received.get(name)
        if known is None or known.shape != array.shape:
            has = "was not received" if known is None else f"has the shape {array.shape}, and had {known.shape}"
            raise BadFilter(
                f"the filter {type(self).__name__} cannot see what has changed", why=f"the parameter {name!r} {has}"
            )
        wide, base = _wide(array), _wide(known)
        change = wide if answer.is_difference else np.subtract(wide, base, dtype=np.result_type(wide, base))
        if not np.isfinite(change).all():
            raise BadFilter(
                f"the filter {type(self).__name__} cannot be used",
                why=f"the parameter {name!r} holds no finite numbers",
            )
        return change


def _wide(array: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
    """Returns an array as float32, or as float64 where that would lose something."""
    wide = frameworks.widened(array)
    return wide.astype(np.result_type(wide.dtype, np.float32), copy=False)


def _fitted(array: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """Returns floats as parameters of another type: whole numbers are rounded, and cut to what the type holds."""
    if dtype == frameworks.BFLOAT16:
        return frameworks.narrowed(array, dtype)
    if dtype.kind == "b":
        return np.asarray(array >= 0.5)  # noqa: PLR2004 - rounded
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.asarray(np.clip(np.rint(array), limits.min, limits.max)).astype(dtype)
    return array.astype(dtype, copy=False)


def checked(owner: Filter, key: str, value: Any, *, least: float | None = None, most: float = math.inf) -> float:
    """Returns a filter's argument as a float.

    Args:
        owner: the filter.
        key: what the argument is called.
        value: what was given.
        least: None: it must be above 0.
        most: it is this at most.

    Raises:
        BadFilter: it is no number, not finite, or out of its bounds.
    """
    is_number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if is_number and value <= most and (value > 0 if least is None else value >= least):
        return float(value)
    raise BadFilter(f"{type(owner).__name__} cannot be used", why=f'"{key}" cannot be {value!r}')


def _check_kinds(owner: Filter, kinds: Any) -> None:
    if kinds is not None and not (
        isinstance(kinds, list) and all(isinstance(one, str) and one in _KINDS for one in kinds)
    ):
        raise BadFilter(
            f"{type(owner).__name__} cannot be used", why=f'"data_kinds" is {kinds!r}', hint=", ".join(sorted(_KINDS))
        )


@dataclass(frozen=True)
class Chain:
    """Filters in their order, for the tasks that it names."""

    tasks: tuple[str, ...]
    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Filters:
    """All filters of one side.

    Raises:
        BadFilter: one that works on answers stands among those for what comes from the server.
    """

    data: Sequence[Chain] = ()
    result: Sequence[Chain] = ()

    def __post_init__(self) -> None:
        """Refuses what could only fail later."""
        _refuse_change_filters(self.data, "task_data_filters", hint="name it among task_result_filters")

    def on_data(self, params: Params, task: str) -> Params:
        """Applies those for what goes from the server to a site."""
        return _apply(self.data, params, task, None)

    def on_result(self, params: Params, task: str, answer: Answer | None = None) -> Params:
        """Applies those for what comes back.

        Args:
            params: by name.
            task: the task's name.
            answer: at a site: what the parameters are.

        Raises:
            BadFilter: a filter failed; names it.
        """
        return _apply(self.result, params, task, answer)

    def after(self, first: Filters) -> Filters:
        """Returns these with others before them, which see everything first."""
        return Filters(data=(*first.data, *self.data), result=(*first.result, *self.result))


def _refuse_change_filters(chains: Sequence[Chain], where: str, *, hint: str) -> None:
    for name in (type(one).__name__ for chain in chains for one in chain.filters if isinstance(one, ChangeFilter)):
        raise BadFilter(f"the filter {name} cannot stand in {where}", why="it works on a site's answer", hint=hint)


def _apply(chains: Sequence[Chain], params: Params, task: str, answer: Answer | None) -> Params:
    for chain in chains:
        if not any(fnmatchcase(task, pattern) for pattern in chain.tasks):
            continue
        for one in chain.filters:
            params = _passed(one, params, task, answer)
    return params


def _passed(one: Filter, params: Params, task: str, answer: Answer | None) -> Params:
    name = type(one).__name__
    try:
        filtered: Any = one.process(params, task) if answer is None else one.process_answer(params, task, answer)
    except BadFilter:
        raise
    except Exception as exc:
        # A job's or a site's own filter may raise anything; that what it should have filtered stays is its name's due.
        raise BadFilter(f"the filter {name} failed", why=f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(filtered, Mapping):
        raise BadFilter(
            f"the filter {name} returned no parameters",
            why=f"a {type(filtered).__name__}",
            hint="return a dict of arrays by name",
        )
    return filtered


class FilteredChannel(Channel):
    """A controller's channel with its side's filters: the controller and its workflow need not know of them."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._filters = Filters()
        self._withheld: dict[str, Params] = {}

    def use(self, filters: Filters) -> None:
        """Sets the filters; before, everything passes.

        Raises:
            BadFilter: one works on what a site has changed, which only the site knows.
        """
        _refuse_change_filters(
            filters.result, "config_fed_server.json", hint="name it in config_fed_client.json, or at the site"
        )
        self._filters = filters

    def send(self, message: Message, buffer: Buffer | None = None) -> None:
        """Sends a message; a task's parameters pass the filters first. See `Channel.send`.

        Raises:
            ParentGone: the parent has ended.
        """
        if not isinstance(message, Task) or buffer is None or not (self._filters.data or self._filters.result):
            self._pass(message, buffer)
            return
        params = tensors.read(buffer.view[: message.size])
        filtered = self._filters.on_data(params, message.name)
        # The copies live as long as the round: an answer may come when the buffer is another task's already.
        self._withheld = {message.task_id: {name: params[name].copy() for name in params if name not in filtered}}
        size = tensors.size_of(filtered)
        other = self.pool.acquire(size)
        tensors.write(filtered, other.view)
        buffer.release()
        message.size = size
        self._pass(message, other)

    def _pass(self, message: Message, buffer: Buffer | None) -> None:
        try:
            super().send(message, buffer)
        except OSError as exc:
            raise ParentGone("the parent of this job has ended", why=exc.strerror or str(exc)) from exc

    def receive(self, *, until: float = math.inf) -> tuple[Message, Buffer | None] | None:
        """Returns the next message; a result's parameters have passed the filters. See `Channel.receive`."""
        received = super().receive(until=until)
        if received is None:
            return None
        message, buffer = received
        if not isinstance(message, Result) or buffer is None or not (self._filters.data or self._filters.result):
            return received
        params = tensors.read(buffer.view[: message.size])
        # An evaluation sends no parameters, and needs none.
        kept = self._withheld.get(message.task_id, {}) if params else {}
        whole = {**kept, **self._filters.on_result(params, message.name)}
        message.size = tensors.size_of(whole)
        content = bytearray(message.size)
        tensors.write(whole, memoryview(content))
        return message, _Held(buffer, content)


class _Held(Buffer):
    """What became of a received buffer: memory of this process; given back with the one it was made of."""

    def __init__(self, origin: Buffer, content: bytearray) -> None:
        self.key, self.fd, self.size, self.is_file = origin.key, -1, len(content), False
        self.capacity = len(content)
        self.view = memoryview(content)
        self._origin = origin

    def release(self) -> None:
        """Gives the origin back."""
        self._origin.release()
