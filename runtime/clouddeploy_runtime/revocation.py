"""The list of revoked certificates: signed by the project's authority, so it may arrive by any way and only ever grows.

A list never expires: the authority is offline and cannot renew it, and a federation that stops because nobody revoked
anything for a while would be worse. An old list is kept out by its number (RFC 5280 §5.2.3), which must not fall.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from clouddeploy_runtime import keys
from clouddeploy_runtime.errors import ExitCode, RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

LIST_PATH = "local/crl.pem"
"""Where a kit has it; PEM, as `openssl crl` reads it."""
MAX_BYTES = 4 << 20
"""About 80,000 certificates."""
_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension)
"""What the library raises for a list that is damaged."""


class RevocationFault(RuntimeFault):
    """A list of revoked certificates cannot be believed."""

    exit_code = ExitCode.BAD_INPUT
    error_code = "CRL_UNUSABLE"


@dataclass(frozen=True)
class Revoked:
    """What one list says."""

    number: int = 0
    """Grows with every revocation; 0: there is no list."""
    serials: frozenset[int] = field(default_factory=frozenset, repr=False)
    pem: bytes = field(default=b"", repr=False)

    def __contains__(self, serial: object) -> bool:
        return serial in self.serials


def parse(pem: bytes, trusted: Sequence[x509.Certificate]) -> Revoked:
    """Read a list and check its signature.

    Args:
        pem: the list.
        trusted: the project's root certificates; one of them must have signed.

    Raises:
        RevocationFault: not a list, or of somebody else.
    """
    what = "the list of revoked certificates is refused"
    if len(pem) > MAX_BYTES:
        raise RevocationFault(what, why=f"it has more than {MAX_BYTES} bytes")
    try:
        crl = x509.load_pem_x509_crl(pem)
        # The library parses the parts of a list when they are asked for: the signature comes before all others.
        if not any(_is_signed(crl, authority) for authority in trusted):
            raise RevocationFault(what, why="it was not signed by the project's authority", hint="get it from there")
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return Revoked(number, frozenset(one.serial_number for one in crl), pem)
    except _UNREADABLE as exc:
        raise RevocationFault(what, why="it is not a PEM list with a number") from exc


def read(path: Path, trusted: Sequence[x509.Certificate]) -> Revoked:
    """Read a file; one that is not there says that nothing is revoked.

    Raises:
        RevocationFault: it is there but cannot be believed.
    """
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        return Revoked()
    except OSError as exc:
        raise RevocationFault(f"{path} cannot be read", why=exc.strerror or type(exc).__name__) from exc
    return parse(pem, trusted)


def _is_signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return False
    return crl.issuer == authority.subject and crl.is_signature_valid(key)


class RevocationList:
    """The newest list that a running participant knows; it outlives a restart.

    Args:
        trusted: the project's root certificates.
        sources: files that may hold a list: the kit's, which an admin may replace at any time, first.
        memory: where the newest list is kept.
    """

    def __init__(self, trusted: Sequence[x509.Certificate], *, sources: Sequence[Path], memory: Path) -> None:
        self._trusted = trusted
        self._sources = sources
        self._memory = memory
        self._seen: dict[Path, tuple[int, int, int] | None] = {}
        self.current = Revoked()

    def refresh(self) -> bool:
        """Look at the files that changed since last time; returns whether a newer list was found.

        A file that cannot be believed is reported in the log, once, and hides no other.
        """
        newest = self.current
        for path in (*self._sources, self._memory):
            stamp = _stamp(path)
            if stamp is None or self._seen.get(path) == stamp:
                continue
            self._seen[path] = stamp  # also when it is refused
            try:
                found = read(path, self._trusted)
            except RevocationFault as exc:
                log.error("%s: %s", path, exc)  # noqa: TRY400 - the message says it all
                continue
            if found.number > newest.number:
                newest = found
        return self._replace(newest)

    def adopt(self, pem: bytes) -> bool:
        """Take a list that came over the network; returns whether it is newer than what was known.

        Raises:
            RevocationFault: it cannot be believed.
        """
        return self._replace(parse(pem, self._trusted))

    def __contains__(self, serial: object) -> bool:
        return serial in self.current

    def _replace(self, found: Revoked) -> bool:
        if found.number <= self.current.number:
            return False
        self.current = found
        try:
            self._keep(found.pem)
        except OSError as exc:  # a full disk must not let revoked participants in
            log.error("A restart will forget the list of revoked certificates: %s", exc)  # noqa: TRY400 - says it all
        return True

    def _keep(self, pem: bytes) -> None:
        partial = self._memory.with_name(self._memory.name + ".partial")
        partial.unlink(missing_ok=True)
        keys.write_private(partial, pem)
        handle = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        partial.rename(self._memory)
        self._seen[self._memory] = _stamp(self._memory)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file does; the size too, or a file could be read while half of it is there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
