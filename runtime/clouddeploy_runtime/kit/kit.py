"""Reads a startup kit: which participant it is for, whom it connects to, where its keys are."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from clouddeploy_runtime import keys
from clouddeploy_runtime.kit import config as formats
from clouddeploy_runtime.kit.errors import KitError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - a server is there to be reached; clients authenticate with certificates
MODES = ("mtls", "tls", "clear")
"""`connection_security`: both sides show a certificate in TLS; only the server does; there is no TLS. In the last two a
participant proves itself in its first call, see `identity_proof`."""
MAX_PORT = 65535
MAX_BYTES = 16 << 20
"""Of a file that is read whole; a manifest of a hundred thousand files has about as much."""
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")


class Kind(StrEnum):
    """What a participant is."""

    SERVER = "server"
    CLIENT = "client"
    RELAY = "relay"
    ADMIN = "admin"


@dataclass(frozen=True)
class Kit:
    """A startup kit on disk, read but not verified (see `verify`)."""

    root: Path
    kind: Kind
    name: str
    """The certificate's common name: the participant."""
    org: str
    project: str
    server_name: str
    """The logical name of the server, its common name: always among the names in the server's certificate, and what TLS
    checks, whatever address leads there (`grpc.ssl_target_name_override`)."""
    host: str
    """Where to connect (client, admin) or the address to listen on: every one of a server's, unless overlaid, or unless
    its signed address is a loopback one."""
    port: int
    """1 to 65535; for a server also 0, any free port, when the overlay says so."""
    key_file: Path
    cert_file: Path
    root_cert_file: Path
    startup: Path
    local: Path
    transfer: Path
    connection_security: str
    """`mtls`, `tls` or `clear`, see `MODES`."""
    settings: Mapping[str, Any]
    """The whole signed file, parsed."""


def load(root: Path) -> Kit:
    """Read the kit in a folder; see `verify` for whether it may be trusted.

    Raises:
        KitError: not a kit, a file is missing or malformed, or the private key's mode is looser than 0600.
    """
    root = folder_of(root)
    startup = root / "startup"
    for name, reader in _READERS.items():
        if (startup / name).is_file():
            return _with_overlay(reader(root, read_file(startup / name)))
    raise KitError(
        f"{root} is not a startup kit",
        why=f"startup/ has none of {', '.join(_READERS)}",
        hint="name the folder that holds startup/ and local/, for example <workspace>/<project>/prod_00/site-1",
    )


def certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate.

    Raises:
        KitError: missing or not a certificate.
    """
    try:
        cert = x509.load_pem_x509_certificate(read_file(path))
        # The library parses these when they are asked for; a damaged one is to be found here, not later.
        cert.public_key(), cert.subject, cert.not_valid_before_utc, cert.not_valid_after_utc
        return cert  # noqa: TRY300 - an else would hide that the line above is the point
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise KitError(f"{path} cannot be used", why="it is not a PEM certificate") from exc


def authorities(path: Path) -> list[x509.Certificate]:
    """Read a file of root certificates: one, or several while the root is being exchanged, the present one first.

    Raises:
        KitError: missing, or it holds no certificate.
    """
    try:
        certs = x509.load_pem_x509_certificates(read_file(path))
        for cert in certs:
            cert.public_key(), cert.subject, cert.not_valid_before_utc, cert.not_valid_after_utc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise KitError(f"{path} cannot be used", why="it is not a PEM certificate") from exc
    return certs


def read_file(path: Path) -> bytes:
    """Read a small file of a kit.

    Raises:
        KitError: it is missing, not a regular file (a pipe would be waited for), or not small.
    """
    what = f"{path} cannot be read"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        raise KitError(what, why=getattr(exc, "strerror", None) or type(exc).__name__) from exc
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise KitError(what, why="it is not a regular file")
        if status.st_size > MAX_BYTES:
            raise KitError(what, why=f"it has {status.st_size} bytes, {MAX_BYTES} are the most")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(MAX_BYTES)
    except OSError as exc:
        raise KitError(what, why=exc.strerror or type(exc).__name__) from exc
    finally:
        os.close(handle)


def folder_of(root: Path) -> Path:
    """Return a kit's folder without links in its path.

    Raises:
        KitError: there is no such folder, or it holds no `startup/`.
    """
    try:
        found = root.resolve()
        (found / "startup").stat()
    except (OSError, RuntimeError, ValueError) as exc:  # RuntimeError: links in a circle
        why = "it has no folder startup/"
        hint = "name the folder that holds startup/ and local/, for example <workspace>/<project>/prod_00/site-1"
        raise KitError(f"{root} is not a startup kit", why=why, hint=hint) from exc
    return found


def attribute(cert: x509.Certificate | x509.CertificateSigningRequest, oid: x509.ObjectIdentifier) -> str:
    """Return the first attribute of the subject with this identifier, or an empty string."""
    found = cert.subject.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""


def is_host(text: str) -> bool:
    """Tell whether this is an IP address or a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _HOST.fullmatch(text) is not None
    return True


