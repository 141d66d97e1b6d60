"""Filters: what is taken out of parameters, or changed in them, before they leave a side or when they come in.

`task_data_filters` see what goes from the server to a site, `task_result_filters` what comes back, each at the side
whose configuration names them. A parameter that a filter takes out keeps, for whoever is behind it, the value it had
before: the server averages a site's update with the model's own value, which the server knows already.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.buffers import Buffer
from clouddeploy_runtime.job.channel import Channel
from clouddeploy_runtime.job.messages import Result, Task

if TYPE_CHECKING:
    import socket

    import numpy as np
    from numpy.typing import NDArray

    from clouddeploy_runtime.job.messages import Message

    Params = Mapping[str, NDArray[np.generic]]


class BadFilter(RuntimeFault):
    """A filter's arguments are wrong, or what it returned is no parameters."""

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


class ExcludeVars(Filter):
    """Takes parameters out by name.

    Args:
        exclude_vars: a list of whole names, or a regular expression that is looked for anywhere in a name.

    Raises:
        BadFilter: it is neither; running without it would let through what should stay.
    """

    def __init__(self, exclude_vars: list[str] | str) -> None:
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
class Chain:
    """Filters in their order, for the tasks that it names."""

    tasks: tuple[str, ...]
    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Filters:
    """All filters of one side."""

    data: Sequence[Chain] = ()
    result: Sequence[Chain] = ()

    def on_data(self, params: Params, task: str) -> Params:
        """Applies those for what goes from the server to a site."""
        return _apply(self.data, params, task)

    def on_result(self, params: Params, task: str) -> Params:
        """Applies those for what comes back."""
        return _apply(self.result, params, task)


def _apply(chains: Sequence[Chain], params: Params, task: str) -> Params:
    for chain in chains:
        if not any(fnmatchcase(task, pattern) for pattern in chain.tasks):
            continue
        for one in chain.filters:
            filtered: Any = one.process(params, task)
            if not isinstance(filtered, Mapping):
                raise BadFilter(
                    f"the filter {type(one).__name__} returned no parameters",
                    why=f"a {type(filtered).__name__}",
                    hint="return a dict of arrays by name",
                )
            params = filtered
    return params


class FilteredChannel(Channel):
    """A controller's channel with its side's filters: the controller and its workflow need not know of them."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._filters = Filters()
        self._withheld: dict[str, Params] = {}

    def use(self, filters: Filters) -> None:
        """Sets the filters; before, everything passes."""
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
