"""Reads and writes the two archives of enrolment. They come from elsewhere, so nothing in one is taken on trust."""

from __future__ import annotations

import io
import stat
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
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1
_KEY_MARKS = (b"PRIVATE KEY-----", b"OPENSSH PRIVATE")


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


def read(  # noqa: C901 - one check a line
    path: Path, kind: str, *, is_expected: Callable[[str], bool]
) -> dict[str, bytes]:
    """Read an archive whole.

    Args:
        path: the file.
        kind: `REQUEST` or `SIGNED`, for the names of errors.
        is_expected: tells whether a member may be there.

    Raises:
        EnrolmentFault: `{kind}_ZIP_NOT_FOUND`, `INVALID_{kind}_ZIP`, `PRIVATE_KEY_IN_ZIP`.
    """

    def fault(why: str) -> EnrolmentFault:
        return EnrolmentFault(f"INVALID_{kind}_ZIP", f"{path} is refused", why=why, hint="ask for it again")

    try:
        with path.open("rb") as file:
            data = file.read(MAX_ARCHIVE + 1)
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise EnrolmentFault(f"{kind}_ZIP_NOT_FOUND", f"{path} cannot be read", why=why, hint="check the path") from exc
    if len(data) > MAX_ARCHIVE:
        raise fault(f"it has more than {MAX_ARCHIVE >> 20} MiB")
    members: dict[str, bytes] = {}
    total = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = archive.infolist()
            if len(found) > MAX_MEMBERS:
                raise fault(f"it has {len(found)} members")
            for info in found:
                problem = _problem(info, members, is_expected)
                if problem:
                    raise fault(problem)
                with archive.open(info) as member:
                    content = member.read(MAX_MEMBER + 1)
                total += len(content)
                if len(content) > MAX_MEMBER or total > MAX_TOTAL:
                    raise fault(f"{info.filename} is too large")
                members[info.filename] = content
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as exc:
        raise fault(f"it is not a sound archive: {exc}") from exc
    for name, content in members.items():
        if any(mark in content for mark in _KEY_MARKS):
            raise EnrolmentFault(
                "PRIVATE_KEY_IN_ZIP",
                f"{path} is refused",
                why=f"{name} holds a private key, which must never leave its site",
                hint="that key is no secret any more: make a new request",
            )
    return members


def _problem(  # noqa: PLR0911 - one check a line
    info: zipfile.ZipInfo, members: Mapping[str, bytes], is_expected: Callable[[str], bool]
) -> str:
    """Return what is wrong with one member, by its header alone."""
    name = info.filename
    parts = name.split("/")
    if name in members:
        return f"{name} is in it twice"
    if name != info.orig_filename or "\\" in name or any(part in {"", ".", ".."} for part in parts):
        return f"{info.orig_filename!r} is not a plain name"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG}:
        return f"{name} is not a regular file"
    if info.flag_bits & _ENCRYPTED:
        return f"{name} is encrypted"
    if info.file_size > MAX_MEMBER:
        return f"{name} is too large"
    if not is_expected(name):
        return f"{name} does not belong into it"
    return ""
