"""`job submit | list | meta | abort | clone | delete | download`; and those of `job_watching` and `job_logs`."""

from __future__ import annotations

from pathlib import Path

import click
from clouddeploy_runtime import kit as kit_format

from clouddeploy.cli.confirming import confirm
from clouddeploy.cli.job_logs import log_config, logs, show_log, stats
from clouddeploy.cli.job_shown import data, show
from clouddeploy.cli.job_watching import monitor, wait
from clouddeploy.cli.kits import Admin, admin_options
from clouddeploy.cli.main import CommandGroup, Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.errors import TargetExists
from clouddeploy.outcome import require_completed
from clouddeploy.tables import moment


@click.group(cls=CommandGroup)
def job() -> None:
    """Submit, watch, abort, repeat, delete and download jobs."""


for _command in (wait, monitor, logs, stats, log_config):
    job.add_command(_command)
job.add_command(show_log)


@job.command()
@click.option("-j", "--job-folder", "folder", type=click.Path(path_type=Path), required=True, help="The job.")
@click.option("--wait", "wait_s", type=float, help="Wait so many seconds for the job's end.")
@click.option(
    "--token", "--submit-token", default="", help="Name of this submission: repeated with it, there is no second job."
)
@admin_options
@command_options
def submit(session: Session, *, admin: Admin, folder: Path, wait_s: float | None, token: str) -> None:
    """Submit a job folder; prints the job's id."""
    with admin.open() as opened:
        job_id = opened.submit(folder, token=token)
        if wait_s is None:
            session.output.result({"job_id": job_id}, job_id)
        else:
            show(session, require_completed(opened.wait(job_id, timeout_s=wait_s)))


@job.command("list")
@click.option("-n", "--name", default="", help="Only jobs whose name begins so.")
@click.option("--state", default="", help="Only jobs in this state, such as RUNNING, COMPLETED or FINISHED.")
@click.option("--submitter", default="", help="Only jobs of this person.")
@click.option("-i", "--id-prefix", default="", help="Only jobs whose id begins so.")
@click.option("-u", "--mine", is_flag=True, help="Only jobs of this kit's admin.")
@click.option("-r", "--reverse", is_flag=True, help="The newest first.")
@click.option("-d", "--detailed", is_flag=True, help="Also sites, study, how long it took and why it ended.")
@click.option("-m", "--limit", type=click.IntRange(min=1), help="Only the newest so many.")
@admin_options
@command_options
def list_jobs(
    session: Session,
    *,
    admin: Admin,
    mine: bool,
    submitter: str,
    limit: int | None,
    reverse: bool,
    detailed: bool,
    **wanted: str,
) -> None:
    """List the jobs the server knows."""
    if mine:
        submitter = kit_format.load(admin.kit()).name
    with admin.open() as opened:
        jobs = opened.list_jobs(submitter=submitter, limit=limit or 0, **wanted)
    if reverse:
        jobs.reverse()
    head = ["id", "name", "status", "rounds", "submitter", "submitted"]
    rows = [
        [info.job_id, info.name, info.status, info.rounds, info.submitter, moment(info.submit_time)] for info in jobs
    ]
    if detailed:
        head += ["study", "sites", "seconds", "reason"]
        for row, info in zip(rows, jobs, strict=True):
            row += [info.study, " ".join(info.sites), f"{info.duration_s:.1f}", info.reason]
    session.output.result({"jobs": [data(info) for info in jobs]}, table(head, rows) if rows else "No jobs.")


@job.command()
@click.argument("job_id")
@admin_options
@command_options
def meta(session: Session, admin: Admin, job_id: str) -> None:
    """Show one job."""
    with admin.open() as opened:
        show(session, opened.job_meta(job_id))


@job.command()
@click.argument("job_id")
@click.option("--force", is_flag=True, hidden=True, expose_value=False, help="Of no use: an abort asks nothing.")
@admin_options
@command_options
def abort(session: Session, admin: Admin, job_id: str) -> None:
    """Stop a job at every site."""
    with admin.open() as opened:
        opened.abort(job_id)
    session.output.result({"job_id": job_id}, f"{job_id} is being stopped")


@job.command()
@click.argument("job_id")
@admin_options
@command_options
def clone(session: Session, admin: Admin, job_id: str) -> None:
    """Run an earlier job once more; prints the new job's id."""
    with admin.open() as opened:
        new = opened.clone(job_id)
    session.output.result({"job_id": new, "cloned_from": job_id}, new)


@job.command()
@click.argument("job_id")
@click.option("--yes", "--force", "yes", is_flag=True, help="Do not ask.")
@admin_options
@command_options
def delete(session: Session, admin: Admin, job_id: str, yes: bool) -> None:
    """Delete a job that does not run, with its result, at the server."""
    with admin.open() as opened:
        info = opened.job_meta(job_id)
        if not yes:
            confirm(session, f"Delete the job {info.name} ({info.status}) of {info.submitter} and its result?")
        opened.delete(job_id)
    session.output.result({"job_id": job_id}, f"{job_id} is deleted")


@job.command()
@click.argument("job_id")
@click.option("-o", "--to", "target", type=click.Path(path_type=Path), default=Path(), help="Folder for the result.")
@click.option("--force", is_flag=True, help="Replace what is there, even where it is no earlier download.")
@admin_options
@command_options
def download(session: Session, *, admin: Admin, job_id: str, target: Path, force: bool) -> None:
    """Fetch a finished job: as it was submitted, and what it left; an earlier download is replaced."""
    there = target / Path(job_id).name
    if not force and there.exists() and not (there / "meta.json").is_file():
        raise TargetExists(
            f"{there} would be replaced", why="it is no earlier download", hint="name another folder, or add --force"
        )
    with admin.open() as opened:
        path = opened.download(job_id, target)
    session.output.result({"job_id": job_id, "path": str(path)}, str(path))
