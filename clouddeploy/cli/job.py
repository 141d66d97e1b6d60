"""`job submit | list | meta | abort | download`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime import kit as kit_format
from clouddeploy_runtime.admin.session import AdminSession

from clouddeploy.cli.main import Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.errors import ConfigError
from clouddeploy.outcome import require_completed

if TYPE_CHECKING:
    from clouddeploy_runtime.jobs import JobInfo

KIT_VARIABLE = "CLOUDDEPLOY_STARTUP_KIT"
kit_option = click.option(
    "--startup-kit", type=click.Path(path_type=Path), help=f"An admin's startup kit; default: ${KIT_VARIABLE}."
)


@click.group()
def job() -> None:
    """Submit, list, abort and download jobs."""


@job.command()
@kit_option
@click.option("-j", "--job-folder", "folder", type=click.Path(path_type=Path), required=True, help="The job.")
@click.option("--wait", "wait_s", type=float, help="Wait so many seconds for the job's end.")
@command_options
def submit(session: Session, startup_kit: Path | None, folder: Path, wait_s: float | None) -> None:
    """Submit a job folder; prints the job's id."""
    with _open(startup_kit) as admin:
        job_id = admin.submit(folder)
        if wait_s is None:
            session.output.result({"job_id": job_id}, job_id)
        else:
            _show(session, require_completed(admin.wait(job_id, timeout_s=wait_s)))


@job.command("list")
@kit_option
@command_options
def list_jobs(session: Session, startup_kit: Path | None) -> None:
    """List the jobs the server knows."""
    with _open(startup_kit) as admin:
        jobs = admin.list_jobs()
    rows = [(info.job_id, info.name, info.status, info.rounds, info.submitter) for info in jobs]
    session.output.result(
        {"jobs": [_data(info) for info in jobs]}, table(("id", "name", "status", "rounds", "submitter"), rows)
    )


@job.command()
@kit_option
@click.argument("job_id")
@command_options
def meta(session: Session, startup_kit: Path | None, job_id: str) -> None:
    """Show one job."""
    with _open(startup_kit) as admin:
        _show(session, admin.job_meta(job_id))


@job.command()
@kit_option
@click.argument("job_id")
@command_options
def abort(session: Session, startup_kit: Path | None, job_id: str) -> None:
    """Stop a job at every site."""
    with _open(startup_kit) as admin:
        admin.abort(job_id)
    session.output.result({"job_id": job_id}, f"{job_id} is being stopped")


@job.command()
@kit_option
@click.argument("job_id")
@click.option("-o", "--to", "target", type=click.Path(path_type=Path), default=Path(), help="Folder for the result.")
@command_options
def download(session: Session, startup_kit: Path | None, job_id: str, target: Path) -> None:
    """Fetch a finished job's result."""
    with _open(startup_kit) as admin:
        path = admin.download(job_id, target)
    session.output.result({"job_id": job_id, "path": str(path)}, str(path))


def _open(startup_kit: Path | None) -> AdminSession:
    named = startup_kit or (Path(os.environ[KIT_VARIABLE]) if os.environ.get(KIT_VARIABLE) else None)
    if named is None:
        raise ConfigError(
            "no startup kit named",
            why="a job is submitted by an admin",
            hint=f"pass --startup-kit DIR or set {KIT_VARIABLE}",
        )
    kit_format.verify(named)
    return AdminSession(kit_format.load(named))


def _data(info: JobInfo) -> dict[str, object]:
    return {
        "id": info.job_id,
        "name": info.name,
        "status": info.status,
        "reason": info.reason,
        "submitter": info.submitter,
        "rounds": info.rounds,
        "duration_s": info.duration_s,
        "metrics": info.metrics,
    }


def _show(session: Session, info: JobInfo) -> None:
    data = _data(info)
    session.output.result({"job": data}, "\n".join(f"{key:<12}{value}" for key, value in data.items()))
