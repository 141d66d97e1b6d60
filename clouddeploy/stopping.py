"""Stops and restarts participants of a running federation for an admin, without disturbing who works there."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import (
    ClientsRunning,
    ConnectionFailed,
    InvalidTarget,
    JobsRunning,
    NoClients,
    NoSession,
    Timeout,
)
from clouddeploy_runtime.jobs import ALL_SITES, SERVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.admin.status import SystemStatus

CLIENT, ALL = "client", "all"
POLL_S = 0.1


def check(status: SystemStatus, *, kind: str, names: Sequence[str], is_restart: bool, is_forced: bool = False) -> None:
    """Refuses what would end jobs, or leave clients without their server, before anybody is asked to confirm it.

    The server looks once more when it is asked, since jobs may have started meanwhile.

    Args:
        status: of the federation now.
        kind: `server`, `client` or `all`.
        names: of the clients; none: all of them.
        is_restart: they come back.
        is_forced: only whether they are there is looked at.

    Raises:
        InvalidTarget, NoClients: a client is not connected, or none is.
        JobsRunning: jobs run there.
        ClientsRunning: the server is to stop while clients are connected.
    """
    there = {client.name: client for client in status.clients}
    if strangers := [name for name in names if name not in there]:
        raise InvalidTarget(
            f"The client {strangers[0]} is not connected", hint="`clouddeploy system status` names those that are."
        )
    if kind == CLIENT and not there:
        raise NoClients("No client is connected", hint="See `clouddeploy system status`.")
    if is_forced:
        return
    word = "restart" if is_restart else "shutdown"
    busy = [*status.jobs, *([f"{status.other_jobs} of other studies"] if status.other_jobs else [])]
    if kind == CLIENT:
        busy = sorted({job for name in names or there for job in there[name].jobs})
        others = max((there[name].other_jobs for name in names or there), default=0)
        busy += [f"{others} of other studies"] if others else []
    if busy:
        raise JobsRunning(
            f"the {word} is refused while jobs run",
            why=f"there run {', '.join(busy[:5])}",
            hint="wait for them, abort them, or add --force",
        )
    if kind == SERVER and there and not is_restart:
        raise ClientsRunning(
            "the server is not shut down while clients are connected",
            why=f"connected: {', '.join(sorted(there)[:5])}",
            hint="shut down `all`, or the clients first, or add --force",
        )


def stop(session: AdminSession, *, kind: str, names: Sequence[str], is_restart: bool, is_forced: bool = False) -> None:
    """Asks participants to stop, or to start again; clients before their server, which passes it on.

    Raises:
        JobsRunning, ClientsRunning: it would disturb them, and is not forced.
    """
    wanted = session.restart if is_restart else session.shutdown
    ask = partial(wanted, force=True) if is_forced else wanted
    if kind == CLIENT and names:
        for name in names:
            ask(name)
    elif kind == CLIENT or (kind == ALL and session.system_status().clients):
        ask(ALL_SITES)
    if kind == SERVER:
        try:
            ask(SERVER)
        except ConnectionFailed:
            if _status(session) is not None:  # else it has heard, and was gone before it could say so
                raise


def end_all(session: AdminSession, *, is_restart: bool, timeout_s: float, is_forced: bool = False) -> None:
    """Stops every client, and the server once they are gone; restarts them at the same time.

    Raises:
        Timeout: a client stays; the server was not asked then.
        JobsRunning, ClientsRunning: as in `stop`.
    """
    before = session.system_status()
    stop(session, kind=ALL, names=(), is_restart=is_restart, is_forced=is_forced)
    if not is_restart:
        wait(session, before, kind=CLIENT, names=(), is_restart=False, timeout_s=timeout_s)
    stop(session, kind=SERVER, names=(), is_restart=is_restart, is_forced=is_forced)


def wait(
    session: AdminSession, before: SystemStatus, *, kind: str, names: Sequence[str], is_restart: bool, timeout_s: float
) -> None:
    """Returns once those who were asked are gone, or back.

    Args:
        session: the one that asked them.
        before: how it was then.
        kind: as in `check`.
        names: as in `check`.
        is_restart: wait until they are back.
        timeout_s: for all of it.

    Raises:
        Timeout: somebody is still there, or not back.
    """
    missing = left(session, before, kind=kind, names=names, is_restart=is_restart, timeout_s=timeout_s)
    if missing:
        raise Timeout(
            f"Not everybody is {'back' if is_restart else 'gone'} within {timeout_s:g} s",
            why=f"not seen: {', '.join(missing)}; a site asks its own policy first",
            hint="See `clouddeploy system status`, and the log of the site.",
        )


def left(
    session: AdminSession, before: SystemStatus, *, kind: str, names: Sequence[str], is_restart: bool, timeout_s: float
) -> tuple[str, ...]:
    """Returns who of those that were asked was not seen to go, or come back, in time; arguments as of `wait`."""
    since = {one.name: one.connected_since for one in before.clients}
    clients = () if kind == SERVER else tuple(names or since)
    has_server = kind != CLIENT
    was_away = False
    deadline = time.monotonic() + timeout_s
    while True:
        status = _status(session)
        was_away |= status is None or status.state == "stopping" or status.since != before.since
        missing: tuple[str, ...]
        if not is_restart and has_server:  # with it, its clients cannot be seen any more
            missing = (SERVER,) if status is not None else ()
        else:
            here = {one.name: one.connected_since for one in status.clients} if status else {}
            missing = tuple(name for name in clients if not _went(name, since, here, is_restart) or status is None)
            if has_server and not (was_away and status is not None and status.state == "serving"):
                missing = (*missing, SERVER)
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(POLL_S)


def _went(name: str, since: Mapping[str, str], here: Mapping[str, str], is_restart: bool) -> bool:
    return here.get(name, since[name]) != since[name] if is_restart else name not in here


def _status(session: AdminSession) -> SystemStatus | None:
    try:
        return session.system_status()
    except (ConnectionFailed, NoSession, Timeout):
        return None
