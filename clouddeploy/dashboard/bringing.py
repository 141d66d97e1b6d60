"""Brings the running server each new list of revoked certificates, with the kit that the live view has too.

Any admin may bring a list, whatever their role: the project's authority signed it, and the server takes none that is
older than its own.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.dashboard import watching
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.settings import VIEWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.kit import Kit

    from clouddeploy.dashboard.desk import Desk

log = logging.getLogger(__name__)
_EVERY_S = 2.0
"""So often the list is looked at: one look at a file."""
_AGAIN_S = (2.0, 5.0, 15.0, 60.0)
"""Pauses after failures, the last one for good: the server may not run yet, and gets it when it does."""
_END_S = 5.0


@contextmanager
def bringing(
    desk: Desk,
    *,
    connect: Callable[[Kit], AbstractContextManager[AdminSession]] | None = None,
    every_s: float = _EVERY_S,
) -> Iterator[None]:
    """Brings each new list while the context lasts.

    Args:
        desk: the dashboard.
        connect: opens a session with the server; default: a real one.
        every_s: seconds between two looks.
    """
    stop = threading.Event()
    thread = threading.Thread(
        target=_run, args=(desk, connect or _connected, stop, every_s), name="bringing", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_END_S)


def _connected(kit: Kit) -> AbstractContextManager[AdminSession]:
    from clouddeploy_runtime.admin.session import AdminSession  # noqa: PLC0415 - gRPC takes long to load

    return AdminSession(kit, timeout_s=_END_S)


def _run(
    desk: Desk,
    connect: Callable[[Kit], AbstractContextManager[AdminSession]],
    stop: threading.Event,
    every_s: float,
) -> None:
    failures = 0
    while not stop.wait(every_s):
        try:
            _bring(desk, connect)
            failures, desk.brought.why = 0, ""
        except ClouddeployError as error:
            if not failures:
                log.warning("the server does not have the newest list of revoked certificates: %s", error)
            desk.brought.why = str(error)
        except Exception as error:  # the thread's edge: the page says it, and it is tried again
            log.exception("a defect while bringing the list of revoked certificates")
            desk.brought.why = f"a defect of the dashboard ({type(error).__name__})"
        if desk.brought.why:
            stop.wait(_AGAIN_S[min(failures, len(_AGAIN_S) - 1)])
            failures += 1


def _bring(desk: Desk, connect: Callable[[Kit], AbstractContextManager[AdminSession]]) -> None:
    path = _list_of(desk)
    if path is None or not path.exists() or (pem := path.read_bytes()) == desk.brought.list_pem:
        return
    kit = watching.kit_path(desk)
    if kit is None:
        return
    with connect(kits.load(kit)) as session:
        is_newer = session.update_crl(pem)
    desk.brought.list_pem = pem
    if is_newer:
        with desk.visit() as visit:
            visit.note("push_crl", user=VIEWER, detail="the server has the newest list")


def _list_of(desk: Desk) -> Path | None:
    """Returns where the authority keeps its list; None: there is no authority yet."""
    with desk.visit() as visit:
        project = project_of(visit.db)
        return desk.kits.list_of(project.short_name) if project.is_frozen else None
