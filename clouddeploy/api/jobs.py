"""Calls about jobs: submit, list, abort, repeat, delete, download."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from clouddeploy_runtime.jobs import JobInfo
from clouddeploy_runtime.jobs.normal import is_job

from clouddeploy.api.connection import Connection
from clouddeploy.api.errors import InvalidArgumentError
from clouddeploy.api.meta import JobList, JobMeta, brief, full

_ERROR_LOG = "ERRORLOG_"
"""How the server names what a site said about its failure."""


class JobCalls(Connection):
    """What a session does with jobs."""

    def submit_job(self, job_definition_path: str | Path, submit_token: str | None = None) -> str:
        """Submit a job.

        Args:
            job_definition_path: the job's folder; one that is not found from here is looked for in the kit's
                `transfer/`. It is signed without being changed.
            submit_token: the submission's name: submitted again with it, as after a lost connection, the same folder
                gives the same job. None: a new job each time.

        Returns:
            The job's id.

        Raises:
            InvalidJobDefinition: the folder is incomplete, or asks for what is not run.
            AuthorizationError: this person may not submit jobs, or may not bring code.
            SubmitTokenConflict: the token stands for a job of other content.
            SubmitTokenJobDeleted: the job that the token stands for was deleted.
        """
        folder = Path(job_definition_path)
        if not folder.is_dir() and (Path(self.upload_dir) / folder).is_dir():
            folder = Path(self.upload_dir) / folder
        with self._calling() as admin:
            return admin.submit(folder, token=submit_token or "")

    def clone_job(self, job_id: str) -> str:
        """Run an earlier job once more, as one's own; returns the new job's id.

        Raises:
            JobNotFound: there is none of this id.
            AuthorizationError: this person may not clone it.
        """
        with self._calling() as admin:
            return admin.clone(_id(job_id))

    def get_job_meta(self, job_id: str) -> JobMeta:
        """Return what the server knows of a job, as a dictionary.

        Raises:
            JobNotFound: there is none of this id.
        """
        with self._calling() as admin:
            return full(admin.job_meta(_id(job_id)))

    def get_job_status(self, job_id: str) -> str:
        """Return a job's status: `SUBMITTED`, `DISPATCHED`, `RUNNING`, or one that begins with `FINISHED:`.

        Raises:
            JobNotFound: there is none of this id.
        """
        return str(self.get_job_meta(job_id)["status"])

    def list_jobs(
        self,
        detailed: bool = False,
        limit: int | None = None,
        id_prefix: str | None = None,
        name_prefix: str | None = None,
        reverse: bool = False,
    ) -> list[JobMeta]:
        """Return the jobs of the session's study, oldest first.

        Args:
            detailed: all that is known of each, instead of id, name, status, time and duration.
            limit: the newest so many only; None or 0: as many as the server sends in one answer, two thousand.
            id_prefix: how their ids begin.
            name_prefix: how their names begin.
            reverse: newest first.
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidArgumentError("The limit cannot be used", why=f"it is {limit!r}", hint="Give a number from 0.")
        wanted: dict[str, Any] = {"id": id_prefix or "", "name": name_prefix or "", "limit": limit or 0}
        with self._calling() as admin:
            found = [JobInfo.parse(document) for document in admin.ask("list_jobs", **wanted)]
        shown = JobList((full if detailed else brief)(info) for info in found)
        if reverse:
            shown.reverse()
        return shown

    def abort_job(self, job_id: str) -> str:
        """End a job, at every site; one that has ended stays as it is.

        Returns:
            What was done, in words.

        Raises:
            JobNotFound: there is none of this id.
            AuthorizationError: this person may not.
        """
        with self._calling() as admin:
            admin.abort(_id(job_id))
        return f"The job {job_id} is being stopped"

    def delete_job(self, job_id: str) -> None:
        """Take a job away at the server, with its result.

        Raises:
            JobNotFound: there is none of this id.
            JobNotDone: it runs; abort it first.
            AuthorizationError: this person may not.
        """
        with self._calling() as admin:
            admin.delete(_id(job_id))

    def download_job_result(self, job_id: str, destination: str | Path | None = None) -> str:
        """Fetch a job that has ended, as it was submitted and as it was left; an earlier download is replaced.

        Args:
            job_id: the job.
            destination: the folder for it; None: the kit's `transfer/`.

        Returns:
            The path of the new folder, which is named as the job's id: `job/`, `workspace/`, `meta.json`.

        Raises:
            JobNotFound: there is none of this id.
            JobNotDone: it waits or runs.
            AuthorizationError: this person may not.
        """
        with self._calling() as admin:
            return str(admin.download(_id(job_id), Path(destination or self.download_dir)))

    def list_job_components(self, job_id: str) -> list[str]:
        """Return the names of what there is of a job besides folder and result: `ERRORLOG_<site>` of each failed site.

        Raises:
            JobNotFound: there is none of this id.
        """
        with self._calling() as admin:
            return [name for name in admin.list_components(_id(job_id)) if name.startswith(_ERROR_LOG)]

    def download_job_components(self, job_id: str, destination: str | Path | None = None) -> str:
        """Fetch what `list_job_components` names.

        Args:
            job_id: the job.
            destination: the folder for it; None: the kit's `transfer/`.

        Returns:
            The path of the folder with the files, which is named as the job's id and `_components`.
        """
        names = self.list_job_components(job_id)
        target = Path(destination or self.download_dir) / f"{Path(job_id).name}_components"
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        with self._calling() as admin:
            for name in names:
                text = admin.job_log(job_id, site=name.removeprefix(_ERROR_LOG))
                (target / Path(name).name).write_text(text, encoding="utf-8")
        return str(target)

    def get_available_apps_to_upload(self) -> list[str]:
        """Return the names of the folders in the kit's `transfer/` that look like jobs."""
        folder = Path(self.upload_dir)
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(one.name for one in found if is_job(one))


def _id(job_id: str) -> str:
    if not isinstance(job_id, str) or not job_id.strip():
        raise InvalidArgumentError("The job's id cannot be used", why=f"it is {job_id!r}", hint="See `list_jobs`.")
    return job_id
