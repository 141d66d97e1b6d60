"""`job logs | log-config | stats`: what a job says, how much of it, and what it has done at each site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.errors import JobNotFound, printable
from clouddeploy_runtime.jobs import SERVER

from clouddeploy.cli import site_replies
from clouddeploy.cli.kits import Admin, admin_options
from clouddeploy.cli.main import Session, command_options
from clouddeploy.log_config import read as log_config_of

if TYPE_CHECKING:
    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.admin.sites import SiteReply

DEFAULT_LINES = 500
MAX_BYTES = 5 << 20
"""The server's bound, and the sites'."""


@click.command()
@click.argument("job_id")
@click.option(
    "--site", "sites", multiple=True, help="`server` (default), `client` (each), `all` or a name; repeatable."
)
@click.option("--tail", type=click.IntRange(min=0), default=DEFAULT_LINES, help="Lines; default: 500, 0: all.")
@click.option("--since", default="", help="Only from this time on: ISO 8601 with its zone, 2030-01-31T12:00:00+00:00.")
@click.option("--max-bytes", type=click.IntRange(1, MAX_BYTES), default=MAX_BYTES, help="At most; default: 5 MiB.")
@admin_options
@command_options
def logs(
    session: Session, *, admin: Admin, job_id: str, sites: tuple[str, ...], tail: int, since: str, max_bytes: int
) -> None:
    """Show the end of a job's log at the server or at sites."""
    with admin.open() as opened:
        if not since and sites in {(), (SERVER,)}:
            text = _end(opened.job_log(job_id, site=SERVER), tail, max_bytes)
            data = {"job_id": job_id, "site": SERVER, "text": text}
            session.output.result(data, printable(text))
            return
        target = site_replies.target(sites, usual=SERVER)
        replies = opened.sites.job_log(job_id, target, tail=tail, max_bytes=max_bytes, since=since)
        if len(sites) == 1 and not any(reply.is_ok for reply in replies.values()):
            text = _of_its_failure(opened, job_id, sites[0])
            if text:
                session.output.result({"job_id": job_id, "site": sites[0], "text": text}, printable(text))
                return
    one = next(iter(replies.values())) if len(replies) == 1 else None
    more = {"site": one.site, "text": str(one.data.get("text", ""))} if one is not None else {}
    site_replies.show(
        session,
        replies,
        lambda found: "\n".join(
            f"== {site}\n{_text(reply)}" if len(replies) > 1 else _text(reply) for site, reply in sorted(found.items())
        ),
        more={"job_id": job_id, **more},
    )


@click.command("log", hidden=True)
@click.argument("job_id")
@click.option("--site", default=SERVER, help="The server, which is the default, or a site that failed.")
@admin_options
@command_options
def show_log(session: Session, admin: Admin, job_id: str, site: str) -> None:
    """Show the end of a job's log as the server has it: its own, or what it kept of a site that failed."""
    with admin.open() as opened:
        text = opened.job_log(job_id, site=site)
    session.output.result({"job_id": job_id, "site": site, "text": text}, printable(text))


@click.command("log-config")
@click.argument("job_id")
@click.argument("config", metavar="LEVEL")
@site_replies.site_option
@admin_options
@command_options
def log_config(session: Session, *, admin: Admin, job_id: str, config: str, sites: tuple[str, ...]) -> None:
    """Change how a running job logs: a level, a mode such as `concise` or `full`, or a JSON file of levels."""
    wanted = log_config_of(config)
    with admin.open() as opened:
        replies = opened.sites.configure_job_log(job_id, site_replies.target(sites), wanted)
    site_replies.show(
        session,
        replies,
        lambda found: "\n".join(f"{site}: logs so now" for site in sorted(found)),
        more={"job_id": job_id},
    )


@click.command()
@click.argument("job_id")
@site_replies.site_option
@admin_options
@command_options
def stats(session: Session, *, admin: Admin, job_id: str, sites: tuple[str, ...]) -> None:
    """Show what a job has done at the server and at each site: tasks, seconds, bytes."""
    with admin.open() as opened:
        replies = opened.sites.show_stats(job_id, site_replies.target(sites))
    site_replies.show(session, replies, site_replies.blocks, more={"job_id": job_id})


def _text(reply: SiteReply) -> str:
    return str(reply.data.get("text", "")).rstrip("\n")


def _of_its_failure(opened: AdminSession, job_id: str, site: str) -> str:
    """Returns what the server kept of a site that failed; empty when there is nothing."""
    try:
        return opened.job_log(job_id, site=site)
    except JobNotFound:
        return ""


def _end(text: str, lines: int, max_bytes: int) -> str:
    text = text.encode()[-max_bytes:].decode(errors="replace")
    return text if lines == 0 else "\n".join(text.splitlines()[-lines:])
