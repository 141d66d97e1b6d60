"""deploy.yml → frozen dataclasses; every problem is reported at once, with file, line, key, rule and example."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from clouddeploy_providers.naming import plain
from clouddeploy_providers.resources import Need
from pydantic import ValidationError

from clouddeploy import deploy_schema
from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

ANYWHERE, SITES = "anywhere", "sites"
ON_SITE = "on-site"
OWN_USER = frozenset({"onprem"})
"""Providers whose machines always exist already, and the account on them."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML has it, which reads fifty sites in a tenth of the time."""


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
    need: Need | None = None
    """What the machine must have, when no size is named."""
    siblings: bool = False
    """Whether another size with at least the same will do when there is no capacity."""
    zones: tuple[str, ...] = ()
    """The zones to try, in this order; empty: all."""
    makes_key: bool = False
    """Whether the private key is made on the machine and never leaves it."""


@dataclass(frozen=True)
class DeployConfig:
    """One deploy.yml."""

    file: Path
    project: Path | None
    """The project file; None: one kit is deployed alone."""
    workspace: Path
    sites: tuple[SiteConfig, ...]
    kit: Path | None = None
    """The kit that is deployed alone, without its project."""
    runtime: str | None = None
    """What runs a kit that NVFLARE has made, e.g. `nvflare==2.9.0`; None: the default."""
    ssh_sources: tuple[str, ...] = ()
    """CIDR blocks that may reach port 22 of the machines; empty: the address this machine is seen from."""
    federation_sources: str | tuple[str, ...] = ANYWHERE
    """Who may reach the server's port: `anywhere`, `sites` (the addresses of the sites, as far as known) or blocks."""
    smoke_job: Path | None = None
    """A job that proves the federation works; `rehearse` runs it."""
    ttl: timedelta | None = None
    """After so long the machines in clouds switch themselves off; None: never."""
    state: str | None = None
    """Where the state is shared; None: in a folder beside this file."""
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict, repr=False, compare=False)
    """Path of keys → line in the file, for problems that are found later."""

    @property
    def on_site(self) -> frozenset[str]:
        """The sites whose private key is made on their machine."""
        return frozenset(site.name for site in self.sites if site.makes_key)

    @property
    def origin(self) -> Path:
        """The project file, or the kit that is deployed alone."""
        return self.project or self.kit or self.file

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
    try:
        given = deploy_schema.File.model_validate(document)
    except ValidationError as error:
        _note_schema(error, problems)
        raw = document.get("sites")
        for name, body in (raw if isinstance(raw, dict) else {}).items():
            if isinstance(body, dict):
                _check_site(str(name), body, problems, base=file.parent)
        _check_origin(document, problems)
        problems.raise_if_any()
        raise
    for name, body in document["sites"].items():
        _check_site(str(name), body, problems, base=file.parent)
    _check_origin(document, problems)
    problems.raise_if_any()
    base = file.parent
    return DeployConfig(
        file=file,
        project=_at(base, given.project) if given.project else None,
        kit=_at(base, given.kit) if given.kit else None,
        runtime=given.runtime,
        workspace=_at(base, given.workspace or "workspace"),
        sites=tuple(_site(name, site, base=base, keys=given.keys) for name, site in given.sites.items()),
        ssh_sources=tuple(given.ssh_sources),
        federation_sources=given.federation_sources
        if isinstance(given.federation_sources, str)
        else tuple(given.federation_sources),
        smoke_job=_at(base, given.smoke_job) if given.smoke_job else None,
        ttl=given.ttl,
        state=given.state,
        lines=lines,
    )


def check_sites(config: DeployConfig, *, servers: tuple[str, ...], clients: tuple[str, ...]) -> None:
    """Refuses sites that the project or kit does not have, and a deploy file that leaves the server out.

    Raises:
        ConfigError: names every such site.
    """
    problems = _Problems(config.file, config.lines)
    known = (*servers, *clients)
    for site in config.sites:
        if site.name not in known:
            problems.add(
                ("sites", site.name), f"{config.origin} has no such server or client", example=", ".join(known)
            )
    seen: dict[str, str] = {}
    for site in config.sites:
        other = seen.setdefault(plain(site.name), site.name)
        if other != site.name:
            problems.add(("sites", site.name), f"its resources would have the names of those of {other!r}")
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
                example=f"one of {', '.join(sorted(allowed | deploy_schema.GENERAL_KEYS))}",
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
        loader = LOADER(text)
        node = loader.get_single_node()
        lines: dict[tuple[str, ...], int] = {}
        _note_lines(node, (), lines, file)
        document = loader.construct_document(node) if node is not None else None
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
    return {str(key): value for key, value in document.items()}, lines


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


