"""What a call that failed says: the server's own error again, or what became of the connection."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from clouddeploy_runtime import revocation, studies
from clouddeploy_runtime.errors import (
    AuthenticationRefused,
    AuthorizationRefused,
    ClientsRunning,
    ConnectionFailed,
    InvalidCommand,
    InvalidJob,
    InvalidTarget,
    JobNotFinished,
    JobNotFound,
    JobsRunning,
    NoClients,
    NoSession,
    RuntimeFault,
    ServerBusy,
    SessionExpired,
    SubmitTokenConflict,
    SubmitTokenJobDeleted,
    Timeout,
)
from clouddeploy_runtime.jobs.known import ComponentRefused
from clouddeploy_runtime.signing import NonceUnknown, SignatureRefused, UnsignedJob
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import Mapping

_ERRORS: Mapping[str, type[RuntimeFault]] = {
    error.error_code: error
    for error in (
        AuthenticationRefused,
        AuthorizationRefused,
        ClientsRunning,
        ComponentRefused,
        InvalidCommand,
        InvalidJob,
        InvalidTarget,
        JobNotFinished,
        JobNotFound,
        JobsRunning,
        NoClients,
        NoSession,
        NonceUnknown,
        ServerBusy,
        SessionExpired,
        SignatureRefused,
        SubmitTokenConflict,
        SubmitTokenJobDeleted,
        UnsignedJob,
        revocation.RevocationFault,
    )
} | {error.error_code: error for error in studies.ERRORS}


_GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""A server that stops cancels what it has not answered."""
_LOGIN = "AUTH_"
"""How the codes of refused logins begin."""


def translated(exc: Any) -> RuntimeFault:
    """Return the error of a call that ended with a `grpc.RpcError`."""
    details = exc.details() or ""
    code = str(dict(exc.trailing_metadata() or ()).get(rpc.ERROR_KEY, ""))
    if code:
        parts = {"what": "The server refused", "why": details, "hint": ""}
        with contextlib.suppress(msgspec.MsgspecError):
            parts |= msgspec.json.decode(details, type=dict[str, str])
        kind = AuthenticationRefused if code.startswith(_LOGIN) else _ERRORS.get(code, RuntimeFault)
        fault = kind(parts["what"], why=parts["why"], hint=parts["hint"])
        fault.error_code = code  # of a newer server there may be some that are not in the table
        return fault
    if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Timeout("The server did not answer in time", why=details, hint="Try again with a longer timeout.")
    if exc.code() in _GONE:
        return ConnectionFailed("The connection to the server is lost", why=details, hint="Check that it runs.")
    return RuntimeFault("The server failed", why=f"{exc.code().name}: {details}", hint="See the server's log.txt.")
