"""Decides whether a kit is the one that the project's authority signed; nothing is started before it is."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from clouddeploy_runtime import keys, revocation
from clouddeploy_runtime.kit import manifest as formats
from clouddeploy_runtime.kit.errors import KitError, KitExpired, KitRevoked, KitTampered
from clouddeploy_runtime.kit.kit import attribute, authorities, certificate, folder_of, load, read_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography import x509

    from clouddeploy_runtime.kit.manifest import Manifest

_ROOT_CERTIFICATE = "startup/rootCA.pem"


def verify(root: Path, *, now: datetime | None = None) -> Manifest:
    """Check every file under `startup/` against the signed manifest, and the certificate against root and key.

    The order matters: nothing that the manifest covers is parsed before the signature over the manifest holds, except
    the root certificate, which is compared with its signed digest right after. What a site may edit (`local/`) is not
    covered, but for the list of revoked certificates, which carries a signature of its own.

    Args:
        root: the kit's folder.
        now: the time to judge the certificate by; the clock's when not given.

    Returns:
        The manifest, which names project, participant, kind and certificate.

    Raises:
        KitTampered: names each path that was changed, added, removed, swapped or given another mode; a missing
            manifest or signature is a refusal like any other.
        KitExpired: the certificate or the root is not valid at `now`.
        KitRevoked: the certificate was revoked.
        KitError: not a kit at all.
    """
    root = folder_of(root)
    moment = now or datetime.now(UTC)
    manifest = covered(root)
    trusted = authorities(root / _ROOT_CERTIFICATE)
    kit = load(root)
    cert = certificate(kit.cert_file)
    cert_path = f"startup/{kit.cert_file.name}"
    authority = issuer_of(cert, trusted)
    if authority is None:
        raise KitTampered({cert_path: f"was not issued by {_ROOT_CERTIFICATE}"})
    key_path = f"startup/{kit.key_file.name}"
    if manifest.key_at_site not in {"", key_path}:
        raise KitTampered({manifest.key_at_site: f"is not covered, but the key is {key_path}"})
    try:
        key = keys.load_private_key(kit.key_file)
    except keys.KeyFault as exc:
        raise KitTampered({key_path: exc.why}) from exc
    if keys.public_bytes(key.public_key()) != _public_bytes(cert):
        raise KitTampered({key_path: f"is not the key of {cert_path}"})
    signed = (manifest.certificate_serial, manifest.participant, manifest.kind, manifest.project)
    found = (f"{cert.serial_number:x}", attribute(cert, NameOID.COMMON_NAME), kit.kind.value, kit.project)
    if signed != found:
        raise KitTampered({formats.MANIFEST_PATH: f"is for {signed}, the kit is {found}"})
    _check_time(cert_path, cert, moment)
    _check_time(_ROOT_CERTIFICATE, authority, moment)
    _check_revocation(root, cert, cert_path, manifest, trusted)
    return manifest


def covered(root: Path) -> Manifest:
    """Check every file under `startup/` against the manifest, and the manifest against the root certificate, no more.

    Args:
        root: the kit's folder, without links in its path.

    Raises:
        KitTampered: as `verify`.
        KitError: the manifest is of another format.
    """
    if not stat.S_ISDIR((root / "startup").lstat().st_mode):
        # A link would make this another kit with this one's local/: start.sh follows it.
        raise KitTampered({"startup": "is not a folder of its own"})
    try:
        trusted = authorities(root / _ROOT_CERTIFICATE)
    except KitError as exc:
        raise KitTampered({_ROOT_CERTIFICATE: exc.why}) from exc
    manifest = _signed_manifest(root, trusted)
    problems = formats.faults(manifest) or formats.differences(root, manifest)
    if problems:
        raise KitTampered(problems)
    return manifest


def issuer_of(cert: x509.Certificate, trusted: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Return the root that issued a certificate; RFC 5280 §6 has no more to check on a path of length one."""
    for authority in trusted:
        try:
            cert.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return authority
    return None


def _signed_manifest(root: Path, trusted: Sequence[x509.Certificate]) -> Manifest:
    parts = []
    for path in (formats.MANIFEST_PATH, formats.SIGNATURE_PATH):
        if (root / path).is_symlink():
            raise KitTampered({path: "is a link, so nothing in this kit can be trusted"})
        try:
            parts.append(read_file(root / path))
        except KitError as exc:
            raise KitTampered({path: f"cannot be read, so nothing in this kit can be trusted: {exc.why}"}) from exc
    data, signature = parts
    if not any(keys.is_signed_by(authority.public_key(), signature, data) for authority in trusted):
        # Which of the three was exchanged cannot be told from the signature alone; name the manifest, explain the rest.
        raise KitTampered({formats.MANIFEST_PATH: f"its signature was not made with the key of {_ROOT_CERTIFICATE}"})
    try:
        return formats.decode(data)
    except msgspec.MsgspecError as exc:
        raise KitError(f"{root / formats.MANIFEST_PATH} cannot be used", why=str(exc)) from exc


def _check_revocation(
    root: Path, cert: x509.Certificate, cert_path: str, manifest: Manifest, trusted: Sequence[x509.Certificate]
) -> None:
    """Refuse a revoked certificate, and a list that is older than the kit itself."""
    path = root / revocation.LIST_PATH
    if path.exists() and not path.is_file():
        raise KitTampered({revocation.LIST_PATH: "is not a regular file"})
    try:
        revoked = revocation.read(path, trusted)
    except revocation.RevocationFault as exc:
        raise KitTampered({revocation.LIST_PATH: exc.why}) from exc
    if revoked.number < manifest.crl_number:
        state = f"has number {revoked.number}" if revoked.number else "is missing"
        raise KitTampered({revocation.LIST_PATH: f"{state}, the kit was made with number {manifest.crl_number}"})
    if cert.serial_number in revoked:
        raise KitRevoked(
            f"{cert_path} was revoked",
            why=f"it stands in {revocation.LIST_PATH}, number {revoked.number}",
            hint="ask the project admin for a new kit",
        )


def _public_bytes(cert: x509.Certificate) -> bytes:
    key = cert.public_key()
    return keys.public_bytes(key) if isinstance(key, keys.PublicKey) else b""


def _check_time(path: str, cert: x509.Certificate, now: datetime) -> None:
    if now < cert.not_valid_before_utc:
        raise KitExpired(
            f"{path} is not valid yet",
            why=f"its time begins {cert.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, here it is {now:%Y-%m-%d %H:%M}",
            hint="set this machine's clock",
        )
    if now > cert.not_valid_after_utc:
        raise KitExpired(
            f"{path} has expired",
            why=f"it was valid until {cert.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            hint="ask the project admin for a new kit",
        )
