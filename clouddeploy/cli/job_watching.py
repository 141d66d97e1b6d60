"""`job wait | monitor`: 0 when the job has completed, 1 when it ended otherwise, 2 without a server, 3 too late."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click
from clouddeploy_runtime.errors import RuntimeFault, printable

from clouddeploy.cli.job_shown import progress, show
from clouddeploy.cli.kits import Admin, admin_options
from clouddeploy.cli.main import Session, command_options
from clouddeploy.outcome import require_completed

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.jobs.rounds import Round

DEFAULT_WAIT_S = 86_400.0
_MIB = 1 << 20


def _watching_options(function: Callable[..., None]) -> Callable[..., None]:
    timeout = click.option(
        "--timeout", "timeout_s", type=float, default=DEFAULT_WAIT_S, help="Seconds; default: a day."
    )
    interval = click.option(
        "--interval",
        type=float,
        hidden=True,
        expose_value=False,
        help="Of no use: the server says at once what changes.",
    )
    return timeout(interval(function))


@click.command()
@click.argument("job_id")
@_watching_options
@admin_options
@command_options
def wait(session: Session, *, admin: Admin, job_id: str, timeout_s: float) -> None:
    """Wait for a job's end; say what changes meanwhile."""
    with admin.open() as opened:
        for info in opened.watch(job_id, timeout_s=timeout_s):
            if info.status.is_final:
                show(session, require_completed(info))
            else:
                session.output.say(progress(info))


@click.command()
@click.argument("job_id")
@_watching_options
@click.option("--metric", "metrics", multiple=True, help="Show only this metric; may be repeated.")
@click.option("--stats-target", help="After each round, also what the job has done at `server`, `client`, `all`, NAME.")
@admin_options
@command_options(has_lines=True)
def monitor(
    session: Session,
    *,
    admin: Admin,
    job_id: str,
    timeout_s: float,
    metrics: tuple[str, ...],
    stats_target: str | None,
) -> None:
    """Show each round of a job as it ends: time, metrics, bytes and sites.

    With --output jsonl each round is a line of JSON, and the envelope the last one; with json, rounds are on stderr.
    Ctrl-C ends the watching, not the job.
    """
    shown, said = 0, ""
    with admin.open() as opened:
        for info in opened.watch(job_id, timeout_s=timeout_s):
            rounds = [_only(one, metrics) for one in info.history]
            new = [one for one in rounds if one.round > shown]
            for one in new:
                session.output.item(asdict(one), printable(_line(one)))
            if new and stats_target:
                _say_stats(session, opened, job_id, stats_target)
            shown = info.history[-1].round if info.history else 0
            state = progress(replace(info, total_rounds=0))
            if info.status.is_final:
                show(session, require_completed(info), rounds=[asdict(one) for one in rounds])
            elif state != said and not session.output.as_json:
                session.output.say(state)
            said = state


def _only(one: Round, metrics: tuple[str, ...]) -> Round:
    return (
        replace(one, metrics={name: one.metrics[name] for name in metrics if name in one.metrics}) if metrics else one
    )


def _say_stats(session: Session, opened: AdminSession, job_id: str, target: str) -> None:
    """Says what a job has done; that nobody answers, or that it has just ended, does not end the watching."""
    try:
        replies = opened.sites.show_stats(job_id, target)
    except RuntimeFault as error:
        session.output.item({"stats": {}, "message": str(error)}, printable(f"  no stats: {error}"))
        return
    answered: dict[str, Any] = {site: dict(reply.data) for site, reply in sorted(replies.items()) if reply.is_ok}
    lines = [f"  {site}: {_tasks(data)}" for site, data in answered.items()]
    session.output.item({"stats": answered}, printable("\n".join(lines) or "  no stats"))


def _tasks(data: dict[str, Any]) -> str:
    tasks = data.get("tasks")
    if not isinstance(tasks, dict):
        return "nothing yet"
    return "; ".join(f"{name} {_values(value)}" for name, value in tasks.items()) or "nothing yet"


def _values(value: object) -> str:
    return ", ".join(f"{name} {one}" for name, one in value.items()) if isinstance(value, dict) else str(value)


def _line(one: Round) -> str:
    """Returns what a person sees of a round."""
    metrics = "  ".join(f"{name} {'nan' if value is None else f'{value:.6g}'}" for name, value in one.metrics.items())
    sites = f"{one.answered} site{'' if one.answered == 1 else 's'}"
    failed = f", {one.failed} failed: {'; '.join(one.reasons)}" if one.failed else ""
    return (
        f"round {one.round} of {one.total_rounds}  {one.seconds:.2f} s  {metrics or 'no metrics'}  "
        f"{one.bytes_down / _MIB:.1f} MiB down, {one.bytes_up / _MIB:.1f} MiB up  {sites}{failed}"
    )
