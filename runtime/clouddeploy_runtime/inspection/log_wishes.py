"""How much a parent or a job's process should log, as a person wishes it while it runs.

A wish is the name of a level, one of `logging.MODES`, `reload`, or an object with `version` 1 and the levels of
loggers. What else the reference's configurations hold, classes above all, is refused: a wish must not bring code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime import job_folders
from clouddeploy_runtime import logging as runtime_logging
from clouddeploy_runtime.errors import InvalidCommand
from clouddeploy_runtime.job.log_level import FILE, JobLogWish

if TYPE_CHECKING:
    from pathlib import Path

RELOAD = "reload"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_MAX_BYTES = 16 << 10
_MAX_LOGGERS = 100
_KEYS = frozenset({"version", "loggers", "root"})


class Wish(msgspec.Struct, frozen=True):
    """One wish.

    Attributes:
        levels: by the names of loggers; `root` for all that are not named. Empty: they stay.
        mode: one of `logging.MODES`; empty: the form stays.
        is_reload: as the parent's own file says, then.
    """

    levels: dict[str, int] = {}
    mode: str = ""
    is_reload: bool = False


def parse(text: str) -> Wish:
    """Return what a text means.

    Raises:
        InvalidCommand: it is no wish.
    """
    if text.upper() in _LEVELS:
        return Wish(levels={"root": logging.getLevelNamesMapping()[text.upper()]})
    if text in runtime_logging.MODES:
        return Wish(levels={"root": logging.DEBUG} if text == "verbose" else {}, mode=text)
    if text == RELOAD:
        return Wish(is_reload=True)
    try:
        if len(text) > _MAX_BYTES or not isinstance(document := json.loads(text), dict):
            raise _refused("it is too long, or no object")
    except (ValueError, RecursionError) as exc:
        raise _refused(f"{text[:40]!r} is neither a level nor a mode, nor JSON") from exc
    return Wish(levels=_levels(document))


def _levels(document: dict[str, Any]) -> dict[str, int]:
    if unknown := sorted(set(document) - _KEYS):
        raise _refused(f"it has {', '.join(unknown)[:100]!r}, and may have {', '.join(sorted(_KEYS))} only")
    if document.get("version") != 1:
        raise _refused('its "version" must be 1')
    loggers = document.get("loggers", {})
    if not isinstance(loggers, dict) or len(loggers) > _MAX_LOGGERS:
        raise _refused('"loggers" must be an object of at most a hundred')
    entries = {**loggers, **({"root": document["root"]} if "root" in document else {})}
    found = {}
    for name, one in entries.items():
        level = one.get("level") if isinstance(one, dict) and set(one) == {"level"} else None
        if not isinstance(level, str) or level.upper() not in _LEVELS:
            raise _refused(
                f'the logger {name[:40]!r} must have a "level" and nothing else, one of {", ".join(_LEVELS)}'
            )
        found[name or "root"] = logging.getLevelNamesMapping()[level.upper()]
    if not found:
        raise _refused("it names no level")
    return found


def apply_to_parent(wish: Wish, local: Path) -> str:
    """Do as wished with this process; returns what is wrong with the file of a reload, empty when nothing is."""
    if wish.is_reload:
        runtime_logging.set_mode("full")
        return runtime_logging.reload(local)
    if wish.levels:
        runtime_logging.set_levels(wish.levels, local)
    if wish.mode:
        runtime_logging.set_mode(wish.mode)
    return ""


def leave(wish: Wish, jobs: Path, folder: str) -> None:
    """Leave a wish for a job's process, which looks for it; no link that the job has put there is followed.

    Args:
        wish: what is wished.
        jobs: holds a folder for each job.
        folder: where the process runs, below it.

    Raises:
        OSError: it cannot be written.
    """
    said = JobLogWish(levels=wish.levels, form=runtime_logging.MODES.get(wish.mode, ""))
    inside = job_folders.opened_folder(str(jobs))
    try:
        for part in folder.split("/"):
            before, inside = inside, job_folders.opened_folder(part, inside=inside)
            os.close(before)
        temporary = f"{FILE}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(temporary, flags, 0o644, dir_fd=inside), "wb") as file:
                file.write(msgspec.json.encode(said))
            os.rename(temporary, FILE, src_dir_fd=inside, dst_dir_fd=inside)
        except OSError:  # the disk is full, or the job has a folder of this name
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=inside)
            raise
    finally:
        os.close(inside)


def _refused(why: str) -> InvalidCommand:
    hint = f"Give a level ({', '.join(_LEVELS)}), a mode ({', '.join(runtime_logging.MODES)}) or `{RELOAD}`."
    return InvalidCommand("The log configuration cannot be used", why=why, hint=hint)
