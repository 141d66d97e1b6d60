"""The session API of a person: what `clouddeploy job …` and `clouddeploy system …` call."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
import msgspec

from clouddeploy_runtime import jobs, revocation, server_proof, tls
from clouddeploy_runtime.errors import (
    AuthorizationRefused,
    ConnectionFailed,
    InvalidJob,
    JobNotFound,
    RuntimeFault,
    Timeout,
)
from clouddeploy_runtime.jobs import JobInfo, JobStatus
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.wire import blobs, rpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from clouddeploy_runtime.kit import Kit

_POLL_S = 0.1
_TRANSFER_S = 600.0
"""A job archive is at most half a GiB; slower than 1 MiB/s is a broken line."""
_ERRORS: Mapping[str, type[RuntimeFault]] = {
    error.error_code: error for error in (AuthorizationRefused, InvalidJob, JobNotFound, revocation.RevocationFault)
}


@dataclass(frozen=True)
class ClientInfo:
    """One connected client."""

    name: str
    address: str
    connected_since: str
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class SystemStatus:
    """The federation as its server sees it."""

    server: str
    clients: tuple[ClientInfo, ...]


class AdminSession:
    """A connection to the server with an admin's certificate; use it in a `with` statement.

    Args:
        kit: an admin's kit.
        timeout_s: how long connecting and each command may take.
    """

    def __init__(self, kit: Kit, *, timeout_s: float = 10) -> None:
        self._kit = kit
        self._timeout_s = timeout_s
        self._channel: Any = None

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ConnectionFailed: nobody answers within the timeout, or one side does not accept the other's certificate.
        """
        address = tls.target(self._kit)
        self._channel = grpc.secure_channel(
            address, tls.channel_credentials(self._kit), options=tls.channel_options(self._kit)
        )
        try:
            grpc.channel_ready_future(self._channel).result(timeout=self._timeout_s)
        except grpc.FutureTimeoutError as exc:
            self._channel.close()
            raise ConnectionFailed(
                f"Cannot connect to the server at {address}",
                why=f"no secure connection within {self._timeout_s:g} s",
                hint="Check that the server runs, that its port is reachable and that the kit is of its project.",
            ) from exc
        try:
            self._know()
        except BaseException:
            self._channel.close()
            raise
        return self

    def _know(self) -> None:
        """Make sure that the server's certificate was not revoked."""
        roots, number = authorities(self._kit.root_cert_file), server_proof.nonce()
        try:
            reply = self._channel.unary_unary(rpc.PROVE_TO_ADMIN)(number, timeout=self._timeout_s)
        except grpc.RpcError as exc:
            raise self._translated(exc) from exc
        proof, server = server_proof.check(
            reply,
            nonce=number,
            own=certificate(self._kit.cert_file),
            server_name=self._kit.server_name,
            trusted=roots,
        )
        known = revocation.read(self._kit.root / revocation.LIST_PATH, roots)
        sent = revocation.parse(proof.crl, roots) if proof.crl else revocation.Revoked()
        server_proof.refuse_revoked(server, known.serials | sent.serials, self._kit.server_name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._channel.close()

    def submit(self, folder: Path) -> str:
        """Submit a job folder.

        Returns:
            The job's id.

        Raises:
            InvalidJob: the folder is incomplete; found before anything is sent.
            AuthorizationRefused: this user may not submit jobs.
        """
        jobs.load(folder)
        archive = jobs.pack(folder)
        call = self._channel.stream_unary(rpc.SUBMIT)
        try:
            reply: bytes = call(blobs.chunks(archive), timeout=_TRANSFER_S)
        except grpc.RpcError as exc:
            raise self._translated(exc) from exc
        return reply.decode()

    def list_jobs(self) -> list[JobInfo]:
        """Return every job the server knows, oldest first."""
        return [_job_info(document) for document in self._command("list_jobs")]

    def job_meta(self, job_id: str) -> JobInfo:
        """Return what the server knows of a job.

        Raises:
            JobNotFound: there is none of this id.
        """
        return _job_info(self._command("job_meta", job_id=job_id))

    def abort(self, job_id: str) -> None:
        """End a job; a finished one stays as it is."""
        self._command("abort_job", job_id=job_id)

    def system_status(self) -> SystemStatus:
        """Return the server's name and its connected clients."""
        document = self._command("system_status")
        clients = tuple(ClientInfo(**{**client, "jobs": tuple(client["jobs"])}) for client in document["clients"])
        return SystemStatus(server=document["server"], clients=clients)

    def update_crl(self, pem: bytes) -> bool:
        """Bring the server a list of revoked certificates; returns whether it was newer than the one it had.

        Raises:
            RevocationFault: the project's authority did not sign it.
        """
        return bool(self._command("update_crl", crl=pem.decode("ascii", "replace"))["is_newer"])

    def shutdown(self) -> None:
        """Stop the server; its supervisor may start it again."""
        self._command("shutdown")

    def wait(self, job_id: str, timeout_s: float) -> JobInfo:
        """Return a job once it has ended.

        Raises:
            Timeout: it still waits or runs after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while not (info := self.job_meta(job_id)).status.is_final:
            if time.monotonic() >= deadline:
                raise Timeout(
                    f"The job {job_id} has not ended within {timeout_s:g} s",
                    why=f"it is {info.status}, {info.rounds} rounds are done",
                    hint="Ask again, or abort it with `clouddeploy job abort`.",
                )
            time.sleep(_POLL_S)
        return info

    def download(self, job_id: str, destination: Path) -> Path:
        """Fetch what a job left, into `<destination>/<job id>`, replacing an earlier download.

        Returns:
            The new folder.

        Raises:
            JobNotFound: there is none of this id.
        """
        call = self._channel.unary_stream(rpc.DOWNLOAD_JOB)(job_id.encode(), timeout=_TRANSFER_S)
        try:
            archive = b"".join(call)
            trailing = dict(call.trailing_metadata())
        except grpc.RpcError as exc:
            raise self._translated(exc) from exc
        blobs.check(memoryview(archive), received=len(archive), sha256=str(trailing.get(rpc.SHA256_KEY, "")))
        destination.mkdir(parents=True, exist_ok=True)
        target = destination / Path(job_id).name
        with tempfile.TemporaryDirectory(dir=destination, prefix=".download-") as temporary:
            fresh = Path(temporary) / "result"
            fresh.mkdir()
            jobs.unpack(archive, fresh)
            if target.exists():
                shutil.rmtree(target)
            fresh.rename(target)
        return target

    def _command(self, command: str, **arguments: str) -> Any:
        request = msgspec.json.encode({"command": command, **arguments})
        try:
            reply = self._channel.unary_unary(rpc.COMMAND)(request, timeout=self._timeout_s)
        except grpc.RpcError as exc:
            raise self._translated(exc) from exc
        return msgspec.json.decode(reply)

    def _translated(self, exc: Any) -> RuntimeFault:
        details = exc.details() or ""
        error = _ERRORS.get(str(dict(exc.trailing_metadata() or ()).get(rpc.ERROR_KEY, "")))
        if error is not None:
            parts: dict[str, str] = msgspec.json.decode(details, type=dict[str, str])
            return error(parts["what"], why=parts["why"], hint=parts["hint"])
        if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Timeout("The server did not answer in time", why=details, hint="Try again with a longer timeout.")
        if exc.code() is grpc.StatusCode.UNAVAILABLE:
            return ConnectionFailed("The connection to the server is lost", why=details, hint="Check that it runs.")
        return RuntimeFault("The server failed", why=f"{exc.code().name}: {details}", hint="See the server's log.txt.")


def _job_info(document: dict[str, Any]) -> JobInfo:
    known = {name: document[name] for name in JobInfo.__dataclass_fields__ if name in document}
    known["status"] = JobStatus(known["status"])
    known["sites"] = tuple(known.get("sites", ()))
    return JobInfo(**known)


def iterate(session: AdminSession, job_id: str, *, timeout_s: float) -> Iterator[JobInfo]:
    """Yield a job's state whenever it changed, the last time when it has ended.

    Raises:
        Timeout: it has not ended within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    seen: tuple[JobStatus, int] | None = None
    while True:
        info = session.job_meta(job_id)
        if (info.status, info.rounds) != seen:
            seen = (info.status, info.rounds)
            yield info
        if info.status.is_final:
            return
        if time.monotonic() >= deadline:
            raise Timeout(f"The job {job_id} has not ended within {timeout_s:g} s", why=f"it is {info.status}")
        time.sleep(_POLL_S)
