"""Finds what a parent itself has logged about a job that somebody should look at: in its own log.json."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime import job_folders
from clouddeploy_runtime.inspection.job_logs import last_that_fit
from clouddeploy_runtime.logging import FILES

if TYPE_CHECKING:
    from pathlib import Path

_BYTES = 5 << 20
_LEVELS = frozenset({"WARNING", "ERROR", "CRITICAL"})


def now() -> str:
    """Return the time as it stands in the log."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def troubles(workspace: Path, job_id: str, *, since: str = "") -> list[str]:
    """Return the warnings and errors of a job, the last 500.

    Args:
        workspace: the parent's.
        job_id: the job.
        since: as `now` returned it; empty: as far back as the file goes.
    """
    try:
        with job_folders.opened(workspace, FILES["json_file"]) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _BYTES))
            lines = file.read(_BYTES).splitlines()
    except OSError:
        return []
    wanted, found = job_id.encode(), []
    for line in lines:
        entry = _entry(line) if wanted in line else {}
        is_of_job = entry.get("job") == job_id and entry.get("level") in _LEVELS
        if is_of_job and str(entry.get("time", "")) > since:
            found.append(_written(entry))
    return last_that_fit(found)


def _entry(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):  # the first line may be half a one
        return {}


def _written(entry: dict[str, Any]) -> str:
    return " - ".join(str(entry.get(name, "")) for name in ("time", "logger", "level", "message"))
