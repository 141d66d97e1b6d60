"""What the sites of one job get to run: each the app that is meant for it, packed once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from clouddeploy_runtime import jobs
from clouddeploy_runtime.server import statements
from clouddeploy_runtime.wire import blobs
from clouddeploy_runtime.wire.federation_pb2 import StartJob

if TYPE_CHECKING:
    from clouddeploy_runtime.jobs import JobSpec
    from clouddeploy_runtime.server.store import JobStore


class Handout:
    """The archives of one job.

    Args:
        job_id: a job of the store.
        sites: that take part.
        spec: the job's meta.json.
        store: where its folder is.
    """

    def __init__(self, job_id: str, *, sites: tuple[str, ...], spec: JobSpec, store: JobStore) -> None:
        self._job_id = job_id
        self._sites = sites
        self._spec = spec
        self._store = store
        self._manifest = b""
        self._archives: dict[str, tuple[bytes, str]] = {}
        """By app: the zip that its sites get, and its digest."""

    async def pack(self) -> None:
        """Make the archives; takes long for a large folder."""
        self._manifest = await asyncio.to_thread(statements.kept, self._store.root / self._job_id)
        folder = self._store.job_folder(self._job_id)
        for app in {self._app_of(site) for site in self._sites}:
            archive = await asyncio.to_thread(jobs.pack, folder, apps={app})
            self._archives[app] = archive, await asyncio.to_thread(blobs.checksum, archive)

    @property
    def size_bytes(self) -> int:
        """Of the largest one."""
        return max((len(archive) for archive, _ in self._archives.values()), default=0)

    def blob(self, site: str, app: str) -> bytes | None:
        """Return the archive of an app, if it is the one that the site runs."""
        archive, _ = self._archives.get(app, (None, ""))
        return archive if app == self._app_of(site) else None

    def start(self, site: str, *, reservation: str) -> StartJob:
        """Return what tells a site to start the job."""
        app = self._app_of(site)
        archive, checksum = self._archives[app]
        info = self._store.get(self._job_id)
        return StartJob(
            job_id=self._job_id,
            app=app,
            sites=self._sites,
            blob=f"job:{app}",
            size=len(archive),
            checksum=checksum,
            submitter=info.submitter,
            submitter_org=info.submitter_org,
            submitter_role=info.submitter_role,
            manifest=self._manifest,
            reservation=reservation,
            study=info.study,
        )

    def clear(self) -> None:
        """Forget the archives: the job has ended."""
        self._archives.clear()

    def _app_of(self, site: str) -> str:
        return self._spec.app_for(site) or ""
