"""What people and programs see of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.jobs import JobStatus

from clouddeploy.tables import pairs

if TYPE_CHECKING:
    from clouddeploy_runtime.jobs import JobInfo

    from clouddeploy.cli.main import Session


def data(info: JobInfo) -> dict[str, object]:
    """Returns a job as a member of the JSON envelope's data."""
    return {
        "id": info.job_id,
        "name": info.name,
        "status": info.status,
        "reason": info.reason,
        "waits_for": cause(info),
        "submitter": info.submitter,
        "submit_time": info.submit_time,
        "study": info.study,
        "cloned_from": info.cloned_from,
        "sites": list(info.sites),
        "deploy_detail": dict(info.deploy_detail),
        "rounds": info.rounds,
        "total_rounds": info.total_rounds,
        "duration_s": info.duration_s,
        "metrics": info.metrics,
    }


def cause(info: JobInfo) -> str:
    """Returns why a job has not started yet."""
    is_waiting = info.status is JobStatus.SUBMITTED and info.schedule_history
    return info.schedule_history[-1].partition(" ")[2] if is_waiting else ""


def progress(info: JobInfo) -> str:
    """Returns in one line how far a job is."""
    waits_for = cause(info)
    rounds = f", {info.rounds} of {info.total_rounds} rounds" if info.total_rounds else ""
    return printable(f"{info.status}{rounds}{f': {waits_for}' if waits_for else ''}")


def show(session: Session, info: JobInfo, **more: object) -> None:
    """Ends a command with a job."""
    found = data(info)
    shown = [(key, _told(value)) for key, value in found.items() if value not in ("", [], {})]
    session.output.result({"job": found, **more}, pairs(shown))


def _told(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name} {'ok' if one == '' else one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value
