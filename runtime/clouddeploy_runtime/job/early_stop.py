"""When a training has come far enough, and which of its rounds was the best."""

from __future__ import annotations

import logging
import math
import operator
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.job.controller import BadWorkflow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq}
)


@dataclass(frozen=True)
class Condition:
    """A metric and what is wanted of it.

    Attributes:
        key: the metric's name.
        sign: how a value is compared, with the target and with the best before it.
        target: None: there is none, the best is looked for to the end.
    """

    key: str
    sign: str
    target: float | None

    def holds(self, value: float, other: float) -> bool:
        """Tells whether a value is on the wanted side of another."""
        return _OPERATORS[self.sign](value, other)


def parse(text: str) -> Condition:
    """Reads `<key> <sign> <value>`, as `accuracy >= 0.8`.

    Raises:
        BadWorkflow: it is of another form.
    """
    words = text.split() if isinstance(text, str) else []
    try:
        key, sign, target = words
        if sign not in _OPERATORS or not math.isfinite(float(target)):
            raise ValueError(text)
    except ValueError as error:
        raise BadWorkflow(
            f'"stop_cond" cannot be read: {text!r}',
            why=f"it is no metric, one of {' '.join(_OPERATORS)}, and a number",
            hint='write "accuracy >= 0.8"',
        ) from error
    return Condition(key, sign, float(target))


def wanted(stop_cond: str | None, *, key_metric: str | None, lower_is_better: bool) -> Condition | None:
    """Returns the metric that a workflow's arguments name; None: there is none.

    Raises:
        BadWorkflow: they cannot be read.
    """
    if stop_cond:
        return parse(stop_cond)
    if not key_metric:
        return None
    if not isinstance(key_metric, str):
        raise BadWorkflow('"key_metric" must be the name of a metric', why=f"it is {key_metric!r}")
    return Condition(key_metric, "<" if lower_is_better else ">", None)


class EarlyStop:
    """Follows one metric over the rounds.

    Args:
        condition: what is wanted; None: no round is the last one before its time, and none the best.
        patience: after so many rounds that are no better than the best it is enough; 0: never for that.
        state: what `state` gave in the process before this one.
    """

    def __init__(
        self, condition: Condition | None, *, patience: int = 0, state: Mapping[str, Any] | None = None
    ) -> None:
        self._condition = condition
        self._patience = patience
        self._best: float | None = (state or {}).get("best")
        self._in_vain = int((state or {}).get("in_vain", 0))

    @property
    def state(self) -> dict[str, Any]:
        """What another process needs to go on."""
        return {"best": self._best, "in_vain": self._in_vain}

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """Notes a round's metrics; returns whether it is better than all before it."""
        if self._condition is None:
            return False
        value = metrics.get(self._condition.key)
        if value is None:
            log.warning(
                "the metric %r, on which the job's end depends, is not among those of the sites: %s",
                self._condition.key,
                ", ".join(metrics) or "there are none",
            )
            return False
        is_first = self._best is None and not math.isnan(value)
        if is_first or (value != self._best and self._best is not None and self._condition.holds(value, self._best)):
            self._best, self._in_vain = value, 0
            return True
        self._in_vain += 1
        return False

    def why(self, metrics: Mapping[str, float]) -> str:
        """Returns why the round that `is_best` has noted is the last one; empty: it is not."""
        if self._condition is None:
            return ""
        if self._patience and self._in_vain >= self._patience:
            return f"{self._condition.key} has not become better for {self._in_vain} rounds"
        value, target = metrics.get(self._condition.key), self._condition.target
        if value is not None and target is not None and self._condition.holds(value, target):
            return f"{self._condition.key} is {value:g}, and {self._condition.sign} {target:g} was wanted"
        return ""
