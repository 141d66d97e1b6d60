"""The states a job passes through, and what an admin sees of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobStatus(StrEnum):
    """Where a job is; the reference's words."""

    SUBMITTED = "SUBMITTED"
    DISPATCHED = "DISPATCHED"
    RUNNING = "RUNNING"
    COMPLETED = "FINISHED:COMPLETED"
    ABORTED = "FINISHED:ABORTED"
    EXECUTION_EXCEPTION = "FINISHED:EXECUTION_EXCEPTION"
    ABNORMAL = "FINISHED:ABNORMAL"
    CAN_NOT_SCHEDULE = "FINISHED:CAN_NOT_SCHEDULE"
    FAILED_TO_RUN = "FINISHED:FAILED_TO_RUN"
    ABANDONED = "FINISHED:ABANDONED"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to the job."""
        return not TRANSITIONS[self]


_ENDS = frozenset({JobStatus.COMPLETED, JobStatus.ABORTED, JobStatus.EXECUTION_EXCEPTION, JobStatus.ABNORMAL})
TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.SUBMITTED: frozenset(
        {JobStatus.DISPATCHED, JobStatus.RUNNING, JobStatus.ABORTED, JobStatus.ABNORMAL, JobStatus.CAN_NOT_SCHEDULE}
    ),
    JobStatus.DISPATCHED: frozenset({JobStatus.RUNNING, JobStatus.FAILED_TO_RUN, JobStatus.ABANDONED}) | _ENDS,
    JobStatus.RUNNING: frozenset({JobStatus.ABANDONED}) | _ENDS,
    **{status: frozenset() for status in JobStatus if status.value.startswith("FINISHED:")},
}


@dataclass(frozen=True)
class JobInfo:
    """What an admin sees of a job."""

    job_id: str
    name: str
    status: JobStatus
    reason: str = ""
    """Why it ended as it did, naming the site; empty while it runs and when it completed."""
    submitter: str = ""
    submitter_org: str = ""
    submitter_role: str = ""
    submit_time: str = ""
    start_time: str = ""
    duration_s: float = 0.0
    rounds: int = 0
    """Finished rounds."""
    total_rounds: int = 0
    sites: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
