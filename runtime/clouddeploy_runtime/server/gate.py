"""Who may talk to this server at all: it proves itself to them, and turns away whose certificate was revoked."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import expiry, identity_proof, keys, revocation, server_proof, tls
from clouddeploy_runtime.errors import NoSession, printable
from clouddeploy_runtime.handshakes import Refusals
from clouddeploy_runtime.identity_proof import IdentityRefused
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.server import tokens
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.audit import AuditLog
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

MEMORY = "crl.pem"
_POLL_S = 1.0
_MAX_CERTIFICATE_BYTES = 16 << 10
_MAX_VISITORS = 1000
_MAX_OF_ONE = 20
"""Sessions of one person; a further one ends the one that was not used for longest. Guessed."""
_MAX_PROBLEM = 200
_VISIT_S = 3600.0
"""A person's token ends when it was not used for so long."""


class Gate:
    """The server's knowledge of its own identity and of revoked ones.

    Args:
        kit: the server's.
        registry: the sessions to end when their certificate is revoked.
        workspace: where the newest list is kept.
        audit: gets the certificates that are refused a person's session.
    """

    def __init__(self, kit: Kit, registry: Registry, workspace: Path, audit: AuditLog) -> None:
        self._registry = registry
        self._audit = audit
        self._strangers = Refusals(what="refused a person's call")
        self._kit = kit
        self._challenges = tokens.Challenges()
        self._visitors: dict[str, tuple[Peer, float]] = {}
        self._trusted = authorities(kit.root_cert_file)
        self._key = keys.load_private_key(kit.key_file)
        self._pem = kit.cert_file.read_bytes()
        self._reminder = expiry.Reminder("this server's certificate", certificate(kit.cert_file).not_valid_after_utc)
        self._revocations = revocation.RevocationList(
            self._trusted, sources=[kit.root / revocation.LIST_PATH], memory=workspace / MEMORY
        )
        self.refresh()

    @property
    def number(self) -> int:
        """Number of the newest list; 0: there is none."""
        return self._revocations.current.number

    def problem(self, peer: Peer | None) -> str:
        """Say why this peer is turned away; empty when it is not."""
        if peer is None:
            return "there is no certificate with a name"
        if peer.serial in self._revocations:
            return (
                f"the certificate of {peer.name} was revoked (list {self.number}); ask the project admin for a new kit"
            )
        return ""

    @property
    def sees_certificates(self) -> bool:
        """Whether TLS itself shows who calls; else they prove it, see `identity_proof`."""
        return self._kit.connection_security == "mtls"

    def identity_of(self, context: Any) -> Peer | None:
        """Return who calls: from TLS, or as it was proven when the call's token was given out."""
        if self.sees_certificates:
            return tls.peer_of(context.auth_context())
        token = str(dict(context.invocation_metadata() or ()).get(rpc.TOKEN_KEY, ""))
        peer, used = self._visitors.get(token, (None, 0.0))
        if peer is None:
            return self._registry.holder(token)
        now = time.monotonic()
        if now - used > _VISIT_S:
            del self._visitors[token]
            return None
        self._visitors[token] = (peer, now)
        return peer

    def person(self, context: Any) -> Peer:
        """Return who calls, as `identity_of`; a stranger costs neither the disk nor more than a count in the log.

        Raises:
            NoSession: nobody that is known.
        """
        peer = self.identity_of(context)
        if peer is None:
            self._strangers.add("it has no session here")
            raise NoSession(
                "The server does not know who calls",
                why="there is no session of this token, or the certificate has no name",
                hint="Connect again.",
            )
        return peer

    def newcomer(self, context: Any, proof: bytes) -> Peer | None:
        """Return who asks to be registered: from TLS, or from its proof.

        Raises:
            IdentityRefused: the proof proves nothing.
        """
        if self.sees_certificates:
            return tls.peer_of(context.auth_context())
        found = identity_proof.check(proof, server_name=self._kit.server_name, trusted=self._trusted)
        if not self._challenges.use(found.number):
            raise IdentityRefused("the proof of identity is too old or was used before")
        if found.project != self._kit.project:
            raise IdentityRefused(f"this server runs the project {self._kit.project!r}, not {found.project!r}")
        return tls.peer_from_pem(found.certificate)

    def sign_token(self, session: Session) -> bytes:
        """Sign a session's token, so that the site knows from whom it has it."""
        return tokens.sign(self._key, name=session.name, token=session.token, instance=session.instance)

    async def prove(self, request: bytes, context: Any) -> bytes:
        """Answer a peer's number, see `server_proof`."""
        own = self._kit.connection_security
        theirs = str(dict(context.invocation_metadata() or ()).get(rpc.SECURITY_KEY, "mtls"))
        if (theirs == "mtls") != (own == "mtls"):
            problem = f"the server has connection_security {own}, the kit that calls has {printable(theirs)[:20]}"
            log.warning("Refused a connection from %s: %s", context.peer(), problem)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{problem}; provision both alike")
        number, shown = request[: server_proof.NONCE_BYTES], request[server_proof.NONCE_BYTES :]
        pems = context.auth_context().get("x509_pem_cert", []) if self.sees_certificates else [shown]
        has_rest = bool(shown) if self.sees_certificates else not 0 < len(shown) <= _MAX_CERTIFICATE_BYTES
        if len(number) != server_proof.NONCE_BYTES or not pems or has_rest:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the number or the certificate is missing")
            raise AssertionError  # abort always raises
        crl = self._revocations.current.pem
        fresh = b"" if self.sees_certificates else self._challenges.issue()
        try:
            return server_proof.answer(self._key, self._pem, nonce=number, peer=pems[0], crl=crl, number=fresh)
        except ValueError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the certificate cannot be read")
            raise

    async def identify(self, request: bytes, context: Any) -> bytes:
        """Give a person a token for the calls of a session, where TLS does not show who they are."""
        peer: Peer | None = None
        try:
            peer = self.newcomer(context, request)
            problem = self.problem(peer)
        except IdentityRefused as exc:
            problem = str(exc)
        if peer is not None and not problem and not peer.role:
            problem = f"{peer.name} is no person"
        if peer is None or problem:
            await self._turn_away(peer, problem, context)
            raise AssertionError  # abort always raises
        return self._admit(peer).encode()

    async def _turn_away(self, peer: Peer | None, problem: str, context: Any) -> None:
        """Refuse a session: whose certificate is the project's is recorded, a stranger is counted."""
        if peer is None:
            self._strangers.add(printable(problem)[:_MAX_PROBLEM])
        else:
            log.warning("Refused a session from %s: %s", context.peer(), problem)
            address = tls.address_of(context.peer())
            await asyncio.to_thread(
                self._audit.record,
                user=peer.name,
                role=peer.role,
                action="identify",
                address=address,
                allowed=False,
                detail=problem,
            )
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)

    def _admit(self, peer: Peer) -> str:
        """Return a token; the person's own sessions give way to it before anybody else's."""
        own = [token for token, (holder, _) in self._visitors.items() if holder.name == peer.name]
        rivals = own if len(own) >= _MAX_OF_ONE else list(self._visitors)
        if len(own) >= _MAX_OF_ONE or len(self._visitors) >= _MAX_VISITORS:
            del self._visitors[min(rivals, key=lambda token: self._visitors[token][1])]
        token = tokens.new()
        self._visitors[token] = (peer, time.monotonic())
        return token

    def handlers(self) -> dict[str, Any]:
        """Return the methods that both services have."""
        return {
            "Prove": grpc.unary_unary_rpc_method_handler(self.prove),
            "Identify": grpc.unary_unary_rpc_method_handler(self.identify),
        }

    def adopt(self, pem: bytes) -> bool:
        """Take a newer list; returns whether it was one.

        Raises:
            RevocationFault: it was not made by the project's authority.
        """
        is_newer = self._revocations.adopt(pem)
        if is_newer:
            self._enforce()
        return is_newer

    def refresh(self) -> None:
        """Look whether somebody put a newer list into the kit."""
        if self._revocations.refresh():
            self._enforce()

    async def watch(self) -> None:
        """Look for new lists, and at the clock, until cancelled."""
        while True:
            self.refresh()
            self._strangers.flush()
            self._reminder.remind(log)
            await asyncio.sleep(_POLL_S)

    def _enforce(self) -> None:
        """End the sessions of revoked certificates and tell the others of the list."""
        log.info("The list of revoked certificates has number %d", self.number)
        event = pb.ServerEvent(revocations=pb.Revocations(crl=self._revocations.current.pem))
        for session in self._registry.all():
            if session.serial in self._revocations:
                log.warning("The certificate of %s was revoked; its session ends", session.name)
                self._registry.end(session)
            else:
                session.outbox.put_nowait(event)
