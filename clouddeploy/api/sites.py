"""Calls that sites answer themselves, each by its own policy: versions, logs, statistics, files of the workspace."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.jobs import SERVER

from clouddeploy.api.connection import Connection
from clouddeploy.api.errors import InvalidArgumentError, InvalidTarget, JobNotRunning
from clouddeploy.api.status import TargetType
from clouddeploy.api.targets import answers, listed, only, require, target_of
from clouddeploy.log_config import read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clouddeploy_runtime.admin.sites import SiteReply

_LOG = "log.txt"


class SiteCalls(Connection):
    """What a session asks the server and clients about themselves.

    A call for several returns participant → answer; one that did not answer, or refused, is there with `error_code`
    and `message`. When nobody answered, that is raised. The server is `server`, whatever its name is.
    """

    def report_version(self, target_type: str = "all", targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Return participant → its versions of the runtime and of Python.

        Args:
            target_type: `server`, `client` or `all`.
            targets: with `client`, names; None: every connected client.

        Raises:
            InvalidTarget: a client is not connected.
            NoClientsAvailable: clients are asked, and there is none.
        """
        with self._calling() as admin:
            return self._answers(admin.sites.report_version(target_of(target_type, targets)))

    def get_client_env(self, client_names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return for each client its `client_name`, `versions`, `platform` and `environment` without secrets.

        Raises:
            InvalidTarget: a client is not connected.
            NoClientsAvailable: there is none.
        """
        with self._calling() as admin:
            found = self._answers(admin.sites.report_env(listed(client_names) or str(TargetType.CLIENT)))
        return [{"client_name": name, **said} for name, said in found.items()]

    def get_site_info(self, target_type: str = "all", targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Return participant → its machine: system, processors, memory, disk, load; sizes in bytes."""
        with self._calling() as admin:
            return self._answers(admin.sites.sys_info(target_of(target_type, targets)))

    def show_scopes(self, target_type: str = "all", targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Return participant → its privacy scopes."""
        with self._calling() as admin:
            return self._answers(admin.sites.show_scopes(target_of(target_type, targets)))

    def show_stats(self, job_id: str, target_type: str, targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Return participant → what a job has done there: `tasks` by name, with count, seconds and bytes.

        Raises:
            JobNotFound: there is none of this id.
            InvalidTarget: a client is not connected.
        """
        with self._calling() as admin:
            return self._answers(admin.sites.show_stats(job_id, target_of(target_type, targets)))

    def show_errors(self, job_id: str, target_type: str, targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Return participant → `lines`: a job's warnings and errors there, since its start or the last reset.

        Raises:
            JobNotFound: there is none of this id.
            InvalidTarget: a client is not connected.
        """
        with self._calling() as admin:
            return self._answers(admin.sites.show_errors(job_id, target_of(target_type, targets)))

    def reset_errors(
        self, job_id: str, target_type: str = TargetType.ALL, targets: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Have the errors of a job that there are now left out of `show_errors`; by default everywhere.

        Raises:
            JobNotFound: there is none of this id.
        """
        with self._calling() as admin:
            return self._answers(admin.sites.reset_errors(job_id, target_of(target_type, targets)))

    def get_job_logs(
        self,
        job_id: str,
        target: str = SERVER,
        tail_lines: int | None = None,
        grep_pattern: str | None = None,
        *,
        since: str = "",
    ) -> dict[str, dict[str, str]]:
        """Return the logs of a job's processes, at most 5 MiB of each, counted from the end.

        Args:
            job_id: running or ended.
            target: `server`, `client` or `all`, or the name of a client. Of one that is not connected, what it said of
                its failure, which the server keeps.
            tail_lines: the last so many lines; None: all.
            grep_pattern: only lines that hold this text.
            since: only lines from this time on (ISO 8601 with a zone).

        Returns:
            `logs`, participant → text, and `unavailable`, participant → why there is none.

        Raises:
            JobNotFound: there is none of this id.
            InvalidTarget: the client is not connected, and the server has nothing from it.
        """
        if tail_lines is not None and (isinstance(tail_lines, bool) or tail_lines < 0):
            raise InvalidArgumentError("tail_lines cannot be used", why=f"it is {tail_lines!r}", hint="Give 0 or more.")
        lines, pattern = tail_lines or 0, grep_pattern or ""
        try:
            with self._calling() as admin:
                replies = admin.sites.job_log(job_id, target, tail=lines, since=since, pattern=pattern)
        except InvalidTarget:
            return {"logs": {target: self._last_words(job_id, target, tail=lines, pattern=pattern)}, "unavailable": {}}
        if len(replies) == 1:
            require(replies)
        replies = self._renamed(replies)
        return {
            "logs": {site: str(reply.data.get("text", "")) for site, reply in replies.items() if reply.is_ok},
            "unavailable": {site: reply.reason or reply.code for site, reply in replies.items() if not reply.is_ok},
        }

    def _answers(self, replies: Mapping[str, SiteReply]) -> dict[str, dict[str, Any]]:
        return answers(self._renamed(replies))

    def _renamed(self, replies: Mapping[str, SiteReply]) -> dict[str, SiteReply]:
        """Return the replies with that of the server under `server`, whatever its name is."""
        return {SERVER if site == self.kit.server_name else site: reply for site, reply in replies.items()}

    def _last_words(self, job_id: str, site: str, *, tail: int, pattern: str) -> str:
        with self._calling() as admin:
            text = admin.job_log(job_id, site=site)
        lines = [line for line in text.splitlines(keepends=True) if pattern in line]
        return "".join(lines[-tail:] if tail else lines)

    def configure_job_log(self, job_id: str, config: str | Mapping[str, Any], target: str = TargetType.ALL) -> None:
        """Change how a running job's processes log.

        Args:
            job_id: the job.
            config: a level; `concise`, `msg_only`, `full` or `verbose`; an object with `version` and the levels of
                `loggers`; or the path of a JSON file with such an object.
            target: `server`, `client`, `all`, or the name of a client.

        Raises:
            JobNotRunning: it does not run.
            InvalidArgumentError: the configuration cannot be used.
        """
        with self._calling() as admin:
            require(admin.sites.configure_job_log(job_id, target, _config(config)))

    def configure_site_log(self, config: str | Mapping[str, Any], target: str = TargetType.ALL) -> None:
        """Change how the server or clients log until they are started again; also `reload`, for what their file says.

        Arguments and errors are those of `configure_job_log`.
        """
        with self._calling() as admin:
            require(admin.sites.configure_site_log(target, _config(config)))

    def ls_target(self, target: str, options: str | None = None, path: str | None = None) -> str:
        """Return the list of a folder in a participant's workspace, as `ls` writes it.

        Args:
            target: `server`, or the name of a client.
            options: of `ls`, as `-l`.
            path: below the workspace; None: the workspace itself.

        Raises:
            InvalidArgumentError: an option is not known, or the path leads elsewhere.
            InvalidTarget: the client is not connected.
            AuthorizationError: the site's policy does not allow it.
        """
        return self._shell(target, "ls", options, path)

    def cat_target(self, target: str, options: str | None = None, file: str | None = None) -> str:
        """Return a text file of a participant's workspace; see `ls_target`."""
        return self._shell(target, "cat", options, _needed(file))

    def head_target(self, target: str, options: str | None = None, file: str | None = None) -> str:
        """Return the first lines of a text file, ten or as `-n` in the options says; see `ls_target`."""
        return self._shell(target, "head", options, _needed(file))

    def head_target_log(self, target: str, options: str | None = None) -> str:
        """Return the first lines of a participant's log.txt; see `head_target`."""
        return self._shell(target, "head", options, _LOG)

    def tail_target(self, target: str, options: str | None = None, file: str | None = None) -> str:
        """Return the last lines of a text file, ten or as `-n` in the options says; see `ls_target`."""
        return self._shell(target, "tail", options, _needed(file))

    def tail_target_log(self, target: str, options: str | None = None) -> str:
        """Return the last lines of a participant's log.txt; see `tail_target`."""
        return self._shell(target, "tail", options, _LOG)

    def grep_target(
        self, target: str, options: str | None = None, pattern: str | None = None, file: str | None = None
    ) -> str:
        """Return the lines of a text file that hold a text; see `ls_target`."""
        return self._shell(target, "grep", options, _needed(pattern, "pattern"), _needed(file))

    def grep_target_log(self, target: str, options: str | None = None, pattern: str | None = None) -> str:
        """Return the lines of a participant's log.txt that hold a text; see `grep_target`."""
        return self._shell(target, "grep", options, _needed(pattern, "pattern"), _LOG)

    def get_working_directory(self, target: str) -> str:
        """Return the path of a participant's workspace on its machine."""
        return self._shell(target, "pwd", None).strip()

    def do_app_command(self, job_id: str, topic: str, cmd_data: Any = None) -> Any:
        """Send a running job's controller a command of its own; returns its answer.

        Args:
            job_id: the job.
            topic: what the controller calls the command.
            cmd_data: its arguments, made of what JSON has.

        Raises:
            JobNotRunning: it does not run.
            InvalidArgumentError: the server, or the controller, takes no such command.
        """
        with self._calling() as admin:
            if (status := admin.job_meta(job_id).status) != "RUNNING":
                raise JobNotRunning(f"The job {job_id} does not run", why=f"it is {status}", hint="Submit it again.")
            return admin.give("app_command", job_id=job_id, topic=topic, data=json.dumps(cmd_data))

    def _shell(self, target: str, command: str, options: str | None, *words: str | None) -> str:
        if target in {TargetType.ALL, TargetType.CLIENT}:
            raise InvalidArgumentError(
                f"{command} is for one participant", why=f"the target is {target}", hint="Name the server or a client."
            )
        try:
            given = (*shlex.split(options or ""), *(word for word in words if word is not None))
        except ValueError as exc:
            raise InvalidArgumentError("The options cannot be read", why=str(exc), hint="Close the quote.") from exc
        with self._calling() as admin:
            return str(only(admin.sites.shell(target, command, *given)).get("text", ""))


def _needed(value: str | None, name: str = "file") -> str:
    if not value:
        raise InvalidArgumentError(f"No {name} is given", hint=f"Give {name}=…")
    return value


def _config(config: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
    return read(config) if isinstance(config, str) else config
