"""The session API of a person: what `clouddeploy job …` and `clouddeploy system …` call."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
import msgspec

from clouddeploy_runtime import jobs
from clouddeploy_runtime.admin import results
from clouddeploy_runtime.admin.line import Line
from clouddeploy_runtime.admin.replies import translated
from clouddeploy_runtime.admin.signatures import Signatures
from clouddeploy_runtime.admin.sites import Sites
from clouddeploy_runtime.admin.status import ClientInfo, OpenSession, SystemStatus
from clouddeploy_runtime.admin.studies import Studies
from clouddeploy_runtime.errors import (
    BlobCorrupt,
    ConnectionFailed,
    InvalidCommand,
    RuntimeFault,
    Timeout,
)
from clouddeploy_runtime.jobs import JobInfo
from clouddeploy_runtime.jobs.info import check_submit_token
from clouddeploy_runtime.jobs.normal import normalised
from clouddeploy_runtime.jobs.rounds import MAX_ROUNDS, Round
from clouddeploy_runtime.signing import NonceUnknown, stop_arguments
from clouddeploy_runtime.wire import blobs, rpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from clouddeploy_runtime.kit import Kit

__all__ = ["AdminSession", "ClientInfo", "OpenSession", "SystemStatus"]

_HELD_S = 20.0
"""So long the server may hold back its answer while nothing changes; as `server.commands`."""
_AWAY_S = 60.0
"""Who waits for a job waits so long for a server that restarts, too."""
_PAUSE_S = 0.2
_TRANSFER_S = 600.0
"""A job archive is at most half a GiB; slower than 1 MiB/s is a broken line."""
_DOWNLOAD_S = 86_400.0
"""A result may be many models; keepalive ends the call when the server is gone."""


class AdminSession:
    """A connection to the server and a session on it, with an admin's certificate; use it in a `with` statement.

    It logs in when it is entered and out when it is left. A restart of the server goes unnoticed; a session that was
    ended there, or that was idle for too long, raises `SessionExpired`.

    Args:
        kit: an admin's kit.
        timeout_s: how long connecting and each command may take.
        study: which one to work in.
    """

    def __init__(self, kit: Kit, *, timeout_s: float = 10, study: str = "default") -> None:
        self.timeout_s = timeout_s
        """May be set: so long each later command may take."""
        self.study = study
        self._line = Line(kit, study=study, timeout_s=timeout_s)
        self._known = self._line.known
        self._signatures = Signatures(kit, self._challenge)
        self.sites = Sites(self)
        self.studies = Studies(ask=self.ask, give=self.give)
        self._signing = threading.Lock()  # the server wants signed commands in their order

    def __enter__(self) -> Self:
        """Connect and log in.

        Raises:
            ConnectionFailed: nobody answers within the timeout, or one side does not accept the other's certificate.
            AuthenticationRefused: the server does not let this person log in to this study.
        """
        self._line.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Log out and close the connection; a server that does not answer delays it by a second at most."""
        self._line.close()

    @property
    def _channel(self) -> Any:
        """The connection, on which each call says in whose session it is."""
        return self._line.channel

    def logout(self) -> None:
        """End the session at once; each later call raises `SessionExpired`. May be repeated.

        Raises:
            RuntimeFault: the server could not be told; it ends the session itself once that was idle for a while.
        """
        self._line.log_out(timeout_s=self.timeout_s)

    def sessions(self) -> list[OpenSession]:
        """Return who is logged in at the server, oldest first."""
        return msgspec.convert(self.ask("list_sessions"), list[OpenSession])

    def end_sessions(self, user: str, *, session: str = "") -> int:
        """End a person's sessions, or only the one of a name; returns how many. The person may log in again."""
        return int(self.give("end_sessions", user=user, session=session)["ended"])

    def submit(self, folder: Path, *, token: str = "") -> str:
        """Submit a job folder.

        Args:
            folder: the job.
            token: what this submission is called: submitted again with it, as after a lost connection, the same folder
                gives the same job. Empty: a new job each time.

        Returns:
            The job's id.

        Raises:
            InvalidJob: the folder is incomplete; found before anything is sent.
            AuthorizationRefused: this user may not submit jobs.
            UnsignedJob, SignatureRefused: the server does not believe that this user submits it as it is.
            SubmitTokenConflict: the token stands for a job of other content.
            SubmitTokenJobDeleted: the job that it stands for was deleted.
        """
        if token:
            check_submit_token(token)
        with normalised(folder) as ready:
            return self._known(partial(self._submit, ready, token))

    def _submit(self, folder: Path, token: str) -> str:
        signed, archive = self._signatures.job(folder, study=self.study), jobs.pack(folder)
        metadata = ((rpc.SIGNED_KEY, "1"), *(((rpc.SUBMIT_TOKEN_KEY, token),) if token else ()))
        call = self._channel.stream_unary(rpc.SUBMIT)
        try:
            reply: bytes = call(chain((signed,), blobs.chunks(archive)), timeout=_TRANSFER_S, metadata=metadata)
        except grpc.RpcError as exc:
            raise translated(exc) from exc
        return reply.decode()

    def list_jobs(
        self, *, name: str = "", id_prefix: str = "", state: str = "", submitter: str = "", limit: int = 0
    ) -> list[JobInfo]:
        """Return the jobs the server knows, oldest first, each with the last entry of its history only.

        Args:
            name: how their names begin.
            id_prefix: how their ids begin.
            state: their status, with or without `FINISHED:`; `FINISHED` alone for every one that has ended.
            submitter: whose they are.
            limit: only the newest so many; 0: as many as the server sends in one answer.
        """
        documents = self.ask("list_jobs", name=name, id=id_prefix, state=state, submitter=submitter, limit=limit)
        return [JobInfo.parse(document) for document in documents]

    def job_meta(self, job_id: str) -> JobInfo:
        """Return what the server knows of a job.

        Raises:
            JobNotFound: there is none of this id.
        """
        return JobInfo.parse(self.ask("job_meta", job_id=job_id))

    def abort(self, job_id: str) -> None:
        """End a job; a finished one stays as it is. Returns when it is under way, see `wait`."""
        self.give("abort_job", job_id=job_id)

    def clone(self, job_id: str) -> str:
        """Submit what an earlier job was once more, as one's own; returns the new job's id.

        Raises:
            AuthorizationRefused: this user may not clone it, or not look at it: what is signed names what it was.
        """
        statement = self.job_meta(job_id).statement
        return str(self.give("clone_job", job_id=job_id, statement=statement)["job_id"])

    def delete(self, job_id: str) -> None:
        """Take away a job, with its result.

        Raises:
            JobNotFinished: it runs; abort it first.
        """
        self.give("delete_job", job_id=job_id)

    def job_log(self, job_id: str, *, site: str = jobs.SERVER) -> str:
        """Return the end of the controller's log, or of what a site said about its failure.

        Raises:
            InvalidTarget: there is none of this site.
        """
        return str(self.ask("job_log", job_id=job_id, site=site)["text"])

    def list_components(self, job_id: str) -> dict[str, int]:
        """Return the files that a download of the job brings, with their sizes in bytes."""
        return {entry["name"]: entry["size"] for entry in self.ask("list_components", job_id=job_id)}

    def system_status(self) -> SystemStatus:
        """Return the server's state, its connected clients and what they have, and the running jobs."""
        return SystemStatus.parse(self.ask("system_status"))

    def report_resources(self) -> dict[str, Any]:
        """Ask every connected site what it has and what of it is free; one that does not answer is left out."""
        return dict(self.ask("report_resources"))

    def disable_client(self, name: str) -> None:
        """End a client's session and keep it out until it is enabled, over restarts of the server too."""
        self.give("disable_client", client=name)

    def enable_client(self, name: str) -> None:
        """Let a disabled client in again; it comes by itself.

        Raises:
            InvalidTarget: it is not disabled.
        """
        self.give("enable_client", client=name)

    def remove_client(self, name: str) -> None:
        """End a client's session; it registers again by itself.

        Raises:
            InvalidTarget: it is not connected.
        """
        self.give("remove_client", client=name)

    def update_crl(self, pem: bytes) -> bool:
        """Bring the server a list of revoked certificates; returns whether it was newer than the one it had.

        Raises:
            RevocationFault: the project's authority did not sign it.
        """
        return bool(self.ask("update_crl", crl=pem.decode("ascii", "replace"))["is_newer"])

    def shutdown(self, target: str = jobs.SERVER, *, force: bool = False) -> None:
        """Stop the server with the jobs that run there, a client, or with `@ALL` every connected client.

        A client asks its own site's policy; whether it obeyed shows in `system_status`.

        Args:
            target: `server`, the name of a client, or `@ALL`.
            force: although jobs run there, or clients are connected to the server.

        Raises:
            InvalidTarget: the client is not connected.
            JobsRunning: jobs run there.
            ClientsRunning: it is the server, and clients are connected.
        """
        self.give("shutdown", held_s=None, **stop_arguments(target, is_forced=force))

    def restart(self, target: str = jobs.SERVER, *, force: bool = False) -> None:
        """Let its supervisor start the server or a client again, see `shutdown`; the jobs that run go on.

        Raises:
            InvalidTarget: the client is not connected.
            JobsRunning: jobs run there.
        """
        self.give("restart", held_s=None, **stop_arguments(target, is_forced=force))

    def job_rounds(self, job_id: str, *, after: int = 0) -> tuple[Round, ...]:
        """Return a job's finished rounds with a number above `after`, the last thousand at most; running or ended.

        Raises:
            JobNotFound: there is none of this id.
        """
        return msgspec.convert(self.ask("job_rounds", job_id=job_id, after=after), tuple[Round, ...])

    def wait(self, job_id: str, timeout_s: float) -> JobInfo:
        """Return a job once it has ended; a server that is restarted meanwhile is waited for.

        Raises:
            Timeout: it still waits or runs after `timeout_s`.
            ConnectionFailed: the server has been away for a minute.
        """
        for info in self.watch(job_id, timeout_s=timeout_s, has_history=False):
            if info.status.is_final:
                return info
        raise AssertionError  # `watch` ends with the job's end or raises

    def watch(self, job_id: str, *, timeout_s: float, has_history: bool = True) -> Iterator[JobInfo]:
        """Yield a job's state whenever it changed, the last time when it has ended.

        Args:
            job_id: the job.
            timeout_s: how long to wait for its end.
            has_history: whether each state holds the finished rounds, which takes the server a second answer.

        Raises:
            Timeout: it has not ended within `timeout_s`.
            ConnectionFailed: the server has been away for a minute.
        """
        deadline = time.monotonic() + timeout_s
        info: JobInfo | None = None
        away_since: float | None = None
        history: tuple[Round, ...] = ()
        while info is None or not info.status.is_final:
            left = deadline - time.monotonic()
            if left <= 0 and info is not None:
                raise Timeout(
                    f"The job {job_id} has not ended within {timeout_s:g} s",
                    why=f"it is {info.status}, {info.rounds} rounds are done",
                    hint="Ask again, or abort it with `clouddeploy job abort`.",
                )
            try:
                new = self._changed(job_id, since=-1 if info is None else info.revision, wait_s=min(_HELD_S, left))
                if has_history:
                    went_back = info is not None and new.rounds < info.rounds  # to a checkpoint, after a restart
                    kept = tuple(one for one in history if one.round <= new.rounds) if went_back else history
                    history = self._continued(kept, new)
            except (ConnectionFailed, Timeout):
                now = time.monotonic()
                away_since = away_since or now
                if info is None or now >= deadline or now - away_since >= _AWAY_S:
                    raise
                time.sleep(_PAUSE_S)
                continue
            away_since = None
            if info is None or new.revision != info.revision:
                yield replace(new, history=history)
            info = new

    def _continued(self, history: tuple[Round, ...], info: JobInfo) -> tuple[Round, ...]:
        """Return the rounds with those that came since; they may be more than the record has yet."""
        last = history[-1].round if history else 0
        if info.rounds <= last:
            return history
        try:
            new = self.job_rounds(info.job_id, after=last)
        except InvalidCommand:  # the server is of an older version
            return history
        return (*history, *new)[-MAX_ROUNDS:]

    def _changed(self, job_id: str, *, since: int, wait_s: float) -> JobInfo:
        """Return a job once it is another than `since`; -1: at once."""
        held = {} if since < 0 else {"since": since, "wait_s": max(0.0, wait_s)}
        return JobInfo.parse(self.ask("job_meta", held_s=wait_s, job_id=job_id, **held))

    def download(self, job_id: str, destination: Path) -> Path:
        """Fetch a finished job into `<destination>/<job id>`, replacing an earlier download.

        Returns:
            The new folder: `job/` as submitted, `workspace/` as the job left it, `meta.json`. Files whose names cannot
            be used everywhere have others, see `results`.

        Raises:
            JobNotFound: there is none of this id.
            JobNotFinished: it waits or runs.
        """
        destination.mkdir(parents=True, exist_ok=True)
        target = destination / Path(job_id).name
        with tempfile.TemporaryDirectory(dir=destination, prefix=".download-") as temporary:
            archive, fresh = Path(temporary) / "archive.zip", Path(temporary) / "result"
            self._known(partial(self._fetch, job_id, archive))
            results.unpack(archive, fresh)
            if target.exists():
                shutil.rmtree(target)
            fresh.rename(target)
        return target

    def _fetch(self, job_id: str, archive: Path) -> None:
        whole = hashlib.sha256()
        call = self._channel.unary_stream(rpc.DOWNLOAD_JOB)(job_id.encode(), timeout=_DOWNLOAD_S)
        try:
            with archive.open("wb") as file:
                for chunk in call:
                    whole.update(chunk)
                    file.write(chunk)
            trailing = dict(call.trailing_metadata())
        except grpc.RpcError as exc:
            raise translated(exc) from exc
        if whole.hexdigest() != trailing.get(rpc.SHA256_KEY):
            raise BlobCorrupt("The result changed on its way", why="its SHA-256 is not the announced one")

    def _challenge(self) -> str:
        return self._known(self._ask)

    def _ask(self) -> str:
        try:
            reply: bytes = self._channel.unary_unary(rpc.CHALLENGE)(b"", timeout=self.timeout_s)
        except grpc.RpcError as exc:
            raise translated(exc) from exc
        return reply.decode()

    def give(self, command: str, *, held_s: float | None = None, **arguments: str) -> Any:
        """Send a signed command, see `ask`; anew when the server was restarted, or an hour has passed."""
        request: dict[str, Any] = {**arguments}
        with self._signing:
            try:
                return self.ask(command, held_s=held_s, **request, signed=self._signatures.command(command, arguments))
            except NonceUnknown:
                self._signatures.renew()
            return self.ask(command, held_s=held_s, **request, signed=self._signatures.command(command, arguments))

    def ask(self, command: str, *, held_s: float | None = None, **arguments: Any) -> Any:
        """Send a command; `held_s` is how long the server may hold back its answer, which a restart may interrupt."""
        return self._known(partial(self._send, command, held_s, arguments))

    def _send(self, command: str, held_s: float | None, arguments: Mapping[str, Any]) -> Any:
        request = msgspec.json.encode({"command": command, **arguments})
        timeout_s = self.timeout_s + max(0.0, held_s or 0.0)
        try:
            reply = self._channel.unary_unary(rpc.COMMAND)(
                request, timeout=timeout_s, wait_for_ready=held_s is not None
            )
            return msgspec.json.decode(reply)
        except grpc.RpcError as exc:
            raise translated(exc) from exc
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise RuntimeFault(f"The server's answer to {command} cannot be read", why=str(exc)) from exc
