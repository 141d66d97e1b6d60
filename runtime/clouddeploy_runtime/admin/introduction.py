"""A person's first call where TLS shows the server no certificate: it gets a token, which all later calls carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import identity_proof
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from clouddeploy_runtime.kit import Kit


def introduce(channel: Any, kit: Kit, *, number: bytes, timeout_s: float) -> Any:
    """Return a channel whose calls the server knows to be this person's; with `mtls` that is the same one.

    Args:
        channel: to the kit's server.
        kit: an admin's.
        number: the server's, from its answer to Prove.
        timeout_s: how long the call may take.

    Raises:
        grpc.RpcError: the server does not accept the proof.
    """
    if kit.connection_security == "mtls":
        return channel
    token: bytes = channel.unary_unary(rpc.IDENTIFY)(identity_proof.make(kit, number=number), timeout=timeout_s)
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
