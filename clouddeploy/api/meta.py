"""What is known of a job as a dictionary with the reference's keys, which looks like a table in a notebook."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from clouddeploy.api import markup
from clouddeploy.api.status import moment

if TYPE_CHECKING:
    from clouddeploy_runtime.jobs import JobInfo


class JobMeta(dict[str, Any]):
    """A job's record: a dictionary that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        return markup.record({name: value for name, value in self.items() if value not in ([], {})}, title="Job")


class JobList(list[JobMeta]):
    """Jobs: a list that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        head = ("job_id", "job_name", "status", "submit_time", "duration")
        rows = [(one["job_id"], one["job_name"], one["status"], _time(one), one["duration"]) for one in self]
        return markup.table(head, rows, title="Jobs")


def brief(info: JobInfo) -> JobMeta:
    """Return what a list says of a job; `submit_time` is text there, as of ISO 8601."""
    return JobMeta(
        job_id=info.job_id,
        job_name=info.name,
        name=info.name,
        status=info.status.value,
        submit_time=info.submit_time,
        duration=_duration(info),
    )


def full(info: JobInfo) -> JobMeta:
    """Return all that is known of a job; `submit_time` is in seconds since 1970, `submit_time_iso` is text."""
    return JobMeta(
        brief(info)
        | {
            "submit_time": moment(info.submit_time),
            "submit_time_iso": info.submit_time,
            "start_time": info.start_time,
            "duration_s": info.duration_s,
            "reason": info.reason,
            "submitter_name": info.submitter,
            "submitter_org": info.submitter_org,
            "submitter_role": info.submitter_role,
            "study": info.study,
            "cloned_from": info.cloned_from,
            "submit_token": info.submit_token,
            "byoc": info.byoc,
            "sites": list(info.sites),
            "job_deploy_detail": [f"{site}: {why or 'OK'}" for site, why in info.deploy_detail.items()],
            "schedule_count": info.schedule_count,
            "last_schedule_time": info.last_schedule_time,
            "schedule_history": list(info.schedule_history),
            "rounds": info.rounds,
            "total_rounds": info.total_rounds,
            "metrics": dict(info.metrics),
        }
    )


def _duration(info: JobInfo) -> str:
    return str(timedelta(seconds=info.duration_s)) if info.start_time else "N/A"


def _time(meta: JobMeta) -> object:
    return meta.get("submit_time_iso", meta["submit_time"])
