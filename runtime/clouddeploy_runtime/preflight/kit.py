"""The startup kit itself: as it was signed, key to certificate to root, in time, not revoked, not replaced."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509

from clouddeploy_runtime import communication, expiry, keys, revocation
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.kit.errors import KitError, KitRevoked
from clouddeploy_runtime.kit.kit import MODES, Kind, authorities, certificate, load
from clouddeploy_runtime.kit.verify import covered, issuer_of, verify
from clouddeploy_runtime.preflight.codes import CODES
from clouddeploy_runtime.preflight.findings import Finding, Status, found, passed

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from clouddeploy_runtime.kit.kit import Kit

REMEMBERED = "crl.pem"
"""In the workspace: the newest list of revoked certificates that the participant knew when it ran."""
_KIT, _KEY, _CERTIFICATE, _ROOT = (
    "Check startup kit",
    "Check private key",
    "Check certificate",
    "Check root certificate",
)
_REVOCATION, _NAMES, _SECURITY = "Check revocation", "Check certificate names", "Check connection security"


@dataclass(frozen=True)
class Looked:
    """What became of a look at a kit.

    Attributes:
        findings: one for each check.
        kit: the kit; None: nothing in it can be believed, so nothing more is to be looked at.
    """

    findings: tuple[Finding, ...]
    kit: Kit | None = None

    @property
    def is_sound(self) -> bool:
        """Whether it may be shown to the server."""
        return self.kit is not None and not any(one.status is Status.FAIL for one in self.findings)


def look(root: Path, *, workspace: Path | None, now: datetime) -> Looked:
    """Look at a kit.

    Args:
        root: its folder, without links in its path.
        workspace: where the participant works; None: what the environment says.
        now: the time to judge certificates by.
    """
    try:
        manifest = covered(root)
    except KitError as exc:
        return Looked((found(_KIT, _known(exc), str(exc)),))  # what it covers is not parsed any more
    try:
        kit = load(root)
    except KitError as exc:
        return Looked((found(_KIT, _code_of(root, exc), str(exc)),))
    findings = [
        passed(_KIT, f"{len(manifest.files)} files are as {kit.project} signed them for {kit.name}"),
        *_identity(kit, now),
        _root(kit, now),
        _revocation(kit, workspace),
        *_names(kit),
        *_security(kit),
    ]
    if not any(one.status is Status.FAIL for one in findings):
        try:
            verify(root, now=now)  # what a start asks, in case that it asks more than this
        except KitError as exc:
            findings[0] = found(_KIT, _known(exc), str(exc))
    return Looked(tuple(findings), kit)


def _code_of(root: Path, fault: KitError) -> str:
    """Tell a key of the site's own that others may read from a file that is no use."""
    for name in ("client.key", "server.key"):
        path = root / "startup" / name
        if path.exists() and path.stat().st_mode & 0o777 & ~keys.PRIVATE_MODE:
            return "KEY_PERMISSIONS"
    return _known(fault)


def _known(fault: KitError) -> str:
    return fault.error_code if fault.error_code in CODES else KitError.error_code


def _identity(kit: Kit, now: datetime) -> list[Finding]:
    cert, roots = certificate(kit.cert_file), authorities(kit.root_cert_file)
    return [_key(kit, cert), _certificate(cert, roots, now)]


def _key(kit: Kit, cert: x509.Certificate) -> Finding:
    try:
        key = keys.load_private_key(kit.key_file)
    except keys.KeyFault as exc:
        return found(_KEY, "KEY_UNREADABLE", str(exc))
    public = cert.public_key()
    if not isinstance(public, keys.PublicKey) or keys.public_bytes(public) != keys.public_bytes(key.public_key()):
        return found(_KEY, "KEY_MISMATCH", f"startup/{kit.key_file.name} is not the key of {kit.cert_file.name}")
    return passed(_KEY, f"it is that of {kit.cert_file.name}, and only its owner may read it")


def _certificate(cert: x509.Certificate, roots: list[x509.Certificate], now: datetime) -> Finding:
    if issuer_of(cert, roots) is None:
        return found(_CERTIFICATE, "CERT_FOREIGN", "it was not issued by startup/rootCA.pem")
    return _time(_CERTIFICATE, cert, now, failing="KIT", warning="CERT")


def _root(kit: Kit, now: datetime) -> Finding:
    roots = authorities(kit.root_cert_file)
    issuer = issuer_of(certificate(kit.cert_file), roots)
    # While the root is exchanged there are two; without an issuer the certificate's own line says what is wrong.
    latest = max(roots, key=lambda one: one.not_valid_after_utc)
    if issuer is not None and not issuer.not_valid_before_utc <= now <= issuer.not_valid_after_utc:
        latest = issuer
    return _time(_ROOT, latest, now, failing="ROOT", warning="ROOT")


