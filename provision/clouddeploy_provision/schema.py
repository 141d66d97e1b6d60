"""The keys of a project file and the values that they may have; api_version 3 and 4 of the reference."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from clouddeploy_runtime.kit.kit import is_host
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

SITE = r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"
SIMPLE = r"^[A-Za-z0-9_]+$"
EMAIL = r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$"
PROJECT = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
STUDY_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")

# RFC 5280 appendix A.1: ub-common-name and ub-organization-name are 64.
MAX_NAME = 64
MAX_PROJECT = 63
MAX_HOST = 253


def _host(value: str) -> str:
    if not is_host(value):
        raise PydanticCustomError("host", "must be a host name or an IP address")
    return value


def _server_name(value: str) -> str:
    if ":" in value:
        raise PydanticCustomError("host", "must be a host name; an IPv6 address belongs in host_names")
    return value


Host = Annotated[str, StringConstraints(max_length=MAX_HOST), AfterValidator(_host)]
ServerName = Annotated[Host, AfterValidator(_server_name)]
SiteName = Annotated[str, StringConstraints(pattern=SITE, max_length=MAX_NAME)]
Simple = Annotated[str, StringConstraints(pattern=SIMPLE, max_length=MAX_NAME)]
Email = Annotated[str, StringConstraints(pattern=EMAIL, max_length=MAX_NAME)]
ProjectName = Annotated[str, StringConstraints(pattern=PROJECT)]
Text = Annotated[str, StringConstraints(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
FreePort = Annotated[int, Field(ge=0, le=65535)]
Role = Literal["project_admin", "org_admin", "lead", "member"]
Security = Literal["mtls", "tls", "clear"]
Scheme = Literal["grpc", "http", "tcp"]
SECURITIES = ("mtls", "tls", "clear")
SCHEMES = ("grpc", "http", "tcp")


class Strict(BaseModel):
    """What every mapping of a project file has in common: no unknown key, no guessed type."""

    # Rust's regular expressions match `$` at the very end only, so a trailing newline does not slip through.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ConnectTo(Strict):
    """Where a participant finds the server or a relay."""

    name: Text | None = None
    host: Host | None = None
    port: Port | None = None
    connection_security: Security | None = None
    auth_identity: Text | None = None


class ListeningHost(Strict):
    """Where a participant itself is reached, by its job processes or by those behind it."""

    scheme: Scheme = "tcp"
    host_names: list[Host] | Host | None = None
    default_host: Host | None = None
    port: FreePort = 0
    connection_security: Security = "clear"


class Server(Strict):
    """The server."""

    type: Literal["server"]
    name: ServerName
    org: Simple
    fed_learn_port: Port = 8002
    admin_port: Port | None = None
    host_names: list[Host] | Host | None = None
    default_host: Host | None = None
    listening_host: ListeningHost | Host | None = None
    connection_security: Security | None = None
    custom_ca_cert: Text | None = None
    auth_identity: Text | None = None
    use_aio: bool | None = None


class Capacity(Strict):
    """What a site offers to jobs."""

    num_of_gpus: Annotated[int, Field(ge=0)] = 0
    mem_per_gpu_in_GiB: Annotated[int | float, Field(ge=0)] = 0  # noqa: N815 - the reference's key


class Client(Strict):
    """A client site."""

    type: Literal["client"]
    name: SiteName
    org: Simple
    connect_to: ConnectTo | Host | None = None
    listening_host: ListeningHost | Host | None = None
    parent: Text | None = None
    capacity: Capacity | None = None
    allow_log_streaming: bool = True
    connection_security: Security | None = None
    custom_ca_cert: Text | None = None
    auth_identity: Text | None = None
    use_aio: bool | None = None


class Relay(Strict):
    """A node between the server and some clients."""

    type: Literal["relay"]
    name: SiteName
    org: Simple
    listening_host: ListeningHost
    connect_to: ConnectTo | Text | None = None
    connection_security: Security | None = None
    custom_ca_cert: Text | None = None
    auth_identity: Text | None = None
    use_aio: bool | None = None


class Admin(Strict):
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


class Step(Strict):
    """One builder: a dotted path and its arguments."""

    path: Text
    args: dict[str, Any] | None = None


class Study(Strict):
    """Who takes part in one study: the coded form has `site_orgs` and a list of admins, the documented one `sites` and
    a role for each admin.
    """  # noqa: D205 - one sentence

    site_orgs: dict[str, list[Text]] | None = None
    sites: list[Text] | None = None
    admins: list[Text] | dict[str, Role] | None = None


def _type_of(value: Any) -> str | None:
    found = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return found if isinstance(found, str) else None


AnyParticipant = Annotated[
    Annotated[Server, Tag("server")]
    | Annotated[Client, Tag("client")]
    | Annotated[Relay, Tag("relay")]
    | Annotated[Admin, Tag("admin")]
    | Annotated[Overseer, Tag("overseer")],
    Discriminator(_type_of),
]
TYPES = ("server", "client", "relay", "admin", "overseer")


class ProjectFile(Strict):
    """The whole file."""

    api_version: Literal[3, 4]
    name: ProjectName
    description: str | None = None
    participants: list[AnyParticipant] = Field(min_length=1)
    builders: list[Step] = Field(min_length=1)
    packager: Step | None = None
    studies: dict[str, Study | None] | None = None
    connection_security: Security | None = None
    custom_ca_cert: Text | None = None


PATTERNS = {
    SITE: "must have letters, digits, hyphens and underscores only",
    SIMPLE: "must have letters, digits and underscores only",
    EMAIL: "must be an e-mail address",
    PROJECT: "must have letters, digits, dots, hyphens and underscores only, no dot or hyphen first",
}
"""Pattern → what it demands."""

EXAMPLES: dict[str, str] = {
    "api_version": "api_version: 3",
    "name": "name: site-1",
    "org": "org: org_a",
    "type": "type: client",
    "role": "role: lead",
    "fed_learn_port": "fed_learn_port: 8002",
    "admin_port": "admin_port: 8002",
    "port": "port: 8102",
    "host_names": "host_names: [fl.example.com, 192.0.2.10]",
    "default_host": "default_host: fl.example.com",
    "host": "host: fl.example.com",
    "connect_to": "connect_to: fl.example.com",
    "listening_host": "listening_host: {default_host: relay.example.com, port: 8102}",
    "parent": "parent: site-1",
    "connection_security": "connection_security: mtls",
    "custom_ca_cert": "custom_ca_cert: proxy_ca.pem",
    "participants": "participants: [{name: site-1, type: client, org: org_a}]",
    "builders": "builders: [{path: nvflare.lighter.impl.cert.CertBuilder, args: {}}]",
    "packager": "packager: {path: my_packager.Packager, args: {}}",
    "path": "path: nvflare.lighter.impl.cert.CertBuilder",
    "root_valid_days": "root_valid_days: 3650",
    "description": "description: Breast cancer, two hospitals",
    "studies": "studies: {cancer: {site_orgs: {org_a: [site-1]}, admins: [lead@a.com]}}",
    "site_orgs": "site_orgs: {org_a: [site-1]}",
    "sites": "sites: [site-1]",
    "admins": "admins: [lead@a.com]",
}
"""Key → a line that is right."""
