"""What an authority remembers: which certificates it issued, and which of them it revoked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import msgspec
from clouddeploy_runtime import keys

from clouddeploy_provision import certificates
from clouddeploy_provision.errors import CaError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from cryptography import x509

    from clouddeploy_provision.ca import Authority
    from clouddeploy_provision.project import Participant


class Issued(msgspec.Struct, frozen=True):
    """One line of `issued.jsonl`: what revocation and questions of "who had this" need."""

    serial: str
    """Hexadecimal."""
    name: str
    kind: str
    """Empty for a site that was imported: the reference's certificates do not tell."""
    org: str
    role: str
    not_after: str
    """UTC, ISO 8601."""
    not_before: str = ""
    listener: bool = False
    """The second certificate of a client or relay that others connect to."""
    by_request: bool = False
    """Its key was made at the site, which gets its kits by asking, not from `provision`."""

    @classmethod
    def of(
        cls, one: Participant, cert: x509.Certificate, *, listener: bool = False, by_request: bool = False
    ) -> Issued:
        """Return what the authority remembers of a participant's certificate."""
        return cls(
            serial=f"{cert.serial_number:x}",
            name=one.name,
            kind=one.kind.value,
            org=one.org,
            role=one.role,
            not_after=cert.not_valid_after_utc.isoformat(),
            not_before=cert.not_valid_before_utc.isoformat(),
            listener=listener,
            by_request=by_request,
        )


class RevokedLine(msgspec.Struct, frozen=True):
    """One line of `revoked.jsonl`."""

    serial: str
    """Hexadecimal."""
    name: str
    reason: str
    """One of `certificates.REASONS`."""
    revoked_at: str
    """UTC, ISO 8601."""


T = TypeVar("T", Issued, RevokedLine)


class Records:
    """The lists of one authority.

    Args:
        folder: the authority's.
    """

    def __init__(self, folder: Path) -> None:
        self._issued = folder / "issued.jsonl"
        self._revoked = folder / "revoked.jsonl"
        self._crl = folder / "crl.pem"

    def record(self, issued: Sequence[Issued]) -> None:
        """Append to the list of issued certificates; on disk when it returns."""
        _append(self._issued, issued)

    def issued(self) -> list[Issued]:
        """Return every certificate that was issued, oldest first."""
        return _lines(self._issued, Issued)

    def last_issued(self) -> dict[str, Issued]:
        """Return the last certificate of each name, listeners' second ones aside."""
        return {one.name: one for one in self.issued() if not one.listener}

    def in_use(self) -> dict[tuple[str, bool], Issued]:
        """Return (name, whether as a listener) → the last certificate, which is the one in the name's last kit."""
        return {(one.name, one.listener): one for one in self.issued()}

    def revoked(self) -> dict[int, RevokedLine]:
        """Return serial number → why and when it was revoked."""
        return {int(one.serial, 16): one for one in _lines(self._revoked, RevokedLine)}

    def revoke(self, wanted: Sequence[Issued], *, reason: str, authority: Authority, now: datetime) -> bytes:
        """Revoke certificates; one that is revoked already, or named twice, stays as it is.

        The decision is on disk before the list is signed, so a kill between the two loses nothing: `crl` makes it up.

        Returns:
            The signed list, PEM.
        """
        known = self.revoked()
        lines = {int(one.serial, 16): RevokedLine(one.serial, one.name, reason, now.isoformat()) for one in wanted}
        _append(self._revoked, [line for serial, line in lines.items() if serial not in known])
        return self.crl(authority, now=now)

    def crl(self, authority: Authority, *, now: datetime) -> bytes:
        """Return the signed list, made anew when a revocation is not in it or another root signs; empty: none."""
        revoked = list(self.revoked().values())
        if not revoked:
            return b""
        present = self.signed(authority.certificate)
        if present:
            return present
        made = authority.revocation_list(revoked, now=now)
        write_atomic(self._crl, made)
        return made

    def signed(self, root: x509.Certificate) -> bytes:
        """Return the signed list when it is this root's and every revocation is in it; empty: there is no such list."""
        present = self._crl.read_bytes() if self._crl.exists() else b""
        return present if certificates.is_crl_of(present, root, number=len(self.revoked())) else b""


def _append(path: Path, lines: Sequence[msgspec.Struct]) -> None:
    if not lines:
        return
    is_new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "rb+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        # A torn last line, of a kill while writing, is ended here, or the first new line would be lost with it.
        is_torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        data = (b"\n" if is_torn else b"") + b"".join(msgspec.json.encode(one) + b"\n" for one in lines)
        left = memoryview(data)
        while left:
            left = left[file.write(left) or 0 :]
        os.fsync(handle)
    if is_new:
        _sync(path.parent)


def _lines(path: Path, kind: type[T]) -> list[T]:
    """Read a list; a torn line, from a kill while writing, is passed over."""
    if not path.exists():
        return []
    found = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            found.append(msgspec.json.decode(line, type=kind))
        except msgspec.MsgspecError as exc:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            if not line.strip(b" \t\r\n\0") or (not line.rstrip().endswith(b"}") and line.startswith(b"{")):
                continue
            why = f"line {number}: {exc}"
            raise CaError(f"{path} is damaged", why=why, hint="restore it from your backup") from exc
    return found


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file in one step, readable by its owner only; on disk when it returns."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    keys.write_private(partial, content)
    _sync(partial)
    move(partial, path)


def move(old: Path, new: Path) -> None:
    """Give a file another name, replacing what had it; on disk when it returns."""
    old.rename(new)
    _sync(new.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
