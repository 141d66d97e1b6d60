"""The project's certificate authority: issues certificates and signs manifests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clouddeploy_runtime import keys
from clouddeploy_runtime.kit import Kind
from cryptography.hazmat.primitives.serialization import Encoding

from clouddeploy_provision import certificates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from clouddeploy_runtime.keys import PrivateKey, PublicKey
    from cryptography import x509

    from clouddeploy_provision.ca_records import RevokedLine
    from clouddeploy_provision.project import Participant


@dataclass(frozen=True)
class Authority:
    """A root certificate with its key in memory; the key never appears in a repr."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @classmethod
    def create(
        cls,
        project: str,
        *,
        now: datetime,
        days: int = certificates.ROOT_DAYS,
        algorithm: keys.KeyAlgorithm = keys.KeyAlgorithm.P256,
        org: str = "",
    ) -> Authority:
        """Make a new root for a project."""
        key = keys.generate(algorithm)
        return cls(certificates.root(key, project=project, now=now, days=days, org=org), key)

    @property
    def pem(self) -> bytes:
        """The root certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        participant: Participant,
        public_key: PublicKey,
        *,
        hosts: tuple[str, ...] = (),
        now: datetime,
        days: int = certificates.LEAF_DAYS,
    ) -> x509.Certificate:
        """Issue a participant's certificate; `hosts` are its names and addresses besides its own name."""
        return certificates.leaf(
            public_key,
            kind=participant.kind,
            name=participant.name,
            org=participant.org,
            role=participant.role,
            hosts=hosts,
            issuer=self.certificate,
            issuer_key=self.key,
            now=now,
            days=days,
        )

    def issue_listener(
        self, participant: Participant, public_key: PublicKey, *, hosts: tuple[str, ...], now: datetime
    ) -> x509.Certificate:
        """Issue the second certificate of a client or relay that others connect to: the usage is a server's."""
        return certificates.leaf(
            public_key,
            kind=Kind.SERVER,
            name=participant.name,
            org=participant.org,
            hosts=hosts,
            issuer=self.certificate,
            issuer_key=self.key,
            now=now,
        )

    def revocation_list(self, revoked: Sequence[RevokedLine], *, now: datetime) -> bytes:
        """Sign the list of revoked certificates; its number is their count."""
        return certificates.revocation_list(revoked, issuer=self.certificate, issuer_key=self.key, now=now)

    def sign(self, data: bytes) -> bytes:
        """Sign a manifest."""
        return keys.sign(self.key, data)
