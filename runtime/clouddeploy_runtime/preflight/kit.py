"""Whether a startup kit may be started: as it was signed, in time, not revoked, not replaced, and room for tensors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime import expiry, settings, temporary_folder
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.kit.errors import KitError
from clouddeploy_runtime.kit.kit import MODES, Kind, authorities, certificate, load
from clouddeploy_runtime.kit.verify import verify
from clouddeploy_runtime.relay.listening import listening

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.kit.kit import Kit


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    """What was checked."""
    is_problem: bool
    """The kit must not be started."""
    text: str
    remedy: str = ""
    code: str = ""
    """Stable name of the problem; empty when there is none."""


def check(root: Path, *, workspace: Path | None = None, now: datetime | None = None) -> list[Finding]:
    """Check a kit; the first problem ends it, since nothing behind it can be believed.

    Args:
        root: the kit's folder.
        workspace: where the participant works, which remembers the kits that ran there; default: what the environment
            says.
        now: the time to judge certificates by; the clock's when not given.
    """
    moment = now or datetime.now(UTC)
    try:
        manifest = verify(root, now=moment)
        kit = load(root)
        memory.check(kit, workspace)
    except KitError as exc:
        return [Finding("startup kit", True, str(exc), exc.hint, exc.error_code)]
    count = len(manifest.files)
    found = [Finding("startup kit", False, f"{count} files are as {kit.project} signed them for {kit.name}")]
    found += [_certificate(kit, moment), _root(kit, moment)]
    if kit.connection_security not in MODES:
        text = f"connection_security is {kit.connection_security}, there are {', '.join(MODES)}"
        found.append(Finding("connection", True, text, "change the project file and provision again", "UNSUPPORTED"))
    elif kit.connection_security == "clear":
        text = "connection_security is clear: everybody on the way can read and change what is sent"
        found.append(Finding("connection", False, text))
    if kit.kind is Kind.RELAY:
        found.append(_listening(kit))
    if kit.kind in {Kind.SERVER, Kind.CLIENT}:
        found.append(_temporary_folder(kit))
    return found


def _temporary_folder(kit: Kit) -> Finding:
    """Tell whether tensors find room here; a kit whose tensors must go there is not started without."""
    try:
        is_needed = settings.load(kit.local).offloads_tensors
    except KitError as exc:
        return Finding("settings", True, str(exc), exc.hint, exc.error_code)
    found = temporary_folder.look()
    if not found.problem:
        room = f"{found.free_bytes / (1 << 30):.1f} GiB free in {found.path}"
        return Finding("temporary folder", False, f"{room}, {found.kind or 'a file system of unknown kind'}")
    if not is_needed:
        return Finding("temporary folder", False, f"{found.problem}; tensors beyond the memory budget may be lost")
    code = temporary_folder.TemporaryFolderRefused.error_code
    return Finding("temporary folder", True, found.problem, temporary_folder.REMEDY, code)


def _listening(kit: Kit) -> Finding:
    try:
        _, port = listening(kit)
    except KitError as exc:
        return Finding("relay", True, str(exc), exc.hint, exc.error_code)
    return Finding("relay", False, f"its clients find it on port {port}")


def _certificate(kit: Kit, now: datetime) -> Finding:
    end = certificate(kit.cert_file).not_valid_after_utc
    notice = expiry.notice("the certificate", end, now)
    return Finding("certificate", False, notice.text if notice else f"valid until {end:%Y-%m-%d}")


def _root(kit: Kit, now: datetime) -> Finding:
    roots = authorities(kit.root_cert_file)
    end = max(root.not_valid_after_utc for root in roots)
    notice = expiry.notice("the root certificate", end, now)
    return Finding("root certificate", False, notice.text if notice else f"valid until {end:%Y-%m-%d}")
