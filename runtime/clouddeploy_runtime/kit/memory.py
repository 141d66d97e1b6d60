"""What this machine remembers of the kits that ran here: a kit from before a renewal cannot come back.

A whole kit that was signed once is sound for ever by itself; only memory tells that a newer one has replaced it. It is
kept outside the kit: in the workspace, or in the user's state folder when the workspace is the kit itself. It compares
times that the authority signed, never this machine's clock, so setting that back does not help.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import keys, places
from clouddeploy_runtime.enrolment.fingerprint import fingerprint
from clouddeploy_runtime.kit import manifest
from clouddeploy_runtime.kit.errors import KitError, KitRevoked
from clouddeploy_runtime.kit.kit import authorities, certificate, read_file
from clouddeploy_runtime.kit.verify import issuer_of

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.kit.kit import Kit

log = logging.getLogger(__name__)

FOLDER = "known_kits"


class Remembered(msgspec.Struct, frozen=True):
    """The newest kit of a participant that was in use."""

    name: str
    serial: str
    """Of its certificate, hexadecimal."""
    not_before: datetime
    """Of its certificate."""
    issued_at: datetime
    """When its manifest was signed: later than its certificate when only other files were made anew."""


def check(kit: Kit, workspace: Path | None = None) -> None:
    """Refuse a kit that is older than one that was in use here.

    Args:
        kit: loaded and verified.
        workspace: where the participant works; default: what the environment says.

    Raises:
        KitRevoked: a newer kit of this participant was in use on this machine.
    """
    folder = _folder(kit, workspace)
    present = _of(kit)
    path = folder / _name(_issuer(kit), kit.name)
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Remembered)
    except FileNotFoundError:
        return
    except (OSError, msgspec.MsgspecError) as exc:
        log.warning("%s, which says which kit was in use here, cannot be read: %s", path, exc)
        return
    for file, mine, newest in (
        (f"startup/{kit.cert_file.name}", present.not_before, known.not_before),
        (manifest.MANIFEST_PATH, present.issued_at, known.issued_at),
    ):
        if mine < newest:
            raise KitRevoked(
                f"{file} was replaced by a newer one",
                why=f"it was issued at {mine:%Y-%m-%d %H:%M} UTC, one of {newest:%Y-%m-%d %H:%M} has been in use here",
                hint=f"use the newest kit; if this one is meant, remove {path}",
            )


def remember(kit: Kit, workspace: Path | None = None) -> None:
    """Note that a kit is in use, once it has proved itself; not being able to is no reason to stop.

    Under every root that the kit trusts: while the root is exchanged, that ties the old one's kits to the new one's.
    """
    folder = _folder(kit, workspace)
    present = _of(kit)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for root in authorities(kit.root_cert_file):
            path = folder / _name(fingerprint(root), kit.name)
            partial = path.with_name(f"{path.name}.partial")
            partial.unlink(missing_ok=True)
            keys.write_private(partial, msgspec.json.encode(present) + b"\n")
            partial.rename(path)
    except OSError as exc:
        log.info("The kit in use could not be noted: %s", exc)


def _of(kit: Kit) -> Remembered:
    cert = certificate(kit.cert_file)
    path = kit.root / manifest.MANIFEST_PATH
    try:
        signed = manifest.decode(read_file(path))
        issued_at = datetime.fromisoformat(signed.issued_at)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise KitError(f"{path} cannot be used", why=str(exc)) from exc
    # No time zone: the authority writes UTC.
    moment = issued_at if issued_at.tzinfo is not None else issued_at.replace(tzinfo=UTC)
    return Remembered(kit.name, f"{cert.serial_number:x}", cert.not_valid_before_utc, moment)


def _issuer(kit: Kit) -> str:
    root = issuer_of(certificate(kit.cert_file), authorities(kit.root_cert_file))
    return fingerprint(root) if root is not None else ""


def _name(root: str, name: str) -> str:
    return hashlib.sha256(f"{root} {name}".encode()).hexdigest()[:32] + ".json"


def _folder(kit: Kit, workspace: Path | None) -> Path:
    outside = workspace if workspace is not None else places.workspace_of(kit.root)
    if outside is not None and not outside.resolve().is_relative_to(kit.root):
        return outside / FOLDER
    return places.state_folder() / FOLDER
