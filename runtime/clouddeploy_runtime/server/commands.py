"""What a person may ask the server for, besides submitting and downloading: one table of commands and rights."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from clouddeploy_runtime import job_folders
from clouddeploy_runtime.errors import InvalidCommand, InvalidTarget, JobNotFound
from clouddeploy_runtime.jobs import SERVER, JobInfo, JobStatus
from clouddeploy_runtime.launchers import output
from clouddeploy_runtime.server.calls import Call, Command
from clouddeploy_runtime.server.rounds import read
from clouddeploy_runtime.server.stops import Stops
from clouddeploy_runtime.server.store import ERROR_LOG
from clouddeploy_runtime.studies import named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from clouddeploy_runtime.jobs.rounds import Round
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.lifecycle import StopSignal
    from clouddeploy_runtime.server.membership import Membership
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.server.submissions import Submissions
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

MAX_WAIT_S = 20.0
"""How long an answer may be held back: shorter than the balancers and proxies that cut idle calls (60 s and more)."""
MAX_LISTED = 2000
"""Jobs in one answer, the newest: a message is at most 8 MiB."""
MAX_LISTED_BYTES = 4 << 20
"""Of these jobs: the newest that fit."""
MAX_NAME = 255
"""Of a client; a common name has at most 64 signs (RFC 5280, appendix A.1), and some authorities are generous."""
MAX_LOG_BYTES = 5 << 20
"""The reference's bound."""
_MAX_LOG_ANSWER_BYTES = 7 << 20
"""As JSON."""