def is_loopback(host: str) -> bool:
    """Tell whether this is the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def join(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _decode(path: Path, data: bytes, kind: type[formats.T]) -> formats.T:
    try:
        return formats.decode(data, kind)
    except msgspec.MsgspecError as exc:
        raise KitError(f"{path} cannot be used", why=str(exc)) from exc


def _server(root: Path, data: bytes) -> Kit:
    file = root / "startup" / "fed_server.json"
    config = _decode(file, data, formats.FedServer)
    if len(config.servers) != 1:
        raise KitError(f"{file} cannot be used", why=f"it names {len(config.servers)} servers, not one")
    entry = config.servers[0]
    host, port = _target(file, entry.service.target)
    files = (entry.ssl_private_key, entry.ssl_cert, entry.ssl_root_cert)
    return _kit(
        root,
        Kind.SERVER,
        data,
        project=entry.name,
        server_name=None,
        address=(host if is_loopback(host) else ANY_ADDRESS, port),
        files=files,
        security=entry.connection_security,
    )


def _client(root: Path, data: bytes) -> Kit:
    file = root / "startup" / "fed_client.json"
    config = _decode(file, data, formats.FedClient)
    if len(config.servers) != 1:
        raise KitError(f"{file} cannot be used", why=f"it names {len(config.servers)} servers, not one")
    entry, own = config.servers[0], config.client
    address = _target(file, entry.service.target)
    files = (own.ssl_private_key, own.ssl_cert, own.ssl_root_cert)
    return _kit(
        root,
        Kind.CLIENT,
        data,
        project=entry.name,
        server_name=entry.identity,
        address=address,
        files=files,
        security=own.connection_security,
    )


def _admin(root: Path, data: bytes) -> Kit:
    file = root / "startup" / "fed_admin.json"
    own = _decode(file, data, formats.FedAdmin).admin
    address = _target(file, join(own.host, own.port))
    files = (own.client_key, own.client_cert, own.ca_cert)
    return _kit(
        root,
        Kind.ADMIN,
        data,
        project=own.project_name,
        server_name=own.server_identity,
        address=address,
        files=files,
        security=own.connection_security,
    )


def _relay(root: Path, data: bytes) -> Kit:
    file = root / "startup" / "fed_relay.json"
    config = _decode(file, data, formats.FedRelay)
    address = _target(file, config.connect_to.address)
    files = ("client.key", "client.crt", "rootCA.pem")
    security = config.connect_to.connection_security
    return _kit(
        root,
        Kind.RELAY,
        data,
        project=config.project_name,
        server_name=config.server_identity,
        address=address,
        files=files,
        security=security,
    )


_READERS = {
    "fed_server.json": _server,
    "fed_client.json": _client,
    "fed_relay.json": _relay,
    "fed_admin.json": _admin,
}


def _kit(
    root: Path,
    kind: Kind,
    data: bytes,
    *,
    project: str,
    server_name: str | None,
    address: tuple[str, int],
    files: tuple[str, str, str],
    security: str,
) -> Kit:
    startup = root / "startup"
    for name in files:
        if "/" in name or name in {"", ".", ".."}:
            raise KitError(f"{startup} cannot be used", why=f"{name!r} is not the name of a file in startup/")
    key_file, cert_file, root_cert_file = (startup / name for name in files)
    try:
        keys.check_private(key_file)
    except keys.KeyFault as exc:
        raise KitError(exc.what, why=exc.why, hint=exc.hint) from exc
    cert = certificate(cert_file)
    name = attribute(cert, NameOID.COMMON_NAME)
    if not root_cert_file.is_file():
        raise KitError(f"{root_cert_file} cannot be read", why="No such file")
    return Kit(
        root=root,
        kind=kind,
        name=name,
        org=attribute(cert, NameOID.ORGANIZATION_NAME),
        project=project,
        server_name=server_name or name,
        host=address[0],
        port=address[1],
        key_file=key_file,
        cert_file=cert_file,
        root_cert_file=root_cert_file,
        startup=startup,
        local=root / "local",
        transfer=root / "transfer",
        connection_security=security,
        settings=msgspec.json.decode(data),
    )


def _target(file: Path, target: str) -> tuple[str, int]:
    """Split `host:port`; an IPv6 address stands in brackets."""
    host, _, port = target.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not is_host(host) or not port.isascii() or not port.isdigit() or not 0 < int(port) <= MAX_PORT:
        raise KitError(f"{file} cannot be used", why=f"{target!r} is not host:port", hint="example: server1:8002")
    return host, int(port)


def _with_overlay(kit: Kit) -> Kit:
    """Apply `local/endpoint.json` where there is one."""
    file = kit.local / "endpoint.json"
    if not file.exists():
        return kit
    overlay = _decode(file, read_file(file), formats.EndpointOverlay)
    host = kit.host if overlay.host is None else overlay.host
    port = kit.port if overlay.port is None else overlay.port
    lowest = 0 if kit.kind is Kind.SERVER else 1
    if not is_host(host):
        raise KitError(f"{file} cannot be used", why=f"host {host!r} is neither an IP address nor a host name")
    if not lowest <= port <= MAX_PORT:
        raise KitError(f"{file} cannot be used", why=f"port {port} is not in {lowest} to {MAX_PORT}")
    return replace(kit, host=host, port=port)