def _note_schema(error: ValidationError, problems: _Problems) -> None:
    seen = set()
    for one in error.errors():
        path = _keys_of(one["loc"])
        if path in seen:
            continue  # a union reports each of its members
        seen.add(path)
        key = next((part for part in reversed(path) if part in deploy_schema.EXAMPLES), "")
        if one["type"] == "extra_forbidden":
            problems.add(path, "unknown key", example=f"one of {', '.join(sorted(deploy_schema.TOP_KEYS))}")
        elif one["type"] == "missing":
            problems.add(path, "is missing", example=deploy_schema.EXAMPLES.get(key, ""))
        else:
            message = one["msg"][:1].lower() + one["msg"][1:]
            problems.add(path, message, example=deploy_schema.EXAMPLES.get(key, ""))


def _keys_of(location: Sequence[str | int]) -> tuple[str, ...]:
    """Returns the keys of a place in the file, without what pydantic adds for unions and list items."""
    is_site = location[:1] == ("sites",)
    return tuple(str(part) for part in location[: 3 if is_site else 1])


def _check_site(name: str, body: Mapping[str, Any], problems: _Problems, *, base: Path) -> None:
    """Notes what the schema of a single key cannot see."""
    path = ("sites", name)
    for key, value in body.items():
        if key not in deploy_schema.GENERAL_KEYS and (isinstance(value, bool) or not isinstance(value, (str, int))):
            problems.add((*path, str(key)), "is text or a number")
    data = body.get("data")
    if isinstance(data, str) and data and not _at(base, data).is_dir():
        problems.add((*path, "data"), f"{_at(base, data)} is not a folder", example=deploy_schema.EXAMPLES["data"])
    needs = [key for key in ("gpus", "gpu_memory_gib", "vcpus", "memory_gib") if body.get(key) is not None]
    if body.get("size") is not None and needs:
        problems.add((*path, needs[0]), "names a need beside a size", example="either size or what it must have")
    if body.get("gpu_memory_gib") is not None and body.get("gpus") is None:
        problems.add((*path, "gpu_memory_gib"), "is the memory of each GPU, so gpus is needed", example="gpus: 1")


def _check_origin(document: Mapping[str, Any], problems: _Problems) -> None:
    """Notes what does not go together: a project has sites, and a kit that is deployed alone is one."""
    kit, project = document.get("kit"), document.get("project")
    if kit is None and project is None:
        problems.add(("project",), "is missing; or name one kit", example="project: project.yml, or kit: site-1")
    if kit is None:
        if document.get("runtime") is not None:
            problems.add(("runtime",), "is for a kit that NVFLARE has made", example="kit: site-1")
        return
    if project is not None:
        problems.add(("kit",), "stands beside project; a deploy file has one of the two", example="kit: site-1")
        return
    for key in sorted(deploy_schema.OF_PROJECT & set(document)):
        problems.add((key,), "means nothing for a kit, which is deployed as it is")
    sites = document.get("sites")
    for name, body in (sites if isinstance(sites, dict) else {}).items():
        if isinstance(body, dict) and body.get("keys") is not None:
            problems.add(("sites", str(name), "keys"), "means nothing for a kit, which has its key")
    if isinstance(sites, dict) and len(sites) > 1:
        problems.add(("sites",), "has more than the kit's own site", example="one site, named as the participant")
    if document.get("federation_sources") == SITES:
        problems.add(("federation_sources",), "cannot be `sites`: a kit does not know them", example="[203.0.113.0/24]")


def _at(base: Path, text: str) -> Path:
    return base / Path(text).expanduser()


def _site(name: str, site: deploy_schema.Site, *, base: Path, keys: str) -> SiteConfig:
    own = {str(key): str(value) for key, value in (site.model_extra or {}).items()}
    if "user" in site.model_fields_set and (site.provider in OWN_USER or "identity_file" in own):
        own["user"] = site.user  # the account of a machine that was there before us
    own |= {key: str(_at(base, own[key]).absolute()) for key in deploy_schema.KEY_FILES & own.keys()}
    need = Need(
        gpus=site.gpus or 0,
        gpu_memory_gib=site.gpu_memory_gib or 0,
        vcpus=site.vcpus or 0,
        memory_gib=site.memory_gib or 0,
    )
    return SiteConfig(
        name=name,
        provider=site.provider,
        settings=own,
        size=site.size,
        image=site.image,
        disk_gib=site.disk_gib,
        user=site.user,
        data=_at(base, site.data) if site.data else None,
        need=need if need != Need() else None,
        siblings=site.siblings,
        zones=tuple(site.zones or ()),
        makes_key=(site.keys or keys) == ON_SITE,
    )
