"""`job submit | list | meta | log | wait | monitor | abort | clone | delete | download`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime import kit as kit_format
from clouddeploy_runtime.admin.session import AdminSession
from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.jobs import SERVER, JobStatus

from clouddeploy.cli.deploy import confirm
from clouddeploy.cli.main import Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.errors import ConfigError
from clouddeploy.outcome import require_completed

if TYPE_CHECKING:
    from clouddeploy_runtime.jobs import JobInfo
    from clouddeploy_runtime.jobs.rounds import Round

KIT_VARIABLE = "CLOUDDEPLOY_STARTUP_KIT"
DEFAULT_WAIT_S = 86_400.0
_MIB = 1 << 20
kit_option = click.option(
    "--startup-kit", type=click.Path(path_type=Path), help=f"An admin's startup kit; default: ${KIT_VARIABLE}."
)


@click.group()
def job() -> None:
    """Submit, watch, abort, repeat, delete and download jobs."""


@job.command()
@kit_option
@click.option("-j", "--job-folder", "folder", type=click.Path(path_type=Path), required=True, help="The job.")
@click.option("--wait", "wait_s", type=float, help="Wait so many seconds for the job's end.")
@click.option("--token", default="", help="Name of this submission: repeated with it, there is no second job.")
@command_options
def submit(session: Session, *, startup_kit: Path | None, folder: Path, wait_s: float | None, token: str) -> None:
    """Submit a job folder; prints the job's id."""
    with _open(startup_kit) as admin:
        job_id = admin.submit(folder, token=token)
        if wait_s is None:
            session.output.result({"job_id": job_id}, job_id)
        else:
            _show(session, require_completed(admin.wait(job_id, timeout_s=wait_s)))


@job.command("list")
@kit_option
@click.option("-n", "--name", default="", help="Only jobs whose name begins so.")
@click.option("--state", default="", help="Only jobs in this state, such as RUNNING, COMPLETED or FINISHED.")
@click.option("--submitter", default="", help="Only jobs of this person.")
@click.option("-m", "--limit", type=click.IntRange(min=1), help="Only the newest so many.")
@command_options
def list_jobs(
    session: Session, *, startup_kit: Path | None, name: str, state: str, submitter: str, limit: int | None
) -> None:
    """List the jobs the server knows."""
    with _open(startup_kit) as admin:
        jobs = admin.list_jobs(name=name, state=state, submitter=submitter, limit=limit or 0)
    rows = [(info.job_id, info.name, info.status, info.rounds, info.submitter, info.submit_time) for info in jobs]
    head = ("id", "name", "status", "rounds", "submitter", "submitted")
    session.output.result({"jobs": [_data(info) for info in jobs]}, table(head, rows))


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
@click.option("--timeout", "timeout_s", type=float, default=DEFAULT_WAIT_S, help="Seconds; default: a day.")
@command_options
def wait(session: Session, *, startup_kit: Path | None, job_id: str, timeout_s: float) -> None:
    """Wait for a job's end; say what changes meanwhile."""
    with _open(startup_kit) as admin:
        for info in admin.watch(job_id, timeout_s=timeout_s):
            if info.status.is_final:
                _show(session, require_completed(info))
            else:
                session.output.say(_progress(info))


@job.command()
@kit_option
@click.argument("job_id")
@click.option("--timeout", "timeout_s", type=float, default=DEFAULT_WAIT_S, help="Seconds; default: a day.")
@command_options
def monitor(session: Session, *, startup_kit: Path | None, job_id: str, timeout_s: float) -> None:
    """Show each round of a job as it ends: time, metrics, bytes and sites; as JSON lines on stderr with --output json.

    Ctrl-C ends the watching, not the job.
    """
    shown, said = 0, ""
    with _open(startup_kit) as admin:
        for info in admin.watch(job_id, timeout_s=timeout_s):
            for one in info.history:
                if one.round > shown:
                    session.output.say(json.dumps(asdict(one)) if session.output.as_json else printable(_line(one)))
            shown = info.history[-1].round if info.history else 0
            state = _progress(replace(info, total_rounds=0))
            if info.status.is_final:
                _show(session, require_completed(info), rounds=[asdict(one) for one in info.history])
            elif state != said and not session.output.as_json:
                session.output.say(state)
            said = state


