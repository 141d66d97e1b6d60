"""A folder as a zip, and a zip from the network as a folder again."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from clouddeploy_runtime.errors import InvalidJob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_UNPACKED_BYTES = 4 << 30
"""A job is code and settings; data stays at the sites. Guessed: larger than any seen, small enough for every disk."""
_MAX_FILES = 10_000
"""And folders."""
_MAX_NAME_BYTES = 255
"""Of one part of a path, as ext4, XFS and NTFS have it."""
_MAX_PATH_BYTES = 1024
_MAX_DEPTH = 64
_MAX_ENTRY_BYTES = 46 + _MAX_PATH_BYTES + 512
"""In the archive's directory, with extra fields: APPNOTE.TXT 4.3.12."""
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES, _MAX_COMMENT_BYTES = 22, 56, 20, 0xFFFF
_COMPRESSIONS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""What `pack` and every tool make. The others unpack slower, and take more memory."""
_PIECE_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices; an admin who unpacks a result there would open one.

Source:
    https://learn.microsoft.com/windows/win32/fileio/naming-a-file
"""
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,  # a compression that this Python does not know
    MemoryError,
    OverflowError,
    RuntimeError,  # encrypted
    ValueError,  # and UnicodeDecodeError: dates, extra fields and names that are none
    OSError,
)
"""What zipfile lets out when the bytes are no sound archive."""


def invalid(why: str) -> InvalidJob:
    """Return the error for a job that is wrong; `why` names what."""
    return InvalidJob(
        "The job cannot be used", why=why, hint="A job folder holds meta.json and one folder per app of its deploy_map."
    )


def is_plain(name: str) -> bool:
    """Tell whether this is the name of one file or folder, and of nothing outside, on every system."""
    return (
        bool(name)
        and name not in {".", ".."}
        and not any(sign in "/\\" or not sign.isprintable() for sign in name)
        and len(name.encode(errors="replace")) <= _MAX_NAME_BYTES
        and not _DEVICES.fullmatch(name)
    )


def members(folder: Path, *, apps: Iterable[str] | None = None) -> Iterator[Path]:
    """Yield the files of a folder that travel, in the archive's order: no links, caches or hidden files.

    Args:
        folder: what is to be packed.
        apps: with it, only these sub-folders and the files beside them.
    """
    wanted = None if apps is None else set(apps)
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_symlink() or not path.is_file() or any(p.startswith(".") or p == "__pycache__" for p in parts):
            continue
        if wanted is None or len(parts) == 1 or parts[0] in wanted:
            yield path


