"""What this machine remembers of the kits that ran here: a kit from before a renewal cannot come back.

A whole kit that was signed once is sound for ever by itself; only memory tells that a newer one has replaced it. It is
kept outside the kit: in the workspace, or in the user's state folder when the workspace is the kit itself.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime  # noqa: TC003 - msgspec reads the annotation
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import keys, places
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.kit.errors import KitRevoked
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.kit.verify import issuer_of

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.kit.kit import Kit

log = logging.getLogger(__name__)

FILE = "certificate.json"


class Remembered(msgspec.Struct, frozen=True):
    """The newest certificate that was in use."""

    root: str
    """Fingerprint of the root that issued it."""
    name: str
    serial: str
    """Hexadecimal."""
    not_before: datetime


def check(kit: Kit, workspace: Path | None = None) -> None:
    """Refuse a kit whose certificate is older than one that was in use here.

    Args:
        kit: loaded and verified.
        workspace: where the participant works; default: what the environment says.

    Raises:
        KitRevoked: a newer certificate of this participant was in use on this machine.
    """
    present = _of(kit)
    path = _file(kit, present, workspace)
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Remembered)
    except (OSError, msgspec.MsgspecError):
        return
    if (known.root, known.name) == (present.root, present.name) and present.not_before < known.not_before:
        raise KitRevoked(
            f"startup/{kit.cert_file.name} was replaced by a newer one",
            why=f"it was issued at {present.not_before:%Y-%m-%d %H:%M} UTC, one of {known.not_before:%Y-%m-%d %H:%M} "
            f"has been in use here",
            hint=f"use the newest kit; if this one is meant, remove {path}",
        )


def remember(kit: Kit, workspace: Path | None = None) -> None:
    """Note that a kit's certificate is in use, once it has proved itself; not being able to is no reason to stop."""
    present = _of(kit)
    path = _file(kit, present, workspace)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        keys.write_private(partial, msgspec.json.encode(present) + b"\n")
        partial.rename(path)
    except OSError as exc:
        log.info("The certificate in use could not be noted: %s", exc)


def _of(kit: Kit) -> Remembered:
    cert = certificate(kit.cert_file)
    root = issuer_of(cert, authorities(kit.root_cert_file))
    mark = fingerprint(root) if root is not None else ""
    return Remembered(mark, kit.name, f"{cert.serial_number:x}", cert.not_valid_before_utc)


def _file(kit: Kit, present: Remembered, workspace: Path | None) -> Path:
    outside = workspace if workspace is not None else places.workspace_of(kit.root)
    if outside is not None and not outside.resolve().is_relative_to(kit.root):
        return outside / FILE
    mark = hashlib.sha256(f"{present.root} {present.name}".encode()).hexdigest()[:32]
    return places.state_folder() / "kits" / f"{mark}.json"
