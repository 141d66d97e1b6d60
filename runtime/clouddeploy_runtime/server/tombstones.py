"""What is left of deleted jobs: the submit tokens that must not start them again."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime.lifecycle import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.jobs import JobInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tombstone:
    """A deleted job that had a submit token."""

    job_id: str
    study: str
    submitter: str
    submit_token: str


class Tombstones:
    """The deleted jobs with a token, in one file.

    Args:
        path: the file; one that cannot be read is set aside, since losing a token only means that it starts a new job.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stones: list[Tombstone] = []
        try:
            self._stones = [Tombstone(**document) for document in json.loads(path.read_bytes())]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, RecursionError) as exc:
            log.error("The list of deleted jobs is set aside as %s.broken: %s", path.name, exc)  # noqa: TRY400
            path.rename(path.with_name(f"{path.name}.broken"))

    def add(self, info: JobInfo) -> None:
        """Note a job before it is deleted."""
        stone = Tombstone(info.job_id, study=info.study, submitter=info.submitter, submit_token=info.submit_token)
        stones = [*self._stones, stone]
        write_atomically(self._path, json.dumps([asdict(one) for one in stones]).encode())
        self._stones = stones

    def find(self, *, study: str, submitter: str, submit_token: str) -> Tombstone | None:
        """Return the deleted job that a token stood for."""
        key = (study, submitter, submit_token)
        return next((one for one in self._stones if (one.study, one.submitter, one.submit_token) == key), None)
