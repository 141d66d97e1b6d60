"""deploy.yml → frozen dataclasses; every problem is reported at once, with file, line, key, rule and example."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.naming import plain
from clouddeploy_providers.resources import Need
from pydantic import ValidationError

from clouddeploy import deploy_schema
from clouddeploy.yaml_file import Form, Problems, parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

ANYWHERE, SITES = "anywhere", "sites"
ON_SITE = "on-site"
OWN_USER = frozenset({"onprem"})
"""Providers whose machines always exist already, and the account on them."""
CLUSTERED = frozenset({"kubernetes"})
"""Providers whose sites are pods: other settings take effect while they are there, and nothing of them is a machine."""
FORM = Form(
    what="deploy file",
    sample="examples/hybrid/deploy.yml is",
    first="version: 1",
    page="docs/deploy-file.md",
    keys=deploy_schema.TOP_KEYS,
    examples=deploy_schema.EXAMPLES,
)
ORIGINS = ("project", "kit", "service")
"""What a deployment may be of; a deploy file has one of them."""
KEY_OF = {"kit": "which has its key", "service": "which has no key of a project"}
"""By what is deployed alone: why nobody makes a key for it."""


@dataclass(frozen=True)
class SiteConfig:
    """One participant of the project and where it runs."""

    name: str
    provider: str
    settings: Mapping[str, str]
    """The provider's own keys, e.g. `region`."""
    size: str | None = None
    image: str | None = None
    """The cloud's image, from which the machine is made."""
    container: str | None = None
    """The container image in which the site runs; None: it runs in a Python environment of ours."""
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
    """The project file; None: one kit or one service is deployed alone."""
    workspace: Path
    sites: tuple[SiteConfig, ...]
    kit: Path | None = None
    """The kit that is deployed alone, without its project."""
    service: Path | None = None
    """The folder of the service that is deployed; it belongs to no project."""
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
        """The project file, or the kit or the service that is deployed alone."""
        return self.project or self.kit or self.service or self.file

    def site(self, name: str) -> SiteConfig:
        """Returns the site of that name, which must exist."""
        return next(site for site in self.sites if site.name == name)


def load(file: Path) -> DeployConfig:
    """Reads and checks a deploy.yml.

    Raises:
        ConfigError: the file is missing, is not YAML, or has problems; all of them are named.
    """
    document, lines = parse(file, FORM)
    problems = Problems(file, lines, FORM)
    try:
        given = deploy_schema.File.model_validate(document)
    except ValidationError as error:
        problems.add_schema(error, _keys_of)
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
        service=_at(base, given.service) if given.service else None,
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
    problems = Problems(config.file, config.lines, FORM)
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
    problems = Problems(config.file, config.lines, FORM)
    for site in config.sites:
        allowed = known[site.provider]
        for key in sorted(set(site.settings) - allowed):
            problems.add(
                ("sites", site.name, key),
                f"unknown key for provider {site.provider!r}",
                example=f"one of {', '.join(sorted(allowed | deploy_schema.GENERAL_KEYS))}",
            )
    problems.raise_if_any()


def _keys_of(location: Sequence[str | int]) -> tuple[str, ...]:
    """Returns the keys of a place in the file, without what pydantic adds for unions and list items."""
    is_site = location[:1] == ("sites",)
    return tuple(str(part) for part in location[: 3 if is_site else 1])


def _check_site(name: str, body: Mapping[str, Any], problems: Problems, *, base: Path) -> None:
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


def _check_origin(document: Mapping[str, Any], problems: Problems) -> None:
    """Notes what does not go together: a project has sites, and what is deployed alone, a kit or a service, is one."""
    given = [key for key in ORIGINS if document.get(key) is not None]
    if not given:
        rule = "is missing; or name one kit, or a service"
        problems.add(("project",), rule, example="project: project.yml, kit: site-1, or service: dashboard")
    if "kit" not in given and document.get("runtime") is not None:
        problems.add(("runtime",), "is for a kit that NVFLARE has made", example="kit: site-1")
    _check_containers(document, problems)
    for key in given[1:]:
        example = deploy_schema.EXAMPLES[key]
        problems.add((key,), f"stands beside {given[0]}; a deploy file has one of the two", example=example)
    if given in (["kit"], ["service"]):
        _check_alone(given[0], document, problems)


def _check_containers(document: Mapping[str, Any], problems: Problems) -> None:
    """Notes a container image beside what decides the same."""
    sites = document.get("sites")
    for name, body in (sites if isinstance(sites, dict) else {}).items():
        if isinstance(body, dict) and body.get("container") is not None:
            path = ("sites", str(name), "container")
            if document.get("runtime") is not None:
                problems.add(path, "stands beside runtime; the image has the version of NVFLARE that runs")
            if document.get("service") is not None:
                problems.add(path, "is for a site of a federation, and a service is none")


def _check_alone(origin: str, document: Mapping[str, Any], problems: Problems) -> None:
    for key in sorted(deploy_schema.OF_PROJECT & set(document)):
        problems.add((key,), f"means nothing for a {origin}, which is deployed as it is")
    sites = document.get("sites")
    sites = sites if isinstance(sites, dict) else {}
    for name, body in sites.items():
        if isinstance(body, dict) and body.get("keys") is not None:
            problems.add(("sites", str(name), "keys"), f"means nothing for a {origin}, {KEY_OF[origin]}")
        if origin == "service" and not deploy_schema.SITE_NAME.fullmatch(str(name)):
            problems.add(("sites", str(name)), "is no name of a site", example="letters, digits, dashes, underscores")
    if len(sites) > 1:
        named = "as the participant" if origin == "kit" else "as you like"
        problems.add(("sites",), f"has more than the {origin}'s own site", example=f"one site, named {named}")
    if document.get("federation_sources") == SITES:
        rule = f"cannot be `sites`: a {origin} does not know them"
        problems.add(("federation_sources",), rule, example="[203.0.113.0/24]")


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
        container=site.container,
        disk_gib=site.disk_gib,
        user=site.user,
        data=_at(base, site.data) if site.data else None,
        need=need if need != Need() else None,
        siblings=site.siblings,
        zones=tuple(site.zones or ()),
        makes_key=(site.keys or keys) == ON_SITE,
    )
