"""What every controller has: a way to send tasks to the sites and to take their answers one at a time."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ExitCode, RuntimeFault
from clouddeploy_runtime.job import frameworks, tensors
from clouddeploy_runtime.job.checkpoint import Checkpoint, Checkpoints, write_model
from clouddeploy_runtime.job.messages import Abort, Progress, Result, SiteFailed, Task
from clouddeploy_runtime.lifecycle import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from clouddeploy_runtime.job.buffers import Buffer
    from clouddeploy_runtime.job.channel import Channel
    from clouddeploy_runtime.job.messages import Message

log = logging.getLogger(__name__)

MODEL, METRICS = "global_model.safetensors", "metrics.json"
BEST_MODEL = "best_global_model.safetensors"


class BadWorkflow(RuntimeFault):
    """The workflow's arguments are wrong."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "BAD_WORKFLOW"


class JobAborted(RuntimeFault):
    """The job was stopped."""

    error_code = "JOB_ABORTED"


class TooFewSites(RuntimeFault):
    """Fewer sites are left than the job needs."""

    error_code = "TOO_FEW_SITES"


@dataclass(frozen=True)
class Answer:
    """One site's answer. `params` look into shared memory and are valid until the next answer is asked for."""

    site: str
    params: Mapping[str, NDArray[np.generic]]
    samples: float
    """What it weighs."""
    metrics: Mapping[str, float]


