"""Mutual TLS from a kit: credentials for both ends, and who is at the other end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.kit import join
from clouddeploy_runtime.wire.rpc import CLIENT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit

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


def _material(kit: Kit) -> tuple[bytes, bytes, bytes]:
    if kit.connection_security != "mtls":
        raise KitError(
            f"The kit of {kit.name} cannot be used",
            why=f"it has connection_security {kit.connection_security}, this version speaks mtls only",
            hint="Change the project file and provision again.",
        )

    def read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as exc:
            raise ConnectionFailed(
                f"Cannot read {path}", why=exc.strerror or str(exc), hint="Unpack the startup kit again."
            ) from exc

    return read(kit.key_file), read(kit.cert_file), read(kit.root_cert_file)


def server_credentials(kit: Kit) -> Any:
    """Return credentials that accept only peers with a certificate of the project's authority."""
    key, certificate, root = _material(kit)
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=root, require_client_auth=True)


def channel_credentials(kit: Kit) -> Any:
    """Return credentials that accept only the project's authority and show the kit's certificate."""
    key, certificate, root = _material(kit)
    return grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=certificate)


def channel_options(kit: Kit) -> list[tuple[str, int | str]]:
    """Return the options of a channel to the kit's server.

    The server is checked by its logical name, whatever address it has today, so moving it needs no new certificate.
    """
    return [*CLIENT_OPTIONS, ("grpc.ssl_target_name_override", kit.server_name)]


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
    return Peer(name=name, org=only(NameOID.ORGANIZATION_NAME), role=only(_ROLE_OID), serial=cert.serial_number)


def address_of(peer: str) -> str:
    """Return the IP address in a gRPC peer string such as `ipv4:10.0.0.4:53012` or `ipv6:%5B::1%5D:53012`."""
    _, _, rest = peer.partition(":")
    host, _, _ = rest.rpartition(":")
    return host.replace("%5B", "").replace("%5D", "").strip("[]")
