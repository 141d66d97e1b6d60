"""deploy.yml → frozen dataclasses; every problem is reported at once, with file, line, key, rule and example."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

GENERAL_KEYS = frozenset({"provider", "size", "image", "disk_gib", "user", "data"})
"""Keys of a site that mean the same at every provider; the rest belongs to the provider named."""
TOP_KEYS = frozenset({"version", "project", "workspace", "ssh_sources", "smoke_job", "sites"})
MIN_DISK_GIB, MAX_DISK_GIB = 8, 16384
"""Ubuntu's image needs 8; 16384 is the largest gp3 volume."""


@dataclass(frozen=True)
class SiteConfig:
    """One participant of the project and where it runs."""

    name: str
    provider: str
    settings: Mapping[str, str]
    """The provider's own keys, e.g. `region`."""
    size: str | None = None
    image: str | None = None
    disk_gib: int = 30
    user: str = "clouddeploy"
    data: Path | None = None
    """A folder on this machine that is copied to the site; jobs find it through the client API."""


@dataclass(frozen=True)
class DeployConfig:
    """One deploy.yml."""

    file: Path
    project: Path
    workspace: Path
    sites: tuple[SiteConfig, ...]
    ssh_sources: tuple[str, ...] = ()
    """CIDR blocks that may reach port 22 of the machines; empty: the address this machine is seen from."""
    smoke_job: Path | None = None
    """A job that proves the federation works; `rehearse` runs it."""
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict, repr=False, compare=False)
    """Path of keys → line in the file, for problems that are found later."""

    def site(self, name: str) -> SiteConfig:
        """Returns the site of that name, which must exist."""
        return next(site for site in self.sites if site.name == name)


@dataclass
class _Problems:
    file: Path
    lines: Mapping[tuple[str, ...], int]
    found: list[str] = field(default_factory=list)

    def add(self, path: tuple[str, ...], rule: str, *, example: str = "") -> None:
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 1)
        text = f"{self.file}:{line}: {'.'.join(path) or 'file'}: {rule}"
        self.found.append(f"{text} (example: {example})" if example else text)

    def raise_if_any(self) -> None:
        if self.found:
            raise ConfigError(
                f"{self.file} has {len(self.found)} problem(s)",
                why="\n  ".join(["", *self.found]),
                hint="correct the lines named; nothing was created. docs/deploy-file.md explains every key",
            )


def load(file: Path) -> DeployConfig:
    """Reads and checks a deploy.yml.

    Raises:
        ConfigError: the file is missing, is not YAML, or has problems; all of them are named.
    """
    document, lines = _parse(file)
    problems = _Problems(file, lines)
    for key in sorted(set(document) - TOP_KEYS):
        problems.add((key,), "unknown key", example=f"one of {', '.join(sorted(TOP_KEYS))}")
    if document.get("version") != 1:
        problems.add(("version",), "must be 1", example="version: 1")
    base = file.parent
    project = _path(document, "project", problems, base=base, default=None)
    if project is None:
        problems.add(("project",), "names the project file", example="project: project.yml")
    sites = _sites(document.get("sites"), problems, base=base)
    config = DeployConfig(
        file=file,
        project=project or base,
        workspace=_path(document, "workspace", problems, base=base, default=base / "workspace") or base,
        sites=sites,
        ssh_sources=_sources(document.get("ssh_sources", []), problems),
        smoke_job=_path(document, "smoke_job", problems, base=base, default=None),
        lines=lines,
    )
    problems.raise_if_any()
    return config


def check_sites(config: DeployConfig, *, servers: tuple[str, ...], clients: tuple[str, ...]) -> None:
    """Refuses sites that the project does not have, and a deploy file that leaves the server out.

    Raises:
        ConfigError: names every such site.
    """
    problems = _Problems(config.file, config.lines)
    known = (*servers, *clients)
    for site in config.sites:
        if site.name not in known:
            problems.add(
                ("sites", site.name), f"{config.project} has no such server or client", example=", ".join(known)
            )
    for server in servers:
        if all(site.name != server for site in config.sites):
            problems.add(("sites",), f"the server {server!r} of the project is missing", example=f"{server}: {{…}}")
    problems.raise_if_any()


