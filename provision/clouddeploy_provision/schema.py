"""The keys of a project file and the values that they may have; api_version 3 and 4 of the reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

HOST = (
    r"^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9\-]*[a-zA-Z0-9])\.)*(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9\-]*[A-Za-z0-9])$"
)
SITE = r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"
SIMPLE = r"^[A-Za-z0-9_]+$"
EMAIL = r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$"
PROJECT = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"

# RFC 5280 appendix A.1: ub-common-name and ub-organization-name are 64.
MAX_NAME = 64
MAX_PROJECT = 63


Host = Annotated[str, StringConstraints(pattern=HOST, max_length=253)]
ServerName = Annotated[str, StringConstraints(pattern=HOST, max_length=MAX_NAME)]
SiteName = Annotated[str, StringConstraints(pattern=SITE, max_length=MAX_NAME)]
Simple = Annotated[str, StringConstraints(pattern=SIMPLE, max_length=MAX_NAME)]
Email = Annotated[str, StringConstraints(pattern=EMAIL, max_length=MAX_NAME)]
ProjectName = Annotated[str, StringConstraints(pattern=PROJECT, max_length=MAX_PROJECT)]
Port = Annotated[int, Field(ge=1, le=65535)]
Role = Literal["project_admin", "org_admin", "lead", "member"]
Security = Literal["mtls", "tls", "clear"]


class _Strict(BaseModel):
    # Rust's regular expressions match `$` at the very end only, so a trailing newline does not slip through.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ConnectTo(_Strict):
    """Where a client or an admin finds the server."""

    name: Host | None = None
    host: Host | None = None
    port: Port | None = None
    connection_security: Security | None = None
    auth_identity: str | None = None


class Server(_Strict):
    """The server."""

    type: Literal["server"]
    name: ServerName
    org: Simple
    fed_learn_port: Port = 8002
    admin_port: Port | None = None
    host_names: list[Host] | Host | None = None
    default_host: Host | None = None
    listening_host: Any = None
    connection_security: Security | None = None
    custom_ca_cert: str | None = None
    auth_identity: str | None = None
    use_aio: bool | None = None
    cc_config: Any = None


class Capacity(_Strict):
    """What a site offers to jobs."""

    num_of_gpus: Annotated[int, Field(ge=0)] = 0
    mem_per_gpu_in_GiB: Annotated[int | float, Field(ge=0)] = 0  # noqa: N815 - the reference's key


class Client(_Strict):
    """A client site."""

    type: Literal["client"]
    name: SiteName
    org: Simple
    connect_to: ConnectTo | Host | None = None
    listening_host: Any = None
    parent: str | None = None
    capacity: Capacity | None = None
    allow_log_streaming: bool = True
    connection_security: Security | None = None
    custom_ca_cert: str | None = None
    auth_identity: str | None = None
    use_aio: bool | None = None
    edge_service_port: int | None = None
    cc_config: Any = None


class Relay(_Strict):
    """A relay; read, and refused later as not supported yet."""

    type: Literal["relay"]
    name: SiteName
    org: Simple
    listening_host: Any
    connect_to: Any = None
    auth_identity: str | None = None
    connection_security: Security | None = None
    use_aio: bool | None = None


class Admin(_Strict):
    """A person with a console."""

    type: Literal["admin"]
    name: Email
    org: Simple
    role: Role
    connect_to: ConnectTo | Host | None = None
    connection_security: Security | None = None


class Overseer(BaseModel):
    """Obsolete in the reference too: read and ignored."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: Literal["overseer"]
    name: str = ""


class Builder(_Strict):
    """One builder: a dotted path and its arguments."""

    path: str
    args: dict[str, Any] | None = None


def _type_of(value: Any) -> str | None:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


AnyParticipant = Annotated[
    Annotated[Server, Tag("server")]
    | Annotated[Client, Tag("client")]
    | Annotated[Relay, Tag("relay")]
    | Annotated[Admin, Tag("admin")]
    | Annotated[Overseer, Tag("overseer")],
    Discriminator(_type_of),
]
TYPES = ("server", "client", "relay", "admin", "overseer")


class ProjectFile(_Strict):
    """The whole file."""

    api_version: Literal[3, 4]
    name: ProjectName
    description: str | None = None
    participants: list[AnyParticipant] = Field(min_length=1)
    builders: list[Builder] = Field(min_length=1)
    packager: Any = None
    studies: Any = None
    edge: Any = None
    connection_security: Security | None = None
    custom_ca_cert: str | None = None
    include: Any = None


EXAMPLES: dict[str, str] = {
    "api_version": "api_version: 3",
    "name": "name: site-1",
    "org": "org: org_a",
    "type": "type: client",
    "role": "role: lead",
    "fed_learn_port": "fed_learn_port: 8002",
    "admin_port": "admin_port: 8002",
    "host_names": "host_names: [fl.example.com, 192.0.2.10]",
    "default_host": "default_host: fl.example.com",
    "connect_to": "connect_to: fl.example.com",
    "participants": "participants: [{name: site-1, type: client, org: org_a}]",
    "builders": "builders: [{path: nvflare.lighter.impl.cert.CertBuilder, args: {}}]",
    "path": "path: nvflare.lighter.impl.cert.CertBuilder",
    "root_valid_days": "root_valid_days: 3650",
    "description": "description: Breast cancer, two hospitals",
}
"""Key → a line that is right."""
