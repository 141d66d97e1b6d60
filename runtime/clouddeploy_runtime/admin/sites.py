"""What a person asks sites, and the server, about themselves; each answers by its own policy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from clouddeploy_runtime.errors import InvalidCommand
from clouddeploy_runtime.inspection import questions, targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Target = str | Sequence[str]
    """`server`, `client` (every client), `all`, the name of one participant, or several names."""
    Replies = dict[str, "SiteReply"]

DEFAULT_REPLY_S = 5.0
DEFAULT_LOG_LINES = 500
DEFAULT_LOG_BYTES = 5 << 20


@dataclass(frozen=True)
class SiteReply:
    """One site's answer, or why there is none.

    Texts in it are what the site says, or what others wrote there: `errors.printable` goes before a terminal.

    Attributes:
        site: who.
        data: what it says; empty when there is an error.
        code: of the error: AUTHORIZATION_REFUSED, NO_REPLY, SITE_GONE and so on; empty when it answered.
        reason: of the error, for people.
    """

    site: str
    data: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    reason: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether it answered."""
        return not self.code


class Sites:
    """The questions of one session. All are signed, since a site does not take the server's word for who asks.

    Each returns the replies by site; `targets` has what a target may be.

    Every method raises:
        InvalidTarget: a named client is not connected.
        NoClients: clients are asked, and none is connected.
        JobNotFound: it is about a job, and the server knows none of this id.

    Args:
        session: gives commands.
        reply_s: how long a site may take; who needs longer is reported with NO_REPLY.
    """

    def __init__(self, session: Giver, *, reply_s: float = DEFAULT_REPLY_S) -> None:
        self._session = session
        self.reply_s = reply_s

    def check_status(self, names: Target = ()) -> Replies:
        """Ask what runs: `jobs`, a list of `job_id`, `app` and `status`. No names: every client."""
        return self._ask("check_status", names or targets.CLIENTS)

    def sys_info(self, target: Target) -> Replies:
        """Ask about the machine: system, processors, memory, disk, load, the process itself. Sizes are bytes."""
        return self._ask("sys_info", target)

    def report_env(self, target: Target) -> Replies:
        """Ask for `versions` of packages, `platform`, and `environment`: variables that are known to be no secrets."""
        return self._ask("report_env", target)

    def report_version(self, target: Target) -> Replies:
        """Ask for the `version` of the runtime and of Python."""
        return self._ask("report_version", target)

    def show_scopes(self, target: Target) -> Replies:
        """Ask for the privacy scopes: `scopes` with their filters, and the `default`."""
        return self._ask("show_scopes", target)

    def can_i(self, target: Target, right: str, *, submitter: str = "", submitter_org: str = "") -> Replies:
        """Ask what the policy there lets this person do: `allowed`, and the `rule` that decides.

        Args:
            target: whose policy.
            right: or the name of a command.
            submitter: whose job it would be about.
            submitter_org: of that person.
        """
        return self._ask(questions.CAN_I, target, right=right, submitter=submitter, submitter_org=submitter_org)

    def show_stats(self, job_id: str, target: Target) -> Replies:
        """Ask what a job has done: a site has `tasks` by name, with counts, seconds and bytes; the server `rounds`."""
        return self._ask("show_stats", target, job_id=job_id)

    def show_errors(self, job_id: str, target: Target) -> Replies:
        """Ask for the warnings and errors of a job: `lines`, since its start or the last `reset_errors`."""
        return self._ask("show_errors", target, job_id=job_id)

    def reset_errors(self, job_id: str, target: Target) -> Replies:
        """Have the errors of a job that there are left out of `show_errors` from now on."""
        return self._ask("reset_errors", target, job_id=job_id)

    def configure_site_log(self, target: Target, config: str | Mapping[str, Any]) -> Replies:
        """Change how a parent logs until it is started again.

        Args:
            target: whose.
            config: a level; `concise`, `msg_only`, `full` or `verbose`; `reload` for what its own file says; or an
                object with `version` 1 and the levels of `loggers`.
        """
        return self._ask("configure_site_log", target, config=_text_of(config))

    def configure_job_log(self, job_id: str, target: Target, config: str | Mapping[str, Any]) -> Replies:
        """Change how a running job's process logs; `config` as in `configure_site_log`, without `reload`."""
        return self._ask("configure_job_log", target, job_id=job_id, config=_text_of(config))

    def shell(self, target: Target, command: str, *words: str) -> Replies:
        """Look at text files in the workspace; `text` is what a terminal would show.

        Args:
            target: whose; one participant.
            command: `pwd`, `ls`, `cat`, `head`, `tail` or `grep`.
            words: its options and its file.

        Raises:
            InvalidCommand: there is no such command.
        """
        if command not in questions.SHELL:
            raise InvalidCommand(
                f"There is no command {command!r}", why=f"there are {', '.join(questions.SHELL)}", hint="Name one."
            )
        return self._ask(command, target, words=json.dumps(words))

    def job_log(
        self,
        job_id: str,
        target: Target,
        *,
        tail: int = DEFAULT_LOG_LINES,
        max_bytes: int = DEFAULT_LOG_BYTES,
        since: str = "",
        pattern: str = "",
    ) -> Replies:
        """Ask for the log of a job's process: `text`, and whether it `is_cut` before what was asked for.

        Args:
            job_id: running or ended.
            target: where.
            tail: the last so many lines; 0: all.
            max_bytes: at most so much of the end, up to 5 MiB.
            since: lines from then on only; a time as of ISO 8601 with its zone.
            pattern: lines that hold this text only.
        """
        return self._ask(
            "get_job_log", target, job_id=job_id, tail=str(tail), max_bytes=str(max_bytes), since=since, pattern=pattern
        )

    def _ask(self, command: str, target: Target, **arguments: str) -> Replies:
        given = {name: value for name, value in arguments.items() if value}
        answer = self._session.give(
            command,
            held_s=self.reply_s,
            **{questions.TARGET: targets.written(target), "timeout_s": f"{self.reply_s:g}", **given},
        )
        return {site: _reply(site, one) for site, one in answer["sites"].items()}


class Giver(Protocol):
    """What `Sites` needs of a session."""

    def give(self, command: str, *, held_s: float | None = None, **arguments: str) -> Any:
        """Send a signed command; `held_s` is how long the server may hold back its answer."""


def _reply(site: str, document: Mapping[str, Any]) -> SiteReply:
    data = document.get("data")
    return SiteReply(
        site=site,
        data=data if isinstance(data, dict) else {},
        code=str(document.get("code", "")),
        reason=str(document.get("reason", "")),
    )


def _text_of(config: str | Mapping[str, Any]) -> str:
    return config if isinstance(config, str) else json.dumps(config)
