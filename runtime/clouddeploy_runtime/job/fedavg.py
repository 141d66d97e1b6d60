"""Federated averaging: each round every site trains on its own data, and the weighted mean is the next model."""

from __future__ import annotations

import logging
import math
import random
import re
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.job import early_stop
from clouddeploy_runtime.job import initial_model as first_model
from clouddeploy_runtime.job.aggregation import WeightedMean
from clouddeploy_runtime.job.controller import BEST_MODEL, BadWorkflow, Controller
from clouddeploy_runtime.job.frameworks import WIRE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from clouddeploy_runtime.job.controller import Answer

log = logging.getLogger(__name__)


class FedAvg(Controller):
    """See the module.

    Source:
        McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1.
    """

    takes_narrow = True
    _wait_s = 0.0
    """How long the other sites are waited for once enough have answered."""

    def configure(
        self,
        *,
        initial_model: str | Mapping[str, Any],
        num_rounds: int = 5,
        num_clients: int = 0,
        evaluate: bool = True,
        train_task: str = "train",
        wait_s: float = 0.0,
        sampled_sites: int = 0,
        start_round: int = 0,
        stop_cond: str | None = None,
        patience: int | None = None,
        key_metric: str | None = None,
        lower_is_better: bool = False,
        aggregation_weights: Mapping[str, float] | None = None,
        exclude_vars: str | None = None,
        wire_dtype: str | None = None,
    ) -> None:
        """Takes the arguments of the job's configuration.

        Args:
            initial_model: `module:function` in the job's `custom` folder, which returns the first parameters by name;
                or these.
            num_rounds: how many times to train.
            num_clients: how many sites must answer each round; 0: all.
            evaluate: whether the sites evaluate the final model on their test data.
            train_task: what the task of training is called.
            wait_s: how long the other sites are waited for once enough have answered.
            sampled_sites: how many sites are asked to train each round, drawn anew, all of which must answer; 0: all
                are asked, also where the reference would take 3 of them.
            start_round: the number of the first round; the last one's is `start_round + num_rounds - 1`.
            stop_cond: `<metric> <sign> <value>`, as `accuracy >= 0.8`: the round whose weighted metric fulfils it is
                the last one. The model of the best round is kept beside the last one.
            patience: after so many rounds without a better metric it is enough too.
            key_metric: by which the best round is found where there is no `stop_cond`.
            lower_is_better: of `key_metric`.
            aggregation_weights: by site, what its samples are multiplied with; 1 for those that are not named.
            exclude_vars: a regular expression, looked for anywhere in a name: what it finds keeps the server's value.
            wire_dtype: `float16` or `bfloat16`, in which floats travel both ways; None: as they are. The mean is
                computed in the model's own type.

        Raises:
            BadWorkflow: names the argument and what it should be.
            BadModel: the first parameters cannot be made.
        """
        for name, value, least in (
            ("num_rounds", num_rounds, 1),
            ("num_clients", num_clients, 0),
            ("num_clients", sampled_sites, 0),
            ("start_round", start_round, 0),
            ("patience", patience or 0, 0),
        ):
            whole_number(name, value, least=least)
        if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not wait_s >= 0:
            raise BadWorkflow("the wait after enough answers must be seconds from 0", why=f"it is {wait_s!r}")
        if not isinstance(train_task, str) or not train_task:
            raise BadWorkflow("the name of the training task must be text", why=f"it is {train_task!r}")
        self._rounds = num_rounds
        self._min_sites = num_clients or len(self.sites)
        self._evaluate = evaluate
        self._train_task = train_task
        self._wait_s = float(wait_s)
        self._sampled = min(sampled_sites, len(self.sites))
        self._first = start_round
        self._patience = patience or 0
        self._condition = early_stop.wanted(stop_cond, key_metric=key_metric, lower_is_better=lower_is_better)
        self._factors = _factors(aggregation_weights, self.sites)
        self._excluded = _pattern(exclude_vars)
        self.wire = wire_type(wire_dtype)
        if self.resumed is None:
            self._model: dict[str, NDArray[np.generic]] = (
                first_model.from_function(initial_model)
                if isinstance(initial_model, str)
                else first_model.of(initial_model, "initial_model")
            )

    def run(self) -> dict[str, Any]:
        """Runs all rounds; returns the loss of the last one, and the weighted test metrics."""
        history, first, state = self._begin()
        stop = early_stop.EarlyStop(self._condition, patience=self._patience, state=state.get("stop"))
        end = self._first + self._rounds
        metrics: dict[str, Any] = dict(history[-1]) if history else {}
        for number in range(first, end if not state.get("is_over") else first):
            metrics = self._round(number)
            history.append(metrics)
            done = number - self._first + 1
            log.info("round %d of %d: %s", done, self._rounds, metrics)
            is_best, why = stop.is_best(metrics), stop.why(metrics)
            self._keep(number + 1, {"rounds": history, "stop": stop.state, "is_over": bool(why)}, is_best=is_best)
            self.report(done, self._rounds, metrics)
            if why:
                log.info("this was the last round: %s", why)
                break
        test = self._test() if self._evaluate else {}
        self.save(self._model, {"rounds": history, "test": test})
        return metrics | test

    def _round(self, number: int) -> dict[str, float]:
        """Makes the model the mean of what the sites make of it; returns the mean of their metrics."""
        trained = {name: one for name, one in self._model.items() if not self._is_excluded(name)}
        # The sites have a copy by the time the first answers: the mean takes the model's own memory.
        mean = WeightedMean(trained, memory=trained)
        totals: dict[str, float] = {}
        for answer in self._all(self._train_task, number):
            weight = answer.samples * self._factors.get(answer.site, 1)
            mean.add(answer.site, answer.params, samples=weight)
            for name, value in answer.metrics.items():
                totals[name] = totals.get(name, 0.0) + float(value) * weight
        self._model.update(mean.result())
        return {name: total / mean.samples for name, total in totals.items()}

    def _is_excluded(self, name: str) -> bool:
        return self._excluded is not None and self._excluded.search(name) is not None

    def _begin(self) -> tuple[list[dict[str, float]], int, dict[str, Any]]:
        """Returns what is known of the rounds so far, the one to begin with, and what else was kept."""
        if self.resumed is None:
            return [], self._first, {}
        resumed, self.resumed = self.resumed, None  # the model in it would be held to the end
        self._model = dict(resumed.params)
        log.info("goes on with round %d of %d", resumed.round - self._first + 1, self._rounds)
        return list(resumed.state.get("rounds", [])), resumed.round, dict(resumed.state)

    def _keep(self, number: int, state: Mapping[str, Any], *, is_best: bool) -> None:
        """Writes the checkpoint; a disk that is full for a while costs the way back to it, and not the job."""
        try:
            self.checkpoint(number, self._model, state, names=(BEST_MODEL,) if is_best else (), beside=True)
        except OSError as error:
            log.warning("round %d is not kept: %s", number, error)

    def _all(self, task: str, number: int) -> Iterator[Answer]:
        is_drawn = bool(self._sampled) and task == self._train_task
        targets = self._drawn(number) if is_drawn else self.sites
        least = len(targets) if is_drawn else self._min_sites
        return self.ask(
            task,
            self._model,
            round=number,
            total_rounds=self._rounds,
            min_sites=least,
            enough=least,
            wait_s=self._wait_s,
            targets=targets,
        )

    def _drawn(self, number: int) -> tuple[str, ...]:
        """Returns the sites of a round: the same in a process that goes on with it.

        Those that have failed before are taken when there are not enough others.
        """
        order = sorted(self.sites)
        random.Random(f"{self.job_id}/{number}").shuffle(order)  # noqa: S311 - no secret
        return tuple(sorted(order, key=lambda site: site in self.failures)[: self._sampled])

    def _test(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        samples = 0.0
        for answer in self._all("evaluate", self._first + self._rounds):
            samples += answer.samples
            for name, value in answer.metrics.items():
                totals[name] = totals.get(name, 0.0) + float(value) * answer.samples
        return {f"test_{name}": total / samples for name, total in totals.items()}


def whole_number(name: str, value: Any, *, least: int) -> int:
    """Returns an argument that counts something.

    Raises:
        BadWorkflow: it is something else, or less than `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadWorkflow(f'"{name}" must be a whole number from {least}', why=f"it is {value!r}")
    return value


def wire_type(name: Any) -> str | None:
    """Returns the name of a type for the wire.

    Raises:
        BadWorkflow: there is none of this name.
    """
    if name is None:
        return None
    if not isinstance(name, str) or name not in WIRE:
        raise BadWorkflow(f'"wire_dtype" cannot be {name!r}', why=f"it is one of {', '.join(WIRE)}")
    return name


def _factors(weights: Any, sites: tuple[str, ...]) -> dict[str, float]:
    if weights is None:
        return {}
    is_right = isinstance(weights, dict) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and 0 < one < math.inf for one in weights.values()
    )
    if not is_right:
        raise BadWorkflow('"aggregation_weights" must be numbers above 0 by site', why=f"it is {weights!r}")
    if strangers := weights.keys() - set(sites):
        log.warning("aggregation_weights names sites that take no part: %s", ", ".join(sorted(strangers)))
    return dict(weights)


def _pattern(text: Any) -> re.Pattern[str] | None:
    if text is None or text == "":
        return None
    try:
        return re.compile(text)
    except (re.error, TypeError) as error:
        raise BadWorkflow(f'"exclude_vars" cannot be {text!r}', why=f"it is no regular expression: {error}") from error
