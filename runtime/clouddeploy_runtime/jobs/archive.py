"""A folder as a zip, and a zip from the network as a folder again."""

from __future__ import annotations

import io
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import InvalidJob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_UNPACKED_BYTES = 4 << 30
"""A job is code and settings; data stays at the sites. Guessed: larger than any seen, small enough for every disk."""
_MAX_FILES = 10_000
_MAX_NAME_BYTES = 255
"""Of one part of a path, as ext4, XFS and NTFS have it."""
_MAX_PATH_BYTES = 1024
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


def pack(folder: Path, *, apps: Iterable[str] | None = None) -> bytes:
    """Return a folder as a zip: same content, same bytes; no links, caches or hidden files.

    Args:
        folder: what to pack.
        apps: with it, only these sub-folders and the files beside them.
    """
    wanted = None if apps is None else set(apps)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            if path.is_symlink() or not path.is_file() or any(p.startswith(".") or p == "__pycache__" for p in parts):
                continue
            if wanted is not None and len(parts) > 1 and parts[0] not in wanted:
                continue
            entry = zipfile.ZipInfo("/".join(parts), _EPOCH)
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
        with zipfile.ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive) as source:
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
    for entry in entries:
        parts = _parts(entry)
        if entry.is_dir():
            continue
        for depth in range(1, len(parts)):
            _claim("/".join(parts[:depth]), mine=folders, others=files, may_repeat=True)
        _claim("/".join(parts), mine=files, others=folders, may_repeat=False)
        found.append((Path(*parts), entry))
    if len(found) > _MAX_FILES:
        raise invalid(f"the archive holds {len(found)} files, and {_MAX_FILES} are the limit")
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
    sound = {stat.S_IFDIR} if entry.is_dir() else {stat.S_IFREG}
    if not all(is_plain(part) for part in parts) or kind not in sound | {0} or len(name.encode()) > _MAX_PATH_BYTES:
        raise invalid(f"the archive holds {name[:_MAX_NAME_BYTES]!r}, which is no plain file below the folder")
    return parts
