"""Jobs on the server's disk: `<root>/<id>/{record.json, job/, result/, ERRORLOG_<site>}`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import time
import uuid
import zipfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from clouddeploy_runtime import job_folders, jobs
from clouddeploy_runtime.errors import JobNotFinished, JobNotFound
from clouddeploy_runtime.job import log_level
from clouddeploy_runtime.jobs import TRANSITIONS, JobInfo, JobStatus
from clouddeploy_runtime.lifecycle import WorkspaceUnusable, locked, write_atomically
from clouddeploy_runtime.server.tombstones import Tombstones
from clouddeploy_runtime.studies import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clouddeploy_runtime.jobs import JobSpec
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

ROOT_VARIABLE = "NVFL_JOB_STORE_ROOT"
"""Overrides where the jobs are; the reference's name. Default: `<workspace>/jobs`, which a reboot leaves alone."""
RECORD = "record.json"
ERROR_LOG = "ERRORLOG_"
"""Start of the name of what a site said about its failure; the site's name follows."""
INCOMING = ".incoming"
"""The folder for what is no job yet, or no job any more. The root may be any folder of somebody's: besides this one and
the jobs, whose names are UUIDs, nothing in it is ours."""
_LOCK = ".jobs.lock"
_ZIP_DATES_S = 315_619_200, 4_354_732_800
"""1980 to 2107, a day less for all time zones: what a job dates otherwise has no place in a zip."""
_PIECE_BYTES = 1 << 20
_OTHERS = 1000
"""Files of a result's archive that are neither the job's nor its controller's: one for each site that failed."""


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


def stamp() -> str:
    """Return the time as it stands in a record."""
    return now().isoformat(timespec="milliseconds")


def root_of(workspace: Path) -> Path:
    """Return where a server's jobs are."""
    given = os.environ.get(ROOT_VARIABLE)
    return Path(given) if given else workspace / "jobs"


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Make the folder of the jobs, and keep it for this process: two servers would take each other's jobs.

    Raises:
        AlreadyRunning: another server has it.
        WorkspaceUnusable: it cannot be made or written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = locked(root / _LOCK, what=root)
    except OSError as exc:
        raise WorkspaceUnusable(
            f"The folder {root} for jobs cannot be used",
            why=exc.strerror or str(exc),
            hint=f"Correct that, or name another folder with {ROOT_VARIABLE}.",
        ) from exc
    with lock:
        yield


