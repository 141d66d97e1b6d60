"""What every controller has: a way to send tasks to the sites and to take their answers one at a time."""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.job import tensors
from clouddeploy_runtime.job.messages import Abort, Progress, Result, SiteFailed, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from clouddeploy_runtime.job.channel import Channel

log = logging.getLogger(__name__)


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
    samples: int
    metrics: Mapping[str, float]


class Controller:
    """Base of all workflows; a job's own derives from it and overrides `run`.

    Args:
        channel: to the parent.
        sites: the job's clients.
        run_dir: where results go.
    """

    def __init__(self, channel: Channel, *, sites: tuple[str, ...], run_dir: Path) -> None:
        self.sites = sites
        self.run_dir = run_dir
        self.failures: dict[str, str] = {}
        self._channel = channel

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
    ) -> Iterator[Answer]:
        """Sends one task to every site that has not failed and yields their answers as they come.

        Args:
            name: `train` or `evaluate`.
            params: what the sites get.
            round: from 0.
            total_rounds: of the job.
            min_sites: fewer answers than this end the job.

        Raises:
            TooFewSites: names the sites and their causes.
            JobAborted: the job was stopped.
        """
        targets = [site for site in self.sites if site not in self.failures]
        size = tensors.size_of(params)
        buffer = self._channel.pool.acquire(size)
        tensors.write(params, buffer.view)
        task = Task(uuid.uuid4().hex, name, round, total_rounds, targets, {}, size)
        self._channel.send(task, buffer)
        pending = set(targets)
        while pending:
            if len(self.sites) - len(self.failures) < min_sites:
                causes = "; ".join(self.failures.values())
                raise TooFewSites(f"round {round}: fewer than {min_sites} sites are left", why=causes)
            received = self._channel.receive()
            if received is None:
                raise JobAborted("the server is gone")
            message, given = received
            if isinstance(message, Abort):
                raise JobAborted(message.reason)
            if isinstance(message, SiteFailed) and message.task_id == task.task_id:
                self.failures[message.site] = message.reason
                pending.discard(message.site)
                log.warning("%s failed: %s", message.site, message.reason)
            if isinstance(message, Result) and given is not None:
                if message.task_id == task.task_id and message.site in pending:
                    pending.discard(message.site)
                    yield self._answer(message, given.view[: message.size])
                given.release()
        if len(self.sites) - len(self.failures) < min_sites:
            raise TooFewSites(
                f"round {round}: fewer than {min_sites} sites are left", why="; ".join(self.failures.values())
            )

    def report(self, round: int, total_rounds: int, metrics: dict[str, Any]) -> None:
        """Tells the server, and whoever watches, that a round has ended."""
        self._channel.send(Progress(round, total_rounds, metrics))

    def save(self, params: Mapping[str, NDArray[np.generic]], metrics: Mapping[str, Any]) -> None:
        """Writes the model and the metrics so far; each file is complete or the one before."""
        content = bytearray(tensors.size_of(params))
        tensors.write(params, memoryview(content))
        for name, data in (
            ("global_model.safetensors", bytes(content)),
            ("metrics.json", json.dumps(metrics).encode()),
        ):
            aside = self.run_dir / f"{name}.new"
            aside.write_bytes(data)
            aside.replace(self.run_dir / name)

    @staticmethod
    def _answer(message: Result, view: memoryview) -> Answer:
        return Answer(
            site=message.site,
            params=tensors.read(view),
            samples=int(message.meta.get("samples", 1)),
            metrics=message.meta.get("metrics", {}),
        )
