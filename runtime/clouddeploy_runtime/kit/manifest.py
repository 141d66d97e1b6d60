"""The manifest: every file under `startup/` with its digest, size and mode, signed by the project's authority."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_PATH = "startup/manifest.json"
SIGNATURE_PATH = "startup/manifest.json.sig"
"""The signature over the manifest's bytes, DER for ECDSA and plain for RSA-PSS, so `openssl dgst -verify` checks it."""


OUTSIDE = frozenset({MANIFEST_PATH, SIGNATURE_PATH})
"""What the manifest cannot cover."""

SITE_MADE = frozenset({"startup/start_docker.sh", "startup/start_slurm.sh", "startup/parent.slurm"})
"""What `clouddeploy prepare` adds at a site: scripts that start what is signed, and that nothing signed calls."""


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


def faults(manifest: Manifest) -> dict[str, str]:
    """Check the list itself: path → what is wrong with it.

    A signature only says who wrote the list; one that names a file twice, or outside `startup/`, is still refused.
    """
    problems: dict[str, str] = {}
    seen: set[str] = set()
    site_key = [manifest.key_at_site] if manifest.key_at_site else []
    for path in [*(item.path for item in manifest.files), *site_key]:
        parts = path.split("/")
        if parts[0] != "startup" or len(parts) == 1 or not _are_names(parts):
            problems[path] = "stands in the manifest, but is no path of a file in startup/"
        elif path in OUTSIDE:
            problems[path] = "cannot be covered by the manifest"
        elif path in seen:
            problems[path] = "stands in the manifest twice"
        seen.add(path)
    return problems


def differences(root: Path, manifest: Manifest) -> dict[str, str]:
    """Compare `startup/` with the manifest: path → what is wrong, empty when all is as signed."""
    signed = {item.path: item for item in manifest.files}
    expected = {*signed, *([manifest.key_at_site] if manifest.key_at_site else [])}
    folders = {"startup"}
    for path in expected:
        parts = path.split("/")
        folders |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    problems: dict[str, str] = {}
    seen: set[str] = set()
    for folder in sorted(folders):
        for path, status in _entries(root, folder, problems).items():
            if path in OUTSIDE or path in folders:
                continue
            if path in SITE_MADE and path not in expected:
                # It runs with what it says; that of a link, or of a file that anybody may change, is anybody's.
                problem = _made_here(status)
                if problem:
                    problems[path] = problem
                continue
            seen.add(path)
            if path in signed:
                problem = _compare(root / path, status, signed[path])
            elif path in expected:
                problem = "" if stat.S_ISREG(status.st_mode) else "is not a regular file"
            else:
                problem = "was added"
            if problem:
                problems[path] = problem
    return {**problems, **{path: "is missing" for path in sorted(expected - seen) if path not in problems}}


def _are_names(parts: list[str]) -> bool:
    return not any(part in {"", ".", ".."} or "\0" in part or "\\" in part for part in parts)


def _entries(root: Path, folder: str, problems: dict[str, str]) -> dict[str, os.stat_result]:
    """List a folder that the manifest knows of; one that cannot be trusted is a problem, and is not entered."""
    try:
        status = os.lstat(root / folder)
        if not stat.S_ISDIR(status.st_mode):
            problems[folder] = "is not a folder of its own"
            return {}
        if status.st_mode & stat.S_IWOTH:
            # What was verified could be exchanged by anybody before it is used.
            problems[folder] = f"has mode {stat.S_IMODE(status.st_mode):04o}, so everybody may change what is in it"
        with os.scandir(root / folder) as found:
            return {f"{folder}/{item.name}": item.stat(follow_symlinks=False) for item in found}
    except FileNotFoundError:
        return {}
    except OSError as exc:
        problems[folder] = f"cannot be read: {exc.strerror}"
        return {}


def _made_here(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_mode & stat.S_IWOTH:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}, so everybody may change what is in it"
    return ""


def _compare(path: Path, status: os.stat_result, signed: ManifestEntry) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if mode != signed.mode:
        return f"has mode {mode}, signed with {signed.mode}"
    if status.st_size != signed.size:
        return f"has {status.st_size} bytes, signed with {signed.size}"
    try:
        # Not blocking: should it have become a pipe meanwhile, this must not wait for somebody to write.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            is_same = hashlib.file_digest(file, "sha256").hexdigest() == signed.sha256
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"
    return "" if is_same else "has other content than was signed"
