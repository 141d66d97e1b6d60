"""Shows what a job's process has printed at one parent, and which of that somebody should look at."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

import msgspec

from clouddeploy_runtime import job_folders
from clouddeploy_runtime.errors import InvalidCommand, JobNotFound
from clouddeploy_runtime.jobs.archive import is_plain
from clouddeploy_runtime.launchers.output import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_BYTES = 5 << 20
"""The reference's bound."""
USUAL_LINES = 500
_MAX_PATTERN = 200
_BAD = re.compile(r" - (WARNING|ERROR|CRITICAL) - |^Traceback |^\w*(Error|Exception|Warning)\b")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:[,.](\d{1,6}))?")
_MAX_ERRORS = 500
_MAX_ERROR_LINE = 2000
_MAX_ERROR_BYTES = 2 << 20
"""A parent's own lines come on top, and all have to fit into one message."""


class JobLogs:
    """The logs of a parent's jobs.

    Args:
        jobs: holds a folder for each job.
        run: name of the folder in a job's in which its process runs.
    """

    def __init__(self, jobs: Path, run: str) -> None:
        self._jobs = jobs
        self._run = run
        self._seen: dict[str, tuple[int, int]] = {}
        """Job → which file its log was when its errors were reset, and how long."""

    def text(self, job_id: str, wanted: Mapping[str, str]) -> dict[str, object]:
        """Return the end of a log as `text`; whether something before it `is_cut`.

        Args:
            job_id: the job.
            wanted: `tail`, `max_bytes`, `since` and `pattern` of the question; each may be missing.

        Raises:
            InvalidCommand: one of them makes no sense.
            JobNotFound: there is no log of this job here.
        """
        limit = min(_number(wanted, "max_bytes", MAX_BYTES), MAX_BYTES)
        tail, pattern = _number(wanted, "tail", USUAL_LINES), wanted.get("pattern", "")
        since = _moment(wanted.get("since", ""))
        if len(pattern) > _MAX_PATTERN:
            raise InvalidCommand("The pattern is too long", why=f"it may have {_MAX_PATTERN} signs")
        text, is_cut = self._end(job_id, MAX_BYTES)
        lines = text.splitlines(keepends=True)
        if since is not None:
            lines = _since(lines, since)
        lines = [line for line in lines if pattern in line]
        if tail and len(lines) > tail:
            lines, is_cut = lines[-tail:], True
        found = "".join(lines).encode()
        if len(found) > limit:
            found, is_cut = found[len(found) - limit :], True
        return {"text": found.decode("utf-8", "replace"), "is_cut": is_cut}

    def errors(self, job_id: str) -> list[str]:
        """Return the lines that look like warnings and errors, the last 500, since the reset.

        Raises:
            JobNotFound: as in `text`.
        """
        text, _ = self._end(job_id, MAX_BYTES, since_reset=True)
        return last_that_fit([line for line in text.splitlines() if _BAD.search(line)])

    def reset(self, job_id: str) -> None:
        """Leave what there is out of `errors` from now on.

        Raises:
            JobNotFound: as in `text`.
        """
        with self._opened(job_id) as file:
            status = os.fstat(file.fileno())
        self._seen.pop(job_id, None)
        while len(self._seen) >= _MAX_ERRORS:
            del self._seen[next(iter(self._seen))]
        self._seen[job_id] = (status.st_ino, status.st_size)

    def _opened(self, job_id: str) -> IO[bytes]:
        try:
            if is_plain(job_id):
                return job_folders.opened(self._jobs, f"{job_id}/{self._run}/{NAME}")
        except OSError as exc:  # a link in its place, too: it could lead to the parent's own files
            raise JobNotFound(f"There is no log of the job {job_id} here", why="it has not started here") from exc
        raise JobNotFound(f"{job_id[:100]!r} is no id of a job")

    def _end(self, job_id: str, limit: int, *, since_reset: bool = False) -> tuple[str, bool]:
        """Return the end of a log in whole lines, and whether that is not all."""
        with self._opened(job_id) as file:
            status = os.fstat(file.fileno())
            inode, seen = self._seen.get(job_id, (0, 0)) if since_reset else (0, 0)
            start = max(0, status.st_size - limit, seen if inode == status.st_ino and seen <= status.st_size else 0)
            file.seek(start)
            text = file.read(limit).decode("utf-8", "replace")
        is_cut = start > 0
        return (text.partition("\n")[2] if is_cut and not since_reset else text), is_cut


def last_that_fit(lines: list[str]) -> list[str]:
    """Return the last 500 lines, shortened, or as many of them as an answer takes: a sign may be six bytes there."""
    found: list[str] = []
    left = _MAX_ERROR_BYTES
    for line in reversed(lines[-_MAX_ERRORS:]):
        short = line[:_MAX_ERROR_LINE]
        left -= len(msgspec.json.encode(short))
        if left < 0:
            break
        found.append(short)
    return found[::-1]


def _number(wanted: Mapping[str, str], name: str, usual: int) -> int:
    text = wanted.get(name) or str(usual)
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_BYTES)):
        raise InvalidCommand("The command cannot be used", why=f"its {name!r} must be a number, and is {text[:20]!r}")
    return int(text)


def _moment(text: str) -> float | None:
    """Return a time in seconds since 1970; one without a zone is in UTC."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidCommand(f"{text[:40]!r} is no time", hint="Write it as 2026-01-31T12:00:00Z.") from exc
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _since(lines: list[str], moment: float) -> list[str]:
    """Return the lines from a time on; their own times are the machine's local ones. Lines without belong to the last.

    A log that has no times is returned as it is.
    """
    for number, line in enumerate(lines):
        stamp = _STAMP.match(line)
        if stamp is None:
            continue
        when = _stamped(stamp)
        if when is not None and when >= moment:
            return lines[number:]
    return [] if any(_STAMP.match(line) for line in lines) else lines


def _stamped(stamp: re.Match[str]) -> float | None:
    """Return the time at the beginning of a line, which a job may have written; None: there is no such time."""
    try:
        return datetime.fromisoformat(stamp[1]).timestamp() + float(f"0.{stamp[2] or 0}")
    except (ValueError, OverflowError, OSError):  # the last two for years that the machine's clock does not have
        return None