def _time(check: str, cert: x509.Certificate, now: datetime, *, failing: str, warning: str) -> Finding:
    begin, end = cert.not_valid_before_utc, cert.not_valid_after_utc
    here = f"here it is {now:%Y-%m-%d %H:%M} UTC"
    if now > end:
        return found(check, f"{failing}_EXPIRED", f"it was valid until {end:%Y-%m-%d %H:%M} UTC, {here}")
    if now < begin:
        return found(check, f"{failing}_NOT_YET_VALID", f"its time begins {begin:%Y-%m-%d %H:%M} UTC, {here}")
    left = end - now
    if left <= expiry.WARN:
        span = "THIS_WEEK" if left <= expiry.URGENT else "SOON"
        return found(check, f"{warning}_EXPIRES_{span}", f"it ends in {left.days} days, on {end:%Y-%m-%d}")
    return passed(check, f"valid until {end:%Y-%m-%d}")


def _revocation(kit: Kit, workspace: Path | None) -> Finding:
    """Look it up in the kit's list, in the one that is remembered, and in what is known of newer kits."""
    try:
        roots, cert = authorities(kit.root_cert_file), certificate(kit.cert_file)
        needed = msgspec.json.decode((kit.startup / "manifest.json").read_bytes()).get("crl_number", 0)
        own = _list(kit.root / revocation.LIST_PATH, roots)
        if own.number < needed:
            state = f"has number {own.number}" if own.number else "is missing"
            text = f"{revocation.LIST_PATH}: {state}, the kit was made with number {needed}"
            return found(_REVOCATION, "CRL_UNUSABLE", text)
        lists = [own] if workspace is None else [own, _list(workspace / REMEMBERED, roots)]
        memory.check(kit, workspace)
    except KitRevoked as exc:
        return found(_REVOCATION, "KIT_REPLACED", str(exc), remedy=exc.hint)
    except (RuntimeFault, OSError, ValueError) as exc:
        return found(_REVOCATION, "CRL_UNUSABLE", str(exc))
    for one in lists:
        if cert.serial_number in one:
            return found(_REVOCATION, "KIT_REVOKED", f"startup/{kit.cert_file.name} was revoked: list {one.number}")
    newest = max(one.number for one in lists)
    return passed(_REVOCATION, f"not in list number {newest}" if newest else "there is no list")


def _list(path: Path, roots: list[x509.Certificate]) -> revocation.Revoked:
    if path.exists() and not path.is_file():
        raise KitError(f"{path} cannot be used", why="it is not a regular file")
    try:
        return revocation.read(path, roots)
    except revocation.RevocationFault as exc:
        raise KitError(f"{path} cannot be used", why=exc.why or exc.what) from exc


def _names(kit: Kit) -> list[Finding]:
    """Compare a server's certificate with the name that its clients check, and with its address."""
    if kit.kind is not Kind.SERVER:
        return []
    names = _alternatives(certificate(kit.cert_file))
    listed = ", ".join(sorted(names)) or "none"
    if kit.server_name not in names:
        return [found(_NAMES, "NAME_NOT_IN_CERT", f"clients check {kit.server_name}, it is for {listed}")]
    address = str(kit.settings["servers"][0]["service"]["target"]).rpartition(":")[0].strip("[]")
    if address not in names:
        return [found(_NAMES, "ADDRESS_NOT_IN_CERT", f"the address is {address}, it is for {listed}")]
    return [passed(_NAMES, listed)]


def _alternatives(cert: x509.Certificate) -> set[str]:
    try:
        extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return set()
    addresses = {str(one) for one in extension.get_values_for_type(x509.IPAddress)}
    return {*extension.get_values_for_type(x509.DNSName)} | addresses


def _security(kit: Kit) -> list[Finding]:
    said = f"connection_security is {kit.connection_security}"
    if kit.connection_security not in MODES:
        return [found(_SECURITY, "SECURITY_UNKNOWN", f"{said}, there are {', '.join(MODES)}")]
    if kit.connection_security != "clear":
        return [passed(_SECURITY, said)]
    if kit.kind is Kind.SERVER and not _allows_clear(kit):
        return [found(_SECURITY, "CLEAR_NOT_ALLOWED", said)]
    return [found(_SECURITY, "CONNECTION_CLEAR", f"{said}: everybody on the way can read and change what is sent")]


def _allows_clear(kit: Kit) -> bool:
    try:
        return os.environ.get(communication.ALLOW_CLEAR_VARIABLE) == "1" or communication.load(kit.local).allow_clear
    except KitError:
        return False  # the line on the settings says why
