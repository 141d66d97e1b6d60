"""The keys of a project file and the values that they may have; api_version 3 and 4 of the reference."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from clouddeploy_runtime.kit.kit import is_host
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
)
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
MAX_GPUS = 1_000
MAX_GIB = 1_000_000


def _host(value: str) -> str:
    if not is_host(value):
        raise PydanticCustomError("host", "must be a host name or an IP address")
    if "%" in value:  # RFC 6874 §1: a zone has a meaning on one machine only, and no place in a certificate
        raise PydanticCustomError("host", "must be an IP address without a zone")
    return value


def _server_name(value: str) -> str:
    if ":" in value:
        raise PydanticCustomError("host", "must be a host name; an IPv6 address belongs in host_names")
    return value


def _gib(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PydanticCustomError("gib", "must be a number of GiB")
    if not 0 <= value <= MAX_GIB:
        raise PydanticCustomError("gib", f"must be 0 to {MAX_GIB} GiB")
    return value


def _allowed_code(value: Any) -> Any:
    if value is not True:
        raise PydanticCustomError(
            "byoc", "has no effect any more; leave it out and forbid own code with `byoc` in local/authorization.json"
        )
    return value


def _form(value: Any) -> str | None:
    """Tell which branch of a union a value is meant for, so that only that branch complains."""
    if isinstance(value, str):
        return TEXT
    if isinstance(value, list):
        return LIST
    return MAPPING if isinstance(value, dict) else None


def _forms(message: str) -> Discriminator:
    return Discriminator(_form, custom_error_type="form", custom_error_message=message)


# What pydantic puts between the keys of a location; in parentheses, so that no key of a file looks like it.
TEXT, LIST, MAPPING = "(text)", "(list)", "(mapping)"

Host = Annotated[str, StringConstraints(max_length=MAX_HOST), AfterValidator(_host)]
ServerName = Annotated[Host, AfterValidator(_server_name)]
SiteName = Annotated[str, StringConstraints(pattern=SITE, max_length=MAX_NAME)]
Simple = Annotated[str, StringConstraints(pattern=SIMPLE, max_length=MAX_NAME)]
Email = Annotated[str, StringConstraints(pattern=EMAIL, max_length=MAX_NAME)]
ProjectName = Annotated[str, StringConstraints(pattern=PROJECT)]
Text = Annotated[str, StringConstraints(min_length=1)]
Hosts = Annotated[
    Annotated[Host, Tag(TEXT)] | Annotated[list[Host], Tag(LIST)],
    _forms("must be a host name or a list of them"),
]
Gib = Annotated[int | float, PlainValidator(_gib)]
AllowedCode = Annotated[Any, PlainValidator(_allowed_code)]
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
    # Only the whole file is ever validated: building each part's validator by itself too would double the time.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


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
    host_names: Hosts | None = None
    default_host: Host | None = None
    port: FreePort = 0
    connection_security: Security = "clear"


Connection = Annotated[
    Annotated[Host, Tag(TEXT)] | Annotated[ConnectTo, Tag(MAPPING)],
    _forms("must be a host name or a mapping with name, host or port"),
]
Upstream = Annotated[
    Annotated[Text, Tag(TEXT)] | Annotated[ConnectTo, Tag(MAPPING)],
    _forms("must be the name of the server or of a relay, or a mapping with name, host or port"),
]
Listener = Annotated[
    Annotated[Host, Tag(TEXT)] | Annotated[ListeningHost, Tag(MAPPING)],
    _forms("must be a host name or a mapping with default_host, port or scheme"),
]


class Server(Strict):
    """The server."""

    type: Literal["server"]
    name: ServerName
    org: Simple
    fed_learn_port: Port = 8002
    admin_port: Port | None = None
    host_names: Hosts | None = None
    default_host: Host | None = None
    listening_host: Listener | None = None
    connection_security: Security | None = None
    custom_ca_cert: Text | None = None
    auth_identity: Text | None = None
    use_aio: bool | None = None
    enable_byoc: AllowedCode = None


class Capacity(Strict):
    """What a site offers to jobs."""

    num_of_gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] = 0
    mem_per_gpu_in_GiB: Gib = 0  # noqa: N815 - the reference's key


class Client(Strict):
    """A client site."""

    type: Literal["client"]
    name: SiteName
    org: Simple
    connect_to: Connection | None = None
    listening_host: Listener | None = None
    parent: Text | None = None
    capacity: Capacity | None = None
    allow_log_streaming: bool = True
    connection_security: Security | None = None
    custom_ca_cert: Text | None = None
    auth_identity: Text | None = None
    use_aio: bool | None = None
    enable_byoc: AllowedCode = None
    components: Any = None
    """Of older files; the reference's builders do not read it any more, nor do ours."""


