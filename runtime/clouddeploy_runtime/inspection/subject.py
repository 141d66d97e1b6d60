"""Who is asked: a parent, where its files are, and what runs in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence  # noqa: TC003 - fields of dataclasses
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003
from typing import Any


@dataclass(frozen=True)
class RunningHere:
    """A job that runs at a parent."""

    job_id: str
    app: str
    status: str


def _nothing(_job_id: str) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Subject:
    """One parent.

    Attributes:
        name: of the participant.
        kind: `server` or `client`.
        org: its organisation.
        workspace: its folder for jobs, logs and status.
        kit: its startup kit, of which nothing is shown.
        jobs: holds a folder for each job.
        run: name of the folder in a job's in which its process runs.
        running: returns the jobs that run here now; may be called in a thread.
        stats: returns what a job has done here, running or ended; may be called in a thread.
        hidden: folders of which nothing is shown, in the workspace or not: the site's own data.
        started: when the parent started, in seconds since 1970.
    """

    name: str
    kind: str
    org: str
    workspace: Path
    kit: Path
    jobs: Path
    run: str
    running: Callable[[], Sequence[RunningHere]]
    stats: Callable[[str], Mapping[str, Any]] = _nothing
    hidden: tuple[Path, ...] = ()
    started: float = field(default_factory=time.time)

    @property
    def local(self) -> Path:
        """The kit's folder of what the site's owner may change."""
        return self.kit / "local"
