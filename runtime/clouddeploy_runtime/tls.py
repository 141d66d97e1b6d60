"""The channels between the participants of a kit, with mutual TLS, TLS or none, and who is at the other end."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clouddeploy_runtime import communication
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.kit import MODES, join
from clouddeploy_runtime.wire.rpc import CLIENT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit

PROXY_ROOT = "customRootCA.pem"
"""In `startup/`: the authority of a proxy that ends the TLS of a client and stands before the server."""
_ROLE_OID = x509.ObjectIdentifier("1.2.840.113549.1.9.2")
"""unstructuredName (RFC 2985 §5.4.2): where the project's certificates carry an admin's role."""


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as the verified certificate says."""

    name: str
    org: str
    role: str
    """Empty for a site."""
    serial: int = 0
    """Of the certificate."""
    may_connect: bool = True
    """Whether the certificate may be used as a client's (RFC 5280 §4.2.1.12)."""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConnectionFailed(
            f"Cannot read {path}", why=exc.strerror or str(exc), hint="Unpack the startup kit again."
        ) from exc


def check_mode(kit: Kit) -> None:
    """Refuse a kit whose `connection_security` is not known.

    Raises:
        KitError: it is none of `MODES`.
    """
    if kit.connection_security not in MODES:
        raise KitError(
            f"The kit of {kit.name} cannot be used",
            why=f"it has connection_security {kit.connection_security!r}, there are {', '.join(MODES)}",
            hint="Change the project file and provision again.",
        )


def server_credentials(kit: Kit) -> Any:
    """Return credentials that accept only peers with a certificate of the project's authority, or with `tls` any."""
    check_mode(kit)
    pair = (_read(kit.key_file), _read(kit.cert_file))
    if kit.connection_security == "tls":
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials([pair], root_certificates=_read(kit.root_cert_file), require_client_auth=True)


def listen(server: Any, address: str, kit: Kit) -> int:
    """Open a server's port with the security of its kit; returns the port.

    Raises:
        RuntimeError: it cannot be opened.
        KitError: the kit wants no TLS, and nobody at this machine has allowed that.
    """
    check_mode(kit)
    if kit.connection_security != "clear":
        return int(server.add_secure_port(address, server_credentials(kit)))
    if not _allows_clear(kit):
        raise KitError(
            f"The server {kit.name} does not start",
            why="its kit has connection_security clear: everybody on the way could read and change what it sends",
            hint=f'Where a proxy or a tunnel encrypts, put "allow_clear": true into local/{communication.FILE}.',
        )
    return int(server.add_insecure_port(address))


def _allows_clear(kit: Kit) -> bool:
    return os.environ.get(communication.ALLOW_CLEAR_VARIABLE) == "1" or communication.load(kit.local).allow_clear


def channel_credentials(kit: Kit) -> Any:
    """Return credentials that accept only the project's authority and, with `mtls`, show the kit's certificate."""
    check_mode(kit)
    root = _read(kit.root_cert_file)
    if kit.connection_security == "mtls":
        key, certificate = _read(kit.key_file), _read(kit.cert_file)
        return grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=certificate)
    if proxy_root(kit) is not None:
        root += b"\n" + _read(kit.startup / PROXY_ROOT)
    return grpc.ssl_channel_credentials(root_certificates=root)


def proxy_root(kit: Kit) -> Path | None:
    """Return the file with the authority of the proxy that ends this kit's TLS; None when there is none."""
    path = kit.startup / PROXY_ROOT
    return path if kit.connection_security == "tls" and path.is_file() else None


def channel(kit: Kit) -> Any:
    """Return a channel to the kit's server, for a person's session."""
    if kit.connection_security == "clear":
        return grpc.insecure_channel(target(kit), options=channel_options(kit))
    return grpc.secure_channel(target(kit), channel_credentials(kit), options=channel_options(kit))


def aio_channel(kit: Kit) -> Any:
    """Return a channel to the kit's server, for a site."""
    if kit.connection_security == "clear":
        return grpc.aio.insecure_channel(target(kit), options=channel_options(kit))
    return grpc.aio.secure_channel(target(kit), channel_credentials(kit), options=channel_options(kit))


def channel_options(kit: Kit) -> list[tuple[str, int | str]]:
    """Return the options of a channel to the kit's server.

    The server is checked by its logical name, whatever address it has today, so moving it needs no new certificate.
    """
    options: list[tuple[str, int | str]] = [*CLIENT_OPTIONS]
    proxy = proxy_of(kit)
    options += [("grpc.enable_http_proxy", 1), ("grpc.http_proxy", proxy)] if proxy else [("grpc.enable_http_proxy", 0)]
    if kit.connection_security != "clear" and proxy_root(kit) is None:
        options.append(("grpc.ssl_target_name_override", kit.server_name))
    return options


def proxy_of(kit: Kit) -> str:
    """Return the HTTP proxy on the way to the kit's server; empty when there is none."""
    return communication.proxy_for(kit.host, communication.load(kit.local), os.environ)


def target(kit: Kit) -> str:
    """Return the address to connect to, IPv6 in brackets."""
    return join(kit.host, kit.port)


def peer_of(auth_context: Mapping[str, list[bytes]]) -> Peer | None:
    """Read the peer's identity from a call's authentication context; None without a certificate."""
    pems = auth_context.get("x509_pem_cert", [])
    return peer_from_pem(pems[0]) if pems else None


@lru_cache(maxsize=4096)
def peer_from_pem(pem: bytes) -> Peer | None:
    """Read the identity from a certificate; None when it has no single common name."""
    cert = x509.load_pem_x509_certificate(pem)
    subject = cert.subject

    def only(oid: x509.ObjectIdentifier) -> str:
        values = subject.get_attributes_for_oid(oid)
        return str(values[0].value) if len(values) == 1 else ""

    name = only(NameOID.COMMON_NAME)
    if not name:
        return None
    return Peer(
        name=name,
        org=only(NameOID.ORGANIZATION_NAME),
        role=only(_ROLE_OID),
        serial=cert.serial_number,
        may_connect=_may_connect(cert),
    )


def _may_connect(cert: x509.Certificate) -> bool:
    try:
        return ExtendedKeyUsageOID.CLIENT_AUTH in cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True  # a certificate of the reference has none


def address_of(peer: str) -> str:
    """Return the IP address in a gRPC peer string such as `ipv4:10.0.0.4:53012` or `ipv6:%5B::1%5D:53012`."""
    _, _, rest = peer.partition(":")
    host, _, _ = rest.rpartition(":")
    return host.replace("%5B", "").replace("%5D", "").strip("[]")
