"""Reads and writes the two archives of enrolment. They come from elsewhere, so nothing in one is taken on trust."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from clouddeploy_runtime.enrolment.errors import EnrolmentFault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MAX_ARCHIVE = 4 << 20
MAX_MEMBER = 1 << 20
MAX_TOTAL = 8 << 20
MAX_MEMBERS = 200
_MAX_NAME = 255
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others take far more memory, and code that is rarely tested."""
_KEY_MARKS = (b"PRIVATE KEY-----", b"OPENSSH PRIVATE", b"PuTTY-User-Key-File")
_UNSOUND = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,  # an offset that no memory has
    OSError,
)
"""What the library raises for damaged archives, seen by mutating sound ones."""


class _Unfit(Exception):
    """A sound archive, but not one of ours."""


def write(members: Mapping[str, bytes]) -> bytes:
    """Pack members; the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = (stat.S_IFREG | 0o600) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def read(path: Path, kind: str, *, is_expected: Callable[[str], bool]) -> dict[str, bytes]:
    """Read an archive whole.

    Args:
        path: the file.
        kind: `REQUEST` or `SIGNED`, for the names of errors.
        is_expected: tells whether a member may be there.

    Raises:
        EnrolmentFault: `{kind}_ZIP_NOT_FOUND`, `INVALID_{kind}_ZIP`, `PRIVATE_KEY_IN_ZIP`.
    """
    data = _data(path, kind)
    try:
        if len(data) > MAX_ARCHIVE:
            raise _Unfit(f"it has more than {MAX_ARCHIVE >> 20} MiB")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive)
        _refuse_keys(path, members)
        for name in members:
            if not is_expected(name):
                raise _Unfit(f"{name} does not belong into it")
    except (_Unfit, *_UNSOUND) as exc:
        why = str(exc) if isinstance(exc, _Unfit) else f"it is not a sound archive: {exc}"
        raise EnrolmentFault(f"INVALID_{kind}_ZIP", f"{path} is refused", why=why, hint="ask for it again") from exc
    return members


def _data(path: Path, kind: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_ARCHIVE + 1)
    except (OSError, ValueError) as exc:  # ValueError: a name that cannot be one
        why = getattr(exc, "strerror", None) or str(exc)
        raise EnrolmentFault(f"{kind}_ZIP_NOT_FOUND", f"{path} cannot be read", why=why, hint="check the path") from exc


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Unpack into memory; what a header says of a size is checked before, what is really there meanwhile."""
    found = archive.infolist()
    if len(found) > MAX_MEMBERS:
        raise _Unfit(f"it has {len(found)} members")
    members: dict[str, bytes] = {}
    total = 0
    for info in found:
        problem = _problem(info, members)
        if problem:
            raise _Unfit(problem)
        with archive.open(info) as member:
            content = member.read(MAX_MEMBER + 1)
        total += len(content)
        if len(content) > MAX_MEMBER or total > MAX_TOTAL:
            raise _Unfit(f"{info.filename} is too large")
        members[info.filename] = content
    return members


def _problem(  # noqa: PLR0911 - one check a line
    info: zipfile.ZipInfo, members: Mapping[str, bytes]
) -> str:
    """Return what is wrong with one member, by its header alone."""
    name = info.filename
    if name != info.orig_filename or not _is_plain(name):
        return f"{info.orig_filename!r} is not a plain name"
    if name in members:
        return f"{name} is in it twice"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG}:
        return f"{name} is not a regular file"
    if info.flag_bits & _ENCRYPTED:
        return f"{name} is encrypted"
    if info.compress_type not in _COMPRESSIONS:
        return f"{name} is compressed in a way that is not used here"
    if info.file_size > MAX_MEMBER:
        return f"{name} is too large"
    return ""


def _is_plain(name: str) -> bool:
    """Tell whether a name is a relative path without surprises, which may be shown on a terminal too."""
    parts = name.split("/")
    return (
        name.isascii()
        and name.isprintable()
        and "\\" not in name
        and not any(part in {"", ".", ".."} or len(part) > _MAX_NAME for part in parts)
    )


def _refuse_keys(path: Path, members: Mapping[str, bytes]) -> None:
    for name, content in members.items():
        if any(mark in content for mark in _KEY_MARKS):
            raise EnrolmentFault(
                "PRIVATE_KEY_IN_ZIP",
                f"{path} is refused",
                why=f"{name} holds a private key, which must never leave its site",
                hint="that key is no secret any more: make a new request",
            )
