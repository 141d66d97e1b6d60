"""The questions that people may have for a parent, and the right that each takes; one table for both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from clouddeploy_runtime.inspection.files import jobs_in, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class Question(NamedTuple):
    """One kind of question."""

    right: str
    """As `authorization` knows it."""
    is_for_job: bool = False
    """The right is then a question of whose job it is."""


CAN_I: Final = "can_i"
"""Question of a person for what the policy there lets that person do; everybody with a role may have it answered."""
SHELL: Final = ("pwd", "ls", "cat", "head", "tail", "grep")
"""Questions for files in the workspace; each is its own right."""

QUESTIONS: Final[Mapping[str, Question]] = {
    "check_status": Question("check_status"),
    "sys_info": Question("sys_info"),
    "report_env": Question("report_env"),
    "report_version": Question("report_version"),
    "show_scopes": Question("show_scopes"),
    "show_stats": Question("show_stats", is_for_job=True),
    "show_errors": Question("show_errors", is_for_job=True),
    "reset_errors": Question("reset_errors", is_for_job=True),
    "configure_site_log": Question("configure_site_log"),
    "configure_job_log": Question("configure_job_log", is_for_job=True),
    # A log may quote what the job computed, so it is part of the result.
    "get_job_log": Question("download_job", is_for_job=True),
    **{name: Question(name) for name in SHELL},
    CAN_I: Question(""),
}

JOB_FILES: Final = "download_job"
"""The right on a job that a look into its folder takes, beside that of the command."""


def needs(name: str, arguments: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the rights that a question takes, each with the id of the job that it is about; empty: of none.

    Raises:
        InvalidCommand: what it wants to look at cannot be read.
    """
    if name == CAN_I:
        return ()
    one = QUESTIONS[name]
    own = (one.right, arguments.get("job_id", "") if one.is_for_job else "")
    if name not in SHELL:
        return (own,)
    return (own, *((JOB_FILES, job_id) for job_id in sorted(jobs_in(name, words_of(arguments.get("words", ""))))))


CHANGES: Final = frozenset({"configure_site_log", "configure_job_log", "reset_errors"})
"""Those that change something; how they end is recorded."""

TARGET: Final = "target"
"""Argument of every question: see `targets`."""
NO_REPLY: Final = "NO_REPLY"
"""Code in the place of an answer: the site did not answer in time."""
SITE_GONE: Final = "SITE_GONE"
"""The same: it went away before it answered."""
TOO_LARGE: Final = "ANSWER_TOO_LARGE"
"""The same: its answer does not fit into the message beside the others'."""
MAX_ANSWER_BYTES: Final = 6 << 20
"""Of one site, and of all in one reply: a message is at most 8 MiB."""
