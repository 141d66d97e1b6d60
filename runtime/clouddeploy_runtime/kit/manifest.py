"""The manifest: every file under `startup/` with its digest, size and mode, signed by the project's authority."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST_PATH = "startup/manifest.json"
SIGNATURE_PATH = "startup/manifest.json.sig"
"""The signature over the manifest's bytes, DER for ECDSA and plain for RSA-PSS, so `openssl dgst -verify` checks it."""


OUTSIDE = frozenset({MANIFEST_PATH, SIGNATURE_PATH})
"""What the manifest cannot cover."""


class ManifestEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signed file."""

    path: str
    """Relative to the kit, with `/`."""
    sha256: str
    """Hexadecimal."""
    size: int
    """Bytes."""
    mode: str
    """Permission bits in octal, four digits."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was signed: the files, and whom they are for, so that no signed file can move to another kit."""

    project: str
    participant: str
    kind: str
    certificate_serial: str
    """Of the participant's certificate, hexadecimal."""
    issued_at: str
    """UTC, ISO 8601."""
    files: tuple[ManifestEntry, ...]
    """Sorted by path."""
    key_at_site: str = ""
    """Path of a private key that was made at the site and never left it: nobody could sign its digest, the certificate
    binds it. Empty: the key is among the files."""
    crl_number: int = 0
    """The kit needs a `local/crl.pem` of this number or a higher one; 0: nothing had been revoked when it was made."""
    format_version: int = 1


def entry(path: str, content: bytes, mode: int) -> ManifestEntry:
    """Describe one file."""
    return ManifestEntry(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content), mode=f"{mode:04o}")


def encode(manifest: Manifest) -> bytes:
    """Serialise; the signature is over exactly these bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(data: bytes) -> Manifest:
    """Parse.

    Raises:
        msgspec.MsgspecError: not a manifest of this format.
    """
    return msgspec.json.decode(data, type=Manifest)


def differences(root: Path, manifest: Manifest) -> dict[str, str]:
    """Compare `startup/` with the manifest: path → what is wrong, empty when all is as signed."""
    expected = {item.path: item for item in manifest.files}
    problems: dict[str, str] = {}
    seen: set[str] = set()
    for path, status in _walk(root, "startup"):
        if path in OUTSIDE:
            continue
        seen.add(path)
        if path == manifest.key_at_site:
            if not stat.S_ISREG(status.st_mode):
                problems[path] = "is not a regular file"
            continue
        signed = expected.get(path)
        if signed is None:
            if not stat.S_ISDIR(status.st_mode) or not any(name.startswith(f"{path}/") for name in expected):
                problems[path] = "was added"
            continue
        problem = _compare(root / path, status, signed)
        if problem:
            problems[path] = problem
    demanded = [*expected, *([manifest.key_at_site] if manifest.key_at_site else [])]
    problems.update({path: "is missing" for path in demanded if path not in seen})
    return problems


def _compare(path: Path, status: os.stat_result, signed: ManifestEntry) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if mode != signed.mode:
        return f"has mode {mode}, signed with {signed.mode}"
    if status.st_size != signed.size:
        return f"has {status.st_size} bytes, signed with {signed.size}"
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != signed.sha256:
            return "has other content than was signed"
    return ""


def _walk(root: Path, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below `folder`, folders included, links not followed, in the order of names."""
    with os.scandir(root / folder) as found:
        items = sorted(found, key=lambda item: item.name)
    for item in items:
        path = f"{folder}/{item.name}"
        status = item.stat(follow_symlinks=False)
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, path)
