"""A job folder's `meta.json`, checked: who runs what, with which resources."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import InvalidJob
from clouddeploy_runtime.jobs.app_config import Side, load_object
from clouddeploy_runtime.jobs.archive import invalid, is_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ALL_SITES = "@ALL"
SERVER = "server"
META = "meta.json"
DEFAULT_RESOURCES = "@default"
MAX_CLIENTS = 1_000_000
REJOIN_S = 60.0
"""Guessed: a site's machine restarts in less, and a round seldom takes less."""
_LAUNCHERS = frozenset({"process", "docker", "k8s", "slurm"})
_DEFAULT_LAUNCHERS = frozenset({"default", DEFAULT_RESOURCES})
_CODE_CHOICES = frozenset({"image", "python_path", "entrypoint", "command"})
"""Keys of a launcher's settings by which a job chooses what code runs."""
_MEMORY = re.compile(r"([1-9][0-9]{0,9})(Mi|Gi|Ti)", re.ASCII)
_GIB = {"Mi": 1 / 1024, "Gi": 1.0, "Ti": 1024.0}


@dataclass(frozen=True)
class Need:
    """What a job takes at one site; zero: it does not say."""

    gpus: int = 0
    gib_per_gpu: float = 0.0
    cpus: int = 0
    memory_gib: float = 0.0


@dataclass(frozen=True)
class JobSpec:
    """A job folder's `meta.json`, checked."""

    name: str
    deploy_map: Mapping[str, tuple[str, ...]]
    """Folder of the job → the sites that run it."""
    min_clients: int
    mandatory_clients: frozenset[str] = frozenset()
    """The job does not run without these."""
    needs: Mapping[str, Need] = field(default_factory=dict)
    """By site, and `@default`; ask `need_of`."""
    launcher_spec: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Site or `default` → launcher → its settings."""
    scope: str = ""
    """Of the sites' privacy policies; empty: their default."""
    study: str = ""
    rejoin_s: float = REJOIN_S
    """How long the job waits for a site that is gone before its open task counts as failed."""
    task_s: float = 0.0
    """How long a site may work on a task before it counts as failed there; 0: for ever."""
    own_code: frozenset[str] | None = None
    """The apps that bring code; None when only `meta.json` was read. Ask `has_own_code`."""

    def app_for(self, site: str) -> str | None:
        """Return the folder that a site runs; its own name wins over `@ALL`; None when it takes no part."""
        for app, sites in self.deploy_map.items():
            if site in sites:
                return app
        return next((app for app, sites in self.deploy_map.items() if ALL_SITES in sites), None)

    @property
    def named_sites(self) -> frozenset[str]:
        """The clients that the deploy map names one by one."""
        return frozenset(site for sites in self.deploy_map.values() for site in sites) - {ALL_SITES, SERVER}

    def need_of(self, site: str) -> Need:
        """Return what the job takes at a site: its own entry over that of `@default`, key by key."""
        return self.needs.get(site) or self.needs.get(DEFAULT_RESOURCES) or Need()

    def has_own_code(self, app: str) -> bool:
        """Tell whether an app brings code; yes as long as nobody has looked."""
        return self.own_code is None or app in self.own_code

    def wishes_of(self, site: str) -> Mapping[str, Mapping[str, Any]]:
        """Return launcher → its settings for a site: the site's own over the default ones, key by key."""
        found: dict[str, dict[str, Any]] = {}
        for name in (DEFAULT_RESOURCES, "default", site):
            for launcher, settings in self.launcher_spec.get(name, {}).items():
                found.setdefault(launcher, {}).update(settings)
        return found

    @property
    def brings_code(self) -> bool:
        """Whether an app brings code, or the launcher settings of any site choose it."""
        chosen = any(self.chooses_code(site) for site in self.launcher_spec)
        return chosen or any(self.has_own_code(app) for app in self.deploy_map)

    def chooses_code(self, site: str) -> bool:
        """Tell whether the launcher settings for a site choose an image or a program; that is bringing code too."""
        entries = [self.launcher_spec.get(name, {}) for name in (site, *_DEFAULT_LAUNCHERS)]
        return any(_CODE_CHOICES & set(settings) for entry in entries for settings in entry.values())


def parse_meta(document: Any) -> JobSpec:
    """Parse `meta.json`.

    Raises:
        InvalidJob: names every key that is wrong and what it should be.
    """
    if not isinstance(document, dict):
        raise invalid(f"{META} is not an object")
    reader = _Reader(document)
    spec = reader.spec()
    if reader.problems:
        raise invalid("; ".join(reader.problems))
    return spec


