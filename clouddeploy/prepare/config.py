"""The file that says for which runtime a kit is prepared: `runtime: docker | k8s | slurm`, and its keys.

The keys are the reference's, with its defaults, so its files are read unchanged; what we add stands last in a class.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from clouddeploy_runtime.study_runtime import REFUSED_KWARGS
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MOUNT = "/var/tmp/nvflare/workspace"  # noqa: S108 - a path in a container, the reference's
MAX_PORT = 65535
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DNS_1035 = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/@-]{0,510}")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")


def _matching(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise PydanticCustomError("form", "{rule}", {"rule": rule})
        return value

    return AfterValidator(check)


def _absolute(value: str) -> str:
    if not value.startswith("/") or ".." in value.split("/") or any(ord(letter) < ord(" ") for letter in value):
        raise PydanticCustomError("path", "is an absolute path")
    return value


def _line(value: str) -> str:
    if not value or any(ord(letter) < ord(" ") for letter in value):
        raise PydanticCustomError("line", "is text of one line")
    return value


def _script(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("script", "is text without NUL")
    return value


def _environment(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _ENVIRONMENT.fullmatch(name) or "\0" in text:
            raise PydanticCustomError("environment", "names a variable {name}, which cannot be one", {"name": name})
    return value


def _text(value: Any) -> Any:
    """Accepts numbers: YAML reads `1` as one, and variables are text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _quoted(value: Any) -> Any:
    if isinstance(value, int):  # 1:00:00 is 3600 to YAML, and 3600 are minutes to sbatch
        raise PydanticCustomError("quoted", "is text: put it into quotes, since YAML reads 1:00:00 as a number")
    return value


def _kwargs(value: dict[str, Any]) -> dict[str, Any]:
    reserved = sorted(REFUSED_KWARGS & set(value))
    if reserved:
        raise PydanticCustomError("reserved", "sets {names}, which is the launcher's", {"names": ", ".join(reserved)})
    return value


def _ports(value: str) -> str:
    match = _RANGE.fullmatch(value)
    if match is None or not 0 < int(match[1]) <= int(match[2]) <= MAX_PORT:
        raise PydanticCustomError("ports", "is a range of ports, lowest-highest")
    return value


