"""The deploy files of the dashboard: those in its folder `deployments`, placed there or sent in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_provision.ca_records import write_atomic
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy import config
from clouddeploy.dashboard import deploy_paths
from clouddeploy.dashboard.errors import Conflict, Invalid, NotFound
from clouddeploy.dashboard.rules import Action

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy.dashboard.desk import Visit

FOLDER = "deployments"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_MAX_BYTES = 256 << 10


@dataclass(frozen=True)
class DeployFile:
    """One deploy file.

    Attributes:
        name: of the deployment.
        path: of the file.
        sites: name and provider of each; empty when it cannot be read.
        problem: why it cannot; empty: it can.
    """

    name: str
    path: Path
    sites: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def every(folder: Path) -> list[DeployFile]:
    """Returns the deploy files of a dashboard: `NAME.yml`, and `NAME/deploy.yml` with what belongs to it."""
    place = folder / FOLDER
    found = {path.stem: path for path in place.glob("*.yml")}
    found |= {path.parent.name: path for path in place.glob("*/deploy.yml")}
    return [_read(name, path) for name, path in sorted(found.items()) if _NAME.fullmatch(name)]


def find(folder: Path, name: str) -> DeployFile:
    """Returns one deploy file.

    Raises:
        NotFound: there is none of the name.
    """
    if _NAME.fullmatch(name):
        for path in (folder / FOLDER / name / "deploy.yml", folder / FOLDER / f"{name}.yml"):
            if path.is_file():
                return _read(name, path)
    raise NotFound("there is no such deployment", hint="see /deployments")


def keep(visit: Visit, name: str, content: bytes) -> bool:
    """Keeps a deploy file that was sent in, in the place of an earlier one of the name; returns whether it is new.

    Raises:
        Forbidden: it is not for the one who asks.
        Invalid: the name cannot be used, or it is too long.
        Conflict: a folder has the name, or something is being done with it.
        ConfigError: it is no deploy file, or names what it must not; says each problem.
    """
    visit.require(Action.DEPLOY)
    if _NAME.fullmatch(name) is None:
        raise Invalid("the name is refused", why="1 to 40 letters, digits, hyphens and underscores are allowed")
    if not 0 < len(content) <= _MAX_BYTES:
        raise Invalid("the deploy file is refused", why=f"it has no bytes, or more than {_MAX_BYTES}")
    place = visit.desk.folder / FOLDER
    if (place / name).exists():
        raise Conflict(f"{name} is a folder on this machine", why="its files belong together", hint="change them there")
    if visit.desk.runs.is_busy(name):
        raise Conflict(f"{name} cannot be replaced now", why="something is being done with it", hint="wait for its end")
    place.mkdir(mode=0o700, exist_ok=True)
    trial = place / f".{name}.new"
    try:
        write_atomic(trial, content)
        roots = visit.desk.runs.bounds.of(trial) if visit.desk.runs.bounds is not None else None
        if roots is not None:
            deploy_paths.check(trial, roots)  # first: what it must not name is not even looked for
        config.load(trial)
        is_new = not (place / f"{name}.yml").exists()
        trial.replace(place / f"{name}.yml")
    finally:
        trial.unlink(missing_ok=True)
    visit.note("keep_deploy_file", detail=name)
    return is_new


def _read(name: str, path: Path) -> DeployFile:
    try:
        loaded = config.load(path)
    except ClouddeployError as error:
        return DeployFile(name, path, problem=str(error))
    return DeployFile(name, path, tuple((site.name, site.provider) for site in loaded.sites))