class Relay(Strict):
    """A node between the server and some clients."""

    type: Literal["relay"]
    name: SiteName
    org: Simple
    listening_host: ListeningHost
    connect_to: Upstream | None = None
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
    connect_to: Connection | None = None
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


People = Annotated[
    Annotated[list[Text], Tag(LIST)] | Annotated[dict[str, Role], Tag(MAPPING)],
    Discriminator(
        lambda value: None if _form(value) == TEXT else _form(value),
        custom_error_type="form",
        custom_error_message="must be a list of admins, or a mapping of admins to their roles in the study",
    ),
]


class Study(Strict):
    """Who takes part in one study: the coded form has `site_orgs` and a list of admins, the documented one `sites` and
    a role for each admin.
    """  # noqa: D205 - one sentence

    site_orgs: dict[str, list[Text]] | None = None
    sites: list[Text] | None = None
    admins: People | None = None


def _type_of(value: Any) -> str | None:
    found = value.get("type") if isinstance(value, dict) else None
    return f"({found})" if isinstance(found, str) else None


AnyParticipant = Annotated[
    Annotated[Server, Tag("(server)")]
    | Annotated[Client, Tag("(client)")]
    | Annotated[Relay, Tag("(relay)")]
    | Annotated[Admin, Tag("(admin)")]
    | Annotated[Overseer, Tag("(overseer)")],
    Discriminator(_type_of),
]
TYPES = ("server", "client", "relay", "admin", "overseer")
TAGS = frozenset({TEXT, LIST, MAPPING, *(f"({name})" for name in TYPES)})


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


MODELS: dict[str, type[BaseModel]] = {
    "(server)": Server,
    "(client)": Client,
    "(relay)": Relay,
    "(admin)": Admin,
    "connect_to": ConnectTo,
    "listening_host": ListeningHost,
    "capacity": Capacity,
    "builders": Step,
    "packager": Step,
    "studies": Study,
}
"""Part of a location → whose keys stand below it."""

PATTERNS = {
    SITE: "must have letters, digits, hyphens and underscores only, and no hyphen first",
    SIMPLE: "must have letters, digits and underscores only",
    EMAIL: "must be an e-mail address",
    PROJECT: "must have letters, digits, dots, hyphens and underscores only, no dot or hyphen first",
}
"""Pattern → what it demands."""

EXAMPLES: dict[str, str] = {
    "api_version": "api_version: 3",
    "name": "name: my_project",
    "server.name": "name: server1.example.com",
    "client.name": "name: site-1",
    "relay.name": "name: relay-1",
    "admin.name": "name: lead@hospital-a.example",
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
    "relay.connect_to": "connect_to: {name: relay-1}",
    "listening_host": "listening_host: {default_host: relay.example.com, port: 8102}",
    "scheme": "scheme: tcp",
    "parent": "parent: site-1",
    "capacity": "capacity: {num_of_gpus: 2, mem_per_gpu_in_GiB: 16}",
    "num_of_gpus": "num_of_gpus: 2",
    "mem_per_gpu_in_GiB": "mem_per_gpu_in_GiB: 16",
    "allow_log_streaming": "allow_log_streaming: false",
    "auth_identity": "auth_identity: proxy.example.com",
    "use_aio": "use_aio: true",
    "connection_security": "connection_security: mtls",
    "custom_ca_cert": "custom_ca_cert: proxy_ca.pem",
    "participants": "participants: [{name: site-1, type: client, org: org_a}]",
    "builders": "builders: [{path: nvflare.lighter.impl.cert.CertBuilder, args: {}}]",
    "packager": "packager: {path: my_packager.Packager, args: {}}",
    "path": "path: nvflare.lighter.impl.cert.CertBuilder",
    "args": "args: {root_valid_days: 3650}",
    "root_valid_days": "root_valid_days: 3650",
    "key_algorithm": "key_algorithm: rsa-2048",
    "docker_image": "docker_image: registry.example.com/fl:1.0",
    "base_image": "base_image: python:3.12-slim",
    "requirements_file": "requirements_file: requirements.txt",
    "coeff_mod_bit_sizes": "coeff_mod_bit_sizes: [60, 40, 40]",
    "poly_modulus_degree": "poly_modulus_degree: 8192",
    "scale_bits": "scale_bits: 40",
    "password": "password: generate",
    "template_file": "template_file: master_template.yml",
    "require_signed_jobs": "require_signed_jobs: true",
    "description": "description: Breast cancer, two hospitals",
    "studies": "studies: {cancer: {site_orgs: {org_a: [site-1]}, admins: [lead@a.com]}}",
    "site_orgs": "site_orgs: {org_a: [site-1]}",
    "sites": "sites: [site-1]",
    "admins": "admins: [lead@a.com]",
    "include": "include: participants/site-1.yml",
}
"""Key → a line that is right; `type.key` goes before `key`."""
