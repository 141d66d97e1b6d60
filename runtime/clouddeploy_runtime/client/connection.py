"""A site's connection to its server: made, kept, and made again for ever."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import _version, expiry, revocation, server_proof, tls
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.lifecycle import StatusFile
from clouddeploy_runtime.revocation import RevocationFault, RevocationList
from clouddeploy_runtime.server.sessions import fingerprint
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cryptography import x509

    from clouddeploy_runtime.client.transfer import Transfer
    from clouddeploy_runtime.kit import Kit

log = logging.getLogger(__name__)

_SILENCE_S = 35.0
_REGISTER_S = 10.0
_WATCH_S = 1.0
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
"""A site should join soon after its server is up; jitter keeps a thousand of them from coming at once."""


class Connection:
    """The way to the server, whether it is there just now or not.

    Args:
        kit: a loaded, verified client kit.
        workspace: an existing folder for `status.json` and the list of revoked certificates.
        transfer: told of each connection that there is to transfer blobs over.
        active_jobs: returns the ids of the jobs that run here.
        handle: called with each event of the server.
    """

    def __init__(
        self,
        kit: Kit,
        workspace: Path,
        *,
        transfer: Transfer,
        active_jobs: Callable[[], Iterable[str]],
        handle: Callable[[pb.ServerEvent], None],
    ) -> None:
        self._kit = kit
        self._workspace = workspace
        self._status = StatusFile(workspace, name=kit.name)
        self._transfer = transfer
        self._active_jobs = active_jobs
        self._handle = handle
        self._certificate = certificate(kit.cert_file)
        self._roots = authorities(kit.root_cert_file)
        self._revocations = RevocationList(
            self._roots, sources=[kit.root / revocation.LIST_PATH], memory=workspace / "crl.pem"
        )
        self._reminder = expiry.Reminder("this site's certificate", self._certificate.not_valid_after_utc)
        self._outbox: asyncio.Queue[pb.ClientEvent] = asyncio.Queue()

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
            self.adopt(proof.crl)
        server_proof.refuse_revoked(server, self._revocations, self._kit.server_name)
        return server

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
            active_jobs=sorted(self._active_jobs()),
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
