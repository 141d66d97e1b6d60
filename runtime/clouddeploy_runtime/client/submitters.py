"""Remembers beside each job whose it is, so that a site can tell who may see its log when it has ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime import job_folders, tls
from clouddeploy_runtime.jobs.archive import is_plain
from clouddeploy_runtime.lifecycle import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

FILE = "admitted.json"
"""In the job's folder at a site, not in the one where its process runs."""
_MAX_BYTES = 10_000


class _Submitter(msgspec.Struct, frozen=True):
    name: str
    org: str
    role: str


def note(folder: Path, submitter: tls.Peer) -> None:
    """Remember a job's submitter; when the disk is full, only those see its log later on who may see everybody's."""
    said = _Submitter(submitter.name, submitter.org, submitter.role)
    try:
        write_atomically(folder / FILE, msgspec.json.encode(said))
    except OSError as exc:
        log.warning("Whose job %s is cannot be written down: %s", folder.name, exc.strerror or exc)


def known(jobs: Path, job_id: str) -> tls.Peer | None:
    """Return a job's submitter; None: nothing is known of it."""
    if not is_plain(job_id):
        return None
    try:
        with job_folders.opened(jobs, f"{job_id}/{FILE}") as file:
            said = msgspec.json.decode(file.read(_MAX_BYTES), type=_Submitter)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    return tls.Peer(name=said.name, org=said.org, role=said.role)
