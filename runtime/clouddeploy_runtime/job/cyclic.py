"""Cyclic training: in each round the model goes from site to site, and each trains what the one before made of it."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.job import initial_model as first_model
from clouddeploy_runtime.job.aggregation import ShapeMismatch, WeightedMean
from clouddeploy_runtime.job.controller import BadWorkflow, Controller, TooFewSites
from clouddeploy_runtime.job.fedavg import whole_number, wire_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

FIXED, RANDOM, NOT_TWICE = "FIXED", "RANDOM", "RANDOM_WITHOUT_SAME_IN_A_ROW"
"""The reference's names."""


class Cyclic(Controller):
    """See the module.

    A site that fails is passed over in that round: the next one gets what it was to get. Whoever starts again after a
    restart of the server goes on at the site at which it was.

    Source:
        Chang et al. 2018, "Distributed deep learning networks among institutions for medical imaging".
    """

    takes_narrow = True

    def configure(
        self,
        *,
        initial_model: str | Mapping[str, Any],
        num_rounds: int = 5,
        order: str | list[str] = FIXED,
        sampled_sites: int = 0,
        start_round: int = 0,
        train_task: str = "train",
        wire_dtype: str | None = None,
    ) -> None:
        """Takes the arguments of the job's configuration.

        Args:
            initial_model: as FedAvg's.
            num_rounds: how often the model makes its way.
            order: `FIXED`: as the sites stand in the job. `RANDOM`: drawn anew for each round.
                `RANDOM_WITHOUT_SAME_IN_A_ROW`: so that nobody trains twice in a row. Or the sites' names.
            sampled_sites: so many sites, drawn for each round, take part in it; 0: all.
            start_round: the number of the first round.
            train_task: what the task of training is called.
            wire_dtype: as FedAvg's.

        Raises:
            BadWorkflow: names the argument and what it should be.
            BadModel: the first parameters cannot be made.
        """
        self._rounds = whole_number("num_rounds", num_rounds, least=1)
        self._first = whole_number("start_round", start_round, least=0)
        self._sampled = whole_number("num_clients", sampled_sites, least=0)
        if not isinstance(train_task, str) or not train_task:
            raise BadWorkflow("the name of the training task must be text", why=f"it is {train_task!r}")
        self._train_task = train_task
        self._order = self._checked(order)
        self.wire = wire_type(wire_dtype)
        self._model: dict[str, NDArray[np.generic]] = {}
        if self.resumed is None:
            self._model = (
                first_model.from_function(initial_model)
                if isinstance(initial_model, str)
                else first_model.of(initial_model, "initial_model")
            )

    def _checked(self, order: Any) -> str | tuple[str, ...]:
        if isinstance(order, list):
            if not order or not all(one in self.sites for one in order) or len(set(order)) != len(order):
                raise BadWorkflow(
                    f'"order" cannot be {order!r}',
                    why=f"it is no list of sites of the job, each once; they are: {', '.join(self.sites)}",
                )
            return tuple(order)
        if order not in (FIXED, RANDOM, NOT_TWICE):  # no set: it may be what cannot be in one
            raise BadWorkflow(
                f'"order" cannot be {order!r}', why=f"it is {FIXED}, {RANDOM}, {NOT_TWICE}, or a list of sites"
            )
        return str(order)

    def run(self) -> dict[str, Any]:
        """Runs all rounds; returns the mean of the last one's metrics, each site weighted by its samples."""
        history, number, place, seen = self._begin()
        while number < self._first + self._rounds:
            way = self.way(number)
            for position in range(place, len(way)):
                self._visit(way[position], number, seen)
                self._keep(number, {"rounds": history, "place": position + 1, "seen": seen})
            if not any(site in seen for site in way):
                raise TooFewSites(
                    f"round {number}: no site has trained", why="; ".join(self.failures.get(one, one) for one in way)
                )
            history.append(_mean(seen))
            done = number - self._first + 1
            log.info("round %d of %d: %s", done, self._rounds, history[-1])
            number, place, seen = number + 1, 0, {}
            self._keep(number, {"rounds": history, "place": 0, "seen": {}})
            self.report(done, self._rounds, history[-1])
        self.save(self._model, {"rounds": history, "test": {}})
        return dict(history[-1]) if history else {}

    def way(self, number: int) -> tuple[str, ...]:
        """Returns the sites of a round in their order: the same in a process that goes on with it."""
        if isinstance(self._order, tuple):
            return self._order
        sites = list(self.sites)
        if self._order == FIXED and not self._sampled:
            return tuple(sites)
        draw = random.Random(f"{self.job_id}/{number}")  # noqa: S311 - no secret
        drawn = draw.sample(sorted(sites), self._sampled) if 0 < self._sampled < len(sites) else sites
        if self._order == FIXED:
            return tuple(one for one in sites if one in drawn)
        way = sorted(drawn)
        draw.shuffle(way)
        if self._order == NOT_TWICE and number > self._first and len(way) > 1:
            last = self.way(number - 1)[-1]
            if way[0] == last:
                way.append(way.pop(0))
        return tuple(way)

    def _visit(self, site: str, number: int, seen: dict[str, Any]) -> None:
        """Lets one site train; what it did is added to `seen`."""
        answers = self.ask(
            self._train_task,
            self._model,
            round=number,
            total_rounds=self._rounds,
            min_sites=0,
            targets=(site,),
            part=site,
        )
        for answer in answers:
            # A mean of one: it looks at names and shapes, and takes the model's own memory and types.
            mean = WeightedMean(self._model, memory=self._model)
            try:
                mean.add(site, answer.params, samples=answer.samples)
            except ShapeMismatch as error:  # nothing was changed
                self.failures[site] = str(error)
                log.warning("%s is passed over in round %d: %s", site, number, error)
                continue
            self._model = mean.result()
            seen[site] = {"samples": answer.samples, "metrics": dict(answer.metrics)}

    def _begin(self) -> tuple[list[dict[str, float]], int, int, dict[str, Any]]:
        """Returns what is known of the rounds so far, the round and the place to go on with, and who was there."""
        if self.resumed is None:
            return [], self._first, 0, {}
        resumed, self.resumed = self.resumed, None  # the model in it would be held to the end
        self._model = dict(resumed.params)
        place = int(resumed.state.get("place", 0))
        log.info("goes on with round %d of %d, site %d", resumed.round - self._first + 1, self._rounds, place + 1)
        return list(resumed.state.get("rounds", [])), resumed.round, place, dict(resumed.state.get("seen", {}))

    def _keep(self, number: int, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint; a disk that is full for a while costs the way back to it, and not the job."""
        try:
            self.checkpoint(number, self._model, state, beside=True)
        except OSError as error:
            log.warning("round %d is not kept: %s", number, error)


def _mean(seen: Mapping[str, Any]) -> dict[str, float]:
    totals: dict[str, float] = {}
    weights: dict[str, float] = {}
    for one in seen.values():
        for name, value in one["metrics"].items():
            totals[name] = totals.get(name, 0.0) + float(value) * one["samples"]
            weights[name] = weights.get(name, 0.0) + one["samples"]
    return {name: total / weights[name] for name, total in totals.items()}
