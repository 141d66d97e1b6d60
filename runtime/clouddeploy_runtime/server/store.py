"""Jobs on the server's disk: `<workspace>/jobs/<id>/{record.json, job/, run/, result/}`."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import jobs
from clouddeploy_runtime.errors import InvalidJob, JobNotFound
from clouddeploy_runtime.jobs import TRANSITIONS, JobInfo, JobStatus
from clouddeploy_runtime.lifecycle import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.jobs import JobSpec
    from clouddeploy_runtime.tls import Peer


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class JobStore:
    """The record of every job; writes are atomic, a reader after a crash sees the last complete state."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._infos: dict[str, JobInfo] = {}
        for record in sorted(root.glob("*/record.json")):
            info = _from_record(json.loads(record.read_bytes()))
            self._infos[info.job_id] = info
        for info in self.all():
            if info.status is JobStatus.RUNNING:
                self.move(info.job_id, JobStatus.ABNORMAL, reason="the server stopped while the job ran")

    def add(self, archive: bytes, submitter: Peer) -> JobInfo:
        """Check and keep a submitted job.

        Raises:
            InvalidJob: the archive or its meta.json is wrong; nothing is kept.
        """
        job_id = str(uuid.uuid4())
        folder = self.root / job_id
        try:
            jobs.unpack(archive, folder / "job")
            spec = jobs.load(folder / "job")
        except InvalidJob:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        info = JobInfo(
            job_id=job_id,
            name=spec.name,
            status=JobStatus.SUBMITTED,
            submitter=submitter.name,
            submitter_org=submitter.org,
            submitter_role=submitter.role,
            submit_time=now().isoformat(timespec="milliseconds"),
        )
        self._keep(info)
        return info

    def get(self, job_id: str) -> JobInfo:
        """Return what is known of a job.

        Raises:
            JobNotFound: there is none of this id.
        """
        info = self._infos.get(job_id)
        if info is None:
            raise JobNotFound(f"There is no job {job_id!r}", hint="List the jobs with `clouddeploy job list`.")
        if info.status is JobStatus.RUNNING:
            return replace(info, duration_s=_since(info.start_time))
        return info

    def all(self) -> list[JobInfo]:
        """Return every job, oldest first."""
        return sorted((self.get(job_id) for job_id in self._infos), key=lambda info: info.submit_time)

    def spec(self, job_id: str) -> JobSpec:
        """Return the job's checked meta.json."""
        return jobs.load(self.job_folder(job_id))

    def update(self, job_id: str, **changes: Any) -> JobInfo:
        """Change fields other than the status."""
        info = replace(self._infos[job_id], **changes)
        self._keep(info)
        return info

    def move(self, job_id: str, status: JobStatus, *, reason: str = "") -> JobInfo:
        """Change the status along `TRANSITIONS`; anything else is a defect of this program."""
        info = self._infos[job_id]
        if status not in TRANSITIONS[info.status]:
            raise ValueError(f"a job cannot go from {info.status} to {status}")
        if status is JobStatus.RUNNING:
            return self.update(job_id, status=status, start_time=now().isoformat(timespec="milliseconds"))
        duration = round(_since(info.start_time), 3) if info.start_time else 0.0
        return self.update(job_id, status=status, reason=reason, duration_s=duration)

    def job_folder(self, job_id: str) -> Path:
        """Where the submitted folder is."""
        return self.root / job_id / "job"

    def run_folder(self, job_id: str) -> Path:
        """Where the controller runs; its files are the job's result."""
        return self.root / job_id / "result"

    def _keep(self, info: JobInfo) -> None:
        folder = self.root / info.job_id
        write_atomically(folder / "record.json", json.dumps(asdict(info), indent=2).encode())
        self._infos[info.job_id] = info


def _since(start: str) -> float:
    return (now() - datetime.fromisoformat(start)).total_seconds()


def _from_record(document: dict[str, Any]) -> JobInfo:
    document["status"] = JobStatus(document["status"])
    document["sites"] = tuple(document["sites"])
    return JobInfo(**document)
