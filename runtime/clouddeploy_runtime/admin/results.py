"""Unpacks a job's result at a person's machine: names that this or another system would not take are changed."""

from __future__ import annotations

import logging
import shutil
import stat
import zipfile
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import BlobCorrupt
from clouddeploy_runtime.jobs.archive import is_plain

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

NOTE = "CHANGED_NAMES.txt"
"""In the result: which files have another name than the job gave them, and which are left out."""
_PIECE_BYTES = 1 << 20
_MAX_PART = 100
"""Signs that a name that is made up has of the job's."""


def unpack(archive: Path, destination: Path) -> None:
    """Write a result below a new folder; nothing of it can land elsewhere.

    What a job has named is not judged as a submission is: a file more than those may have, or a name in two cases,
    is no reason to keep the result from who waited for it.

    Args:
        archive: the zip, whose digest was right.
        destination: made here.

    Raises:
        BlobCorrupt: it is no sound zip.
        OSError: the disk is full.
    """
    destination.mkdir(mode=0o700)
    names, notes = _Names(), list[str]()
    try:
        with zipfile.ZipFile(archive) as source:
            for entry in source.infolist():
                if not entry.is_dir():
                    _write(source, entry, destination, names=names, notes=notes)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as exc:
        raise BlobCorrupt(
            "The result cannot be unpacked", why=str(exc), hint="Download it again; then look at the server's log.txt."
        ) from exc
    if notes:
        log.warning("%d files of the result have names that cannot be used here, see %s", len(notes), NOTE)
        text = "".join(f"{note}\n" for note in notes)
        (destination / names.place(NOTE)).write_text(text, encoding="utf-8")


def _write(
    source: zipfile.ZipFile, entry: zipfile.ZipInfo, destination: Path, *, names: _Names, notes: list[str]
) -> None:
    name = entry.orig_filename  # `filename` is cut at the first NUL
    if stat.S_IFMT(entry.external_attr >> 16) not in {0, stat.S_IFREG}:
        notes.append(f"{name!r} is left out: it is no plain file")
        return
    path = names.place(name)
    if path != name:
        notes.append(f"{name!r} is {path!r}")
    target = destination / path
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with source.open(entry) as content, target.open("xb") as file:
        shutil.copyfileobj(content, file, _PIECE_BYTES)


class _Names:
    """Where files go: every part of a path is a plain name, and on no system the same as another one."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        """Without case."""
        self._folders: dict[tuple[str, str], str] = {}
        """The folder above and the job's name for this one → where it is."""

    def place(self, name: str) -> str:
        """Return where the next file goes."""
        *above, last = [part for part in name.split("/") if part] or ["_"]
        path = ""
        for part in above:
            if (path, part) not in self._folders:
                self._folders[path, part] = self._free(path, part)
            path = self._folders[path, part]
        return self._free(path, last)

    def _free(self, folder: str, part: str) -> str:
        name = part if is_plain(part) else _plain(part)
        path, count = f"{folder}/{name}".strip("/"), 1
        while path.casefold() in self._taken:
            count += 1
            path = f"{folder}/{name[:_MAX_PART]}~{count}".strip("/")
        self._taken.add(path.casefold())
        return path


def _plain(part: str) -> str:
    """Return a name that is like another one, and can be used."""
    return "_" + "".join(sign if sign.isprintable() and sign not in "/\\" else "_" for sign in part[:_MAX_PART])
