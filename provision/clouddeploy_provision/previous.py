"""The last result: which of its kits can be carried over, and the keys of those that cannot."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.kit.config import EndpointOverlay
from clouddeploy_runtime.kit.kit import certificate
from cryptography.hazmat.primitives.serialization import Encoding

from clouddeploy_provision.errors import ResultError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from cryptography import x509

log = logging.getLogger(__name__)

_RESULT = re.compile(r"prod_([0-9]{2})")
LAST_RESULT = 99


@dataclass(frozen=True)
class PreviousKit:
    """A verified kit of the last result."""

    kit: kits.Kit
    certificate: x509.Certificate
    key_pem: bytes = field(repr=False)
    is_expired: bool = False
    """Only the key can be used again."""


def results(project_folder: Path) -> list[Path]:
    """Return the `prod_NN` folders, oldest first."""
    if not project_folder.is_dir():
        return []
    return sorted(path for path in project_folder.iterdir() if _RESULT.fullmatch(path.name) and path.is_dir())


def next_result(project_folder: Path) -> Path:
    """Return the folder that the next result gets.

    Raises:
        ResultError: there is a `prod_99` already.
    """
    found = results(project_folder)
    number = int(found[-1].name.removeprefix("prod_")) + 1 if found else 0
    if number > LAST_RESULT:
        raise ResultError(
            f"{project_folder} can hold no further result",
            why=f"prod_{LAST_RESULT} exists",
            hint="move old prod_NN folders away; the one with the highest number must stay until a newer one is made",
        )
    return project_folder / f"prod_{number:02d}"


def read(path: Path, *, root: x509.Certificate, project: str, now: datetime) -> PreviousKit | None:
    """Read a kit of the last result; `None` when there is none, or none of this authority that is as it was signed.

    A kit that was tampered with is not carried over, and neither is its key: it may have been replaced by a known one.
    """
    if not path.is_dir():
        return None
    is_expired = False
    try:
        try:
            kits.verify(path, now=now)
        except kits.KitExpired:
            is_expired = True
        kit = kits.load(path)
        if kit.project != project or kit.root_cert_file.read_bytes() != root.public_bytes(Encoding.PEM):
            return None
        return PreviousKit(kit, certificate(kit.cert_file), kit.key_file.read_bytes(), is_expired)
    except kits.KitError as exc:
        log.warning("%s is not carried over, a new key is made: %s", path, exc)
        return None


def endpoint(result: Path) -> EndpointOverlay | None:
    """Return where the clients of a result connect, when a deployment said so."""
    for file in sorted(result.glob("*/local/endpoint.json")):
        try:
            overlay = msgspec.json.decode(file.read_bytes(), type=EndpointOverlay)
        except msgspec.MsgspecError as exc:
            raise ResultError(f"{file} cannot be used", why=str(exc), hint="remove or correct it") from exc
        if overlay.host is not None:
            return overlay
    return None
