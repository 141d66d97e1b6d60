"""The long-lived agent of a site: connects, registers, runs what the server asks for, comes back for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import _version, authorization, expiry, revocation, server_proof, tls
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.audit import AuditLog
from clouddeploy_runtime.client.jobs import SiteJob
from clouddeploy_runtime.client.transfer import Transfer
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.job.buffers import BufferPool
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.lifecycle import StatusFile, StopSignal
from clouddeploy_runtime.revocation import RevocationFault, RevocationList
from clouddeploy_runtime.server.sessions import fingerprint
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from cryptography import x509

    from clouddeploy_runtime.kit import Kit

log = logging.getLogger(__name__)

DATA_VARIABLE = "CLOUDDEPLOY_DATA_DIR"
"""Where the site's own data is; default `<workspace>/data` when that exists."""
BUDGET_BYTES = 8 << 30
_SILENCE_S = 35.0
_REGISTER_S = 10.0
_WATCH_S = 1.0
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
"""A site should join soon after its server is up; jitter keeps a thousand of them from coming at once."""


class ClientAgent:
    """One site.

    Args:
        kit: a loaded, verified client kit.
        workspace: an existing folder for jobs, logs and `status.json`.
    """

    def __init__(self, kit: Kit, workspace: Path) -> None:
        self._kit = kit
        self._workspace = workspace
        self._status = StatusFile(workspace, name=kit.name)
        self._audit = AuditLog(workspace / "audit.jsonl")
        self._transfer = Transfer()
        self._certificate = certificate(kit.cert_file)
        self._roots = authorities(kit.root_cert_file)
        self._revocations = RevocationList(
            self._roots, sources=[kit.root / revocation.LIST_PATH], memory=workspace / "crl.pem"
        )
        self._reminder = expiry.Reminder("this site's certificate", self._certificate.not_valid_after_utc)
        self._jobs: dict[str, tuple[SiteJob, asyncio.Task[None]]] = {}
        self._outbox: asyncio.Queue[pb.ClientEvent] = asyncio.Queue()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        wait_s = _FIRST_WAIT_S
        while True:
            self._status.write("connecting", port=self._kit.port)
            self._reminder.remind(log)  # an expired certificate keeps it from ever getting further
            if await self._connect_once():
                wait_s = _FIRST_WAIT_S
            self._transfer.disconnected()
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _connect_once(self) -> bool:
        """Serve one connection to its end; returns whether it was registered."""
        registered = False
        async with grpc.aio.secure_channel(
            tls.target(self._kit), tls.channel_credentials(self._kit), options=tls.channel_options(self._kit)
        ) as channel:
            try:
                server = await self._know(channel)
                reply = await self._register(channel)
                memory.remember(self._kit, self._workspace)
                registered = True
                await self._listen(channel, reply, server)
            except grpc.aio.AioRpcError as exc:
                self._explain(exc, registered=registered)
            except ConnectionFailed as exc:
                log.error("%s", exc)  # noqa: TRY400 - the message says it all
                self._status.write("connecting", port=self._kit.port, detail=str(exc)[:500])
            except TimeoutError:
                log.warning("The server was silent for %d s; connecting again", _SILENCE_S)
        return registered

    async def _know(self, channel: Any) -> x509.Certificate:
        """Return the server's certificate, which was not revoked.

        Raises:
            ConnectionFailed: it was, or the server cannot prove that it has one.
        """
        self._revocations.refresh()
        number = server_proof.nonce()
        reply = await channel.unary_unary(rpc.PROVE)(number, timeout=_REGISTER_S)
        proof, server = server_proof.check(
            reply, nonce=number, own=self._certificate, server_name=self._kit.server_name, trusted=self._roots
        )
        if proof.crl:
            self._adopt(proof.crl)
        server_proof.refuse_revoked(server, self._revocations, self._kit.server_name)
        return server

    def _adopt(self, crl: bytes) -> None:
        """Take a list of revoked certificates from the server."""
        try:
            if self._revocations.adopt(crl):
                log.info("The list of revoked certificates has number %d", self._revocations.current.number)
        except RevocationFault as exc:
            log.warning("The server sent a list that is refused: %s", exc)

    async def _register(self, channel: Any) -> pb.RegisterReply:
        register = channel.unary_unary(
            rpc.REGISTER,
            request_serializer=pb.RegisterRequest.SerializeToString,
            response_deserializer=pb.RegisterReply.FromString,
        )
        request = pb.RegisterRequest(
            project=self._kit.project,
            name=self._kit.name,
            version=_version.__version__,
            active_jobs=sorted(self._jobs),
        )
        reply: pb.RegisterReply = await register(request, timeout=_REGISTER_S)
        log.info(
            "Successfully registered client:%s for %s. Got token:%s",
            self._kit.name,
            self._kit.project,
            fingerprint(reply.token),
        )
        return reply

    def _explain(self, exc: grpc.aio.AioRpcError, *, registered: bool) -> None:
        details = exc.details() or ""
        if exc.code() is grpc.StatusCode.PERMISSION_DENIED:
            log.error("The server refused this site: %s", details)
        elif registered:
            log.warning("The connection to the server is lost (%s: %s)", exc.code().name, details)
        else:
            log.warning(
                "Could not connect to server. Setting flag for stopping training. failed to connect to all addresses"
            )
            log.info("The reason was %s: %s", exc.code().name, details)
        self._status.write("connecting", port=self._kit.port, detail=f"{exc.code().name}: {details}"[:500])

    async def _listen(self, channel: Any, reply: pb.RegisterReply, server: x509.Certificate) -> None:
        call = channel.stream_stream(
            rpc.SESSION,
            request_serializer=pb.ClientEvent.SerializeToString,
            response_deserializer=pb.ServerEvent.FromString,
        )(metadata=((rpc.TOKEN_KEY, reply.token),))
        self._transfer.connected(channel, reply.token)
        writer = asyncio.create_task(self._write(call, reply.heartbeat_s))
        ending = (asyncio.create_task(self._read(call)), asyncio.create_task(self._watch(server)))
        try:
            done, _ = await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
            log.info("The server ended the session")
        finally:
            for task in (writer, *ending):
                task.cancel()
            call.cancel()
            await asyncio.gather(writer, *ending, return_exceptions=True)

    async def _read(self, call: Any) -> None:
        """Do what the server says until it ends the session."""
        is_first = True
        while (event := await asyncio.wait_for(call.read(), _SILENCE_S)) is not grpc.aio.EOF:
            if is_first:
                self._status.write("registered", port=self._kit.port)
                is_first = False
            self._handle(event)

    async def _watch(self, server: x509.Certificate) -> None:
        """Look for new lists of revoked certificates, and at the clock, while there is a session.

        Raises:
            ConnectionFailed: the server's certificate was revoked.
        """
        while True:
            self._revocations.refresh()
            server_proof.refuse_revoked(server, self._revocations, self._kit.server_name)
            self._reminder.remind(log)
            await asyncio.sleep(_WATCH_S)

    async def _write(self, call: Any, heartbeat_s: float) -> None:
        while True:
            try:
                event = await asyncio.wait_for(self._outbox.get(), heartbeat_s)
            except TimeoutError:
                event = pb.ClientEvent(heartbeat=pb.Heartbeat())
            try:
                await call.write(event)
            except BaseException:
                if not event.HasField("heartbeat"):
                    self._outbox.put_nowait(event)  # the next connection tells it
                raise

    def _handle(self, event: pb.ServerEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "start_job":
            self._start(event.start_job)
        elif kind == "run_task":
            entry = self._jobs.get(event.run_task.job_id)
            if entry is not None:
                entry[0].add(event.run_task)
        elif kind == "abort_job":
            entry = self._jobs.get(event.abort_job.job_id)
            if entry is not None:
                self._spawn(entry[0].stop(event.abort_job.reason))
        elif kind == "revocations":
            self._adopt(event.revocations.crl)

    def _start(self, start: pb.StartJob) -> None:
        if start.job_id in self._jobs:
            return
        if not self._permits(start):
            self._job_ended(start.job_id, f"{self._kit.name}: this site's policy refuses jobs of {start.submitter}")
            return
        job = SiteJob(
            start,
            site=self._kit.name,
            folder=self._workspace / "jobs" / Path(start.job_id).name,
            data_dir=self._data_dir(),
            transfer=self._transfer,
            pool=BufferPool(BUDGET_BYTES),
            report_task=self._task_failed,
        )
        self._jobs[start.job_id] = (job, asyncio.create_task(self._run_job(job)))

    def _permits(self, start: pb.StartJob) -> bool:
        """A site decides for itself, whatever the server decided."""
        submitter = tls.Peer(name=start.submitter, org=start.submitter_org, role=start.submitter_role)
        policy = authorization.load(self._kit.local)
        allowed = policy.permits(
            authorization.Request(
                user=submitter,
                right="submit_job",
                site_org=self._kit.org,
                submitter_name=submitter.name,
                submitter_org=submitter.org,
            )
        )
        self._audit.record(
            user=submitter.name,
            role=submitter.role,
            action=f"submit_job {start.job_id}",
            address=self._kit.host,
            allowed=allowed,
            detail=policy.problem,
        )
        return allowed

    def _data_dir(self) -> Path | None:
        folder = Path(os.environ.get(DATA_VARIABLE) or self._workspace / "data")
        return folder if folder.is_dir() else None

    async def _run_job(self, job: SiteJob) -> None:
        log.info("Job %s starts", job.job_id, extra={"job": job.job_id, "site": self._kit.name})
        reason = f"{self._kit.name}: the client stopped"
        try:
            reason = await job.run()
        finally:
            self._jobs.pop(job.job_id, None)
            self._job_ended(job.job_id, reason)
        log.info("Job %s ended: %s", job.job_id, reason or "as it should", extra={"job": job.job_id})

    def _job_ended(self, job_id: str, reason: str) -> None:
        self._outbox.put_nowait(pb.ClientEvent(job_ended=pb.JobEnded(job_id=job_id, reason=reason)))

    def _task_failed(self, job_id: str, task_id: str, reason: str) -> None:
        event = pb.TaskFailed(job_id=job_id, task_id=task_id, reason=reason)
        self._outbox.put_nowait(pb.ClientEvent(task_failed=event))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """End the running jobs and record that the site stopped."""
        entries = list(self._jobs.values())
        await asyncio.gather(*(job.stop("the client stops") for job, _ in entries))
        await asyncio.gather(*(task for _, task in entries), return_exceptions=True)
        self._status.write("stopped", port=self._kit.port)


async def serve(kit: Kit, workspace: Path) -> None:
    """Run a site's agent until it is told to stop.

    Raises:
        KitTampered: the kit is not as it was signed.
        KitRevoked: its certificate was revoked or replaced.
    """
    kits.verify(kit.root)
    memory.check(kit, workspace)
    stop = StopSignal(workspace)
    agent = ClientAgent(kit, workspace)
    running = asyncio.create_task(agent.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()  # only a defect ends it; show which
    finally:
        log.info("The client stops")
        running.cancel()
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(running, return_exceptions=True)
        await agent.close()