def pack(folder: Path, *, apps: Iterable[str] | None = None) -> bytes:
    """Return the `members` of a folder as a zip: same content, same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in members(folder, apps=apps):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o600) << 16
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def unpack(archive: bytes | Path, destination: Path, *, limit_bytes: int = _MAX_UNPACKED_BYTES) -> None:
    """Write a zip from the network below a folder; nothing of it can land elsewhere or fill the disk.

    What the archive says of its sizes is not believed: the bytes are counted as they come.

    Args:
        archive: the zip, or the file that it is in.
        destination: made when it is missing. After a failure nothing of the archive is left in it, and no new folder.
        limit_bytes: how much may be unpacked.

    Raises:
        InvalidJob: not a sound zip, a path that leaves the folder or means another file on another system, a name
            twice, a link, or more than the limits allow.
    """
    made: list[Path] = []
    try:
        with contextlib.ExitStack() as files:
            given = io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")
            files.callback(given.close)
            _check_directory(given)
            source = files.enter_context(zipfile.ZipFile(given))
            left = limit_bytes
            for path, entry in _entries(source.infolist()):
                target = destination / path
                _make_folder(target.parent, made)
                made.append(target)
                with source.open(entry) as content, target.open("wb") as file:
                    while piece := content.read(_PIECE_BYTES):
                        left -= len(piece)
                        if left < 0:
                            raise invalid(f"the archive unpacks to more than {limit_bytes} bytes")
                        file.write(piece)
        _make_folder(destination, made)  # of an archive without files
    except InvalidJob:
        _take_back(made)
        raise
    except _BROKEN as exc:
        _take_back(made)
        raise invalid(f"the archive cannot be unpacked: {exc}") from exc
    except BaseException:
        _take_back(made)
        raise


def _check_directory(archive: IO[bytes]) -> None:
    """Refuse a directory of more entries than are taken before `zipfile` makes an object of each.

    It finds the directory's end as `zipfile` does. The end of 64 bits counts wherever `zipfile` looks for it.

    Source:
        APPNOTE.TXT 4.3.14 to 4.3.16
    """
    size = archive.seek(0, io.SEEK_END)
    archive.seek(max(0, size - _END_BYTES - _MAX_COMMENT_BYTES - _LOCATOR_BYTES - _END64_BYTES))
    tail = archive.read()
    end = len(tail) - _END_BYTES
    if tail[end : end + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        end = tail.rfind(b"PK\5\6")
    if end < 0 or end + _END_BYTES > len(tail):
        raise invalid("the archive cannot be unpacked: it has no end")
    count, size_bytes = struct.unpack_from("<HL", tail, end + 10)
    locator, end64 = end - _LOCATOR_BYTES, end - _LOCATOR_BYTES - _END64_BYTES
    if locator >= 0 and tail[locator : locator + 4] == b"PK\6\7":
        if end64 < 0 or tail[end64 : end64 + 4] != b"PK\6\6":
            raise invalid("the archive cannot be unpacked: its end is not where it says")
        count, size_bytes = struct.unpack_from("<QQ", tail, end64 + 32)
    if count > _MAX_FILES or size_bytes > count * _MAX_ENTRY_BYTES:
        raise invalid(f"the archive holds {count} files in a directory of {size_bytes} bytes: too many")


def _make_folder(folder: Path, made: list[Path]) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700)
        made.append(one)


def _take_back(made: list[Path]) -> None:
    for path in reversed(made):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _entries(entries: list[zipfile.ZipInfo]) -> Iterator[tuple[Path, zipfile.ZipInfo]]:
    """Yield the files and where they go, once all names are found good."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    found = []
    if len(entries) > _MAX_FILES:
        raise invalid(f"the archive holds {len(entries)} files and folders, and {_MAX_FILES} are the limit")
    for entry in entries:
        parts = _parts(entry)
        if entry.compress_type not in _COMPRESSIONS:
            raise invalid(f"the archive holds {entry.filename!r} in a compression other than deflate")
        if entry.is_dir():
            continue
        for depth in range(1, len(parts)):
            _claim("/".join(parts[:depth]), mine=folders, others=files, may_repeat=True)
        _claim("/".join(parts), mine=files, others=folders, may_repeat=False)
        found.append((Path(*parts), entry))
    yield from found


def _claim(name: str, *, mine: dict[str, str], others: dict[str, str], may_repeat: bool) -> None:
    """Refuse what would overwrite something here, or on a system that does not tell case."""
    key = name.casefold()
    before = others.get(key) or mine.get(key)
    if before is not None and not (may_repeat and mine.get(key) == name):
        twice = f"{name!r} twice" if before == name else f"{before!r} and {name!r}, the same on some systems"
        raise invalid(f"the archive holds {twice}")
    mine[key] = name


def _parts(entry: zipfile.ZipInfo) -> list[str]:
    # Not `filename`: zipfile has cut that at the first NUL.
    name = entry.orig_filename.removesuffix("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    parts = name.split("/")
    sound = {stat.S_IFDIR, 0} if entry.is_dir() else {stat.S_IFREG, 0}
    is_long = len(name.encode()) > _MAX_PATH_BYTES or len(parts) > _MAX_DEPTH
    if is_long or kind not in sound or not all(is_plain(part) for part in parts):
        raise invalid(f"the archive holds {name[:_MAX_NAME_BYTES]!r}, which is no plain file below the folder")
    return parts
