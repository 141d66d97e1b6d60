"""A site's connection to its server: made, kept, and made again for ever."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import _version, expiry, identity_proof, revocation, server_proof, tls
from clouddeploy_runtime.client.diagnosis import Diagnosis
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.kit import KitError, memory
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.lifecycle import StatusFile
from clouddeploy_runtime.revocation import RevocationFault, RevocationList
from clouddeploy_runtime.server import tokens
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cryptography import x509

    from clouddeploy_runtime.client.transfer import Transfer
    from clouddeploy_runtime.kit import Kit

log = logging.getLogger(__name__)

_SILENT_BEATS = 3.5
_REGISTER_S = 10.0
_WATCH_S = 1.0
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
"""A site should join soon after its server is up; jitter keeps a thousand of them from coming at once."""
_FIRST_REFUSED_S = 1.0
_LONGEST_REFUSED_S = 30.0
"""Somebody must do something about a refusal; until then asking often only fills two logs."""
_STEADY_S = 10.0
"""A session that ends sooner shows that something is wrong, so it does not count as a success."""
_SKEW_S = 60.0
_REFUSALS = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


class Ending(Enum):
    """How an attempt to be connected ended."""

    STEADY = "registered for a while"
    SHORT = "registered, but lost at once"
    FAILED = "nobody answered"
    REFUSED = "one side refused the other"


class Pace:
    """How long to wait before the next attempt: longer each time, and longer still when it was refused."""

    def __init__(self) -> None:
        self._lost_s = _FIRST_WAIT_S
        self._refused_s = _FIRST_REFUSED_S

    def after(self, ending: Ending) -> float:
        """Return the longest wait in seconds; the shortest is half of it."""
        if ending is Ending.REFUSED:
            wait_s, self._refused_s = self._refused_s, min(self._refused_s * 2, _LONGEST_REFUSED_S)
            return wait_s
        if ending is Ending.STEADY:
            self._lost_s = _FIRST_WAIT_S
        if ending is not Ending.FAILED:
            self._refused_s = _FIRST_REFUSED_S
        wait_s, self._lost_s = self._lost_s, min(self._lost_s * 2, _LONGEST_WAIT_S)
        return wait_s


@dataclass(frozen=True)
class _Server:
    """What a server has proven."""

    certificate: x509.Certificate
    number: bytes
    """To sign, where TLS does not show this side's certificate."""