class Controller:
    """Base of all workflows; a job's own derives from it and overrides `run`.

    A server that is killed and started again starts the controller of each job again, in the same folder. One that
    called `checkpoint` finds in `resumed` what it gave; one that did not begins anew.

    Args:
        channel: to the parent.
        sites: the job's clients.
        run_dir: where results go.
        job_id: part of each task's id.

    Attributes:
        failures: the last cause of each site that did not do a task.
        wire: the type of `frameworks.WIRE` in which parameters travel both ways; None: as they are.
        resumed: the checkpoint to go on from; None in a new job.

    Raises:
        BadCheckpoint: there is one, and it is damaged.
    """

    takes_narrow = False
    """Whether answers may be in the narrow types of the wire, as a `WeightedMean` takes them; else they are float32."""

    def __init__(self, channel: Channel, *, sites: tuple[str, ...], run_dir: Path, job_id: str = "") -> None:
        self.sites = sites
        self.run_dir = run_dir
        self.job_id = job_id
        self.wire: str | None = None
        self._checkpoints = Checkpoints(run_dir)
        self.resumed = self._checkpoints.read()
        self.failures: dict[str, str] = dict(self.resumed.failures) if self.resumed else {}
        self._channel = channel
        self._asked: dict[str, int] = {}

    def run(self) -> dict[str, Any]:
        """Runs the workflow to its end and returns the job's metrics."""
        raise NotImplementedError

    def ask(
        self,
        name: str,
        params: Mapping[str, NDArray[np.generic]],
        *,
        round: int,
        total_rounds: int,
        min_sites: int,
        enough: int | None = None,
        wait_s: float = 0.0,
        targets: tuple[str, ...] = (),
        part: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> Iterator[Answer]:
        """Sends one task to every site, or to some, and yields their answers as they come, each site's once.

        A site that fails is asked again with the next task: what kept it from this one may be over. The task's id is
        made of the job's, `round`, `name` and `part`; it must be the same in the process that goes on after a restart
        of the server, so tell tasks of one name in one round apart by `part` and not by their order.

        Args:
            name: what the script sees as the task's name: `train`, `evaluate`, or one that your job has agreed on.
            params: what the sites get. An answer may be 64 MiB, or four times as large as these.
            round: from 0.
            total_rounds: of the job.
            min_sites: fewer answers than this end the job.
            enough: after so many answers the others are waited for no longer; None: all are. Later ones are ignored.
            wait_s: how long the others are waited for nevertheless.
            targets: the sites that are asked; none: all.
            part: tells tasks of one name in one round apart.
            meta: for the script, which finds it in the `meta` of what it receives; JSON.

        Raises:
            TooFewSites: names the sites and their causes.
            JobAborted: the job was stopped.
        """
        asked = targets or self.sites
        task_id = "/".join((self.job_id, str(round), name, *((part,) if part else ())))
        count = self._asked[task_id] = self._asked.get(task_id, 0) + 1
        if count > 1:
            task_id += f".{count}"
        task = Task(task_id, name, round, total_rounds, list(asked), dict(meta or {}), 0)
        self._send_task(task, params)
        pending, failed, answers = set(asked), dict[str, str](), 0
        until = math.inf
        while pending and len(asked) - len(failed) >= min_sites:
            if enough is not None and answers >= enough:
                until = min(until, time.monotonic() + wait_s)
            try:
                message, given = self._receive(until)
            except TimeoutError:
                log.info("round %d goes on without %s", round, ", ".join(sorted(pending)))
                break
            try:
                if not isinstance(message, (Result, SiteFailed)) or message.task_id != task_id:
                    continue  # an answer to a round that is over
                if message.site not in pending:
                    continue
                pending.discard(message.site)
                answer = message.reason if isinstance(message, SiteFailed) else self._answer(message, given)
                if isinstance(answer, Answer):
                    answers += 1
                    self._checkpoints.finish()  # whoever takes the answer may change the model that is written
                    yield answer
                else:
                    self.failures[message.site] = failed[message.site] = answer
                    log.warning("%s failed: %s", message.site, answer)
            finally:
                if given is not None:
                    given.release()
        self._checkpoints.finish()
        if answers < min_sites:
            raise TooFewSites(f"round {round}: fewer than {min_sites} sites are left", why="; ".join(failed.values()))

    def report(self, round: int, total_rounds: int, metrics: dict[str, Any]) -> None:
        """Tells the server, and whoever watches, that a round has ended."""
        self._channel.send(Progress(round, total_rounds, metrics))

    def checkpoint(
        self,
        round: int,
        params: Mapping[str, NDArray[np.generic]],
        state: Mapping[str, Any],
        *,
        names: Sequence[str] = (),
        beside: bool = False,
    ) -> None:
        """Keeps what another process needs to go on, as `resumed`; also makes the model the job's result so far.

        Args:
            round: the one to go on with.
            params: the model.
            state: anything else; JSON.
            names: of other results that it is too, as the best model so far.
            beside: a large model is written while the sites work on the next task: it must stay as it is until the
                first of their answers. What keeps it from being written is a warning then, and whoever is killed
                meanwhile goes on from the checkpoint before.

        Raises:
            OSError: it could not be written; the one before is still there.
        """
        kept = Checkpoint(round, params, state, dict(self.failures))
        self._checkpoints.write(kept, names=(MODEL, *names), beside=beside)

    def save(self, params: Mapping[str, NDArray[np.generic]], metrics: Mapping[str, Any]) -> None:
        """Writes the job's results, at its end: the model and the metrics; each file is complete or the one before."""
        self._checkpoints.finish()
        write_model(params, self.run_dir / MODEL)
        write_atomically(self.run_dir / METRICS, json.dumps(metrics).encode())

    def _send_task(self, task: Task, params: Mapping[str, NDArray[np.generic]]) -> None:
        params = frameworks.for_wire(params, self.wire)
        if self.wire is not None:
            task.meta[frameworks.WIRE_KEY] = self.wire
        task.size = tensors.size_of(params)
        buffer = self._channel.pool.acquire(task.size)
        tensors.write(params, buffer.view)
        self._channel.send(task, buffer)

    def _receive(self, until: float) -> tuple[Message, Buffer | None]:
        received = self._channel.receive(until=until)
        if received is None:
            raise JobAborted("the server is gone")
        if isinstance(received[0], Abort):
            raise JobAborted(received[0].reason)
        return received

    def _answer(self, message: Result, given: Buffer | None) -> Answer | str:
        """Returns a site's answer, or why it is none."""
        try:
            params = {} if given is None else tensors.read(given.view[: message.size])
            if not self.takes_narrow:
                params = {name: self._widened(one) for name, one in params.items()}
            samples, metrics = message.meta.get("samples", 1), dict(message.meta.get("metrics", {}))
            if isinstance(samples, bool) or not isinstance(samples, int | float) or not 0 < samples < math.inf:
                raise ValueError(f"it weighs {samples!r}, and a weight is a number above 0")
        except (RuntimeFault, ValueError, TypeError) as error:
            return f"{message.site}: its answer cannot be read: {error}"
        return Answer(site=message.site, params=params, samples=samples, metrics=metrics)

    def _widened(self, one: NDArray[np.generic]) -> NDArray[np.generic]:
        wide = frameworks.widened(one)
        return wide if self.wire is None else frameworks.widened(wide, frameworks.WIRE[self.wire])