class Commands:
    """The commands of a server, by name.

    Args:
        kit: the server's.
        more: commands of other parts of the server.
    """

    def __init__(
        self,
        kit: Kit,
        *,
        store: JobStore,
        scheduler: Scheduler,
        registry: Registry,
        membership: Membership,
        submissions: Submissions,
        stop: StopSignal,
        more: Mapping[str, Command] | None = None,
    ) -> None:
        self._kit = kit
        self._store = store
        self._scheduler = scheduler
        self._registry = registry
        self._membership = membership
        self._submissions = submissions
        self._stop = stop
        self._since = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.table: Mapping[str, Command] = {
            "list_jobs": Command("list_jobs", self._list_jobs, is_watching=True),
            "job_meta": Command("get_job_meta", self._job_meta, is_for_job=True, is_watching=True),
            # Who may see a job's metrics may see those of its rounds.
            "job_rounds": Command("get_job_meta", self._job_rounds, is_for_job=True, is_watching=True),
            "abort_job": Command("abort_job", self._abort_job, is_for_job=True, is_signed=True),
            "delete_job": Command("delete_job", self._delete_job, is_for_job=True, is_signed=True),
            "clone_job": Command("clone_job", self._clone_job, is_for_job=True, needs_code_right=True, is_signed=True),
            # A log may quote what the job computed, so it is part of the result.
            "job_log": Command("download_job", self._job_log, is_for_job=True),
            "list_components": Command("download_job", self._list_components, is_for_job=True),
            "system_status": Command("check_status", self._system_status, is_watching=True),
            "report_resources": Command("report_resources", self._report_resources),
            "disable_client": Command("disable_client", self._disable_client, is_signed=True, subject="client"),
            "enable_client": Command("enable_client", self._enable_client, is_signed=True, subject="client"),
            "remove_client": Command("remove_client", self._remove_client, is_signed=True, subject="client"),
            **Stops(kit, store=store, scheduler=scheduler, registry=registry, stop=stop).table,
            **(more or {}),
        }

    async def _list_jobs(self, call: Call) -> Any:
        """Return jobs oldest first, each without its history; of more than the limit, the newest."""
        name, state, submitter = call.text("name"), call.text("state"), call.text("submitter")
        limit = int(call.number("limit")) or MAX_LISTED
        found = [
            info
            for info in self._store.all()
            if named(info.study) == call.study
            and info.name.startswith(name)
            and _is_in_state(info, state)
            and (not submitter or info.submitter == submitter)
            and info.job_id.startswith(call.text("id"))
        ]
        shown: list[dict[str, Any]] = []
        left = MAX_LISTED_BYTES
        for info in reversed(found[-min(limit, MAX_LISTED) :]):
            document = _shown(info, call.peer)
            document["schedule_history"] = document["schedule_history"][-1:]
            size = len(msgspec.json.encode(document))
            if size <= left:
                left -= size
                shown.append(document)
        return shown[::-1]

    async def _job_meta(self, call: Call) -> Any:
        """Return a job; with `since`, once its revision is another one, at the latest after `wait_s`."""
        since = call.arguments.get("since")
        if since is None:
            return _shown(self._store.get(call.job_id), call.peer)
        wait_s = min(call.number("wait_s"), MAX_WAIT_S)
        info = await self._store.changed(call.job_id, since=int(call.number("since")), wait_s=wait_s)
        return _shown(info, call.peer)

    async def _job_rounds(self, call: Call) -> Any:
        """Return a job's finished rounds with a number above `after`."""
        after, job = int(call.number("after")), self._scheduler.find(call.job_id)
        known: Iterable[Round]
        known = job.rounds.known if job is not None else await asyncio.to_thread(read, self._store.root / call.job_id)
        return [asdict(one) for one in known if one.round > after]

    async def _abort_job(self, call: Call) -> Any:
        await self._scheduler.abort(call.job_id, reason=f"aborted by {call.peer.name}", command=call.signed)
        return {}

    async def _delete_job(self, call: Call) -> Any:
        """Take away a job that does not run, with all that it left."""
        if self._store.get(call.job_id).status is JobStatus.SUBMITTED:
            await self._scheduler.abort(call.job_id, reason=f"deleted by {call.peer.name}")
        self._store.finished(call.job_id)
        doomed = self._store.forget(call.job_id)
        log.info("Job %s was deleted by %s", call.job_id, call.peer.name, extra={"job": call.job_id})
        await asyncio.to_thread(job_folders.remove, doomed)
        return {}

    async def _clone_job(self, call: Call) -> Any:
        """Submit a job once more; the sites want to see which statement the asker made his own."""
        if call.text("statement") != self._store.get(call.job_id).statement:
            raise InvalidCommand(
                "The command cannot be used", why="what it clones is not what was signed of the job", hint="Try again."
            )
        info = await self._submissions.clone(
            call.job_id, call.peer, may_bring_code=call.may_bring_code, command=call.signed
        )
        self._scheduler.wake()
        return {"job_id": info.job_id}

    async def _job_log(self, call: Call) -> Any:
        """Return the end of the controller's log, or of what a site said about its failure."""
        site = call.text("site", SERVER)
        sites = {path.name.removeprefix(ERROR_LOG): path for path in self._store.error_logs(call.job_id)}
        path = self._store.run_folder(call.job_id) / output.NAME if site == SERVER else sites.get(site)
        if path is None:
            raise InvalidTarget(
                f"There is no log of {site!r}",
                why="a site's log stays there, unless the site failed",
                hint=f"There are logs of {', '.join([SERVER, *sites])}.",
            )
        size = min(int(call.number("max_bytes", MAX_LOG_BYTES)), MAX_LOG_BYTES)
        return {"text": await asyncio.to_thread(_end_of, self._store.root / call.job_id, path, size)}

    async def _list_components(self, call: Call) -> Any:
        """Return the names of what a download of the job brings, with their sizes."""
        return await asyncio.to_thread(_sizes, self._store.files(call.job_id))

    async def _system_status(self, call: Call) -> Any:
        """Tell how the server is; of jobs of other studies than the asker's, only how many run."""
        every = [self._store.get(job_id) for job_id in self._scheduler.running]
        running = [info for info in every if named(info.study) == call.study]
        shown = {info.job_id for info in self._store.all() if named(info.study) == call.study}
        clients = [
            {
                "name": s.name,
                "address": s.address,
                "connected_since": s.since,
                "silent_s": round(self._registry.silent_s(s), 1),
                "jobs": sorted(s.jobs & shown),
                "other_jobs": len(s.jobs - shown),
            }
            for s in self._registry.connected()
        ]
        return {
            "server": self._kit.server_name,
            "state": "stopping" if self._stop.cause else "serving",
            "since": self._since,
            "clients": clients,
            "disabled": list(self._membership.disabled),
            "jobs": [{"job_id": info.job_id, "name": info.name, "status": info.status} for info in running],
            "other_jobs": len(every) - len(running),
            "resources": self._scheduler.reservations.offers,
        }

    async def _report_resources(self, _call: Call) -> Any:
        return await self._scheduler.reservations.report()

    async def _disable_client(self, call: Call) -> Any:
        self._membership.disable(self._known_site(call))
        return {"disabled": list(self._membership.disabled)}

    async def _enable_client(self, call: Call) -> Any:
        name = call.text("client")
        if name not in self._membership.disabled:
            raise InvalidTarget(
                f"The client {name!r} is not disabled", hint="`clouddeploy system status` names those that are."
            )
        self._membership.enable(name)
        return {"disabled": list(self._membership.disabled)}

    async def _remove_client(self, call: Call) -> Any:
        name = self._known_site(call)
        if not self._membership.remove(name):
            raise InvalidTarget(
                f"The client {name} is not connected", hint="`clouddeploy system status` names those that are."
            )
        return {}

    def _known_site(self, call: Call) -> str:
        """Any name may be disabled, connected or not; one that no client can have is a mistake."""
        name = call.text("client")
        if not name:
            raise InvalidTarget("No client is named")
        if len(name) > MAX_NAME or not name.isprintable():
            raise InvalidTarget("No client has such a name", why=f"it is {name[:MAX_NAME]!r}")
        return name


def _is_in_state(info: JobInfo, state: str) -> bool:
    """Tell whether a job is in a state, named in full, without `FINISHED:`, or as `FINISHED` for any end."""
    wanted = state.upper()
    return not wanted or wanted in {info.status.value, *info.status.value.split(":")}


def _shown(info: JobInfo, peer: Peer) -> dict[str, Any]:
    return asdict(info.seen_by(peer.name))


def _sizes(files: Iterable[tuple[Path, str]]) -> list[dict[str, Any]]:
    """Return what files are called and how large they are, as many as an answer takes; a job may take some away."""
    found: list[dict[str, Any]] = []
    left = MAX_LISTED_BYTES
    for path, name in islice(files, MAX_LISTED):
        with contextlib.suppress(OSError):
            one = {"name": name, "size": path.lstat().st_size}
            left -= len(msgspec.json.encode(one))
            if left < 0:
                break
            found.append(one)
    return found


def _end_of(root: Path, path: Path, size: int) -> str:
    """Return a log's end that fits into an answer, where a sign that a job has printed may be six bytes."""
    try:
        text = job_folders.end_of(root, str(path.relative_to(root)), size)
    except OSError as exc:  # a link in its place, too: it could lead to the server's own files
        raise JobNotFound("The job has no log", why="it has not started", hint="Look at its meta.") from exc
    while len(msgspec.json.encode(text)) > _MAX_LOG_ANSWER_BYTES:
        text = text[len(text) // 4 :]
    return text
