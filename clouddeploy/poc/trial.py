"""A small FedAvg job through a running federation, to see that everything works."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime import kit
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.jobs import JobStatus

from clouddeploy.errors import JobFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

JOB = Path(__file__).parent / "job"
ENOUGH = 0.9
"""Accuracy of the demo's model in the end; guessing gives a half, three rounds give 0.97 and more."""
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Trial:
    """What a demo job came to."""

    job_id: str
    status: str
    passed: bool
    rounds: int
    metrics: Mapping[str, Any]
    seconds: float
    """From submitting it to its end."""

    def as_json(self) -> dict[str, object]:
        """Returns what stands in the JSON envelope."""
        return asdict(self)


def run(admin_kit: Path, *, timeout_s: float = TIMEOUT_S) -> Trial:
    """Submits the demo job and waits for its end.

    Raises:
        JobFailed: it did not complete, or its model is no good.
        RuntimeFault: the server does not answer, or the time is over.
    """
    began = time.monotonic()
    with AdminSession(kit.load(admin_kit)) as session:
        job_id = session.submit(JOB)
        info = session.wait(job_id, timeout_s)
    accuracy = info.metrics.get("accuracy")
    is_good = isinstance(accuracy, float) and accuracy >= ENOUGH
    if info.status is not JobStatus.COMPLETED or not is_good:
        raise JobFailed(
            f"the demo job ended {info.status}",
            why=printable(info.reason) or f"its model's accuracy is {accuracy}, {ENOUGH:g} is expected",
            hint=f"see `clouddeploy job logs {job_id}`",
        )
    seconds = round(time.monotonic() - began, 2)
    return Trial(job_id, str(info.status), passed=True, rounds=info.rounds, metrics=dict(info.metrics), seconds=seconds)