def read_meta(folder: Path) -> JobSpec:
    """Read the `meta.json` of a job folder, and nothing else of it.

    Raises:
        InvalidJob: it is missing, or wrong.
    """
    return parse_meta(load_object(folder / META, META))


def load(folder: Path, *, apps: Iterable[str] | None = None) -> JobSpec:
    """Read and check a job folder.

    Args:
        folder: the job.
        apps: with it, only these apps are expected in the folder, as at a site, which gets its own alone.

    Raises:
        InvalidJob: meta.json is missing or wrong, an app of the deploy map has no folder, or lacks the configuration
            of a side that runs it; all problems at once.
    """
    reader = _Reader(load_object(folder / META, META))
    spec = reader.spec()
    present = [app for app in spec.deploy_map if apps is None or app in set(apps)]
    reader.problems += [problem for app in present for problem in _app_problems(folder, app, spec.deploy_map[app])]
    if reader.problems:
        raise invalid("; ".join(reader.problems))
    server = spec.app_for(SERVER)
    timeout_s = spec.task_s or (_train_timeout_s(folder / server) if server in present and server else 0.0)
    own_code = frozenset(app for app in spec.deploy_map if app not in present or brings_code(folder / app))
    return replace(spec, own_code=own_code, task_s=timeout_s)


def brings_code(app: Path) -> bool:
    """Tell whether an app's `custom` folder holds anything, or is no plain folder."""
    custom = app / "custom"
    if custom.is_symlink():
        return True
    return custom.exists() and (not custom.is_dir() or any(not path.is_dir() for path in custom.rglob("*")))


def _app_problems(folder: Path, app: str, sites: tuple[str, ...]) -> list[str]:
    if not (folder / app).is_dir():
        return [f'{META}: deploy_map names the app "{app}", but there is no such folder']
    sides: list[Side] = []
    if {ALL_SITES, SERVER} & set(sites):
        sides.append("server")
    if set(sites) - {SERVER}:
        sides.append("client")
    problems = []
    for side in sides:
        name = f"config_fed_{side}.json"
        if (folder / app / "config" / name).is_file():
            continue
        others = sorted(path.name for path in (folder / app / "config").glob(f"config_fed_{side}.*"))
        found = f", and {others[0]} is read by the admin's side only, which sends JSON" if others else ""
        problems.append(
            f'{app}/config/{name} is missing: "{app}" runs at {"a client" if side == "client" else side}{found}'
        )
    return problems


def _train_timeout_s(app: Path) -> float:
    """Return the `train_timeout` of the reference's workflow; a file that cannot be read is refused elsewhere."""
    try:
        workflows = load_object(app / "config" / "config_fed_server.json", "").get("workflows")
        found = workflows[0]["args"]["train_timeout"] if isinstance(workflows, list) else 0
    except (InvalidJob, LookupError, TypeError):
        return 0.0
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and 0 < found < math.inf else 0.0


