"""Federated averaging: each round every site trains on its own data, and the weighted mean is the next model."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.job.aggregation import WeightedMean
from clouddeploy_runtime.job.controller import Controller

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

    def configure(
        self, *, num_rounds: int = 5, initial_model: str, num_clients: int = 0, evaluate: bool = True
    ) -> None:
        """Takes the arguments of the job's configuration.

        Args:
            num_rounds: how many times to train.
            initial_model: `module:function` in the job's `custom` folder; returns the first parameters by name.
            num_clients: how many sites must answer each round; 0: all.
            evaluate: whether the sites evaluate the final model on their test data.
        """
        self._rounds = num_rounds
        self._min_sites = num_clients or len(self.sites)
        self._evaluate = evaluate
        module, _, function = initial_model.partition(":")
        try:
            self._model: dict[str, NDArray[np.generic]] = dict(getattr(import_module(module), function)())
        except (ImportError, AttributeError, ValueError) as error:
            raise BadWorkflow(
                f"the initial model {initial_model!r} cannot be made",
                why=str(error),
                hint="name module:function in custom/",
            ) from error

    def run(self) -> dict[str, Any]:
        """Runs all rounds; returns the loss of the last one, and the weighted test metrics."""
        history: list[dict[str, float]] = []
        metrics: dict[str, Any] = {}
        for number in range(self._rounds):
            mean = WeightedMean(self._model)
            totals: dict[str, float] = {}
            for answer in self.ask(
                "train", self._model, round=number, total_rounds=self._rounds, min_sites=self._min_sites
            ):
                mean.add(answer.site, answer.params, samples=answer.samples)
                for name, value in answer.metrics.items():
                    totals[name] = totals.get(name, 0.0) + float(value) * answer.samples
            self._model = mean.result()
            metrics = {name: total / mean.samples for name, total in totals.items()}
            history.append(metrics)
            log.info("round %d of %d: %s", number + 1, self._rounds, metrics)
            self.save(self._model, {"rounds": history})
            self.report(number + 1, self._rounds, metrics)
        if self._evaluate:
            metrics |= self._test()
            self.save(self._model, {"rounds": history, "test": metrics})
        return metrics

    def _test(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        samples = 0
        for answer in self.ask(
            "evaluate", self._model, round=self._rounds, total_rounds=self._rounds, min_sites=self._min_sites
        ):
            samples += answer.samples
            for name, value in answer.metrics.items():
                totals[name] = totals.get(name, 0.0) + float(value) * answer.samples
        return {f"test_{name}": total / samples for name, total in totals.items()}