Image = Annotated[str, _matching(_IMAGE, "is a reference to a container image")]
Absolute = Annotated[str, AfterValidator(_absolute)]
Line = Annotated[str, AfterValidator(_line)]
Loose = Annotated[Line, BeforeValidator(_text)]
Script = Annotated[str, AfterValidator(_script)]
Environment = Annotated[dict[str, Annotated[str, BeforeValidator(_text)]], AfterValidator(_environment)]
Kwargs = Annotated[dict[str, Any], AfterValidator(_kwargs)]
Port = Annotated[int, Field(ge=1, le=MAX_PORT)]
Seconds = Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)]
Security = Literal["mtls", "tls", "clear"]
Secrets = list[Annotated[str, _matching(re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"), "is a Secret's name")]]
Variables = list[Annotated[str, _matching(_ENVIRONMENT, "is the name of a variable")]]


class _Keys(BaseModel):
    """A mapping of the file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, content: Any) -> Any:
        """A key without a value is one that was left out, as in the reference's examples."""
        if not isinstance(content, dict):
            return content
        return {key: value for key, value in content.items() if value is not None or key not in cls.model_fields}


class DockerParent(_Keys):
    """The container of the site's own process."""

    docker_image: Image
    network: Annotated[str, _matching(_NETWORK, "is the name of a network")] = "nvflare-network"
    internal_connection_security: Security = "mtls"
    """Accepted, and without effect: the line between a site and its jobs is TLS always."""


class DockerJobs(_Keys):
    """The containers of jobs."""

    default_python_path: Absolute = "/usr/local/bin/python"
    default_job_env: Environment = {}
    default_job_container_kwargs: Kwargs = {}
    image: Image | None = None
    """Of jobs that name none, and whose study names none; None: the parent's."""
    parent_host: Line | None = None
    """The parent as a job's container sees it; None: its name in the network."""
    pending_timeout: Seconds | None = None


class DockerConfig(_Keys):
    """`runtime: docker`, for podman too."""

    runtime: Literal["docker"]
    parent: DockerParent
    job_launcher: DockerJobs = DockerJobs()


class K8sParent(_Keys):
    """The pod of the site's own process."""

    docker_image: Image
    internal_connection_security: Security = "mtls"
    parent_port: Port = 8102
    workspace_pvc: Annotated[str, _matching(_NAMESPACE, "is the name of a claim")] = "nvflws"
    workspace_mount_path: Absolute = MOUNT
    python_path: Absolute | None = None
    resources: dict[str, Any] = {"requests": {"cpu": "2", "memory": "8Gi"}}
    pod_security_context: dict[str, Any] = {}
    image_pull_secrets: Secrets = []


class K8sJobs(_Keys):
    """The pods of jobs."""

    config_file_path: Absolute | None = None
    pending_timeout: Seconds = 120.0
    default_python_path: Absolute | None = None
    job_pod_security_context: dict[str, Any] = {}
    image_pull_secrets: Secrets = []
    image: Image | None = None
    """Of jobs that name none, and whose study names none; None: the parent's."""
    resources: dict[str, dict[str, Loose]] | None = None
    """Of jobs that do not say what they take; None: one processor and 2 GiB asked for, and no limit."""


class K8sService(_Keys):
    """How a server is reached: inside its cluster alone, or at an address that was reserved for it beforehand."""

    type: Literal["ClusterIP", "LoadBalancer"] = "ClusterIP"
    cloud: Literal["aws", "azure", "gcp"] | None = None
    """Whose load balancer it is; each wants the address in its own way."""
    address: Line | None = None
    """The reserved one: allocation ids with commas between (aws), name of the public IP (azure), the address (gcp)."""
    resource_group: Line | None = None
    """Of the public IP, where it is not the cluster's own; azure alone."""
    annotations: dict[str, Loose] = {}
    source_ranges: list[Line] = []
    """Networks that may call; empty: all."""


class K8sStorage(_Keys):
    """The claim that is made for the workspace, where `workspace_pvc` names none."""

    size: Line = "20Gi"
    storage_class: Line | None = None
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    """With the last one pods of jobs may be on other nodes than their site's. ReadWriteOncePod would keep them out."""


class K8sConfig(_Keys):
    """`runtime: k8s`."""

    runtime: Literal["k8s"]
    namespace: Annotated[str, _matching(_NAMESPACE, "is the name of a namespace")] = "default"
    server_service_name: Annotated[str, _matching(_DNS_1035, "is the name of a service (RFC 1035)")] = "nvflare-server"
    parent: K8sParent
    job_launcher: K8sJobs = K8sJobs()
    service: K8sService = K8sService()
    storage: K8sStorage = K8sStorage()
    network_policy: bool = True


class SbatchDirectives(_Keys):
    """Options of `sbatch` that a site may set."""

    partition: Loose | None = None
    account: Loose | None = None
    qos: Loose | None = None
    time: Annotated[Line, BeforeValidator(_quoted)] | None = None
    constraint: Loose | None = None
    reservation: Loose | None = None


class SlurmParent(_Keys):
    """The batch job in which a client's own process runs."""

    sbatch_directives: SbatchDirectives = SbatchDirectives()
    environment_setup: Script | None = None


class SlurmJobs(_Keys):
    """The batch jobs of jobs."""

    sandbox: Literal["apptainer", "pyxis", "none"]
    image: Absolute | None = None
    python_path: Absolute
    parent_host: Line | None = None
    internal_port: Port = 8102
    internal_connection_security: Security = "mtls"
    sbatch_directives: SbatchDirectives = SbatchDirectives()
    setup: Script | None = None
    forward_env: Variables = []
    executables: dict[str, Absolute] = {}
    submit_timeout: Seconds = 30.0
    query_timeout: Seconds = 10.0
    cancel_timeout: Seconds = 10.0
    poll_interval: Seconds = 10.0
    pending_timeout: Seconds = 600.0
    multi_node_port_range: Annotated[str, AfterValidator(_ports)] = "29400-30399"


class SlurmConfig(_Keys):
    """`runtime: slurm`."""

    runtime: Literal["slurm"]
    job_launcher: SlurmJobs
    parent: SlurmParent | None = None


Config = DockerConfig | K8sConfig | SlurmConfig
KINDS: dict[str, type[DockerConfig | K8sConfig | SlurmConfig]] = {
    "docker": DockerConfig,
    "k8s": K8sConfig,
    "slurm": SlurmConfig,
}
