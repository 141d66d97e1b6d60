"""`rehearse`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from clouddeploy import rehearse as rehearsal
from clouddeploy import wheelhouse
from clouddeploy.cli.main import Session, command_options
from clouddeploy.cli.output import table


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("deploy.yml"))
@click.option("--job", type=click.Path(path_type=Path), help="Job folder to run; default: the deploy file's smoke_job.")
@click.option("--unprivileged", is_flag=True, help="Hosts as for a user without root: processes, no firewall.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="capacity|throttle|lag|kill=N|partition",
    help="What goes wrong on the way; may be repeated.",
)
@command_options
def rehearse(session: Session, file: Path, job: Path | None, unprivileged: bool, faults: tuple[str, ...]) -> None:
    """Run a deploy file against emulated clouds and real SSH hosts: nothing is spent, nothing is left."""
    with tempfile.TemporaryDirectory(prefix="clouddeploy-rehearsal-", ignore_cleanup_errors=True) as directory:
        result = rehearsal.rehearse(
            file,
            directory=Path(directory),
            cache=wheelhouse.default_cache(),
            job=job,
            as_root=os.geteuid() == 0 and not unprivileged,
            faults=faults,
            cancel=session.cancel,
            on_event=session.output.event,
            on_phase=lambda line: session.output.say(f"== {line}"),
        )
    session.output.result(rehearsal.as_json(result), _text(result))


def _text(result: rehearsal.Rehearsed) -> str:
    head = ("site", "role", "provider", "address", "ready after")
    rows = [(s.name, s.role, s.provider, s.address, f"{s.registered_after_s:.1f} s") for s in result.sites]
    lines = ["", table(head, rows), ""]
    if result.job is not None:
        job = result.job
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in job.metrics.items() if isinstance(value, float))
        lines.append(f"Job {job.name}: {job.status} after {job.rounds} rounds in {job.duration_s:.1f} s; {metrics}")
    lines += [f"Fault {fault.name}: met {fault.hits} time(s)." for fault in result.faults]
    lines.append(f"Resources: {result.created} created, {len(result.left)} left behind.")
    lines.append(f"The whole rehearsal took {result.seconds:.1f} s.")
    return "\n".join(lines)