class JobStore:
    """The record of every job; writes are atomic, a reader after a crash sees the last complete state.

    Lives in the event loop. What takes long (`prepare`, `copy`, `write_archive`, `destroy`) touches no record and may
    run in a thread.

    Args:
        root: `held`; created when it is missing. What an interrupted submission left there is removed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._infos: dict[str, JobInfo] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._is_closing = False
        job_folders.remove(root / INCOMING)
        self.tombstones = Tombstones(root / "deleted.json")
        for record in sorted(root.glob(f"*/{RECORD}")):
            if _is_job_id(record.parent.name):
                self._infos[record.parent.name] = _read(record)

    def fresh(self) -> Path:
        """Return a new folder beside the jobs; it becomes one by `admit`, and vanishes at the next start otherwise."""
        folder = self.root / INCOMING / str(uuid.uuid4())
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def prepare(self, archive: bytes | Path, folder: Path) -> JobSpec:
        """Unpack a submitted job into a `fresh` folder and check it; the folder is gone when it is wrong.

        Raises:
            InvalidJob: the archive or its meta.json is wrong.
        """
        try:
            jobs.unpack(archive, folder / "job")
            return jobs.load(folder / "job")
        except BaseException:
            job_folders.remove(folder)
            raise

    def copy(self, job_id: str, folder: Path) -> JobSpec:
        """Put what was submitted as a job into a `fresh` folder, for another one."""
        shutil.copytree(self.job_folder(job_id), folder / "job")
        return self.spec(job_id)

    def admit(self, folder: Path, spec: JobSpec, submitter: Peer, **more: Any) -> JobInfo:
        """Make a prepared folder a job.

        Args:
            folder: from `fresh`, holding `job/`.
            spec: the job's meta.json.
            submitter: who may manage it.
            more: further fields of its JobInfo.
        """
        info = JobInfo(
            job_id=folder.name,
            name=spec.name,
            status=JobStatus.SUBMITTED,
            submitter=submitter.name,
            submitter_org=submitter.org,
            submitter_role=submitter.role,
            submit_time=stamp(),
            byoc=spec.brings_code,
            **more,
        )
        _write(folder / RECORD, info)
        folder.rename(self.root / info.job_id)
        self._infos[info.job_id] = info
        return info

    def add(self, archive: bytes | Path, submitter: Peer, **more: Any) -> JobInfo:
        """Check and keep a submitted job; `more` as in `admit`.

        Raises:
            InvalidJob: the archive or its meta.json is wrong; nothing is kept.
        """
        folder = self.fresh()
        return self.admit(folder, self.prepare(archive, folder), submitter, **more)

    def get(self, job_id: str) -> JobInfo:
        """Return what is known of a job.

        Raises:
            JobNotFound: there is none of this id.
        """
        info = self._infos.get(job_id)
        if info is None:
            raise no_job(job_id)
        if info.status is JobStatus.RUNNING and info.start_time:
            return replace(info, duration_s=_since(info.start_time))
        return info

    def get_in(self, study: str, job_id: str) -> JobInfo:
        """Return what is known of a job of one study.

        Raises:
            JobNotFound: there is none of this id, or it is another study's, which cannot be told from that.
        """
        info = self.get(job_id)
        if named(info.study) != study:
            raise no_job(job_id)
        return info

    def all(self) -> list[JobInfo]:
        """Return every job, oldest first."""
        return sorted((self.get(job_id) for job_id in self._infos), key=lambda info: info.submit_time)

    def spec(self, job_id: str) -> JobSpec:
        """Return the job's checked meta.json."""
        return jobs.load(self.job_folder(job_id))

    def update(self, job_id: str, **changes: Any) -> JobInfo:
        """Change fields other than the status; whoever waits for a change of the job learns of it."""
        info = self._infos[job_id]
        info = replace(info, revision=info.revision + 1, **changes)
        _write(self.root / job_id / RECORD, info)
        self._infos[job_id] = info
        self._tell(job_id)
        return info

    def note(self, job_id: str, **changes: Any) -> JobInfo:
        """Change fields as `update` does, but on the disk only with the next change: what may be lost by a restart."""
        info = self._infos[job_id]
        self._infos[job_id] = info = replace(info, revision=info.revision + 1, **changes)
        self._tell(job_id)
        return info

    def move(self, job_id: str, status: JobStatus, *, reason: str = "", **changes: Any) -> JobInfo:
        """Change the status along `TRANSITIONS`, with other fields; anything else is a defect of this program."""
        info = self._infos[job_id]
        if status not in TRANSITIONS[info.status]:
            raise ValueError(f"a job cannot go from {info.status} to {status}")
        if status is JobStatus.RUNNING:
            changes["start_time"] = stamp()
        elif status.is_final:
            duration = round(_since(info.start_time), 3) if info.start_time else 0.0
            changes |= {"reason": reason, "duration_s": duration, "reservations": {}}
        return self.update(job_id, status=status, **changes)

    async def changed(self, job_id: str, *, since: int, wait_s: float) -> JobInfo:
        """Return a job once its revision is another than `since`, it has ended, or `wait_s` have passed.

        Raises:
            JobNotFound: there is none of this id, or it was deleted meanwhile.
        """
        info = self.get(job_id)
        if info.revision == since and not info.status.is_final and not self._is_closing:
            future = asyncio.get_running_loop().create_future()
            waiting = self._waiting.setdefault(job_id, set())
            waiting.add(future)
            await asyncio.wait({future}, timeout=wait_s)
            waiting.discard(future)
        return self.get(job_id)

    def close(self) -> None:
        """Let go of those who wait: the server stops."""
        self._is_closing = True
        for job_id in list(self._waiting):
            self._tell(job_id)

    def job_folder(self, job_id: str) -> Path:
        """Where the submitted folder is."""
        return self.root / job_id / "job"

    def run_folder(self, job_id: str) -> Path:
        """Where the controller runs; its files are the job's result."""
        return self.root / job_id / "result"

    def keep_error_log(self, job_id: str, site: str, text: str) -> None:
        """Keep what a site says about its failure; the latest one counts, and comes with the result."""
        write_atomically(self.root / job_id / f"{ERROR_LOG}{Path(site).name}", text.encode())

    def finished(self, job_id: str) -> JobInfo:
        """Return a job that has ended.

        Raises:
            JobNotFound: there is none of this id.
            JobNotFinished: it waits or runs.
        """
        info = self.get(job_id)
        if not info.status.is_final:
            raise JobNotFinished(
                f"The job {job_id} has not ended", why=f"it is {info.status}", hint="Wait for its end, or abort it."
            )
        return info

    def write_archive(self, info: JobInfo, file: IO[bytes]) -> None:
        """Write a zip of `job/`, `workspace/` (what the controller left), `meta.json` and what sites said of failures.

        Not compressed: a model does not get smaller, and the line is slower than the disk.
        """
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("meta.json", json.dumps(asdict(info), indent=2))
            root = self.root / info.job_id
            for path, name in self.files(info.job_id):
                try:
                    content = job_folders.opened(root, str(path.relative_to(root)))
                except OSError as exc:
                    log.warning("%s is left out of the result of job %s: %s", name, info.job_id, exc)
                    continue
                with content:
                    seconds = min(max(os.fstat(content.fileno()).st_mtime, _ZIP_DATES_S[0]), _ZIP_DATES_S[1])
                    entry = zipfile.ZipInfo(name, time.localtime(seconds)[:6])
                    entry.external_attr = (stat.S_IFREG | 0o600) << 16
                    with archive.open(entry, "w", force_zip64=True) as target:
                        shutil.copyfileobj(content, target, _PIECE_BYTES)

    def files(self, job_id: str) -> Iterator[tuple[Path, str]]:
        """Yield the files of a job, and what they are called in its archive."""
        left = job_folders.MAX_FILES - _OTHERS
        for folder, name in ((self.job_folder(job_id), "job"), (self.run_folder(job_id), "workspace")):
            for found in job_folders.files(folder, limit=left):
                left -= 1
                if "__pycache__" not in found.split("/") and found != log_level.FILE:
                    yield folder / found, f"{name}/{found}"
        for path in self.error_logs(job_id):
            yield path, path.name

    def error_logs(self, job_id: str) -> list[Path]:
        """Return the files with what sites said about their failures."""
        return sorted((self.root / job_id).glob(f"{ERROR_LOG}*"))

    def forget(self, job_id: str) -> Path:
        """Take a job out of the store; returns the folder that is left to `destroy`.

        A later submission with the job's token is told that it was deleted.
        """
        info = self._infos[job_id]
        if info.submit_token:
            self.tombstones.add(info)
        doomed = self.root / INCOMING / job_id
        doomed.parent.mkdir(exist_ok=True, mode=0o700)
        (self.root / job_id).rename(doomed)
        del self._infos[job_id]
        self._tell(job_id)
        return doomed

    def _tell(self, job_id: str) -> None:
        for future in self._waiting.pop(job_id, ()):
            if not future.done():
                future.set_result(None)


