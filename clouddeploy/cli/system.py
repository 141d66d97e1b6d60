"""`system status | resources | shutdown | restart | disable-client | enable-client | version | log-config | …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.errors import InvalidTarget, printable

from clouddeploy import stopping
from clouddeploy.cli import site_replies
from clouddeploy.cli.confirming import confirm
from clouddeploy.cli.kits import Admin, admin_options
from clouddeploy.cli.main import CommandGroup, Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.errors import ConfigError
from clouddeploy.log_config import read as log_config_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_runtime.admin.sites import SiteReply
    from clouddeploy_runtime.admin.status import SystemStatus

DEFAULT_STOP_S = 30.0
_kind = click.argument("kind", type=click.Choice(["server", "client", "all"]))
_names = click.argument("names", nargs=-1)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(cls=CommandGroup)
def system() -> None:
    """See who is connected; stop, restart, keep out, and configure the server and its sites."""


@system.command()
@click.argument("kind", type=click.Choice(["server", "client"]), required=False)
@_names
@admin_options
@command_options
def status(session: Session, admin: Admin, kind: str | None, names: tuple[str, ...]) -> None:
    """Show the server and who is connected; with `client`, what each site itself says that it runs."""
    with admin.open() as opened:
        if kind == "client":
            site_replies.show(session, opened.sites.check_status(names), _running)
            return
        found = opened.system_status()
    session.output.result(_status_data(found), printable(_status_text(found)))


@system.command()
@click.argument("words", nargs=-1, metavar="[server|client] [NAMES]...")
@admin_options
@command_options
def resources(session: Session, admin: Admin, words: tuple[str, ...]) -> None:
    """Show what each site has for jobs, and what of it is free."""
    names = tuple(word for word in words if word not in {"server", "client"})
    with admin.open() as opened:
        found = opened.report_resources()
    if strangers := [name for name in names if name not in found]:
        raise InvalidTarget(f"{strangers[0]} has not answered", hint="`clouddeploy system status` names the connected.")
    shown = {name: offer for name, offer in found.items() if not names or name in names}
    rows = [(name, _pairs(offer.get("total", {})), _pairs(offer.get("free", {}))) for name, offer in shown.items()]
    session.output.result({"resources": shown}, printable(table(("site", "total", "free"), rows)))


def _stopping_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--timeout", "timeout_s", type=float, default=DEFAULT_STOP_S, help="Seconds to wait; default: 30."
        ),
        click.option("--no-wait", is_flag=True, help="Return once they are asked."),
        click.option("--force", is_flag=True, help="Also while jobs run or clients are connected, and without asking."),
        _yes,
        _names,
        _kind,
    ):
        function = option(function)
    return function


@system.command()
@_stopping_options
@admin_options
@command_options
def shutdown(session: Session, **given: object) -> None:
    """Stop the server, clients or all; refused while jobs run, and for a server that has clients."""
    _stop(session, is_restart=False, **given)  # type: ignore[arg-type]


@system.command()
@_stopping_options
@admin_options
@command_options
def restart(session: Session, **given: object) -> None:
    """Restart the server, clients or all; refused while jobs run."""
    _stop(session, is_restart=True, **given)  # type: ignore[arg-type]


def _stop(
    session: Session,
    *,
    is_restart: bool,
    admin: Admin,
    kind: str,
    names: tuple[str, ...],
    yes: bool,
    force: bool,
    no_wait: bool,
    timeout_s: float,
) -> None:
    if names and kind != stopping.CLIENT:
        raise ConfigError(f"`{kind}` takes no names", why=f"{', '.join(names)} given", hint="say `client NAME`")
    word = "Restart" if is_restart else "Shut down"
    meant = ", ".join(names) or {"server": "the server", "client": "every client"}.get(kind, "the server and clients")
    with admin.open() as opened:
        before = opened.system_status()
        stopping.check(before, kind=kind, names=names, is_restart=is_restart, is_forced=force)
        if not yes and not force:
            confirm(session, f"{word} {meant}?")
        if kind == stopping.ALL:
            stopping.end_all(opened, is_restart=is_restart, timeout_s=timeout_s, is_forced=force)
        else:
            stopping.stop(opened, kind=kind, names=names, is_restart=is_restart, is_forced=force)
        if not no_wait:
            stopping.wait(opened, before, kind=kind, names=names, is_restart=is_restart, timeout_s=timeout_s)
    verb = "restarted" if is_restart else "shut down"
    done = f"asked to be {verb}" if no_wait else verb
    data = {"target": kind, "names": list(names), "restart": is_restart, "waited": not no_wait}
    session.output.result(data, printable(f"{done}: {meant}"))


@system.command("disable-client")
@click.argument("name")
@_yes
@admin_options
@command_options
def disable_client(session: Session, admin: Admin, name: str, yes: bool) -> None:
    """Keep a client out until it is enabled, over restarts of the server too."""
    with admin.open() as opened:
        if not yes:
            confirm(session, f"Disable the client {name}? Its work in running jobs ends.")
        opened.disable_client(name)
    session.output.result({"client": name, "disabled": True}, printable(f"{name} is disabled"))


@system.command("enable-client")
@click.argument("name")
@admin_options
@command_options
def enable_client(session: Session, admin: Admin, name: str) -> None:
    """Let a disabled client in again; it comes by itself."""
    with admin.open() as opened:
        opened.enable_client(name)
    session.output.result({"client": name, "disabled": False}, printable(f"{name} is enabled"))


@system.command()
@click.argument("targets", nargs=-1)
@admin_options
@command_options
def version(session: Session, admin: Admin, targets: tuple[str, ...]) -> None:
    """Show the version of the server and of each site; TARGETS: `server`, `client`, `all` (default) or names."""
    with admin.open() as opened:
        replies = opened.sites.report_version(site_replies.target(targets))
    site_replies.show(session, replies, site_replies.blocks)


@system.command()
@click.argument("targets", nargs=-1)
@admin_options
@command_options
def info(session: Session, admin: Admin, targets: tuple[str, ...]) -> None:
    """Show the machine of the server and of each site; TARGETS as for `version`."""
    with admin.open() as opened:
        replies = opened.sites.sys_info(site_replies.target(targets))
    site_replies.show(session, replies, site_replies.blocks)


@system.command("log-config")
@click.argument("config")
@site_replies.site_option
@admin_options
@command_options
def log_config(session: Session, admin: Admin, config: str, sites: tuple[str, ...]) -> None:
    """Change how the server and sites log until they restart: a level, a mode, `reload` or a JSON file of levels."""
    wanted = log_config_of(config)
    with admin.open() as opened:
        replies = opened.sites.configure_site_log(site_replies.target(sites), wanted)
    site_replies.show(session, replies, lambda found: "\n".join(f"{site}: logs so now" for site in sorted(found)))


@system.command()
@admin_options
@command_options
def sessions(session: Session, admin: Admin) -> None:
    """Show who is logged in at the server."""
    with admin.open() as opened:
        found = opened.sessions()
    head = ("session", "user", "role", "study", "address", "since", "idle")
    rows = [(o.session, o.user, o.role, o.study, o.address, o.since, f"{o.idle_s:.0f} s") for o in found]
    session.output.result({"sessions": [asdict(one) for one in found]}, printable(table(head, rows)))


@system.command("end-sessions")
@click.argument("user")
@click.option("--session", "name", default="", help="Only this one, as `system sessions` names it.")
@_yes
@admin_options
@command_options
def end_sessions(session: Session, *, admin: Admin, user: str, name: str, yes: bool) -> None:
    """Log somebody out at the server; who it is may log in again."""
    with admin.open() as opened:
        if not yes:
            confirm(session, f"Log {user} out?")
        ended = opened.end_sessions(user, session=name)
    session.output.result({"user": user, "ended": ended}, printable(f"{ended} session(s) of {user} ended"))


def _status_data(found: SystemStatus) -> dict[str, object]:
    return {
        "server": {"name": found.server, "state": found.state, "jobs": list(found.jobs)},
        "clients": [asdict(client) for client in found.clients],
        "disabled": list(found.disabled),
        "resources": {site: dict(offer) for site, offer in found.resources.items()},
    }


def _status_text(found: SystemStatus) -> str:
    head = ("client", "address", "connected since", "jobs")
    rows = [(one.name, one.address, one.connected_since, ", ".join(one.jobs)) for one in found.clients]
    lines = [f"The server {found.server} is {found.state or 'there'}; {len(found.jobs)} job(s) run."]
    lines += ["", table(head, rows)] if rows else ["No client is connected."]
    lines += [f"Disabled: {', '.join(found.disabled)}"] if found.disabled else []
    return "\n".join(lines)


def _running(replies: Mapping[str, SiteReply]) -> str:
    rows = [
        (site, job.get("app", ""), job.get("job_id", ""), job.get("status", ""))
        for site, reply in sorted(replies.items())
        for job in reply.data.get("jobs") or [{"status": "no job"}]
    ]
    return table(("client", "app", "job", "status"), rows)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "-"
