"""How a job's process is started; one module per way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime.launchers import temporary
from clouddeploy_runtime.launchers.base import BadLauncher, JobLaunch, Launcher, Running
from clouddeploy_runtime.launchers.outpost import OutpostLauncher
from clouddeploy_runtime.launchers.process import ProcessLauncher
from clouddeploy_runtime.outposts import engines

if TYPE_CHECKING:
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.settings import Settings

__all__ = ["BadLauncher", "JobLaunch", "Launcher", "Running", "made", "of"]

_PROCESS = "process"


def of(settings: Settings, kit: Kit | None = None) -> Launcher:
    """Return the launcher that a site's `local/resources.json` asks for.

    A parent calls it once at its start; what an earlier one that was killed has left of its jobs is removed here.

    Args:
        settings: the site's.
        kit: the site's; jobs elsewhere are known by its name, and get what its `local/study_runtime.yaml` says.

    Raises:
        BadLauncher: there is no such one, or its arguments are wrong.
    """
    launcher = made(settings, kit)
    temporary.clear()
    if kit is not None and isinstance(launcher, OutpostLauncher):
        launcher.sweep(kit.name)
    return launcher


def made(settings: Settings, kit: Kit | None = None) -> ProcessLauncher | OutpostLauncher:
    """Return what `of` does, and leave everything as it is.

    Raises:
        BadLauncher: as `of`.
    """
    name = engines.ALIASES.get(settings.launcher, settings.launcher)
    if name == _PROCESS:
        return ProcessLauncher.of(settings.launcher_args)
    if kit is None or name not in engines.KINDS:
        raise _unknown(name)
    return OutpostLauncher.of(name, settings.launcher_args, kit.local, project=kit.project, participant=kit.name)


def _unknown(name: str) -> BadLauncher:
    return BadLauncher(
        f"jobs cannot be started by the launcher {name!r}",
        why=f"this version knows {', '.join(sorted([_PROCESS, *engines.KINDS]))}",
        hint="Name process_launcher in local/resources.json.",
    )
