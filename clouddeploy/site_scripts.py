"""What lies beside the kits of a result, so that a site can be deployed alone: a deploy file and a script for each."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from clouddeploy_providers.registry import EXTRAS
from clouddeploy_provision.kit_tree import SCRIPT, File

from clouddeploy import deploy_schema
from clouddeploy.config import ON_SITE, SITES, load
from clouddeploy.errors import ConfigError, StateError
from clouddeploy.state import State
from clouddeploy.yaml_file import loaded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clouddeploy_provision.project import Project

DEFAULT = "deploy.yml"
TEMPLATE = "deploy_site.sh"
WITHOUT = frozenset({"local", "fake"})
"""Providers whose sites are on the machine of whoever tries the project out; nobody is sent a script for that."""
PATHS = frozenset({"data", *deploy_schema.KEY_FILES})
"""Settings of a site that name a file or a folder here."""
HEADER = """\
# Where {site} runs: the settings of the project's deploy file, for its startup kit alone. {script} uses it.
# Paths are relative to this file; change those that are elsewhere on your machine. docs/deploy-file.md has every key.
# What was made is remembered in .clouddeploy/ beside this file: go on here, also when there is a newer result.
"""


@dataclass(frozen=True)
class SiteScripts:
    """What a deploy file adds to a result."""

    source: Path | None = None
    """The deploy file; None when none was used."""
    files: Mapping[str, Mapping[str, File]] = field(default_factory=dict)
    """Participant → path in the result → file."""
    notes: tuple[str, ...] = ()
    """What a person should know: which sites get no script, and why."""


def make(project: Project, *, project_file: Path, result: Path, deploy_file: Path | None = None) -> SiteScripts:
    """Makes a deploy file and a script for each site that a deploy file puts on a cloud or on premises.

    Nothing of it is secret. Paths that were relative to the deploy file become relative to the result.

    Args:
        project: what the project file says.
        project_file: the project file.
        result: a result's folder; it need not exist, only its place counts.
        deploy_file: None: `deploy.yml` beside the project file, if it is for this project file. When that one cannot
            be used, a note says so.

    Raises:
        ConfigError: the deploy file that was named has problems, is for something else, or names an unknown site.
    """
    if deploy_file is not None:
        return _from(deploy_file, project, project_file=project_file, result=result)
    beside = project_file.parent / DEFAULT
    if not _is_for(beside, project_file):
        return SiteScripts(notes=(f"no deploy script: there is no {beside} for {project_file}; see --deploy-file",))
    try:
        return _from(beside, project, project_file=project_file, result=result)
    except ConfigError as error:
        return SiteScripts(notes=(f"no deploy script: {error}",))


def deployed_before(results: Iterable[Path], sites: Iterable[str]) -> tuple[str, ...]:
    """Returns a note for each site that was deployed from an earlier result and would get a second machine.

    Args:
        results: the earlier ones, oldest first.
        sites: those that have a script now.
    """
    folders = list(results)
    found = []
    for site in sites:
        name = f"{site}.deploy"
        there = [folder for folder in folders if _is_deployed(folder / ".clouddeploy" / name)]
        if there:
            file = there[-1] / f"{name}.yml"
            found.append(
                f"{site} was deployed with {file}: go on with that file, whose `kit` may name the new kit; "
                "another deploy file makes another machine"
            )
    return tuple(found)


def _is_deployed(directory: Path) -> bool:
    try:
        return bool(State.load(directory).resources)
    except StateError:
        return True  # something was, and whoever deploys there again will be told what is wrong


def _is_for(file: Path, project_file: Path) -> bool:
    """Tells whether a file is a deploy file of this project file, whatever else may be wrong with it."""
    try:
        document = loaded(file.read_bytes())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    given = document.get("project") if isinstance(document, dict) else None
    return isinstance(given, str) and _resolved(file.parent, given) == project_file.resolve()


def _from(file: Path, project: Project, *, project_file: Path, result: Path) -> SiteScripts:
    config = load(file)
    if config.project is None or config.project.resolve() != project_file.resolve():
        raise ConfigError(
            f"{file} is not a deploy file of {project_file}",
            why="its `project` is another file, or it has none",
            hint="name the deploy file of this project: --deploy-file FILE",
        )
    document: dict[str, Any] = loaded(file.read_bytes())
    known = {one.name for one in project.participants}
    unknown = [site.name for site in config.sites if site.name not in known]
    if unknown:
        raise ConfigError(
            f"{file} names {', '.join(unknown)}",
            why=f"{project_file} has no such participant",
            hint="correct the names under `sites`; nothing was changed",
        )
    raw = {str(name): body for name, body in document["sites"].items()}
    files: dict[str, dict[str, File]] = {}
    notes = []
    for site in config.sites:
        if site.provider in WITHOUT:
            continue
        if site.makes_key:
            notes.append(f"{site.name} gets no deploy script: with `keys: {ON_SITE}` there is no kit to bring there")
            continue
        is_server = site.name == project.server.name
        if is_server and config.federation_sources == SITES:
            notes.append(
                f"{site.name} gets no deploy script: alone it does not know the sites that `federation_sources: "
                f"{SITES}` would let in; name their addresses as CIDR blocks instead"
            )
            continue
        body = _moved(raw[site.name], source=file.parent, target=result)
        files[site.name] = _files(site.name, body, general=_general(document, is_server=is_server))
    return SiteScripts(file, files, tuple(notes))


def _general(document: Mapping[str, Any], *, is_server: bool) -> dict[str, Any]:
    """Returns what holds for each site; state, workspace and smoke job belong to the deployment of all."""
    keys = ("ssh_sources", "ttl", *(("federation_sources",) if is_server else ()))
    return {key: document[key] for key in keys if document.get(key) is not None}


def _moved(body: Mapping[str, Any], *, source: Path, target: Path) -> dict[str, Any]:
    moved = {str(key): value for key, value in body.items() if key != "keys"}
    for key in PATHS & moved.keys():
        path = Path(str(moved[key]))
        if not path.is_absolute() and not str(path).startswith("~"):
            moved[key] = os.path.relpath(_resolved(source, str(path)), target.resolve())
    return moved


def _resolved(base: Path, text: str) -> Path:
    return (base / Path(text).expanduser()).resolve()


def _files(site: str, body: dict[str, Any], *, general: Mapping[str, Any]) -> dict[str, File]:
    file, script = f"{site}.deploy.yml", f"deploy_{site}.sh"
    document = {"version": 1, "kit": f"./{site}", **general, "sites": {site: body}}
    text = HEADER.format(site=site, script=script)
    text += yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return {file: File(text.encode()), script: File(_script(site, file, str(body["provider"])).encode(), SCRIPT)}


def _script(site: str, file: str, provider: str) -> str:
    package = f"'clouddeploy[{provider}]'" if provider in EXTRAS else "clouddeploy"
    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    # Names have neither quotes nor line ends (clouddeploy_provision.schema); words of commands are quoted all the same.
    return text.replace("@file@", shlex.quote(file)).replace("@package@", package).replace("@site@", site)
