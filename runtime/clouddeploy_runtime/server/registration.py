"""Who the sites are: registration, and the token that stands for it in every later call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import tls
from clouddeploy_runtime.wire import federation_pb2 as pb
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.gate import Gate
    from clouddeploy_runtime.server.sessions import Registry, Session

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0


class Registration:
    """Registers sites and recognises them.

    Args:
        kit: the server's.
        registry: where sessions are.
        gate: who may talk to this server at all.
    """

    def __init__(self, kit: Kit, registry: Registry, gate: Gate) -> None:
        self._kit = kit
        self._registry = registry
        self._gate = gate

    def handlers(self) -> dict[str, Any]:
        """Return the methods of the service `rpc.FEDERATION` that lead to a token."""
        return {
            **self._gate.handlers(),
            "Register": grpc.unary_unary_rpc_method_handler(
                self.register,
                request_deserializer=pb.RegisterRequest.FromString,
                response_serializer=pb.RegisterReply.SerializeToString,
            ),
        }

    async def register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterReply:
        """Give a site its token; only the certificate says who it is."""
        peer = tls.peer_of(context.auth_context())
        problem = self._gate.problem(peer)
        if problem:
            pass
        elif peer is None or peer.name != request.name or peer.name == self._kit.server_name:
            problem = f"the certificate is not that of {request.name!r}"
        elif peer.role:
            problem = "an admin's certificate cannot register a site"
        elif request.project != self._kit.project:
            problem = f"this server runs the project {self._kit.project!r}, not {request.project!r}"
        if peer is None or problem:
            log.warning("Refused the registration of %r from %s: %s", request.name, context.peer(), problem)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)
            raise AssertionError  # abort always raises
        session = self._registry.register(
            name=peer.name,
            address=tls.address_of(context.peer()),
            active_jobs=set(request.active_jobs),
            serial=peer.serial,
        )
        return pb.RegisterReply(token=session.token, heartbeat_s=HEARTBEAT_S)

    async def authorise(self, context: Any) -> tuple[Session, dict[str, Any]]:
        """Return the session of who calls, and the call's metadata; anybody else's call ends here."""
        metadata = dict(context.invocation_metadata() or ())
        peer = tls.peer_of(context.auth_context())
        problem = self._gate.problem(peer)
        if problem:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)
            raise AssertionError  # abort always raises
        token = str(metadata.get(rpc.TOKEN_KEY, ""))
        session = self._registry.authorise(token, name=peer.name) if peer is not None else None
        if session is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not known here; register again")
            raise AssertionError  # abort always raises
        return session, metadata
