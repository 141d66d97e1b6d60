"""How a call of a person ends that is refused: with the error that the admin session turns back into the same class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from clouddeploy_runtime.errors import (
    AuthenticationRefused,
    AuthorizationRefused,
    ClientsRunning,
    InvalidCommand,
    InvalidJob,
    InvalidTarget,
    JobNotFinished,
    JobNotFound,
    JobsRunning,
    NoClients,
    NoSession,
    ServerBusy,
    SessionExpired,
    SubmitTokenConflict,
    SubmitTokenJobDeleted,
)
from clouddeploy_runtime.revocation import RevocationFault
from clouddeploy_runtime.signing import NonceUnknown, SignatureRefused, UnsignedJob
from clouddeploy_runtime.studies import StudyFault
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.errors import ClouddeployError

_MAX_BYTES = 2000
"""Of what and why, each: an error travels in the call's headers, which may be 8 KiB long."""
_ESCAPED_BYTES = 6
"""Of a sign that JSON escapes."""
_STATUS: Mapping[type[ClouddeployError], grpc.StatusCode] = {
    NoSession: grpc.StatusCode.UNAUTHENTICATED,
    SessionExpired: grpc.StatusCode.UNAUTHENTICATED,
    AuthenticationRefused: grpc.StatusCode.PERMISSION_DENIED,
    AuthorizationRefused: grpc.StatusCode.PERMISSION_DENIED,
    JobNotFound: grpc.StatusCode.NOT_FOUND,
    InvalidJob: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidCommand: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidTarget: grpc.StatusCode.NOT_FOUND,
    NoClients: grpc.StatusCode.FAILED_PRECONDITION,
    JobsRunning: grpc.StatusCode.FAILED_PRECONDITION,
    ClientsRunning: grpc.StatusCode.FAILED_PRECONDITION,
    JobNotFinished: grpc.StatusCode.FAILED_PRECONDITION,
    SubmitTokenConflict: grpc.StatusCode.ALREADY_EXISTS,
    SubmitTokenJobDeleted: grpc.StatusCode.ALREADY_EXISTS,
    ServerBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RevocationFault: grpc.StatusCode.INVALID_ARGUMENT,
    NonceUnknown: grpc.StatusCode.FAILED_PRECONDITION,
    SignatureRefused: grpc.StatusCode.PERMISSION_DENIED,
    UnsignedJob: grpc.StatusCode.PERMISSION_DENIED,
    StudyFault: grpc.StatusCode.FAILED_PRECONDITION,
}


async def refuse(context: Any, exc: ClouddeployError) -> None:
    """End a call with an error."""
    code = next((code for kind, code in _STATUS.items() if isinstance(exc, kind)), grpc.StatusCode.INTERNAL)
    parts = {"what": _fitting(exc.what), "why": _fitting(exc.why), "hint": exc.hint}
    document = msgspec.json.encode(parts).decode()
    await context.abort(code, document, ((rpc.ERROR_KEY, exc.error_code),))


def _fitting(text: str) -> str:
    """Return the beginning of a text that is as long as it may be once JSON and gRPC have escaped it."""
    text = text[:_MAX_BYTES].encode("utf-8", "replace").decode()  # a file's name may hold what is no text
    left = _MAX_BYTES
    for place, sign in enumerate(text):
        is_plain = " " <= sign <= "~" and sign not in '"%\\'
        left -= 1 if is_plain else max(_ESCAPED_BYTES, 3 * len(sign.encode()))
        if left < 0:
            return text[:place]
    return text
