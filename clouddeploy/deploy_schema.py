"""The keys of a deploy file and the values that they may have."""

from __future__ import annotations

import ipaddress
import math
import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MIN_DISK_GIB, MAX_DISK_GIB = 8, 16384
"""Ubuntu's image needs 8; 16384 is the largest gp3 volume."""
MAX_GPUS = 64
MAX_VCPUS = 2048
MAX_GIB = 65536
MIN_TTL, MAX_TTL = timedelta(minutes=5), timedelta(days=90)
"""A machine needs some minutes to be of use; who wants it for longer than a quarter wants it for good."""
UNITS = {"m": "minutes", "h": "hours", "d": "days"}
PROVIDER = r"^[a-z][a-z0-9_-]*$"
RUNTIME = re.compile(r"nvflare==\d+(\.\d+){1,3}((a|b|rc|\.post|\.dev)\d+)*")
CONTAINER = re.compile(
    r"(localhost(:\d{1,5})?|[A-Za-z0-9][A-Za-z0-9-]*((\.[A-Za-z0-9-]+)+(:\d{1,5})?|:\d{1,5}))"
    r"(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
"""A reference to an image: registry, path, tag, digest (https://github.com/distribution/reference).

Without a registry each machine would look the name up where it is told to, and not all in the same place.
"""
SITE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
"""Those of a project are its participants'; this is their form, which is safe as the name of a folder."""
STATE = re.compile(r"(s3://[a-z0-9.-]{3,63}|azblob://[a-z0-9]{3,24}/[a-z0-9-]{3,63})(/[A-Za-z0-9._/-]+)?")


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise PydanticCustomError("path", "is a path, relative to this file")
    return value


def _text(value: Any) -> Any:
    """Accepts numbers too: YAML reads an account id or a version as one."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise PydanticCustomError("text", "is text or a number")
    return str(value)


def _block(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(str(value)))
    except ValueError as error:
        raise PydanticCustomError("block", f"{value!r} is not a CIDR block: {error}") from error


def _federation_sources(value: Any) -> Any:
    if isinstance(value, str) and value not in {"anywhere", "sites"}:
        raise PydanticCustomError("sources", "is `anywhere`, `sites` or a list of CIDR blocks")
    return value


def _ttl(value: Any) -> timedelta:
    match = re.fullmatch(r"(\d{1,4})([mhd])", str(value))
    if not match:
        raise PydanticCustomError("ttl", "is a number of minutes, hours or days")
    ttl = timedelta(**{UNITS[match[2]]: int(match[1])})
    if not MIN_TTL <= ttl <= MAX_TTL:
        raise PydanticCustomError("ttl", "is at least 5m and at most 90d")
    return ttl


def _gib(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PydanticCustomError("gib", "is a number of GiB")
    if not 0 < value <= MAX_GIB:
        raise PydanticCustomError("gib", f"is more than 0 and at most {MAX_GIB} GiB")
    return float(value)


def _state(value: Any) -> Any:
    if not isinstance(value, str) or not STATE.fullmatch(value):
        raise PydanticCustomError("state", "is s3://BUCKET/PREFIX or azblob://ACCOUNT/CONTAINER/PREFIX")
    return value


def _container(value: Any) -> Any:
    if not isinstance(value, str) or not CONTAINER.fullmatch(value):
        raise PydanticCustomError("container", "is a reference to a container image with its registry, in lower case")
    return value


def _runtime(value: Any) -> Any:
    if not isinstance(value, str) or not RUNTIME.fullmatch(value):
        raise PydanticCustomError("runtime", "is nvflare== and one version")
    return value


Text = Annotated[str, BeforeValidator(_text)]
PathText = Annotated[str, BeforeValidator(_path)]
Block = Annotated[str, BeforeValidator(_block)]
Gib = Annotated[float, BeforeValidator(_gib)]
Keys = Literal["central", "on-site"]


class Site(BaseModel):
    """One entry of `sites`; what it has besides belongs to its provider."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    provider: Annotated[str, Field(pattern=PROVIDER)]
    size: Text | None = None
    image: Text | None = None
    container: Annotated[str, BeforeValidator(_container)] | None = None
    disk_gib: Annotated[int, Field(ge=MIN_DISK_GIB, le=MAX_DISK_GIB)] = 30
    user: Text = "clouddeploy"
    data: PathText | None = None
    gpus: Annotated[int, Field(ge=1, le=MAX_GPUS)] | None = None
    gpu_memory_gib: Gib | None = None
    vcpus: Annotated[int, Field(ge=1, le=MAX_VCPUS)] | None = None
    memory_gib: Gib | None = None
    siblings: bool = False
    zones: Annotated[list[Text], Field(min_length=1)] | None = None
    keys: Keys | None = None


class File(BaseModel):
    """A whole deploy file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Literal[1]
    project: PathText | None = None
    kit: PathText | None = None
    service: PathText | None = None
    runtime: Annotated[str, BeforeValidator(_runtime)] | None = None
    workspace: PathText | None = None
    ssh_sources: list[Block] = []
    federation_sources: Annotated[Literal["anywhere", "sites"] | list[Block], BeforeValidator(_federation_sources)] = (
        "anywhere"
    )
    smoke_job: PathText | None = None
    ttl: Annotated[timedelta, BeforeValidator(_ttl)] | None = None
    keys: Keys = "central"
    state: Annotated[str, BeforeValidator(_state)] | None = None
    sites: Annotated[dict[str, Site], Field(min_length=1)]


GENERAL_KEYS = frozenset(Site.model_fields)
"""Keys of a site that mean the same at every provider; the rest belongs to the provider named."""
TOP_KEYS = frozenset(File.model_fields)
KEY_FILES = frozenset({"identity_file", "jump_identity_file", "kubeconfig", "config", "study_runtime"})
"""Providers' own keys that name a file here: relative to the deploy file, as every path in it."""
OF_PROJECT = frozenset({"workspace", "smoke_job", "keys"})
"""Keys that mean nothing where one kit or one service is deployed without a project."""
EXAMPLES = {
    "version": "version: 1",
    "project": "project: project.yml",
    "kit": "kit: site-1",
    "service": "service: dashboard",
    "runtime": "runtime: nvflare==2.9.0",
    "workspace": "workspace: workspace",
    "ssh_sources": "ssh_sources: [203.0.113.7/32]",
    "federation_sources": "federation_sources: sites",
    "smoke_job": "smoke_job: ../jobs/breast-cancer",
    "ttl": "ttl: 8h",
    "keys": "keys: on-site",
    "state": "state: s3://my-bucket/deployments/trial",
    "sites": "site-1: {provider: aws, region: us-west-2}",
    "provider": "provider: aws",
    "size": "size: t3.small",
    "image": "image: ami-0123456789abcdef0",
    "container": "container: ghcr.io/org/train:1.2",
    "disk_gib": "disk_gib: 30",
    "user": "user: clouddeploy",
    "data": "data: data/site-1",
    "gpus": "gpus: 1",
    "gpu_memory_gib": "gpu_memory_gib: 16",
    "vcpus": "vcpus: 4",
    "memory_gib": "memory_gib: 16",
    "siblings": "siblings: true",
    "zones": "zones: [us-west-2a, us-west-2b]",
}
"""Each key as it may look, for messages."""