@job.command("log")
@kit_option
@click.argument("job_id")
@click.option("--site", default=SERVER, help="The server, which is the default, or a site that failed.")
@command_options
def show_log(session: Session, *, startup_kit: Path | None, job_id: str, site: str) -> None:
    """Show the end of a job's log."""
    with _open(startup_kit) as admin:
        text = admin.job_log(job_id, site=site)
    session.output.result({"job_id": job_id, "site": site, "text": text}, printable(text))


@job.command()
@kit_option
@click.argument("job_id")
@command_options
def clone(session: Session, startup_kit: Path | None, job_id: str) -> None:
    """Run an earlier job once more; prints the new job's id."""
    with _open(startup_kit) as admin:
        new = admin.clone(job_id)
    session.output.result({"job_id": new, "cloned_from": job_id}, new)


@job.command()
@kit_option
@click.argument("job_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command_options
def delete(session: Session, startup_kit: Path | None, job_id: str, yes: bool) -> None:
    """Delete a job that does not run, with its result, at the server."""
    with _open(startup_kit) as admin:
        info = admin.job_meta(job_id)
        if not yes:
            confirm(session, f"Delete the job {info.name} ({info.status}) of {info.submitter} and its result?")
        admin.delete(job_id)
    session.output.result({"job_id": job_id}, f"{job_id} is deleted")


@job.command()
@kit_option
@click.argument("job_id")
@click.option("-o", "--to", "target", type=click.Path(path_type=Path), default=Path(), help="Folder for the result.")
@command_options
def download(session: Session, startup_kit: Path | None, job_id: str, target: Path) -> None:
    """Fetch a finished job: as it was submitted, and what it left."""
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
        "waits_for": _cause(info),
        "submitter": info.submitter,
        "study": info.study,
        "cloned_from": info.cloned_from,
        "sites": list(info.sites),
        "deploy_detail": dict(info.deploy_detail),
        "rounds": info.rounds,
        "total_rounds": info.total_rounds,
        "duration_s": info.duration_s,
        "metrics": info.metrics,
    }


def _cause(info: JobInfo) -> str:
    """Returns why a job has not started yet."""
    is_waiting = info.status is JobStatus.SUBMITTED and info.schedule_history
    return info.schedule_history[-1].partition(" ")[2] if is_waiting else ""


def _progress(info: JobInfo) -> str:
    cause = _cause(info)
    rounds = f", {info.rounds} of {info.total_rounds} rounds" if info.total_rounds else ""
    return printable(f"{info.status}{rounds}{f': {cause}' if cause else ''}")


def _line(one: Round) -> str:
    """Returns what a person sees of a round."""
    metrics = "  ".join(f"{name} {'nan' if value is None else f'{value:.6g}'}" for name, value in one.metrics.items())
    sites = f"{one.answered} site{'' if one.answered == 1 else 's'}"
    failed = f", {one.failed} failed: {'; '.join(one.reasons)}" if one.failed else ""
    return (
        f"round {one.round} of {one.total_rounds}  {one.seconds:.2f} s  {metrics or 'no metrics'}  "
        f"{one.bytes_down / _MIB:.1f} MiB down, {one.bytes_up / _MIB:.1f} MiB up  {sites}{failed}"
    )


def _show(session: Session, info: JobInfo, **more: object) -> None:
    data = _data(info)
    lines = [f"{key:<14}{printable(str(value))}" for key, value in data.items() if value not in ("", [], {})]
    session.output.result({"job": data, **more}, "\n".join(lines))
