"""What a deploy file says of a site in Kubernetes, as the configuration that its kit is prepared with."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_runtime.outposts.kube import names
from pydantic import ValidationError

from clouddeploy.config import ANYWHERE, CLUSTERED, FORM, SITES
from clouddeploy.errors import ConfigError
from clouddeploy.prepare import config_file
from clouddeploy.prepare.config import K8sConfig
from clouddeploy.selection import Choice
from clouddeploy.yaml_file import Problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clouddeploy.config import DeployConfig, SiteConfig

REQUIRED = ("context", "namespace")
OF_SERVER = frozenset({"service", "cloud", "address", "resource_group", "host"})
SETTINGS = frozenset({*REQUIRED, *OF_SERVER, "kubeconfig", "config", "study_runtime", "storage_class", "egress"})
CLOUDS = ("aws", "azure", "gcp")
BALANCER, INSIDE = "LoadBalancer", "ClusterIP"
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*")
_OWN_KEYS = ("namespace", "server_service_name", "service")
"""Of a `config` file: the deploy file has its own words for these."""
_NO_MEANING = {
    "size": "machines are the cluster's; `vcpus` and `memory_gib` are what the site's pod asks for",
    "image": "machines are the cluster's; the site's container image is `container`",
    "zones": "machines are the cluster's; a `config` file may say more of storage and resources",
    "data": "nothing is copied into a cluster; local/study_runtime.yaml names the claims with data",
    "gpus": "a job asks for GPUs itself (`num_of_gpus`), and its pod goes where they are",
}


@dataclass(frozen=True)
class Target:
    """Which namespace of which cluster."""

    context: str
    """Of the kubeconfig. Always named: another current context must not lead to another cluster."""
    namespace: str
    kubeconfig: Path | None = None
    """None: as kubectl finds it."""


@dataclass(frozen=True)
class Reach:
    """How others reach a site.

    Attributes:
        service: `LoadBalancer` or `ClusterIP`; empty: nobody calls it, since it is a client.
        host: the name or address that clients use; empty for a client.
    """

    service: str = ""
    host: str = ""

    def hosts(self, site: str, namespace: str) -> tuple[str, ...]:
        """Return what the server's certificate is for: where clients go first, then its name in the cluster."""
        if not self.service:
            return ()
        inside = f"{service_name(site)}.{namespace}.svc.cluster.local"
        return tuple(dict.fromkeys((self.host or inside, inside)))


def service_name(site: str) -> str:
    """Return the name of a server's service."""
    return names.named(site)


def target_of(settings: Mapping[str, str]) -> Target:
    """Return where a site's settings lead to.

    Raises:
        InvalidRequest: context or namespace are missing or wrong.
    """
    missing = [key for key in REQUIRED if not settings.get(key)]
    if missing:
        raise InvalidRequest(
            f"a site in Kubernetes lacks {', '.join(missing)}",
            why="another current context or namespace must not lead the next run to another place",
            hint="kubectl config get-contexts lists them; add `context: …` and `namespace: …` in the deploy file",
        )
    if not _NAMESPACE.fullmatch(settings["namespace"]):
        raise InvalidRequest(f"{settings['namespace']!r} is no name of a namespace", hint="for example fl")
    path = settings.get("kubeconfig")
    return Target(settings["context"], settings["namespace"], Path(path) if path else None)


def reach_of(settings: Mapping[str, str]) -> Reach:
    """Return how a site is reached.

    Raises:
        InvalidRequest: a load balancer whose address nobody would know, or keys that do not go together.
    """
    service, host = settings.get("service", ""), settings.get("host", "")
    given = sorted(key for key in OF_SERVER - {"service"} if settings.get(key))
    if not service:
        if given:
            raise InvalidRequest(f"{given[0]} is for a server in Kubernetes", hint=f"add `service: {BALANCER}`")
        return Reach()
    if service not in {BALANCER, INSIDE}:
        raise InvalidRequest(f"there is no service {service!r}", hint=f"{BALANCER} or {INSIDE}")
    if settings.get("address") and settings.get("cloud") not in CLOUDS:
        why = "each wants it in another way"
        raise InvalidRequest("the address is of no cloud", why=why, hint=f"add `cloud: {' | '.join(CLOUDS)}`")
    if service == BALANCER and not host and settings.get("cloud") == "gcp":
        host = settings.get("address", "")  # which is an address there, and a name elsewhere
    if service == BALANCER and not host:
        raise InvalidRequest(
            "it is not known where clients find the load balancer",
            why="the server's certificate and the kits of all clients name it, and they are made first",
            hint="reserve an address, then add `address`, `cloud`, and as `host` it, or a name that leads to it",
        )
    if host and not _HOST.fullmatch(host):
        raise InvalidRequest(f"{host!r} is no host", hint="a name or an IPv4 address, without port")
    return Reach(service, host)


def egress_of(settings: Mapping[str, str]) -> str:
    """Return the blocks from which a site dials out, in one spelling; empty: they are not known.

    Raises:
        InvalidRequest: one is none.
    """
    parts = [part.strip() for part in settings.get("egress", "").split(",")]
    try:
        return ", ".join(str(ipaddress.IPv4Network(part)) for part in parts if part)
    except ValueError as error:
        raise InvalidRequest(
            "the egress of a site is wrong", why=str(error), hint="203.0.113.7, 198.51.100.0/28"
        ) from (error)


