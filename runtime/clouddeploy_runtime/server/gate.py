"""Who may talk to this server at all: it proves itself to them, and turns away whose certificate was revoked."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import expiry, identity_proof, keys, login_proof, revocation, server_proof, tls
from clouddeploy_runtime.errors import AuthenticationRefused, NoSession, printable
from clouddeploy_runtime.handshakes import Refusals
from clouddeploy_runtime.identity_proof import IdentityRefused
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.server import tokens
from clouddeploy_runtime.server.logins import Logins
from clouddeploy_runtime.server.refusals import refuse
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.audit import AuditLog
    from clouddeploy_runtime.errors import ClouddeployError
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.login_proof import LoginProof
    from clouddeploy_runtime.server.logins import Login
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

MEMORY = "crl.pem"
_POLL_S = 1.0
_MAX_CERTIFICATE_BYTES = 16 << 10
_MAX_PROBLEM = 200


class Gate:
    """The server's knowledge of its own identity and of revoked ones.

    Args:
        kit: the server's.
        registry: the sessions to end when their certificate is revoked.
        workspace: where the newest list is kept.
        audit: gets the logins, those that are refused, and the ends of sessions.
        logins: the sessions of people.
    """

    def __init__(
        self, kit: Kit, registry: Registry, workspace: Path, audit: AuditLog, *, logins: Logins | None = None
    ) -> None:
        self.logins = logins or Logins()
        self._registry = registry
        self._audit = audit
        self._strangers = Refusals(what="refused a person's call")
        self._kit = kit
        self._challenges = tokens.Challenges()
        self._trusted = authorities(kit.root_cert_file)
        self._key = keys.load_private_key(kit.key_file)
        self._pem = kit.cert_file.read_bytes()
        self._certificate = certificate(kit.cert_file)
        self._reminder = expiry.Reminder("this server's certificate", self._certificate.not_valid_after_utc)
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
        """Return which site calls: from TLS, or as it was proven when the call's token was given out."""
        if self.sees_certificates:
            return tls.peer_of(context.auth_context())
        return self._registry.holder(_token_of(context))

    def login_of(self, context: Any) -> Login:
        """Return in whose session a call is; a stranger costs neither the disk nor more than a count in the log.

        Raises:
            NoSession: in none that is known, or the session is that of another certificate.
            SessionExpired: it was ended.
        """
        try:
            login = self.logins.of(_token_of(context))
        except NoSession:
            self._strangers.add("it has no session here")
            raise
        if self.sees_certificates and not _is_same(tls.peer_of(context.auth_context()), login.peer):
            self._strangers.add("its token is that of another certificate")
            raise NoSession(
                "The server does not know who calls",
                why="the token was given to the holder of another certificate",
                hint="Connect again.",
            )
        return login

    def ended_login(self, context: Any) -> Login | None:
        """Return the session that a call names, if it was ended and the caller is who had it."""
        login = self.logins.was(_token_of(context))
        if login is None or not self.sees_certificates:
            return login
        return login if _is_same(tls.peer_of(context.auth_context()), login.peer) else None

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
        fresh = self._challenges.issue()
        try:
            return server_proof.answer(self._key, self._pem, nonce=number, peer=pems[0], crl=crl, number=fresh)
        except ValueError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the certificate cannot be read")
            raise

    async def log_in(self, request: bytes, context: Any) -> bytes:
        """Open a session for a person and return its token.

        The person has signed a number of this server, good once, together with the certificates of both sides.
        """
        address = tls.address_of(context.peer())
        peer: Peer | None = None
        study = ""
        try:
            proof, peer, valid_s = self._proven(request, context)
            study = printable(proof.study)[:_MAX_PROBLEM]
            if problem := self.problem(peer):
                raise AuthenticationRefused(f"{peer.name} may not log in", why=problem)
            login = self.logins.open(peer, study=proof.study, address=address, valid_s=valid_s)
        except (AuthenticationRefused, IdentityRefused) as exc:
            await self._turn_away(peer, exc, study, context)
            raise
        detail = f"study {study}, session {login.name}"
        await self._record(login.peer, "login", address, allowed=True, detail=detail)
        return login.token.encode()

    def _proven(self, request: bytes, context: Any) -> tuple[LoginProof, Peer, float]:
        """Return a login, who it is and how long the certificate is valid.

        Raises:
            IdentityRefused: it proves nothing.
        """
        proof, cert = login_proof.check(request, server=self._certificate, trusted=self._trusted)
        if not self._challenges.use(proof.number):
            raise IdentityRefused("the login is too old or was used before")
        if proof.project != self._kit.project:
            raise IdentityRefused(f"this server runs the project {self._kit.project!r}, not {proof.project!r}")
        peer = tls.peer_from_pem(proof.certificate)
        shown = tls.peer_of(context.auth_context()) if self.sees_certificates else peer
        if peer is None or not _is_same(shown, peer):
            raise IdentityRefused("the login is that of another certificate than the connection's")
        return proof, peer, (cert.not_valid_after_utc - datetime.now(UTC)).total_seconds()

    async def _turn_away(self, peer: Peer | None, exc: ClouddeployError, study: str, context: Any) -> None:
        """Refuse a session: whose certificate is the project's is recorded, a stranger is counted."""
        if peer is None:
            self._strangers.add(printable(str(exc))[:_MAX_PROBLEM])
        else:
            log.warning("Refused a session from %s: %s", context.peer(), exc)
            detail = f"study {study}: {exc}"
            address, code = tls.address_of(context.peer()), exc.error_code
            await self._record(peer, "login", address, allowed=False, detail=detail, code=code)
        if isinstance(exc, IdentityRefused):
            exc = AuthenticationRefused("The server does not accept the login", why=str(exc), hint="Connect again.")
        await refuse(context, exc)

    async def _record(
        self, peer: Peer, action: str, address: str, *, allowed: bool, detail: str, code: str = ""
    ) -> None:
        await asyncio.to_thread(
            self._audit.record,
            user=peer.name,
            role=peer.role,
            action=action,
            address=address,
            allowed=allowed,
            detail=detail,
            code=code,
        )

    async def _record_ended(self) -> None:
        """Write down which sessions ended since the last time."""
        self.logins.expire()
        for login, why in self.logins.take_ended():
            detail = f"session {login.name}: {why}"
            await self._record(login.peer, "session_end", login.address, allowed=True, detail=detail)

    def handlers(self) -> dict[str, Any]:
        """Return the methods that both services have."""
        return {
            "Prove": grpc.unary_unary_rpc_method_handler(self.prove),
            "Login": grpc.unary_unary_rpc_method_handler(self.log_in),
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
            await self._record_ended()
            await asyncio.sleep(_POLL_S)

    def _enforce(self) -> None:
        """End the sessions of revoked certificates and tell the others of the list."""
        log.info("The list of revoked certificates has number %d", self.number)
        why = f"the certificate was revoked (list {self.number})"
        self.logins.end_where(lambda login: login.peer.serial in self._revocations, why)
        event = pb.ServerEvent(revocations=pb.Revocations(crl=self._revocations.current.pem))
        for session in self._registry.all():
            if session.serial in self._revocations:
                log.warning("The certificate of %s was revoked; its session ends", session.name)
                self._registry.end(session)
            else:
                session.outbox.put_nowait(event)


def _token_of(context: Any) -> str:
    return str(dict(context.invocation_metadata() or ()).get(rpc.TOKEN_KEY, ""))


def _is_same(shown: Peer | None, peer: Peer) -> bool:
    return shown is not None and (shown.name, shown.serial) == (peer.name, peer.serial)
