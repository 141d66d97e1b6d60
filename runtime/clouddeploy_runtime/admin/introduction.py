"""A person logs in: the server opens a session, whose token all later calls carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import login_proof
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from cryptography import x509

    from clouddeploy_runtime.kit import Kit


def log_in(channel: Any, kit: Kit, *, number: bytes, study: str, server: x509.Certificate, timeout_s: float) -> Any:
    """Return a channel whose calls belong to this person's session.

    Args:
        channel: to the kit's server.
        kit: an admin's.
        number: the server's, from its answer to Prove.
        study: which one to work in.
        server: the server's certificate.
        timeout_s: how long the call may take.

    Raises:
        grpc.RpcError: the server does not accept the login.
    """
    proof = login_proof.make(kit, number=number, study=study, server=server)
    token: bytes = channel.unary_unary(rpc.LOGIN)(proof, timeout=timeout_s)
    return grpc.intercept_channel(channel, _WithToken(token.decode()))


# grpcio has no types.
class _WithToken(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
):
    def __init__(self, token: str) -> None:
        self._token = token

    def _call(self, go_on: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), (rpc.TOKEN_KEY, self._token))
        return go_on(details._replace(metadata=metadata), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = _call
