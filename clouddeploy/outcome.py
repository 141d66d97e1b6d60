"""A job's end as an answer: it completed, or an error says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.jobs import JobStatus

from clouddeploy.errors import JobFailed

if TYPE_CHECKING:
    from clouddeploy_runtime.jobs import JobInfo


def require_completed(info: JobInfo) -> JobInfo:
    """Returns the job as it is when it completed.

    Raises:
        JobFailed: it ended in any other way; says how, and which site was the cause.
    """
    if info.status is not JobStatus.COMPLETED:
        raise JobFailed(
            f"the job {info.name} ended {info.status}",
            why=info.reason,
            hint=f"see `clouddeploy job logs {info.job_id}`, of a site with --site NAME; the federation itself is up",
        )
    return info
