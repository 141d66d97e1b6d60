"""Federated averaging: each round every site trains on its own data, and the weighted mean is the next model."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.job import initial_model as first_model
from clouddeploy_runtime.job.aggregation import WeightedMean
from clouddeploy_runtime.job.controller import Controller

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from clouddeploy_runtime.job.controller import Answer

log = logging.getLogger(__name__)


class BadWorkflow(RuntimeFault):
    """The workflow's arguments are wrong."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_WORKFLOW"


class FedAvg(Controller):
    """See the module.

    Source:
        McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1.
    """

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

        Raises:
            BadWorkflow: names the argument and what it should be.
            BadModel: the first parameters cannot be made.
        """
        for name, value, least in (
            ("num_rounds", num_rounds, 1),
            ("num_clients", num_clients, 0),
            ("num_clients", sampled_sites, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise BadWorkflow(f'"{name}" must be a whole number from {least}', why=f"it is {value!r}")
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
        if self.resumed is None:
            self._model: dict[str, NDArray[np.generic]] = (
                first_model.from_function(initial_model)
                if isinstance(initial_model, str)
                else first_model.of(initial_model, "initial_model")
            )

    def run(self) -> dict[str, Any]:
        """Runs all rounds; returns the loss of the last one, and the weighted test metrics."""
        history, first = self._begin()
        metrics: dict[str, Any] = dict(history[-1]) if history else {}
        for number in range(first, self._rounds):
            # The sites have a copy by the time the first answers: the mean takes the model's own memory.
            mean = WeightedMean(self._model, memory=self._model)
            totals: dict[str, float] = {}
            for answer in self._all(self._train_task, number):
                mean.add(answer.site, answer.params, samples=answer.samples)
                for name, value in answer.metrics.items():
                    totals[name] = totals.get(name, 0.0) + float(value) * answer.samples
            self._model = mean.result()
            metrics = {name: total / mean.samples for name, total in totals.items()}
            history.append(metrics)
            log.info("round %d of %d: %s", number + 1, self._rounds, metrics)
            self._keep(number + 1, history)
            self.report(number + 1, self._rounds, metrics)
        test = self._test() if self._evaluate else {}
        self.save(self._model, {"rounds": history, "test": test})
        return metrics | test

    def _begin(self) -> tuple[list[dict[str, float]], int]:
        """Returns what is known of the rounds so far, and the one to begin with."""
        if self.resumed is None:
            return [], 0
        resumed, self.resumed = self.resumed, None  # the model in it would be held to the end
        self._model = dict(resumed.params)
        log.info("goes on with round %d of %d", resumed.round + 1, self._rounds)
        return list(resumed.state.get("rounds", [])), resumed.round

    def _keep(self, number: int, history: list[dict[str, float]]) -> None:
        """Writes the checkpoint; a disk that is full for a while costs the way back to it, and not the job."""
        try:
            self.checkpoint(number, self._model, {"rounds": history})
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
        for answer in self._all("evaluate", self._rounds):
            samples += answer.samples
            for name, value in answer.metrics.items():
                totals[name] = totals.get(name, 0.0) + float(value) * answer.samples
        return {f"test_{name}": total / samples for name, total in totals.items()}