def config_of(site: SiteConfig, federation_sources: str | tuple[str, ...] = ANYWHERE) -> K8sConfig:
    """Return what a site's kit is prepared with: its `config` file, and what the deploy file says over it.

    Args:
        site: the site.
        federation_sources: who may call a server, as the deploy file says.

    Raises:
        ConfigError: the file is wrong, or something is missing.
    """
    base = _base(site)
    document: dict[str, Any] = base.model_dump(exclude_unset=True) if base else {"runtime": "k8s", "parent": {}}
    parent, settings = document["parent"], site.settings
    document["namespace"] = settings["namespace"]
    document["server_service_name"] = service_name(site.name)
    if site.container is not None:
        parent["docker_image"] = site.container
    if site.need is not None:
        requests = parent.setdefault("resources", {}).setdefault("requests", {"cpu": "2", "memory": "8Gi"})
        if site.need.vcpus:
            requests["cpu"] = str(site.need.vcpus)
        if site.need.memory_gib:
            requests["memory"] = f"{round(site.need.memory_gib * 1024)}Mi"
    storage = document.setdefault("storage", {})
    storage.setdefault("size", f"{site.disk_gib}Gi")
    if settings.get("storage_class"):
        storage["storage_class"] = settings["storage_class"]
    document["service"] = _service(site, federation_sources)
    try:
        return K8sConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{site.name}: {where} {first['msg']}", hint="docs/kubernetes.md has an example") from error


def digest(config: K8sConfig, study_runtime: Path | None) -> str:
    """Return a digest of all that is wanted beside the kit; another one makes the site be installed again."""
    text = config.model_dump_json()
    if study_runtime is not None:
        text += study_runtime.read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def study_runtime_of(site: SiteConfig) -> Path | None:
    """Return the file that is given to a site as its `local/study_runtime.yaml`; None: its kit has one, or none."""
    path = site.settings.get("study_runtime")
    return Path(path) if path else None


def is_clustered(site: SiteConfig) -> bool:
    """Tell whether a site runs in Kubernetes."""
    return site.provider in CLUSTERED


def check(config: DeployConfig, *, server: str | None) -> None:
    """Refuse what cannot be done in Kubernetes.

    Args:
        config: the deploy file.
        server: its server; None: it is not of this deployment.

    Raises:
        ConfigError: names every such key.
    """
    problems = Problems(config.file, config.lines, FORM)
    for site in filter(is_clustered, config.sites):
        for key, rule in _wrong(config, site, is_server=site.name == server):
            problems.add(("sites", site.name, *([key] if key else [])), rule)
    problems.raise_if_any()


def _wrong(config: DeployConfig, site: SiteConfig, *, is_server: bool) -> Iterator[tuple[str, str]]:
    gpus = site.need.gpus if site.need is not None else 0
    given = {"size": site.size, "image": site.image, "zones": site.zones, "data": site.data, "gpus": gpus}
    yield from ((key, f"means nothing in Kubernetes: {_NO_MEANING[key]}") for key, value in given.items() if value)
    if config.service is not None or config.runtime is not None:
        yield "provider", "is for sites of a federation that run with clouddeploy-runtime"
    if site.makes_key:
        yield "keys", "is for machines: a pod has its key from the Secret of its kit. Say `keys: central` for this site"
    if is_server and not site.settings.get("service"):
        yield "", f"`service` is missing: {BALANCER}, or {INSIDE} where all clients are in the same cluster"
    if not is_server and site.settings.get("service"):
        yield "service", "is for the server: nobody calls a client"
    if is_server and site.settings.get("service") == BALANCER and config.federation_sources == SITES:
        yield "service", "goes with `federation_sources` as blocks: a load balancer is not opened site by site"
    study = study_runtime_of(site)
    if study is not None and not study.is_file():
        yield "study_runtime", f"{study} is not a file"
    try:
        config_of(site, config.federation_sources)
    except ConfigError as error:
        yield "config" if site.settings.get("config") else "", str(error)


def _base(site: SiteConfig) -> K8sConfig | None:
    path = site.settings.get("config")
    if path is None:
        if site.container is None:
            raise ConfigError("container is missing: the image that the site's pod runs in")
        return None
    found = config_file.read(Path(path))
    if not isinstance(found, K8sConfig):
        raise ConfigError(f"{path} is not for Kubernetes", why=f"it says runtime: {found.runtime}")
    own = [key for key in _OWN_KEYS if key in found.model_fields_set]
    if own:
        raise ConfigError(f"{path} says {own[0]}", why="the deploy file does, with keys of its own", hint="remove it")
    return found


def _service(site: SiteConfig, federation_sources: str | tuple[str, ...]) -> dict[str, Any]:
    settings = site.settings
    if settings.get("service") != BALANCER:
        return {"type": INSIDE}
    found: dict[str, Any] = {"type": BALANCER}
    found |= {key: settings[key] for key in ("cloud", "address", "resource_group") if settings.get(key)}
    if isinstance(federation_sources, tuple):
        found["source_ranges"] = list(federation_sources)
    return found


def choices(sites: Sequence[SiteConfig], config: DeployConfig) -> dict[str, Choice]:
    """Return, by site, what the reader of a plan is told of those that will be pods."""
    found = {}
    for site in filter(is_clustered, sites):
        image, text = described(site, config.federation_sources)
        found[site.name] = Choice("", image=image, why=f"{text}, image {image}")
    return found


def described(site: SiteConfig, federation_sources: str | tuple[str, ...] = ANYWHERE) -> tuple[str, str]:
    """Return a site's container image, and in words how it is reached, for the reader of a plan."""
    config, settings = config_of(site, federation_sources), site.settings
    service = settings.get("service", "")
    address = settings.get("address") or reach_of(settings).host
    text = f"service {service}" + (f" at {address}" if address and service == BALANCER else "") if service else "client"
    return config.parent.docker_image, text
