"""Who the sites are: registration, and the token that stands for it in every later call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from clouddeploy_runtime import tls
from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.identity_proof import IdentityRefused
from clouddeploy_runtime.server.sessions import CLIENT, RELAY
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.gate import Gate
    from clouddeploy_runtime.server.membership import Membership
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.tls import Peer

log = logging.getLogger(__name__)

_MAX_SHOWN = 500
_MAX_INSTANCE = 200
_DENIED = grpc.StatusCode.PERMISSION_DENIED


class Registration:
    """Registers sites and recognises them.

    Args:
        kit: the server's.
        registry: where sessions are.
        gate: who may talk to this server at all.
        membership: who may be registered just now.
        is_running: tells whether the server still runs a job of this id, or will after its restart.
    """

    def __init__(
        self, kit: Kit, registry: Registry, gate: Gate, membership: Membership, *, is_running: Callable[[str], bool]
    ) -> None:
        self._kit = kit
        self._registry = registry
        self._gate = gate
        self._membership = membership
        self._is_running = is_running

    @property
    def silence_s(self) -> float:
        """A stream on which nothing comes for so long is closed."""
        return self._membership.silence_s

    def handlers(self) -> dict[str, Any]:
        """Return the methods of the service `rpc.FEDERATION` that lead to a token."""
        return {
            **self._gate.handlers(),
            "Register": grpc.unary_unary_rpc_method_handler(
                self.register,
                response_serializer=pb.RegisterReply.SerializeToString,
            ),
        }

    async def register(self, message: bytes, context: Any) -> pb.RegisterReply:
        """Give a site its token; only the certificate says who it is.

        Reads the request itself: what gRPC cannot read it takes for a defect of this program.
        """
        try:
            request = pb.RegisterRequest.FromString(message)
        except DecodeError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no registration")
            raise AssertionError from exc  # abort always raises
        peer, problem = self._recognise(request, context)
        refusal = (_DENIED, problem) if problem else self._membership.problem(request.name, request.instance)
        if peer is None or refusal is not None:
            code, problem = refusal or (_DENIED, "there is no certificate with a name")
            name = printable(request.name[:80])[:80]
            log.warning("Refused the registration of %r from %s: %s", name, context.peer(), problem)
            await context.abort(code, problem)
            raise AssertionError  # abort always raises
        ended = sorted(job for job in set(request.active_jobs) if not self._is_running(job))
        session = self._registry.register(
            name=peer.name,
            address=tls.address_of(context.peer()),
            active_jobs=set(request.active_jobs).difference(ended),
            serial=peer.serial,
            peer=peer,
            kind=request.kind or CLIENT,
            instance=request.instance,
            # A proxy that ends the TLS of clients may send their calls over any of its own connections.
            connection=context.peer() if self._gate.sees_certificates else "",
        )
        if ended:
            names = printable(", ".join(ended)[:_MAX_SHOWN]).replace("\n", " ")
            log.info("%s still runs what has ended here: %s", peer.name, names, extra={"site": peer.name})
        return pb.RegisterReply(
            token=session.token,
            heartbeat_s=self._membership.heartbeat_s,
            token_signature=self._gate.sign_token(session),
            ended_jobs=ended,
        )

    def _recognise(self, request: pb.RegisterRequest, context: Any) -> tuple[Peer | None, str]:
        """Return who asks, and why it is refused whatever else happens here; empty when it is not."""
        try:
            peer = self._gate.newcomer(context, request.proof)
        except IdentityRefused as exc:
            return None, str(exc)
        too_long = "it names its process with too many signs" if len(request.instance) > _MAX_INSTANCE else ""
        problem = self._gate.problem(peer) or too_long
        if problem or peer is None:
            return None, problem
        if peer.name != request.name:
            problem = f"the certificate is not that of {request.name!r}, but of {peer.name!r}"
        elif peer.name == self._kit.server_name:
            problem = "it is the server's own certificate"
        elif peer.role:
            problem = "an admin's certificate cannot register a site"
        elif not peer.may_connect:
            problem = "the certificate is for a server only (it lacks clientAuth)"
        elif request.kind not in {"", CLIENT, RELAY}:
            problem = f"a {request.kind!r} cannot register"
        elif request.project != self._kit.project:
            problem = f"this server runs the project {self._kit.project!r}, not {request.project!r}"
        elif (there := self._registry.session_of(peer.name)) and there.kind != (request.kind or CLIENT):
            problem = f"{peer.name} is registered as a {there.kind}"
        return peer, problem

    async def authorise(self, context: Any) -> tuple[Session, dict[str, Any]]:
        """Return the session of who calls, and the call's metadata; anybody else's call ends here."""
        metadata = dict(context.invocation_metadata() or ())
        peer = self._gate.identity_of(context)
        problem = self._gate.problem(peer) if peer is not None or self._gate.sees_certificates else ""
        if problem:
            await context.abort(_DENIED, problem)
            raise AssertionError  # abort always raises
        token = str(metadata.get(rpc.TOKEN_KEY, ""))
        session = self._registry.authorise(token, name=peer.name) if peer is not None else None
        why = "the token is not known here"
        if session is not None and peer is not None and session.serial != peer.serial:
            session, why = None, "the token was given to another certificate"
        if session is not None and session.connection not in {"", context.peer()}:
            log.warning("A token of %s came over another connection, from %s", session.name, context.peer())
            session, why = None, "the token was given to another connection"
        if session is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"{why}; register again")
            raise AssertionError  # abort always raises
        return session, metadata
