"""A person's connection: waited for, with the cause when there is none, and each side shown who the other one is."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import revocation, server_proof, tls
from clouddeploy_runtime.admin.introduction import log_in
from clouddeploy_runtime.client import diagnosis
from clouddeploy_runtime.errors import ConnectionFailed
from clouddeploy_runtime.kit.kit import authorities, certificate
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from clouddeploy_runtime.kit import Kit

log = logging.getLogger(__name__)

_LOOK_AFTER = 0.3
"""Part of the time after which a look is worth it: on a good line the connection is there long before."""
_SPARE_S = 1.0
"""The call's own end would not say whether there was a connection."""
_HINT = "Check that the server runs, that its port is reachable and that the kit is of its project."


def answered(call: Any, kit: Kit, *, timeout_s: float) -> bytes:
    """Return the server's answer to the first call on a line, which waits for the connection.

    Not by `grpc.channel_ready_future`: what it leaves behind holds up the channel's end for a fifth of a second.

    Args:
        call: it, begun with `wait_for_ready`.
        kit: whose line it is.
        timeout_s: how long it may take.

    Raises:
        ConnectionFailed: there is no secure connection within `timeout_s`; names the cause, as far as it is found in
            that time.
        grpc.RpcError: the server refuses the call.
    """
    began = time.monotonic()
    with contextlib.suppress(grpc.FutureTimeoutError):
        return bytes(call.result(timeout=timeout_s * _LOOK_AFTER))
    found: list[str] = []
    left_s = timeout_s - (time.monotonic() - began)
    # A thread that nobody waits for: a resolver that does not answer has a time of its own.
    threading.Thread(target=_look, args=(kit, found, left_s), daemon=True).start()
    try:
        return bytes(call.result(timeout=max(0.0, left_s)))
    except grpc.FutureTimeoutError as exc:
        call.cancel()
        raise ConnectionFailed(
            f"Cannot connect to the server at {tls.target(kit)}",
            why="".join(found) or f"no secure connection within {timeout_s:g} s",
            hint=_HINT,
        ) from exc


def introduced(line: Any, kit: Kit, *, study: str, timeout_s: float, is_new: bool = False) -> Any:
    """Return a channel on which the calls are those of a session; the server's certificate was not revoked.

    Args:
        line: a channel to the kit's server.
        kit: an admin's.
        study: which one to work in.
        timeout_s: how long each of the two calls may take.
        is_new: the line has not been connected yet.

    Raises:
        ConnectionFailed: there is no connection; the server's certificate was revoked, or it cannot prove that it has
            one.
        grpc.RpcError: a call fails, or the server does not let this side log in.
    """
    roots, number = authorities(kit.root_cert_file), server_proof.nonce()
    security = kit.connection_security
    call = line.unary_unary(rpc.PROVE_TO_ADMIN).future(
        server_proof.request(number, security=security, certificate=kit.cert_file.read_bytes()),
        timeout=timeout_s + (_SPARE_S if is_new else 0.0),
        metadata=((rpc.SECURITY_KEY, security),),
        wait_for_ready=is_new,
    )
    reply = answered(call, kit, timeout_s=timeout_s) if is_new else call.result()
    proof, server = server_proof.check(
        reply, nonce=number, own=certificate(kit.cert_file), server_name=kit.server_name, trusted=roots
    )
    known = revocation.read(kit.root / revocation.LIST_PATH, roots)
    sent = revocation.parse(proof.crl, roots) if proof.crl else revocation.Revoked()
    server_proof.refuse_revoked(server, known.serials | sent.serials, kit.server_name)
    return log_in(line, kit, number=proof.number, study=study, server=server, timeout_s=timeout_s)


def _look(kit: Kit, found: list[str], whole_s: float) -> None:
    try:
        found.append(diagnosis.cause(kit, whole_s=whole_s * 0.9))
    except Exception as exc:  # the thread's edge: whatever it is, the connection is what counts
        log.info("The cause could not be looked for", exc_info=exc)
