"""Jobs: the folder a scientist submits, the states a job passes through, and what an admin sees of it."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import InvalidJob

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALL_SITES = "@ALL"
SERVER = "server"
_MAX_UNPACKED_BYTES = 4 << 30
"""A job is code and settings; data stays at the sites. Guessed: larger than any seen, small enough for every disk."""
_MAX_FILES = 10_000
_EPOCH = (1980, 1, 1, 0, 0, 0)


class JobStatus(StrEnum):
    """Where a job is; the reference's words."""

    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    COMPLETED = "FINISHED:COMPLETED"
    ABORTED = "FINISHED:ABORTED"
    EXECUTION_EXCEPTION = "FINISHED:EXECUTION_EXCEPTION"
    ABNORMAL = "FINISHED:ABNORMAL"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to the job."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.SUBMITTED: frozenset({JobStatus.RUNNING, JobStatus.ABORTED, JobStatus.ABNORMAL}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.COMPLETED, JobStatus.ABORTED, JobStatus.EXECUTION_EXCEPTION, JobStatus.ABNORMAL}
    ),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.ABORTED: frozenset(),
    JobStatus.EXECUTION_EXCEPTION: frozenset(),
    JobStatus.ABNORMAL: frozenset(),
}


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


@dataclass(frozen=True)
class JobSpec:
    """A job folder's `meta.json`, checked."""

    name: str
    deploy_map: Mapping[str, tuple[str, ...]]
    """Folder of the job → the sites that run it."""
    min_clients: int

    def app_for(self, site: str) -> str | None:
        """Return the folder that a site runs; its own name wins over `@ALL`; None when it takes no part."""
        for app, sites in self.deploy_map.items():
            if site in sites:
                return app
        return next((app for app, sites in self.deploy_map.items() if ALL_SITES in sites), None)

    @property
    def named_sites(self) -> frozenset[str]:
        """The clients that the deploy map names one by one."""
        return frozenset(site for sites in self.deploy_map.values() for site in sites) - {ALL_SITES, SERVER}


def _invalid(why: str) -> InvalidJob:
    return InvalidJob(
        "The job cannot be used", why=why, hint="A job folder holds meta.json and one folder per app of its deploy_map."
    )


def parse_meta(document: Any) -> JobSpec:
    """Parse `meta.json`.

    Raises:
        InvalidJob: names the key and what it should be.
    """
    if not isinstance(document, dict):
        raise _invalid("meta.json is not an object")
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise _invalid('meta.json: "name" must be text')
    raw = document.get("deploy_map")
    if not isinstance(raw, dict) or not raw:
        raise _invalid('meta.json: "deploy_map" must name at least one app')
    deploy_map: dict[str, tuple[str, ...]] = {}
    for app, sites in raw.items():
        if not _is_plain(app) or not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
            raise _invalid(f'meta.json: deploy_map "{app}" must be a folder name with a list of sites')
        deploy_map[app] = tuple(sites)
    min_clients = document.get("min_clients", 1)
    if not isinstance(min_clients, int) or isinstance(min_clients, bool) or min_clients < 1:
        raise _invalid('meta.json: "min_clients" must be a whole number from 1')
    spec = JobSpec(name=name, deploy_map=deploy_map, min_clients=min_clients)
    if spec.app_for(SERVER) is None:
        raise _invalid('meta.json: the deploy_map has no app for "server"')
    return spec


def _is_plain(name: str) -> bool:
    return bool(name) and name not in {".", ".."} and "/" not in name and "\\" not in name and "\0" not in name


def load(folder: Path) -> JobSpec:
    """Read and check a job folder.

    Raises:
        InvalidJob: meta.json is missing or wrong, or an app of the deploy map has no folder.
    """
    try:
        document = json.loads((folder / "meta.json").read_bytes())
    except OSError as exc:
        raise _invalid(f"{folder / 'meta.json'}: {exc.strerror}") from exc
    except ValueError as exc:
        raise _invalid(f"meta.json is not JSON: {exc}") from exc
    spec = parse_meta(document)
    for app in spec.deploy_map:
        if not (folder / app).is_dir():
            raise _invalid(f'the deploy_map names the app "{app}", but there is no such folder')
    return spec


def pack(folder: Path, *, apps: Iterable[str] | None = None) -> bytes:
    """Return a folder as a zip: same content, same bytes; no links, caches or hidden files.

    Args:
        folder: what to pack.
        apps: with it, only these sub-folders and the files beside them.
    """
    wanted = None if apps is None else set(apps)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            if path.is_symlink() or not path.is_file() or any(p.startswith(".") or p == "__pycache__" for p in parts):
                continue
            if wanted is not None and len(parts) > 1 and parts[0] not in wanted:
                continue
            entry = zipfile.ZipInfo("/".join(parts), _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o600) << 16
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def unpack(archive: bytes, destination: Path) -> None:
    """Write a zip from the network below a new folder; nothing of it can land elsewhere or fill the disk.

    Raises:
        InvalidJob: not a zip, a path that leaves the folder, a link, or more than the limits allow.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            entries = [entry for entry in source.infolist() if not entry.is_dir()]
            if len(entries) > _MAX_FILES or sum(entry.file_size for entry in entries) > _MAX_UNPACKED_BYTES:
                raise _invalid(f"the archive unpacks to more than {_MAX_FILES} files or {_MAX_UNPACKED_BYTES} bytes")
            for entry in entries:
                target = destination / _safe(entry)
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                target.write_bytes(source.read(entry))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as exc:
        raise _invalid(f"the archive cannot be unpacked: {exc}") from exc


def _safe(entry: zipfile.ZipInfo) -> Path:
    path = PurePosixPath(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if path.is_absolute() or not all(_is_plain(part) for part in path.parts) or kind not in {0, stat.S_IFREG}:
        raise _invalid(f"the archive holds {entry.filename!r}, which is no plain file below the folder")
    return Path(path)
