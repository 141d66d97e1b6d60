"""Opens a dashboard's folder: its database, its audit log, its certificate authority."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime.audit import AuditLog

from clouddeploy.dashboard import audit_pages, database, deploy_files
from clouddeploy.dashboard.attempts import Attempts
from clouddeploy.dashboard.database import project_of
from clouddeploy.dashboard.deploy_paths import Bounds
from clouddeploy.dashboard.desk import Desk
from clouddeploy.dashboard.errors import DashboardState
from clouddeploy.dashboard.kits import Kits
from clouddeploy.dashboard.passwords import Passwords
from clouddeploy.dashboard.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clouddeploy.secrets import Secret


def make_folder(folder: Path) -> None:
    """Makes the folder, for its owner alone.

    Raises:
        DashboardState: it cannot be made, or others may enter it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise DashboardState(
            f"{folder} cannot be used", why=error.strerror or str(error), hint="name another"
        ) from error
    if mode & 0o077:
        raise DashboardState(
            f"{folder} is refused", why=f"its mode {mode:04o} lets others in", hint=f"chmod 700 {folder}"
        )


def open_desk(
    folder: Path,
    *,
    passphrase: Secret,
    url: str = "",
    passwords: Passwords | None = None,
    deploy_from: tuple[Path, ...] = (),
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Desk:
    """Opens what is in a folder, and makes what is not there yet.

    Args:
        folder: the dashboard's.
        passphrase: of the certificate authority: the right one, or for a new authority the one that is set.
        url: of the database; empty: a file in the folder.
        passwords: how they are hashed.
        deploy_from: folders besides its own that deploy files which are sent in may name.
        now: the clock.

    Raises:
        DashboardError: the folder or the database cannot be used.
        PassphraseError: the passphrase is wrong.
    """
    make_folder(folder)
    kits = Kits(folder, passphrase=passphrase, now=now)
    opened = database.open_in(folder, url)
    desk = Desk(
        folder=folder,
        database=opened,
        kits=kits,
        audit=AuditLog(folder / audit_pages.LOG),
        passwords=passwords or Passwords(),
        attempts=Attempts(now, database=opened),
        now=now,
        runs=Runs(bounds=Bounds(folder / deploy_files.FOLDER, deploy_from)),
    )
    with desk.visit() as visit:
        kits.check(project_of(visit.db).short_name)
    return desk
