"""A certificate authority and a server certificate for `localhost`, for the lifetime of one world."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_provision import certificates
from clouddeploy_provision.ca import Authority
from clouddeploy_runtime import keys
from clouddeploy_runtime.kit import Kind
from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from pathlib import Path

NAME = "clouddeploy-rehearsal"


def make_context(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Returns a server's TLS context and the file of the authority that clients have to trust."""
    now = datetime.now(UTC)
    authority, key = Authority.create(NAME, now=now), keys.generate()
    leaf = certificates.leaf(
        key.public_key(),
        kind=Kind.SERVER,
        name="localhost",
        org=NAME,
        issuer=authority.certificate,
        issuer_key=authority.key,
        now=now,
    )
    ca_file, chain = directory / "azure-ca.pem", directory / "azure.pem"
    ca_file.write_bytes(authority.pem)
    chain.unlink(missing_ok=True)  # of a world that was killed
    keys.write_private(chain, keys.to_pem(key) + leaf.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    chain.unlink()
    return context, ca_file