class _Reader:
    """Collects the values of one meta.json and every problem in it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.problems: list[str] = []

    def spec(self) -> JobSpec:
        deploy_map = self._deploy_map()
        listed = {site for sites in deploy_map.values() for site in sites} - {SERVER}
        is_open = ALL_SITES in listed or not deploy_map
        custom = self._object("custom_props")
        return JobSpec(
            name=self._text("name", is_needed=True),
            deploy_map=deploy_map,
            min_clients=self._min_clients(None if is_open else len(listed)),
            mandatory_clients=self._mandatory(None if is_open else listed),
            needs=self._needs(),
            launcher_spec=self._launchers(),
            scope=self._text("scope"),
            study=self._text("study"),
            rejoin_s=self._seconds({**self._document, **custom}, "rejoin_timeout", REJOIN_S),
            task_s=self._seconds(custom, "task_timeout", 0.0),
        )

    def _wrong(self, key: str, why: str) -> None:
        self.problems.append(f'{META}: "{key}" {why}')

    def _text(self, key: str, *, is_needed: bool = False) -> str:
        value = self._document.get(key)
        if value is None and not is_needed:
            return ""
        if not isinstance(value, str) or (is_needed and not value):
            self._wrong(key, "must be text")
            return ""
        return value

    def _object(self, key: str) -> Mapping[str, Any]:
        value = self._document.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._wrong(key, "must be an object")
            return {}
        return value

    def _seconds(self, where: Mapping[str, Any], key: str, usual: float) -> float:
        value = where.get(key, usual)
        if not _is_number(value) or not 0 <= value < math.inf:
            self._wrong(key, f"must be seconds from 0, and is {value!r}")
            return usual
        return float(value)

    def _deploy_map(self) -> dict[str, tuple[str, ...]]:
        raw = self._document.get("deploy_map")
        if not isinstance(raw, dict) or not raw:
            self._wrong("deploy_map", "must name at least one app, each with its list of sites")
            return {}
        found = {app: self._sites(app, value) for app, value in raw.items()}
        for app in raw:
            if not is_plain(app):
                self._wrong("deploy_map", f"names {app!r}, which is no folder of the job")
        sites = [site for listed in found.values() for site in listed]
        self._check_sites(sites)
        return found

    def _sites(self, app: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, dict):
            value = value.get("sites", value.get("targets"))
        if not isinstance(value, list) or not all(isinstance(site, str) and site for site in value):
            self._wrong(
                "deploy_map", f'must give "{app}" a list of sites, or an object with that list as "sites" or "targets"'
            )
            return ()
        return tuple(ALL_SITES if site.casefold() == ALL_SITES.casefold() else site for site in value)

    def _check_sites(self, sites: list[str]) -> None:
        if ALL_SITES in sites:
            if len(sites) > 1:
                others = ", ".join(sorted(set(sites) - {ALL_SITES})) or "itself"
                self._wrong("deploy_map", f"names {ALL_SITES}, which stands alone, beside {others}")
            return
        for site, times in Counter(sites).items():
            if times > 1:
                self._wrong("deploy_map", f"names {site} {times} times, and each site runs one app")
        if SERVER not in sites:
            self._wrong("deploy_map", f'has no app for "{SERVER}"')

    def _min_clients(self, listed: int | None) -> int:
        value = self._document.get("min_clients", 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_CLIENTS:
            self._wrong("min_clients", f"must be a whole number from 1 to {MAX_CLIENTS}, and is {value!r}")
            return 1
        if listed is not None and value > listed:
            self._wrong("min_clients", f"is {value}, and the deploy_map lists {listed} clients")
        return value

    def _mandatory(self, listed: set[str] | None) -> frozenset[str]:
        value = self._document.get("mandatory_clients")
        if value is None:
            return frozenset()
        if not isinstance(value, list) or not all(isinstance(site, str) and site for site in value):
            self._wrong("mandatory_clients", "must be a list of clients")
            return frozenset()
        strangers = set(value) - listed if listed is not None else set(value) & {SERVER, ALL_SITES}
        if strangers:
            self._wrong("mandatory_clients", f"names {', '.join(sorted(strangers))}, no client of the deploy_map")
        return frozenset(value)

    def _needs(self) -> dict[str, Need]:
        raw = self._object("resource_spec")
        found = {}
        for site, entry in raw.items():
            if isinstance(entry, dict):
                found[site] = self._need(site, entry)
            else:
                self._wrong("resource_spec", f'must give "{site}" an object')
        usual = found.get(DEFAULT_RESOURCES, {})
        return {site: Need(**{**usual, **own}) for site, own in found.items()}

    def _need(self, site: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in entry.items():
            where = f'of "{site}": {key}'
            if key == "num_of_gpus" and _is_whole(value, 0):
                found["gpus"] = value
            elif key == "num_of_cpus" and _is_whole(value, 1):
                found["cpus"] = value
            elif key == "mem_per_gpu_in_GiB" and _is_number(value) and 0 <= value < math.inf:
                found["gib_per_gpu"] = float(value)
            elif key == "memory" and isinstance(value, str) and (match := _MEMORY.fullmatch(value)):
                found["memory_gib"] = int(match[1]) * _GIB[match[2]]
            elif key in _RULES:
                self._wrong("resource_spec", f"{where} must be {_RULES[key]}, and is {value!r}")
            elif key not in _LAUNCHERS or not isinstance(value, dict):
                self._wrong("resource_spec", f"{where} is not known; it can say {', '.join(_RULES)}")
        return found

    def _launchers(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        raw = self._object("launcher_spec")
        for site, entry in raw.items():
            if not isinstance(entry, dict) or not all(isinstance(settings, dict) for settings in entry.values()):
                self._wrong("launcher_spec", f'must give "{site}" an object of launchers and their settings')
                return {}
            for launcher in set(entry) - _LAUNCHERS:
                self._wrong(
                    "launcher_spec", f'of "{site}" names {launcher!r}; launchers are {", ".join(sorted(_LAUNCHERS))}'
                )
        return raw


_RULES = {
    "num_of_gpus": "a whole number from 0",
    "num_of_cpus": "a whole number from 1",
    "mem_per_gpu_in_GiB": "a number from 0",
    "memory": "text like 8Gi (Mi, Gi or Ti)",
}


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
