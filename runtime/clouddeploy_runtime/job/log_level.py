"""Follows what people wish while a job runs: how much its process logs, and in which form."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

FILE = ".log_level.json"
"""In the folder where a job's process runs: the last wish for it."""
_POLL_S = 1.0
_MAX_BYTES = 64 << 10


class JobLogWish(msgspec.Struct, frozen=True):
    """How a job's process should log.

    Attributes:
        levels: by the names of loggers; `root` for all that are not named. Empty: they stay.
        form: of a line, as `logging.Formatter` takes it; empty: it stays.
    """

    levels: dict[str, int] = {}
    form: str = ""


def follow(folder: Path) -> None:
    """Look for wishes for as long as this process lives, in a thread: a script that trains reads no messages.

    Args:
        folder: where the parent leaves them; one that lies there already is of an earlier process, and counts.
    """
    threading.Thread(target=_look, args=(folder,), name="log level", daemon=True).start()


def _look(folder: Path) -> None:
    last: tuple[int, int] | None = None
    while True:
        last = look_once(folder, last)
        time.sleep(_POLL_S)


def look_once(folder: Path, last: tuple[int, int] | None) -> tuple[int, int] | None:
    """Do what a new wish says; returns which file it was.

    Args:
        folder: where the parent leaves it.
        last: what this returned before.
    """
    path = folder / FILE
    # A job may have put anything there; then it has its own way, and no wishes.
    with contextlib.suppress(OSError, msgspec.MsgspecError, RecursionError, ValueError):
        status = path.stat()
        seen = (status.st_ino, status.st_mtime_ns)
        if seen == last or status.st_size > _MAX_BYTES:
            return seen
        last = seen
        _apply(msgspec.json.decode(path.read_bytes(), type=JobLogWish))
    return last


def _apply(wish: JobLogWish) -> None:
    for name, level in wish.levels.items():
        logging.getLogger(None if name == "root" else name).setLevel(level)
    for handler in logging.getLogger().handlers if wish.form else ():
        handler.setFormatter(logging.Formatter(wish.form))
