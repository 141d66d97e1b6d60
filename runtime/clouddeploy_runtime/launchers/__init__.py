"""How a job's process is started; one module per way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.launchers import temporary
from clouddeploy_runtime.launchers.base import BadLauncher, JobLaunch, Launcher, Running
from clouddeploy_runtime.launchers.process import ProcessLauncher

if TYPE_CHECKING:
    from clouddeploy_runtime.settings import Settings

__all__ = ["BadLauncher", "JobLaunch", "Launcher", "Running", "of"]

_KNOWN = {"process": ProcessLauncher.of}


def of(settings: Settings) -> Launcher:
    """Return the launcher that a site's `local/resources.json` asks for.

    A parent calls it once at its start; what an earlier one that was killed has left of its jobs is removed here.

    Raises:
        BadLauncher: there is no such one, or its arguments are wrong.
    """
    make = _KNOWN.get(settings.launcher)
    if make is None:
        raise BadLauncher(
            f"jobs cannot be started by the launcher {settings.launcher!r}",
            why=f"this version knows {', '.join(sorted(_KNOWN))}",
            hint="Name process_launcher in local/resources.json.",
        )
    temporary.clear()
    return make(settings.launcher_args)
