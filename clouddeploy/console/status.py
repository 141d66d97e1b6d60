"""The console's commands that only look: who is there, what runs, what went wrong."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from clouddeploy.console.command import Command, Reply
from clouddeploy.console.targets import reply_of, takes_job_and_target, takes_target, target_of, with_text
from clouddeploy.tables import boxed

if TYPE_CHECKING:
    import argparse

    from clouddeploy.console.command import Arguments
    from clouddeploy.console.desk import Desk


def _takes_status(arguments: Arguments) -> None:
    arguments.add_argument("kind", choices=("server", "client"), help="whom it is for")
    arguments.add_argument("names", nargs="*", metavar="client", help="only these; default: every one")


def _check(desk: Desk, given: argparse.Namespace) -> Reply:
    target = target_of(given)
    return _of_server(desk) if given.kind == "server" else _of_clients(desk, () if target == "client" else target)


def _of_server(desk: Desk) -> Reply:
    status = desk.session.system_status()
    jobs = [(job_id, _name(desk, job_id)) for job_id in status.jobs]
    clients = [(one.name, one.address, one.connected_since, ", ".join(one.jobs)) for one in status.clients]
    parts = [f"Server: {status.server}", f"Engine status: {status.state or 'serving'}"]
    parts.append(boxed(("JOB ID", "APP NAME"), jobs))
    parts.append(f"Registered clients: {len(clients)}")
    parts += [boxed(("CLIENT", "ADDRESS", "LAST CONNECT TIME", "JOBS"), clients)] if clients else []
    parts += [f"Disabled clients: {', '.join(status.disabled)}"] if status.disabled else []
    return Reply("\n".join(parts), data=asdict(status))


def _name(desk: Desk, job_id: str) -> str:
    return desk.session.job_meta(job_id).name


def _of_clients(desk: Desk, names: Any) -> Reply:
    replies = desk.session.sites.check_status(names)
    rows = []
    for site, reply in replies.items():
        if reply.is_ok:
            jobs = reply.data.get("jobs") or [{}]
            rows += [(site, job.get("app", ""), job.get("job_id", ""), job.get("status", "No Jobs")) for job in jobs]
    return with_text(replies, boxed(("CLIENT", "APP NAME", "JOB ID", "STATUS"), rows) if rows else "")


def _job(desk: Desk, given: argparse.Namespace, *, ask: str) -> Reply:
    return reply_of(getattr(desk.session.sites, ask)(given.job_id, target_of(given)))


def _scopes(desk: Desk, given: argparse.Namespace) -> Reply:
    return reply_of(desk.session.sites.show_scopes(target_of(given)))


_JOB = ("job", "kind", "client")
COMMANDS = (
    Command(
        "check_status",
        "check_status",
        "Show jobs and clients of the server, or what each client runs.",
        _check,
        _takes_status,
        ("kind", "client"),
    ),
    Command(
        "show_stats",
        "show_stats",
        "Show what a job has done so far at the server or at clients.",
        partial(_job, ask="show_stats"),
        takes_job_and_target,
        _JOB,
    ),
    Command(
        "show_errors",
        "show_errors",
        "Show warnings and errors of a job at the server or at clients.",
        partial(_job, ask="show_errors"),
        takes_job_and_target,
        _JOB,
    ),
    Command(
        "reset_errors",
        "reset_errors",
        "Leave the present errors of a job out of show_errors.",
        partial(_job, ask="reset_errors"),
        takes_job_and_target,
        _JOB,
    ),
    Command(
        "show_scopes",
        "show_scopes",
        "Show the privacy scopes of sites, with their filters.",
        _scopes,
        takes_target,
        ("kind", "client"),
    ),
)
