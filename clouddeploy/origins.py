"""What a deploy file is about, a project, one kit or one service, which decides what is done on its machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_provision import project as project_file

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from clouddeploy.config import DeployConfig
    from clouddeploy.installation import Installation
    from clouddeploy.keyring import Keyring
    from clouddeploy.kit_installation import KitInstallation
    from clouddeploy.machine_work import MachineWork
    from clouddeploy.remote.known_hosts import HostKeys
    from clouddeploy.service_installation import ServiceInstallation
    from clouddeploy.state import State


def work_of(
    where: tuple[DeployConfig, Path, Keyring, HostKeys, threading.Event],
    *,
    workspace: Path,
    recorded: Callable[[], State],
    kinds: tuple[type[Installation], type[KitInstallation], type[ServiceInstallation]],
) -> MachineWork:
    """Returns what is done on the machines of a deploy file.

    Args:
        where: what all kinds of it have, in their order.
        workspace: of a project.
        recorded: returns the state.
        kinds: for a project, for a kit, for a service.

    Raises:
        ClouddeployError: project, kit or service cannot be used.
    """
    config = where[0]
    of_project, of_kit, of_service = kinds
    if config.service is not None:
        return of_service.of(where, config.service, recorded)
    if config.kit is not None:
        return of_kit.of(where, config.kit, recorded)
    return of_project(*where, project=project_file.load(config.origin), workspace=workspace)