def check_settings(config: DeployConfig, known: Mapping[str, frozenset[str]]) -> None:
    """Refuses keys that a site's provider does not know.

    Args:
        config: the deploy file.
        known: the names of each provider's own keys.

    Raises:
        ConfigError: names every such key.
    """
    problems = _Problems(config.file, config.lines)
    for site in config.sites:
        allowed = known[site.provider]
        for key in sorted(set(site.settings) - allowed):
            problems.add(
                ("sites", site.name, key),
                f"unknown key for provider {site.provider!r}",
                example=f"one of {', '.join(sorted(allowed | GENERAL_KEYS))}",
            )
    problems.raise_if_any()


def _parse(file: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{file} does not exist", hint="name a deploy file; examples/hybrid/deploy.yml is one"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}", why=str(error)) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        why = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{where} is not valid YAML", why=str(why), hint="correct the indentation or the quotes"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"{file} is not a deploy file", why="its top level is not a mapping", hint="start with: version: 1"
        )
    lines: dict[tuple[str, ...], int] = {}
    _note_lines(node, (), lines, file)
    return document, lines


def _note_lines(node: yaml.Node | None, path: tuple[str, ...], lines: dict[tuple[str, ...], int], file: Path) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*path, str(key.value))
        if here in lines:
            # PyYAML keeps the last of two equal keys in silence; a site would vanish.
            raise ConfigError(
                f"{file}:{key.start_mark.line + 1}: {'.'.join(here)}: appears twice",
                why=f"first on line {lines[here]}",
                hint="remove one of the two; nothing was created",
            )
        lines[here] = key.start_mark.line + 1
        _note_lines(value, here, lines, file)


def _path(
    document: Mapping[str, Any], key: str, problems: _Problems, *, base: Path, default: Path | None
) -> Path | None:
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or not value:
        problems.add((key,), "is a path, relative to this file")
        return default
    return base / Path(value).expanduser()


def _sources(value: object, problems: _Problems) -> tuple[str, ...]:
    if not isinstance(value, list):
        problems.add(("ssh_sources",), "is a list of CIDR blocks", example="[203.0.113.7/32]")
        return ()
    sources = []
    for item in value:
        try:
            sources.append(str(ipaddress.ip_network(str(item))))
        except ValueError as error:
            problems.add(("ssh_sources",), f"{item!r} is not a CIDR block: {error}", example="203.0.113.7/32")
    return tuple(sources)


def _sites(value: object, problems: _Problems, *, base: Path) -> tuple[SiteConfig, ...]:
    if not isinstance(value, dict) or not value:
        problems.add(
            ("sites",),
            "maps each participant's name to where it runs",
            example="site-1: {provider: aws, region: us-west-2}",
        )
        return ()
    sites = []
    for name, body in value.items():
        path = ("sites", str(name))
        if not isinstance(body, dict):
            problems.add(path, "is a mapping", example="{provider: aws, region: us-west-2}")
            continue
        sites.append(_site(str(name), body, problems, base=base))
    return tuple(sites)


def _site(name: str, body: Mapping[str, Any], problems: _Problems, *, base: Path) -> SiteConfig:
    path = ("sites", name)
    provider = body.get("provider")
    if not isinstance(provider, str):
        problems.add((*path, "provider"), "names where the site runs", example="provider: aws")
        provider = ""
    disk = body.get("disk_gib", 30)
    if not isinstance(disk, int) or isinstance(disk, bool) or not MIN_DISK_GIB <= disk <= MAX_DISK_GIB:
        problems.add(
            (*path, "disk_gib"), f"is a whole number of GiB, {MIN_DISK_GIB} to {MAX_DISK_GIB}", example="disk_gib: 30"
        )
        disk = 30
    texts = {}
    for key, value in body.items():
        if key in {"provider", "disk_gib"}:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            problems.add((*path, str(key)), "is text or a number")
            continue
        texts[str(key)] = str(value)
    data = base / Path(texts["data"]).expanduser() if "data" in texts else None
    if data is not None and not data.is_dir():
        problems.add((*path, "data"), f"{data} is not a folder", example="data: data/site-1")
    return SiteConfig(
        name=name,
        provider=provider,
        settings={
            key: text
            for key, text in texts.items()
            if key not in GENERAL_KEYS or (key == "user" and provider == "onprem")
        },
        size=texts.get("size"),
        image=texts.get("image"),
        disk_gib=disk,
        user=texts.get("user", "clouddeploy"),
        data=data,
    )
