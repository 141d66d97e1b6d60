"""The console's commands for the processes of a federation: what they run on, stopping them, keeping clients out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClientsRunning, InvalidTarget, JobsRunning
from clouddeploy_runtime.jobs import SERVER

from clouddeploy import stopping
from clouddeploy.console.command import Command, Reply
from clouddeploy.console.targets import (
    connected,
    log_config,
    reply_of,
    takes_log_config,
    takes_target,
    target_of,
    written,
)
from clouddeploy.tables import boxed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from clouddeploy_runtime.admin.session import SystemStatus

    from clouddeploy.console.command import Arguments
    from clouddeploy.console.desk import Desk

_CLIENTS_GO_S = 30.0
"""A server that is shut down with its clients waits so long for them; guessed."""
_KIND = ("kind", "client")


def _asked(desk: Desk, given: argparse.Namespace, *, ask: str) -> Reply:
    return reply_of(getattr(desk.session.sites, ask)(target_of(given)))


def _takes_optional_target(arguments: Arguments) -> None:
    arguments.add_argument("kind", nargs="?", default="all", choices=("server", "client", "all"), help="default: all")
    arguments.add_argument("names", nargs="*", metavar="client", help="only these clients; default: every one")


def _resources(desk: Desk, given: argparse.Namespace) -> Reply:
    """The server asks those that are connected; a server has no resources that jobs reserve."""
    target = target_of(given)
    if target == SERVER:
        return Reply("The server has no resources that jobs reserve.", data={})
    names = _clients(desk.session.system_status(), given.names)
    found = {site: one for site, one in desk.session.report_resources().items() if site in names}
    missing = [f"{site}: no_reply" for site in names if site not in found]
    rows = [(site, _short(one.get("total")), _short(one.get("free"))) for site, one in sorted(found.items())]
    parts = [boxed(("CLIENT", "TOTAL", "FREE"), rows)] if rows else []
    return Reply("\n".join([*parts, *missing]), data=found)


def _short(resources: object) -> str:
    return written(resources).replace("\n", ", ") if resources else ""


def _clients(status: SystemStatus, names: Sequence[str]) -> tuple[str, ...]:
    """Return the named clients, or every connected one.

    Raises:
        NoClients: none is named, and none connected.
        InvalidTarget: a named one is not connected.
    """
    known = connected(status) if not names else tuple(client.name for client in status.clients)
    if unknown := [name for name in names if name not in known]:
        raise InvalidTarget(
            f"The client {unknown[0]} is not connected", hint="`check_status server` names those that are."
        )
    return tuple(dict.fromkeys(names)) or known


def _end(desk: Desk, given: argparse.Namespace, *, is_restart: bool) -> Reply:
    """Whom it would hurt is looked at before anybody is asked to confirm."""
    target, status = target_of(given), desk.session.system_status()
    if given.kind == stopping.CLIENT:
        _clients(status, given.names)
    try:
        stopping.check(status, kind=given.kind, names=given.names, is_restart=is_restart)
    except (ClientsRunning, JobsRunning) as error:
        error.hint = "Abort the jobs, or wait for them." if isinstance(error, JobsRunning) else "See `shutdown all`."
        raise
    names = () if target == SERVER else given.names or [client.name for client in status.clients]
    ends = [*names, *([SERVER] if given.kind != stopping.CLIENT else [])]
    desk.confirm_user(f"{'Restart' if is_restart else 'Shut down'} {', '.join(ends)}?")
    if given.kind == stopping.ALL:
        stopping.end_all(desk.session, is_restart=is_restart, timeout_s=_CLIENTS_GO_S)
    else:
        stopping.stop(desk.session, kind=given.kind, names=given.names, is_restart=is_restart)
    said = "is being restarted" if is_restart else "is being shut down"
    return Reply("\n".join(f"{one} {said}." for one in ends), data={"targets": ends})


def _takes_client(arguments: Arguments) -> None:
    arguments.add_argument("client", help="its name")


def _disable(desk: Desk, given: argparse.Namespace) -> Reply:
    desk.confirm_user(f"Disable the client {given.client}: end its session and keep it out?")
    desk.session.disable_client(given.client)
    return Reply(f"Client {given.client} is disabled.", data={"client": given.client})


def _enable(desk: Desk, given: argparse.Namespace) -> Reply:
    desk.confirm_user(f"Enable the client {given.client}?")
    desk.session.enable_client(given.client)
    return Reply(f"Client {given.client} is enabled; it comes by itself.", data={"client": given.client})


def _remove(desk: Desk, given: argparse.Namespace) -> Reply:
    desk.confirm_user(f"End the session of the client {given.client}?")
    desk.session.remove_client(given.client)
    return Reply(f"Client {given.client} is removed; it registers again by itself.", data={"client": given.client})


def _configure_log(desk: Desk, given: argparse.Namespace) -> Reply:
    config = log_config(given)
    return reply_of(desk.session.sites.configure_site_log(target_of(given), config))


COMMANDS = (
    Command(
        "sys_info",
        "sys_info",
        "Show machines: system, processors, memory, disk, load.",
        partial(_asked, ask="sys_info"),
        takes_target,
        _KIND,
    ),
    Command(
        "report_resources",
        "report_resources",
        "Show what connected clients have for jobs, and what is free.",
        _resources,
        _takes_optional_target,
        _KIND,
    ),
    Command(
        "report_env",
        "report_env",
        "Show versions of packages, platform and variables without secrets.",
        partial(_asked, ask="report_env"),
        takes_target,
        _KIND,
    ),
    Command(
        "report_version",
        "report_version",
        "Show the versions of the runtime and of Python.",
        partial(_asked, ask="report_version"),
        _takes_optional_target,
        _KIND,
    ),
    Command(
        "restart",
        "restart",
        "Start processes again, when no job runs; wants your user name.",
        partial(_end, is_restart=True),
        takes_target,
        _KIND,
    ),
    Command(
        "shutdown",
        "shutdown",
        "End processes, when no job runs; wants your user name.",
        partial(_end, is_restart=False),
        takes_target,
        _KIND,
    ),
    Command(
        "remove_client",
        "remove_client",
        "End a client's session; it registers again; wants your user name.",
        _remove,
        _takes_client,
        ("client",),
        is_hidden=True,
    ),
    Command(
        "disable_client",
        "disable_client",
        "End a client's session and keep it out; wants your user name.",
        _disable,
        _takes_client,
        ("client",),
    ),
    Command(
        "enable_client",
        "enable_client",
        "Let a disabled client in again; wants your user name.",
        _enable,
        _takes_client,
        ("client",),
    ),
    Command(
        "configure_site_log",
        "configure_site_log",
        "Change how the server or clients log, until they start again.",
        _configure_log,
        takes_log_config,
        _KIND,
    ),
)
