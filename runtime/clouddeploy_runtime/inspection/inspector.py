"""Answers the questions of people about one parent; each in a thread, and few at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import authorization
from clouddeploy_runtime.errors import InvalidCommand, JobNotFound, JobNotRunning, RuntimeFault
from clouddeploy_runtime.inspection import environment, log_wishes, machine, parent_log, questions, scopes
from clouddeploy_runtime.inspection.files import Shell, words_of
from clouddeploy_runtime.inspection.job_logs import JobLogs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clouddeploy_runtime.inspection.subject import Subject
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

_AT_A_TIME = 4
"""Each may read some MiB of a log."""
_MAX_RESETS = 500
_MAX_RIGHT = 100


class Inspector:
    """Looks at one parent.

    Args:
        subject: the parent.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._shell = Shell(subject.workspace, subject.kit, hidden=subject.hidden)
        self._logs = JobLogs(subject.jobs, subject.run)
        self._resets: dict[str, str] = {}
        """Job → when its errors were reset, as `parent_log.now` has it."""
        self._known: Mapping[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
            "check_status": self._check_status,
            "sys_info": lambda _: machine.report(subject.workspace, started=subject.started),
            "report_env": lambda _: environment.report(),
            "report_version": lambda _: environment.versions_in_short(),
            "show_scopes": lambda _: scopes.report(subject.local),
            "show_stats": lambda given: dict(subject.stats(given.get("job_id", ""))),
            "show_errors": self._show_errors,
            "reset_errors": self._reset_errors,
            "configure_site_log": self._configure_site_log,
            "configure_job_log": self._configure_job_log,
            "get_job_log": lambda given: self._logs.text(given.get("job_id", ""), given),
            **{name: partial(self._look, name) for name in questions.SHELL},
        }

    async def answer(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Answer a question that its asker may have.

        Args:
            name: one of `questions.QUESTIONS`.
            arguments: what was signed.

        Raises:
            ClouddeployError: there is no answer; says why.
        """
        look = self._known.get(name)
        if look is None:
            raise InvalidCommand(f"There is no answer to {name}", why="this side is of another version, perhaps")
        async with self._turns:
            return await asyncio.to_thread(look, arguments)

    def can_i(self, user: Peer, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Return whether this parent's policy lets somebody do something: `allowed`, and the `rule` that decides.

        Args:
            user: who asks, and whose rights it is about.
            arguments: `right`, and for rights on jobs `submitter` and `submitter_org`, whose job it would be.
        """
        request = authorization.Request(
            user=user,
            right=arguments.get("right", "")[:_MAX_RIGHT],
            site_org=self._subject.org,
            submitter_name=arguments.get("submitter", ""),
            submitter_org=arguments.get("submitter_org", ""),
        )
        decision = authorization.load(self._subject.local).explain(request)
        return {"allowed": decision.allowed, "rule": decision.rule}

    def _check_status(self, _given: Mapping[str, str]) -> dict[str, Any]:
        return {"kind": self._subject.kind, "jobs": [asdict(one) for one in self._subject.running()]}

    def _show_errors(self, given: Mapping[str, str]) -> dict[str, Any]:
        job_id = given.get("job_id", "")
        own = parent_log.troubles(self._subject.workspace, job_id, since=self._resets.get(job_id, ""))
        try:
            return {"lines": own + self._logs.errors(job_id)}
        except JobNotFound:
            if not own:
                raise
            return {"lines": own}  # it was refused here, say

    def _reset_errors(self, given: Mapping[str, str]) -> dict[str, Any]:
        job_id = given.get("job_id", "")
        with contextlib.suppress(JobNotFound):  # it was refused here, say
            self._logs.reset(job_id)
        while len(self._resets) >= _MAX_RESETS:
            del self._resets[next(iter(self._resets))]
        self._resets[job_id] = parent_log.now()
        return {}

    def _configure_site_log(self, given: Mapping[str, str]) -> dict[str, Any]:
        wanted = given.get("config", "")
        problem = log_wishes.apply_to_parent(log_wishes.parse(wanted), self._subject.local)
        log.info("Logging goes on as was asked for: %r", wanted[:200])
        return {"problem": problem}

    def _configure_job_log(self, given: Mapping[str, str]) -> dict[str, Any]:
        job_id, wish = given.get("job_id", ""), log_wishes.parse(given.get("config", ""))
        if wish.is_reload:
            raise InvalidCommand("A job's process has no file to reload", hint="Give a level or a mode.")
        if job_id not in {one.job_id for one in self._subject.running()}:
            raise JobNotRunning(f"The job {job_id[:100]} does not run here", hint="`check_status` shows what does.")
        try:
            log_wishes.leave(wish, self._subject.jobs, f"{job_id}/{self._subject.run}")
        except OSError as exc:
            raise RuntimeFault(f"The job {job_id} cannot be told", why=exc.strerror or str(exc)) from exc
        return {}

    def _look(self, command: str, given: Mapping[str, str]) -> dict[str, Any]:
        return self._shell.run(command, words_of(given.get("words", "")))