def content_of(folder: Path) -> str:
    """Return a digest over the files of a job folder; how they were packed or signed does not matter."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            with path.open("rb") as file:
                whole.update(f"{name.as_posix()}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def _is_job_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _since(start: str) -> float:
    return (now() - datetime.fromisoformat(start)).total_seconds()


def _write(record: Path, info: JobInfo) -> None:
    write_atomically(record, json.dumps(asdict(info), indent=2).encode())


def _read(record: Path) -> JobInfo:
    """Return what a record says; one that cannot be read is set aside, and does not keep the server from starting."""
    try:
        info = JobInfo.parse(json.loads(record.read_bytes()))
        if info.start_time:
            _since(info.start_time)
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        log.error("The record of job %s is set aside as %s.broken: %s", record.parent.name, record.name, exc)  # noqa: TRY400
        began = datetime.fromtimestamp(record.parent.stat().st_mtime, UTC)
        lost = JobInfo(
            job_id=record.parent.name,
            name="",
            status=JobStatus.ABNORMAL,
            reason=f"server: the job's record could not be read and was set aside as {RECORD}.broken: {exc}",
            submit_time=began.isoformat(timespec="milliseconds"),
        )
        try:
            record.rename(record.with_name(f"{RECORD}.broken"))
            _write(record, lost)
        except OSError as problem:
            log.warning("The record of job %s cannot be replaced: %s", lost.job_id, problem)
        return lost
    return replace(info, job_id=record.parent.name)


def no_job(job_id: str) -> JobNotFound:
    """Return the error for a job that is not there, or that the asker must not know of."""
    return JobNotFound(f"There is no job {job_id!r}", hint="List the jobs with `clouddeploy job list`.")
