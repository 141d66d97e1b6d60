"""Cross-site evaluation: each site's model and the server's are tried on every site's data; the result is a matrix."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import mmap
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.job import initial_model as first_model
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.controller import BEST_MODEL, MODEL, BadWorkflow, Controller, TooFewSites
from clouddeploy_runtime.job.fedavg import wire_type
from clouddeploy_runtime.lifecycle import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

FOLDER, MODELS, RESULTS = "cross_site_val", "model_shareables", "cross_val_results.json"
"""The reference's names."""
_STATE = "state.json"
_OWNER, _WHICH = "model_owner", {"submit_model_name": "best_model"}
"""What the reference says in the tasks' `meta`."""


class CrossSiteEval(Controller):
    """See the module. After a training in the same job it takes the model that is its result.

    A site that cannot submit a model, or not evaluate one, is missing from the matrix there; the others go on.
    """

    is_alone = True
    """Whether no training comes before; what is known of its rounds would be replaced by the evaluation's."""

    def configure(
        self,
        *,
        initial_model: str | Mapping[str, Any] | None = None,
        server_model: str | None = "SRV_server",
        best_model: str | None = "SRV_best",
        submit_task: str = "submit_model",
        evaluate_task: str = "validate",
        submit_s: float = 600.0,
        evaluate_s: float = 6000.0,
        participants: list[str] | None = None,
        keep_models: bool = True,
        wire_dtype: str | None = None,
    ) -> None:
        """Takes the arguments of the job's configuration.

        Args:
            initial_model: the server's model where no training comes before; as FedAvg's. None: there is none.
            server_model: what the server's model is called in the matrix; None: it is not evaluated.
            best_model: what the training's best model is called, if it has kept one; None: it is not evaluated.
            submit_task: what the task is called that asks for a site's model; empty: the sites' are not evaluated.
            evaluate_task: what the task of evaluating is called.
            submit_s: how long the sites' models are waited for; 0: without end.
            evaluate_s: how long the evaluations of one model are waited for; 0: without end.
            participants: the sites that take part; None: all.
            keep_models: whether the sites' models stay among the results.
            wire_dtype: as FedAvg's.

        Raises:
            BadWorkflow: names the argument and what it should be.
            BadModel: the server's model cannot be made.
        """
        for name, seconds in (("submit_model_timeout", submit_s), ("validation_timeout", evaluate_s)):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
                raise BadWorkflow(f'"{name}" must be seconds from 0', why=f"it is {seconds!r}")
        chosen = self.sites if participants is None else tuple(participants)
        if not chosen or not set(chosen) <= set(self.sites):
            raise BadWorkflow(
                f'"participating_clients" cannot be {participants!r}', why=f"the sites are {', '.join(self.sites)}"
            )
        if not evaluate_task or not all(isinstance(one, str) for one in (submit_task, evaluate_task)):
            raise BadWorkflow("the names of the tasks must be text", why=f"they are {submit_task!r}, {evaluate_task!r}")
        self._server_models = {
            name: file for name, file in ((server_model, MODEL), (best_model, BEST_MODEL)) if name is not None
        }
        self._submit_task, self._evaluate_task = submit_task, evaluate_task
        self._submit_s, self._evaluate_s = submit_s, evaluate_s
        self._participants = chosen
        self._keep_models = keep_models
        self.wire = wire_type(wire_dtype)
        self.resumed = None  # of the training before, whose model is in its file
        if initial_model is not None and not (self.run_dir / MODEL).exists():
            made = (
                first_model.from_function(initial_model)
                if isinstance(initial_model, str)
                else first_model.of(initial_model, "initial_model")
            )
            _write(made, self.run_dir / MODEL)

    def run(self) -> dict[str, Any]:
        """Evaluates all models; returns the mean of the server's model's metrics over the sites."""
        folder = self.run_dir / FOLDER
        (folder / MODELS).mkdir(parents=True, exist_ok=True)
        state = self._begin(folder)
        models: dict[str, str] = state["models"]
        results: dict[str, dict[str, Any]] = state["results"]
        for number, (owner, file) in enumerate(models.items()):
            if owner not in state["done"]:
                self._evaluate(owner, file, number, total=len(models), results=results)
                state["done"].append(owner)
                self._note(folder, state)
            if self.is_alone:
                self.report(number + 1, len(models), {"models": number + 1})
        if not results:
            raise TooFewSites("no site has evaluated a model", why="; ".join(self.failures.values()))
        (folder / _STATE).unlink(missing_ok=True)
        if not self._keep_models:
            shutil.rmtree(folder / MODELS, ignore_errors=True)
        first = next(iter(models))
        return _mean([one[first] for one in results.values() if first in one])

    def _begin(self, folder: Path) -> dict[str, Any]:
        """Returns where an evaluation was when the server was killed, or begins it: asks the sites for their models."""
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((folder / _STATE).read_bytes())
            log.info("goes on with the evaluation: %d of %d models", len(found["done"]), len(found["models"]))
            return found
        models = {name: file for name, file in self._server_models.items() if (self.run_dir / file).is_file()}
        if self._submit_task:
            models |= self._submitted()
        if not models:
            raise TooFewSites("there is no model to evaluate", why="; ".join(self.failures.values()))
        state = {"models": models, "results": {}, "done": []}
        self._note(folder, state)
        return state

    def _submitted(self) -> dict[str, str]:
        """Asks the sites for their models; returns the files by site."""
        server = self.run_dir / MODEL
        # With the server's model: a site's filters of changes, and differences, need to know against what.
        answers = self._ask(
            self._submit_task,
            tensors.read(_mapped(server)) if server.is_file() else {},
            number=0,
            total=1,
            timeout_s=self._submit_s,
            meta=_WHICH,
        )
        found = {}
        for answer in answers:
            if not answer.params:
                self.failures[answer.site] = f"{answer.site}: it submitted no parameters"
                log.warning("%s submitted no parameters", answer.site)
                continue
            file = Path(FOLDER, MODELS, f"{answer.site}.safetensors")
            _write(answer.params, self.run_dir / file)
            found[answer.site] = str(file)
        return dict(sorted(found.items()))

    def _evaluate(self, owner: str, file: str, number: int, *, total: int, results: dict[str, dict[str, Any]]) -> None:
        log.info("evaluates the model of %s", owner)
        answers = self._ask(
            self._evaluate_task,
            tensors.read(_mapped(self.run_dir / file)),
            number=number,
            total=total,
            timeout_s=self._evaluate_s,
            meta={_OWNER: owner},
        )
        for answer in answers:
            results.setdefault(answer.site, {})[owner] = {name: _number(one) for name, one in answer.metrics.items()}

    def _ask(self, task: str, params: Mapping[str, NDArray[np.generic]], **values: Any) -> Iterator[Any]:
        timeout_s = values["timeout_s"]
        return self.ask(
            task,
            params,
            round=values["number"],
            total_rounds=values["total"],
            min_sites=0,
            enough=0 if timeout_s else None,
            wait_s=timeout_s,
            targets=self._participants,
            meta=values["meta"],
        )

    def _note(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Writes the matrix so far, and what another process needs to go on."""
        write_atomically(folder / RESULTS, json.dumps(state["results"], indent=2, sort_keys=True).encode())
        write_atomically(folder / _STATE, json.dumps(state).encode())


def _write(params: Mapping[str, NDArray[np.generic]], path: Path) -> None:
    aside = path.with_name(f"{path.name}.new")
    with aside.open("wb") as file:
        tensors.write_file(params, file)
    aside.replace(path)


def _mapped(path: Path) -> memoryview:
    """Returns what is in a file, without reading all of it into memory; it is let go with the last array in it."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _number(value: Any) -> float | None:
    """Returns a metric as JSON has it; None: infinite, or no number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _mean(metrics: list[dict[str, float | None]]) -> dict[str, float]:
    names = {name for one in metrics for name in one}
    known = {name: [value for one in metrics if (value := one.get(name)) is not None] for name in sorted(names)}
    return {f"cross_site_{name}": sum(values) / len(values) for name, values in known.items() if values}