class Connection:
    """The way to the server, whether it is there just now or not.

    Args:
        kit: a loaded, verified client kit.
        workspace: an existing folder for `status.json` and the list of revoked certificates.
        transfer: told of each connection that there is to transfer blobs over.
        active_jobs: returns the ids of the jobs that run here.
        handle: called with each event of the server.
        ended: called with the id of each active job that the server does not run any more; None: there are no jobs.
    """

    def __init__(
        self,
        kit: Kit,
        workspace: Path,
        *,
        transfer: Transfer,
        active_jobs: Callable[[], Iterable[str]],
        handle: Callable[[pb.ServerEvent], None],
        ended: Callable[[str], None] | None = None,
    ) -> None:
        self._kit = kit
        self._workspace = workspace
        self._status = StatusFile(workspace, name=kit.name)
        self._transfer = transfer
        self._active_jobs = active_jobs
        self._handle = handle
        self._ended = ended
        self._instance = secrets.token_hex(16)
        self._diagnosis = Diagnosis(kit)
        self._detail = ""
        self._is_outage_said = False
        self._skew_s = 0.0
        self._certificate = certificate(kit.cert_file)
        self._roots = authorities(kit.root_cert_file)
        self._revocations = RevocationList(
            self._roots, sources=[kit.root / revocation.LIST_PATH], memory=workspace / "crl.pem"
        )
        self._reminder = expiry.Reminder("this site's certificate", self._certificate.not_valid_after_utc)
        self._outbox: asyncio.Queue[pb.ClientEvent] = asyncio.Queue()

    @property
    def revoked(self) -> RevocationList:
        """The revoked certificates that this site knows of."""
        return self._revocations

    def send(self, event: pb.ClientEvent) -> None:
        """Tell the server, over this connection or the next."""
        self._outbox.put_nowait(event)

    def adopt(self, crl: bytes) -> None:
        """Take a list of revoked certificates from the server."""
        try:
            if self._revocations.adopt(crl):
                log.info("The list of revoked certificates has number %d", self._revocations.current.number)
        except RevocationFault as exc:
            log.warning("The server sent a list that is refused: %s", exc)

    def stopped(self) -> None:
        """Record that the site stopped."""
        self._status.write("stopped", port=self._kit.port)

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            KitError: a file of the kit or of `local` is wrong at the start. One that somebody is just saving later on
                only keeps the site from connecting: its jobs run.
        """
        if self._kit.connection_security == "clear":
            log.warning("connection_security is clear: everybody on the way to the server can read and change it all")
        pace = Pace()
        is_first = True
        while True:
            self._status.write("connecting", port=self._kit.port, detail=self._detail)
            self._reminder.remind(log)  # an expired certificate keeps it from ever getting further
            try:
                ending = await self._connect_once()
            except (KitError, OSError) as exc:
                if is_first:
                    raise
                log.error("This site cannot connect: %s", exc)  # noqa: TRY400 - the message says it all
                self._detail, ending = str(exc)[:500], Ending.REFUSED
            is_first = False
            wait_s = pace.after(ending)
            self._transfer.disconnected()
            self._status.write("connecting", port=self._kit.port, detail=self._detail)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing

    async def _connect_once(self) -> Ending:
        """Serve one connection to its end."""
        registered_at: float | None = None
        ending = Ending.FAILED
        async with tls.aio_channel(self._kit) as channel:
            try:
                server = await self._know(channel)
                reply = await self._register(channel, server)
                memory.remember(self._kit, self._workspace)
                registered_at = time.monotonic()
                self._diagnosis.reset()
                self._is_outage_said, self._detail = False, ""
                await self._listen(channel, reply, server)
            except grpc.aio.AioRpcError as exc:
                ending = await self._explain(exc, registered=registered_at is not None)
            except ConnectionFailed as exc:
                log.error("%s", exc)  # noqa: TRY400 - the message says it all
                self._detail = str(exc)[:500]
                ending = Ending.REFUSED
            except TimeoutError:
                log.warning("The server was silent for too long; connecting again")
        if registered_at is None or ending is Ending.REFUSED:
            return ending
        return Ending.STEADY if time.monotonic() - registered_at >= _STEADY_S else Ending.SHORT

    async def _know(self, channel: Any) -> _Server:
        """Return what the server has proven; its certificate was not revoked.

        Raises:
            ConnectionFailed: it was, or the server cannot prove that it has one.
        """
        self._revocations.refresh()
        nonce = server_proof.nonce()
        security = self._kit.connection_security
        own = self._kit.cert_file.read_bytes()
        request = server_proof.request(nonce, security=security, certificate=own)
        before_s = time.time()
        reply = await channel.unary_unary(rpc.PROVE)(
            request, timeout=_REGISTER_S, metadata=((rpc.SECURITY_KEY, security),)
        )
        name = self._kit.server_name
        proof, server = server_proof.check(
            reply, nonce=nonce, own=self._certificate, server_name=name, trusted=self._roots
        )
        if proof.crl:
            self.adopt(proof.crl)
        server_proof.refuse_revoked(server, self._revocations, name)
        log.info("verified server identity '%s'", name)
        self._compare_clocks(proof.time_s, (before_s + time.time()) / 2)
        return _Server(server, proof.number)

    def _compare_clocks(self, theirs_s: float, own_s: float) -> None:
        """Warn of a clock that differs, once for each change of a minute: certificates are judged by both."""
        skew_s = theirs_s - own_s if theirs_s else 0.0
        if abs(skew_s - self._skew_s) < _SKEW_S:
            return
        self._skew_s = skew_s
        if abs(skew_s) > _SKEW_S:
            word = "behind" if skew_s > 0 else "ahead of"
            log.warning("This machine's clock is %d s %s the server's; set one of them", abs(skew_s), word)

    async def _register(self, channel: Any, server: _Server) -> pb.RegisterReply:
        """Return the server's token.

        Raises:
            ConnectionFailed: the server that proved itself did not sign it.
        """
        register = channel.unary_unary(
            rpc.REGISTER,
            request_serializer=pb.RegisterRequest.SerializeToString,
            response_deserializer=pb.RegisterReply.FromString,
        )
        is_shown = self._kit.connection_security == "mtls"
        request = pb.RegisterRequest(
            project=self._kit.project,
            name=self._kit.name,
            version=_version.__version__,
            active_jobs=sorted(self._active_jobs()),
            kind=str(self._kit.kind),
            proof=b"" if is_shown else identity_proof.make(self._kit, number=server.number),
            instance=self._instance,
        )
        reply: pb.RegisterReply = await register(request, timeout=_REGISTER_S)
        key, name = server.certificate.public_key(), self._kit.name
        if not tokens.is_genuine(key, reply.token_signature, name=name, token=reply.token, instance=self._instance):
            raise ConnectionFailed(
                f"The server {self._kit.server_name} is refused",
                why="the key of its certificate did not sign the token",
                hint="Ask the project admin; this machine may be led astray, or the server is of an older version.",
            )
        log.info(
            "Successfully registered client:%s for %s. Got token:%s",
            name,
            self._kit.project,
            tokens.fingerprint(reply.token),
        )
        for job_id in reply.ended_jobs:
            if self._ended is not None:
                log.warning("The server does not run job %s any more; it ends here", job_id, extra={"job": job_id})
                self._ended(job_id)
        return reply

    async def _explain(self, exc: grpc.aio.AioRpcError, *, registered: bool) -> Ending:
        """Say why an attempt failed, or a session ended."""
        details = exc.details() or ""
        self._detail = f"{exc.code().name}: {details}"[:500]
        if exc.code() is grpc.StatusCode.PERMISSION_DENIED or (exc.code() in _REFUSALS and not registered):
            log.error("The server refused this site: %s", details)
            return Ending.REFUSED
        if registered:
            log.warning("The connection to the server is lost (%s: %s)", exc.code().name, details)
            return Ending.FAILED
        if not self._is_outage_said:
            self._is_outage_said = True
            log.warning(
                "Could not connect to server. Setting flag for stopping training. failed to connect to all addresses"
            )
            log.info("The reason was %s: %s", exc.code().name, details)
        cause, is_news = await self._diagnosis.look(details)
        if cause:
            self._detail = cause[:500]
            if is_news:
                log.warning("%s", cause)
        return Ending.FAILED

    async def _listen(self, channel: Any, reply: pb.RegisterReply, server: _Server) -> None:
        call = channel.stream_stream(
            rpc.SESSION,
            request_serializer=pb.ClientEvent.SerializeToString,
            response_deserializer=pb.ServerEvent.FromString,
        )(metadata=((rpc.TOKEN_KEY, reply.token),))
        self._transfer.connected(channel, reply.token)
        writer = asyncio.create_task(self._write(call, reply.heartbeat_s))
        reader = asyncio.create_task(self._read(call, silence_s=_SILENT_BEATS * reply.heartbeat_s))
        ending = (reader, asyncio.create_task(self._watch(server.certificate)))
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

    async def _read(self, call: Any, *, silence_s: float) -> None:
        """Do what the server says until it ends the session.

        Raises:
            TimeoutError: it says nothing, not even that it lives.
        """
        is_first = True
        while (event := await asyncio.wait_for(call.read(), silence_s)) is not grpc.aio.EOF:
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
        """Tell what there is to tell, and at every heartbeat that this site lives, however much it says otherwise."""
        due_s = time.monotonic() + heartbeat_s
        while True:
            try:
                event = await asyncio.wait_for(self._outbox.get(), max(0.0, due_s - time.monotonic()))
            except TimeoutError:
                event = pb.ClientEvent(heartbeat=pb.Heartbeat())
                due_s = time.monotonic() + heartbeat_s
            try:
                await call.write(event)
            except BaseException:
                if not event.HasField("heartbeat"):
                    self._outbox.put_nowait(event)  # the next connection tells it
                raise
