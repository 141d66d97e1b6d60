"""The JSON documents of enrolment: `request.json`, `signed.json`, and the project's profile."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")

REQUEST = "cert_request"
SIGNED = "signed_cert"
SCHEMA_VERSION = "1"


class ServerProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server is."""

    host: str
    fed_learn_port: int
    admin_port: int | None = None
    name: str | None = None
    """The server's own name, which its certificate has; default: `host`."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every participant of a project must know of it."""

    name: str
    """The project's."""
    server: ServerProfile | None = None
    scheme: str = "grpc"
    connection_security: str = "mtls"


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks: one participant, as `site.yaml` describes it."""

    project: str
    name: str
    org: str
    type: str
    """server, client or admin."""
    role: str = ""
    """Of an admin."""
    host_names: tuple[str, ...] = ()
    """Of a server: names and addresses besides its own name."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`request.json`."""

    artifact_type: str
    schema_version: str
    request_id: str
    """32 hexadecimal digits."""
    created_at: str
    """UTC, ISO 8601."""
    project: str
    name: str
    org: str
    kind: str
    cert_type: str
    cert_role: str
    csr_sha256: str
    public_key_sha256: str
    """Of the SubjectPublicKeyInfo."""
    site_yaml_sha256: str


class SignedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the kit that comes with an approval."""

    sha256: str
    mode: str
    """Permission bits in octal, four digits."""


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The certificate of an approval."""

    serial: str
    """Hexadecimal."""
    valid_until: str


class CaInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which authority approved."""

    provision_version: str
    """Two digits, the number of the `prod_NN` folder."""
    rootCA_fingerprint: str  # noqa: N815 - the reference's name


class Hashes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the approval binds together; SHA-256, hexadecimal."""

    csr_sha256: str
    site_yaml_sha256: str
    certificate_sha256: str
    rootca_sha256: str
    public_key_sha256: str


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`signed.json`."""

    artifact_type: str
    schema_version: str
    request_id: str
    approved_at: str
    project: str
    name: str
    org: str
    kind: str
    cert_type: str
    cert_role: str
    certificate: Certificate
    cert_file: str
    rootca_file: str
    ca_info: CaInfo
    hashes: Hashes
    scheme: str
    default_connection_security: str
    server: ServerProfile
    kit: dict[str, SignedFile]
    """Path → file of the kit, all but the private key."""


def encode(document: msgspec.Struct) -> bytes:
    """Serialise: indented JSON, the order of members fixed."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def decode(data: bytes, kind: type[T]) -> T:
    """Parse JSON that may come from anybody.

    Raises:
        ValueError: says what is wrong.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    # UnicodeDecodeError and endless nesting are not among the library's own errors.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"it cannot be read: {exc}") from exc


def convert(document: object, kind: type[T]) -> T:
    """Read plain data, as YAML gives it.

    Raises:
        ValueError: says what is wrong.
    """
    try:
        return msgspec.convert(document, kind)
    except (msgspec.MsgspecError, TypeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
