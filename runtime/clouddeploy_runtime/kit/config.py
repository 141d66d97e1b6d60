"""The signed configuration files of a kit: `fed_server.json`, `fed_client.json`, `fed_relay.json`, `fed_admin.json`.

The formats are the reference's (NVFLARE, format_version 2 for sites and 1 for admins), so its tools read our kits.
Unknown members are ignored on reading, because kits of the reference carry settings that nothing here uses.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

SCHEME = "grpc"
"""The only transport spoken here. The reference's default is `http` (a websocket)."""


class Service(msgspec.Struct, frozen=True):
    """Where the server is reached."""

    target: str
    """`host:port`."""
    scheme: str = SCHEME


class ServerSettings(msgspec.Struct, frozen=True):
    """The one entry of `servers` in a server's file."""

    name: str
    """The project's name."""
    service: Service
    admin_server: str
    admin_port: int
    ssl_private_key: str = "server.key"
    ssl_cert: str = "server.crt"
    ssl_root_cert: str = "rootCA.pem"
    connection_security: str = "mtls"
    auth_identity: str | msgspec.UnsetType = msgspec.UNSET
    """Only when it is not the server's name."""
    auth_identity_map: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    """Fully qualified name → identity, of the participants whose identity is not their name."""


class FedServer(msgspec.Struct, frozen=True, omit_defaults=False):
    """`startup/fed_server.json`."""

    servers: tuple[ServerSettings, ...]
    format_version: int = 2
    require_signed_jobs: bool | msgspec.UnsetType = msgspec.UNSET


class ServerAddress(msgspec.Struct, frozen=True):
    """The one entry of `servers` in a client's file."""

    name: str
    """The project's name."""
    service: Service
    identity: str
    """The server's certificate must be issued to this name, whatever address leads to it."""


class ClientSettings(msgspec.Struct, frozen=True):
    """The client's own half of its file."""

    fqsn: str
    """Fully qualified site name: the parents' names and its own, joined by dots."""
    is_leaf: bool = True
    ssl_private_key: str = "client.key"
    ssl_cert: str = "client.crt"
    ssl_root_cert: str = "rootCA.pem"
    connection_security: str = "mtls"


class FedClient(msgspec.Struct, frozen=True):
    """`startup/fed_client.json`."""

    servers: tuple[ServerAddress, ...]
    client: ClientSettings
    format_version: int = 2
    require_signed_jobs: bool | msgspec.UnsetType = msgspec.UNSET


class RelayTarget(msgspec.Struct, frozen=True):
    """What a relay connects to: the server or another relay."""

    identity: str
    address: str
    """`host:port`."""
    fqcn: str
    """Fully qualified name of the target."""
    scheme: str = SCHEME
    connection_security: str = "mtls"


class FedRelay(msgspec.Struct, frozen=True):
    """`startup/fed_relay.json`."""

    project_name: str
    identity: str
    server_identity: str
    connect_to: RelayTarget
    format_version: int = 1


class AdminSettings(msgspec.Struct, frozen=True):
    """The `admin` member of an admin's file."""

    project_name: str
    username: str
    server_identity: str
    host: str
    port: int
    scheme: str = SCHEME
    connection_security: str = "mtls"
    uid_source: str = "user_input"
    with_file_transfer: bool = True
    upload_dir: str = "transfer"
    download_dir: str = "transfer"
    client_key: str = "client.key"
    client_cert: str = "client.crt"
    ca_cert: str = "rootCA.pem"


class FedAdmin(msgspec.Struct, frozen=True):
    """`startup/fed_admin.json`."""

    admin: AdminSettings
    format_version: int = 1


class EndpointOverlay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`local/endpoint.json`: where to connect (or listen) instead of what the signed file says.

    Not signed on purpose: an address may change, and a wrong one can only fail, since TLS checks the server's name.
    """

    host: str | None = None
    port: int | None = None


Config = FedServer | FedClient | FedRelay | FedAdmin
T = TypeVar("T", FedServer, FedClient, FedRelay, FedAdmin, EndpointOverlay)


def encode(config: msgspec.Struct) -> bytes:
    """Serialise for a kit: indented JSON, the order of members fixed, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"


def decode(data: bytes, kind: type[T]) -> T:
    """Parse one of the files.

    Raises:
        msgspec.MsgspecError: not JSON, or a member is missing or of another type.
    """
    return msgspec.json.decode(data, type=kind)
