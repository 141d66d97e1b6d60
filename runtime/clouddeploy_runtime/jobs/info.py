"""The states a job passes through, and what an admin sees of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from clouddeploy_runtime.errors import InvalidCommand
from clouddeploy_runtime.studies import named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.jobs.rounds import Round

_SUBMIT_TOKEN = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


class JobStatus(StrEnum):
    """Where a job is; the reference's words."""

    SUBMITTED = "SUBMITTED"
    DISPATCHED = "DISPATCHED"
    RUNNING = "RUNNING"
    COMPLETED = "FINISHED:COMPLETED"
    ABORTED = "FINISHED:ABORTED"
    EXECUTION_EXCEPTION = "FINISHED:EXECUTION_EXCEPTION"
    ABNORMAL = "FINISHED:ABNORMAL"
    CAN_NOT_SCHEDULE = "FINISHED:CAN_NOT_SCHEDULE"
    FAILED_TO_RUN = "FINISHED:FAILED_TO_RUN"
    ABANDONED = "FINISHED:ABANDONED"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to the job."""
        return not TRANSITIONS[self]


def check_submit_token(token: str) -> None:
    """Refuse what cannot be a submit token.

    Raises:
        InvalidCommand: it is too long, or holds other signs.
    """
    if not _SUBMIT_TOKEN.fullmatch(token):
        raise InvalidCommand(
            "The submit token cannot be used",
            why=f"it is {token[:200]!r}",
            hint="Use at most 128 letters, digits and . _ : -",
        )


_ENDS = frozenset({JobStatus.COMPLETED, JobStatus.ABORTED, JobStatus.EXECUTION_EXCEPTION, JobStatus.ABNORMAL})
TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.SUBMITTED: frozenset(
        {JobStatus.DISPATCHED, JobStatus.RUNNING, JobStatus.ABORTED, JobStatus.ABNORMAL, JobStatus.CAN_NOT_SCHEDULE}
    ),
    JobStatus.DISPATCHED: frozenset({JobStatus.RUNNING, JobStatus.FAILED_TO_RUN, JobStatus.ABANDONED}) | _ENDS,
    JobStatus.RUNNING: frozenset({JobStatus.ABANDONED}) | _ENDS,
    **{status: frozenset() for status in JobStatus if status.value.startswith("FINISHED:")},
}


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "Mapping[str, Any]": dict,
    "Mapping[str, str]": dict,
}
"""Kind of a field, as it is written below → what may stand in a record."""


@dataclass(frozen=True)
class JobInfo:
    """What an admin sees of a job."""

    job_id: str
    name: str
    status: JobStatus
    reason: str = ""
    """Why it ended as it did, naming the site; empty while it runs and when it completed."""
    submitter: str = ""
    submitter_org: str = ""
    submitter_role: str = ""
    submit_time: str = ""
    start_time: str = ""
    duration_s: float = 0.0
    rounds: int = 0
    """Finished rounds."""
    total_rounds: int = 0
    sites: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    study: str = ""
    """Empty in the server's record, and `default` to who looks at it, when it is of no other."""
    cloned_from: str = ""
    """Id of the job that this one repeats."""
    byoc: bool = False
    """Whether it brings code of its own; found in its folder, not believed of its meta.json."""
    schedule_count: int = 0
    """Tries to start it that counted: ten in vain end it."""
    last_schedule_time: str = ""
    schedule_history: tuple[str, ...] = ()
    """Why it waits: the latest causes, each with its time."""
    deploy_detail: Mapping[str, str] = field(default_factory=dict)
    """Site → why it does not take part; it does, where the text is empty or `privacy scope: ` and the scope's name."""
    revision: int = 0
    """Grows with each change: who watches a job names the last one seen."""
    content: str = ""
    """SHA-256 over the submitted files: the same job, sent again, has the same."""
    submit_token: str = ""
    """What the submitter named this submission, so that a repeated one makes no second job."""
    reservations: Mapping[str, str] = field(default_factory=dict)
    """Site → what it holds for the job; stands in StartJob."""
    statement: str = ""
    """Fingerprint of what the submitter signed, see `signing`; of a clone, the original's. Empty: nothing."""
    history: tuple[Round, ...] = ()
    """Its finished rounds, the last thousand at most. No part of a record or a reply; `AdminSession.watch` adds it."""

    @classmethod
    def parse(cls, document: Any) -> Self:
        """Return what a record or a reply says, without the fields that this version does not know.

        Raises:
            ValueError: it is no object, or a field that every job has is missing or of another kind.
        """
        if not isinstance(document, dict) or not isinstance(document.get("job_id"), str):
            raise ValueError("it does not say which job it is of")  # noqa: TRY004 - one error for the caller
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document and name != "history"}
        for name in ("sites", "schedule_history"):
            known[name] = tuple(str(one) for one in known.get(name) or ())
        for name, value in known.items():
            if not isinstance(value, _KINDS.get(str(cls.__dataclass_fields__[name].type), object)):
                raise ValueError(f"{name!r} is {value!r}")  # noqa: TRY004 - one error for the caller
        known["status"] = JobStatus(str(known.get("status")))
        known.setdefault("name", "")
        return cls(**known)

    def seen_by(self, user: str) -> Self:
        """Return what another admin may see of it: how a submission was named is the submitter's business."""
        token = self.submit_token if user == self.submitter else ""
        return replace(self, reservations={}, submit_token=token, study=named(self.study))
