"""The thread that asks the federation's server, with a kit of the dashboard's own that may look and nothing else."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.errors import ClouddeployError
from clouddeploy_runtime.kit.kit import certificate

from clouddeploy.dashboard import live, settings
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.live import Line
from clouddeploy.dashboard.settings import VIEWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.kit import Kit

    from clouddeploy.dashboard.desk import Desk

log = logging.getLogger(__name__)
GIVEN = "viewer"
"""An admin kit that somebody put there is used instead of one that the dashboard makes."""
_MADE = "watching"
_RENEW = timedelta(days=30)
_EVERY_S = 2.0
_AGAIN_S = (2.0, 5.0, 15.0)
"""Pauses after failures; the last one for good."""
_TIMEOUT_S = 5.0
_END_S = 1.0
"""It may wait for a server that does not answer; the process ends without it."""


def kit_path(desk: Desk) -> Path | None:
    """Returns the kit to look with, made if it has to be; None: the project is not frozen.

    Raises:
        ClouddeployError: it cannot be made.
    """
    given, made = desk.folder / GIVEN, desk.folder / _MADE
    if (given / "startup").is_dir():
        return given
    with desk.visit() as visit:
        project = project_of(visit.db)
        if not project.is_frozen:
            return None
        federation = settings.federation(visit.db)
    if not _lasts(made, desk.now()):
        desk.kits.lay_out(federation, VIEWER, target=made)
        with desk.visit() as visit:
            visit.note("make_viewer_kit", user=VIEWER, detail="of the role member, for the live view")
    return made


def _lasts(kit: Path, now: datetime) -> bool:
    """Tells whether a kit is there whose certificate is not about to end."""
    try:
        end = certificate(kits.load(kit).cert_file).not_valid_after_utc
    except ClouddeployError:
        return False
    return end - now > _RENEW


@contextmanager
def watching(
    desk: Desk, *, connect: Callable[[Kit], AbstractContextManager[AdminSession]] | None = None
) -> Iterator[None]:
    """Keeps `desk.live` up to date while the context lasts.

    Args:
        desk: the dashboard.
        connect: opens a session; default: a real one.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(desk, connect or _connected, stop), name="watching", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        desk.live.called.set()
        thread.join(_END_S)


def _connected(kit: Kit) -> AbstractContextManager[AdminSession]:
    from clouddeploy_runtime.admin.session import AdminSession  # noqa: PLC0415 - gRPC takes long to load

    return AdminSession(kit, timeout_s=_TIMEOUT_S)


def _run(desk: Desk, connect: Callable[[Kit], AbstractContextManager[AdminSession]], stop: threading.Event) -> None:
    failures = 0
    while not stop.is_set():
        if not desk.live.is_attended:
            desk.live.called.wait()
            desk.live.called.clear()
            continue
        try:
            failures = 0 if _watch(desk, connect, stop) else failures
        except ClouddeployError as error:
            if not failures:
                log.info("the federation's server cannot be watched: %s", error)
            desk.live.put(line=Line.AWAY, why=str(error), hint=error.hint)
            stop.wait(_AGAIN_S[min(failures, len(_AGAIN_S) - 1)])
            failures += 1
        except Exception as error:  # the thread's edge: the view says it, and is tried again
            log.exception("a defect in the live view")
            desk.live.put(line=Line.AWAY, why=f"a defect of the dashboard ({type(error).__name__})", hint="see its log")
            stop.wait(_AGAIN_S[-1])


def _watch(desk: Desk, connect: Callable[[Kit], AbstractContextManager[AdminSession]], stop: threading.Event) -> bool:
    """Looks again and again while somebody wants to know; returns whether anything was seen."""
    path = kit_path(desk)
    if path is None:
        desk.live.put(line=Line.UNFROZEN, at=desk.now())
        stop.wait(_EVERY_S)
        return False
    if desk.live.seen.line is not Line.AWAY:
        desk.live.put(line=Line.CONNECTING)
    with connect(kits.load(path)) as session:
        while desk.live.is_attended and not stop.is_set():
            desk.live.put(**live.look(session, desk.live.seen), line=Line.HERE, at=desk.now())
            stop.wait(_EVERY_S)
    return True
