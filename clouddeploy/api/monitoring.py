"""Calls that watch a job until it has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.jobs import JobInfo

from clouddeploy.api.connection import Connection
from clouddeploy.api.errors import JobTimeout, NoConnection, NoReply
from clouddeploy.api.meta import JobMeta, full
from clouddeploy.api.status import MonitorReturnCode

if TYPE_CHECKING:
    from collections.abc import Callable

AWAY_S = 60.0
"""Who watches a job waits so long for a server that restarts."""
_PAUSE_S = 0.2
_HELD_S = 20.0
"""So long the server may hold back its answer; as `clouddeploy_runtime.server.commands`."""


class MonitorCalls(Connection):
    """How a session watches a job."""

    def monitor_job(
        self,
        job_id: str,
        timeout: float = 0.0,
        poll_interval: float = 2.0,
        cb: Callable[..., bool] | None = None,
        *cb_args: Any,
        **cb_kwargs: Any,
    ) -> MonitorReturnCode:
        """Watch a job until it has ended; a server that is restarted meanwhile is waited for.

        Args:
            job_id: the job.
            timeout: how long to watch, in seconds; 0: to the end.
            poll_interval: the callback is called at each change of the job, and when so many seconds have passed.
            cb: called as `cb(session, job_id, job_meta, *cb_args, **cb_kwargs)`; when it returns something false,
                watching ends, and the job goes on.
            cb_args: passed on to it.
            cb_kwargs: passed on to it.

        Raises:
            JobNotFound: there is none of this id.
            NoConnection: the server has been away for a minute.
        """
        return self.monitor_job_and_return_job_meta(job_id, timeout, poll_interval, cb, *cb_args, **cb_kwargs)[0]

    def monitor_job_and_return_job_meta(
        self,
        job_id: str,
        timeout: float = 0.0,
        poll_interval: float = 2.0,
        cb: Callable[..., bool] | None = None,
        *cb_args: Any,
        **cb_kwargs: Any,
    ) -> tuple[MonitorReturnCode, JobMeta]:
        """Watch a job as `monitor_job`; returns what was last known of it, too."""
        deadline = time.monotonic() + timeout if timeout else float("inf")
        since = -1
        while True:
            wait_s = max(0.0, min(poll_interval, _HELD_S, deadline - time.monotonic()))
            info = self._changed(job_id, since=since, wait_s=wait_s, deadline=deadline)
            since, meta = info.revision, full(info)
            if cb is not None and not cb(self, job_id, meta, *cb_args, **cb_kwargs):
                return MonitorReturnCode.ENDED_BY_CB, meta
            if info.status.is_final:
                return MonitorReturnCode.JOB_FINISHED, meta
            if time.monotonic() >= deadline:
                return MonitorReturnCode.TIMEOUT, meta

    def wait_for_job(self, job_id: str, timeout: float = 0.0, poll_interval: float = 2.0) -> JobMeta:
        """Return a job's record once it has ended, well or not: see its `status`.

        Raises:
            JobTimeout: it has not ended after `timeout` seconds; 0: there is no limit.
            JobNotFound: there is none of this id.
            NoConnection: the server has been away for a minute.
        """
        code, meta = self.monitor_job_and_return_job_meta(job_id, timeout, poll_interval)
        if code is MonitorReturnCode.TIMEOUT:
            raise JobTimeout(
                f"The job {job_id} has not ended within {timeout:g} s",
                why=f"it is {meta['status']}, {meta['rounds']} rounds are done",
                hint="Wait once more, or abort it.",
            )
        return meta

    def _changed(self, job_id: str, *, since: int, wait_s: float, deadline: float) -> JobInfo:
        """Return a job once it is another than `since`, or `wait_s` have passed; -1: at once."""
        held = {} if since < 0 else {"since": since, "wait_s": wait_s}
        away_since: float | None = None
        while True:
            try:
                with self._calling() as admin:
                    return JobInfo.parse(admin.ask("job_meta", held_s=wait_s, job_id=job_id, **held))
            except (NoConnection, NoReply):
                now = time.monotonic()
                away_since = away_since or now
                if since < 0 or now >= deadline or now - away_since >= AWAY_S:
                    raise
                time.sleep(_PAUSE_S)
