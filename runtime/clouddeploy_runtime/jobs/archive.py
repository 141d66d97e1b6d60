"""A folder as a zip, and a zip from the network as a folder again."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import InvalidJob

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_UNPACKED_BYTES = 4 << 30
"""A job is code and settings; data stays at the sites. Guessed: larger than any seen, small enough for every disk."""
_MAX_FILES = 10_000
_EPOCH = (1980, 1, 1, 0, 0, 0)


def invalid(why: str) -> InvalidJob:
    """Return the error for a job that is wrong; `why` names what."""
    return InvalidJob(
        "The job cannot be used", why=why, hint="A job folder holds meta.json and one folder per app of its deploy_map."
    )


def is_plain(name: str) -> bool:
    """Tell whether this is the name of one file or folder, and of nothing outside."""
    return bool(name) and name not in {".", ".."} and "/" not in name and "\\" not in name and "\0" not in name


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


def unpack(archive: bytes, destination: Path) -> None:
    """Write a zip from the network below a new folder; nothing of it can land elsewhere or fill the disk.

    Raises:
        InvalidJob: not a zip, a path that leaves the folder, a link, or more than the limits allow.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            entries = [entry for entry in source.infolist() if not entry.is_dir()]
            if len(entries) > _MAX_FILES or sum(entry.file_size for entry in entries) > _MAX_UNPACKED_BYTES:
                raise invalid(f"the archive unpacks to more than {_MAX_FILES} files or {_MAX_UNPACKED_BYTES} bytes")
            for entry in entries:
                target = destination / _safe(entry)
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                target.write_bytes(source.read(entry))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as exc:
        raise invalid(f"the archive cannot be unpacked: {exc}") from exc


def _safe(entry: zipfile.ZipInfo) -> Path:
    path = PurePosixPath(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if path.is_absolute() or not all(is_plain(part) for part in path.parts) or kind not in {0, stat.S_IFREG}:
        raise invalid(f"the archive holds {entry.filename!r}, which is no plain file below the folder")
    return Path(path)
