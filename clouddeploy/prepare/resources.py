"""What changes in the `local` folder of a prepared kit: who starts jobs, who judges their needs, where a server's are.

`local/resources.json` is written anew from the file that counted so far; `resources.json.default` stays as it came.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import settings
from clouddeploy_runtime.communication import FILE as COMMUNICATION

from clouddeploy.prepare.errors import InvalidKit
from clouddeploy.prepare.kit import PLAIN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy.prepare.kit import PreparedKit

RESOURCES = "local/resources.json"
SHARED_FILES = frozenset({"file", "shared-file"})
"""Schemes of the reference by which a site and its jobs exchange files of a common folder."""
_STORES = {"jobs-storage": "job_manager", "snapshot-storage": "snapshot_persistor"}
_USUAL = "process_launcher"


def edit(kit: PreparedKit, *, launcher: str, arguments: Mapping[str, object], workspace: str) -> list[str]:
    """Write `local/resources.json`.

    Args:
        kit: the copy.
        launcher: `docker`, `k8s` or `slurm`.
        arguments: of the launcher.
        workspace: as the parent sees it.

    Returns:
        What got lost, for people.

    Raises:
        InvalidKit: what is there cannot be read.
    """
    document = _read(kit.root)
    components = document["components"]
    warnings = [
        f"the launcher {one['id']} of {RESOURCES}, with its settings, is replaced by {launcher}{settings.LAUNCHER}"
        for one in components
        if _is_launcher(one) and not _is_usual(one)
    ]
    kept = [one for one in components if one["id"] not in {"resource_consumer", "resource_manager"}]
    kept = [one for one in kept if not _is_launcher(one)]
    manager = next((one for one in components if one["id"] == "resource_manager"), None)
    if manager is not None:
        kept.insert(0, _manager(manager, launcher=launcher))
    kept.append({"id": f"{launcher}{settings.LAUNCHER}", "args": dict(arguments)})
    document["components"] = kept
    if kit.is_server:
        _move_storage(document, workspace)
    kit.write(RESOURCES, json.dumps(document, indent=2) + "\n", PLAIN)
    return warnings


def check_communication(kit: PreparedKit) -> list[str]:
    """Look at what the kit says of the way between a site and its jobs.

    It is TCP with TLS here, with a certificate of its own for each job, so what the reference's `internal` says has no
    effect; only what asks for another way altogether is refused.

    Returns:
        What has no effect and might surprise, for people.

    Raises:
        InvalidKit: the file cannot be read, or wants jobs to exchange files with their site.
    """
    path = kit.root / "local" / COMMUNICATION
    if not path.exists():
        return []
    document = _object(path, f"local/{COMMUNICATION}")
    internal = document.get("internal")
    if not isinstance(internal, dict):
        return []
    if internal.get("scheme") in SHARED_FILES:
        raise InvalidKit(
            f"local/{COMMUNICATION} cannot be used",
            why=f"its internal.scheme is {internal['scheme']!r}, and jobs call their site over TLS here",
            hint="remove internal from it",
        )
    inner = internal.get("resources")
    security = inner.get("connection_security") if isinstance(inner, dict) else None
    return [] if security != "clear" else [clear_warning(f"internal of local/{COMMUNICATION}")]


def clear_warning(where: str) -> str:
    """Return what is said where somebody asks for a line without TLS."""
    return f"{where} asks for `clear` between the site and its jobs: it stays TLS, whatever is asked"


def _read(root: Path) -> dict[str, Any]:
    name = next((name for name in settings.FILES if (root / "local" / name).is_file()), None)
    if name is None:
        raise InvalidKit(
            f"local/{settings.FILES[-1]} is missing",
            why="it says what the site offers to jobs",
            hint="ask the project admin for the kit again",
        )
    try:
        settings.load(root / "local")
    except settings.BadSettings as exc:
        raise InvalidKit(f"local/{name} cannot be used", why=exc.why, hint=exc.hint) from exc
    document = _object(root / "local" / name, f"local/{name}")
    document["components"] = document.get("components") or []
    return document


def _object(path: Path, name: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise InvalidKit(f"{name} cannot be used", why=str(exc), hint="correct it") from exc
    if not isinstance(document, dict):
        raise InvalidKit(f"{name} cannot be used", why="it is not an object", hint="correct it")
    return document


def _is_launcher(component: Mapping[str, Any]) -> bool:
    return str(component["id"]).endswith(settings.LAUNCHER)


def _is_usual(component: Mapping[str, Any]) -> bool:
    """Tell whether it is what kits come with."""
    return not component.get("args") and component["id"] == _USUAL


def _manager(found: Mapping[str, Any], *, launcher: str) -> dict[str, Any]:
    """Return who judges what jobs need: the engine, but where a machine's cards are lent to its containers.

    The parent's container does not see the cards, so their number is taken as it is given.
    """
    arguments = found.get("args") or {}
    if launcher == "docker" and arguments.get("num_of_gpus"):
        return {**found, "args": {**arguments, "ignore_host": True}}
    return {"id": "resource_manager", "path": settings.PASSTHROUGH, "args": {}}


def _move_storage(document: dict[str, Any], workspace: str) -> None:
    for name, owner in _STORES.items():
        place = f"{workspace.rstrip('/')}/{name}"
        component = next((one for one in document["components"] if one["id"] == owner), None)
        if component is not None:
            component["args"] = {**(component.get("args") or {}), "uri_root": place}
        elif isinstance(document.get(owner), dict):
            inner = document[owner]
            # The reference has it in the arguments, our kits directly.
            target = inner["args"] if isinstance(inner.get("args"), dict) else inner
            target["uri_root"] = place
