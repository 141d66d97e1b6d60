"""The running federation as the dashboard last saw it: what a thread puts here, any number of pages show."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.admin.status import SystemStatus
    from clouddeploy_runtime.jobs import JobInfo
    from clouddeploy_runtime.jobs.rounds import Round

ATTENDED_S = 60.0
"""So long after a page was looked at, the server is still asked; who watches asks again every few seconds."""
MAX_JOBS = 20
"""So many of the newest jobs are seen, each with its rounds; of a job that has ended they are read once."""


class Line(StrEnum):
    """How the connection to the server is."""

    IDLE = "idle"
    """Nobody has asked yet."""
    UNFROZEN = "not frozen"
    """There is no server yet that could be asked."""
    CONNECTING = "connecting"
    HERE = "connected"
    AWAY = "away"


@dataclass(frozen=True)
class Seen:
    """What was last seen.

    Attributes:
        line: how the connection is.
        revision: another one with each change.
        at: when; None: never.
        why: it is away.
        hint: what to do about that.
        system: the server and its clients; kept while it is away.
        jobs: the newest first, with their rounds.
    """

    line: Line = Line.IDLE
    revision: int = 0
    at: datetime | None = None
    why: str = ""
    hint: str = ""
    system: SystemStatus | None = None
    jobs: tuple[JobInfo, ...] = ()


class Live:
    """Holds it; safe for several threads.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = Seen()
        self._attended: float | None = None
        self.called = threading.Event()
        """Set when somebody looks."""

    @property
    def seen(self) -> Seen:
        """What was last seen, without anybody being asked."""
        return self._seen

    def attend(self) -> Seen:
        """Returns what was last seen, and has it kept up to date for a while."""
        self._attended = self._clock()
        self.called.set()
        return self._seen

    @property
    def is_attended(self) -> bool:
        """Whether somebody looked a short time ago."""
        attended = self._attended
        return attended is not None and self._clock() - attended < ATTENDED_S

    def put(self, **changes: Any) -> None:
        """Notes what is seen now."""
        with self._lock:
            self._seen = replace(self._seen, **changes, revision=self._seen.revision + 1)


def look(session: AdminSession, before: Seen) -> Mapping[str, Any]:
    """Asks the server; returns what is to be noted.

    Raises:
        ClouddeployError: it does not answer, or does not let the dashboard look.
    """
    jobs = sorted(session.list_jobs(limit=MAX_JOBS), key=lambda one: one.submit_time, reverse=True)[:MAX_JOBS]
    known = {one.job_id: one for one in before.jobs}
    shown = tuple(_with_rounds(session, one, known.get(one.job_id)) for one in jobs)
    return {"system": session.system_status(), "jobs": shown, "why": "", "hint": ""}


def _with_rounds(session: AdminSession, job: JobInfo, before: JobInfo | None) -> JobInfo:
    history: tuple[Round, ...] = before.history if before is not None else ()
    kept = tuple(one for one in history if one.round <= job.rounds)  # a restart goes back to a checkpoint
    last = kept[-1].round if kept else 0
    if job.rounds > last:
        kept = (*kept, *session.job_rounds(job.job_id, after=last))
    return replace(job, history=kept)
