"""What becomes of a command that was allowed, for the audit log, and what ties the entries about one together."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime import signing
from clouddeploy_runtime.server.submissions import next_of
from clouddeploy_runtime.signing import SignatureRefused, UnsignedJob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clouddeploy_runtime.audit import AuditLog
    from clouddeploy_runtime.server.logins import Login

_INTERNAL = "INTERNAL"
_CANCELLED = "CANCELLED"


@dataclass
class Ending:
    """How a command ended, as far as it is known while it runs."""

    detail: str = ""
    """More about it, as the id of a new job."""


def reference_of(signed: bytes) -> str:
    """Return what the entries about one command have in common.

    Of what was signed it is a digest, which each site finds for itself; else it is a number of this server.
    """
    if signed:
        with contextlib.suppress(SignatureRefused):
            return signing.reference(signed)
    return secrets.token_hex(signing.REFERENCE_SIGNS // 2)


async def first_of(requests: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """Return the first message of a stream, and the stream with it still in place.

    Raises:
        InvalidJob: nothing comes for a minute.
    """
    stream = aiter(requests)
    first = await next_of(stream) or b""

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for message in stream:
            yield message

    return first, whole()


@contextlib.asynccontextmanager
async def recorded(
    audit: AuditLog, login: Login, *, action: str, address: str, reference: str, is_change: bool
) -> AsyncIterator[Ending]:
    """Write down how what was allowed ends: a change always, a look when it fails.

    What a bad signature ends is a refusal, which whoever checks it records.
    """
    ending = Ending()

    async def note(code: str, detail: str) -> None:
        await asyncio.to_thread(
            audit.record_end,
            user=login.peer.name,
            role=login.role,
            action=action,
            address=address,
            reference=reference,
            code=code,
            detail=detail,
        )

    try:
        yield ending
    except (SignatureRefused, UnsignedJob):
        raise
    except (asyncio.CancelledError, GeneratorExit):
        if is_change:
            await note(_CANCELLED, "who asked did not wait for the end, or the server stopped")
        raise
    except Exception as exc:  # recorded, and goes on
        await note(getattr(exc, "error_code", _INTERNAL), str(exc))
        raise
    if is_change:
        await note("", ending.detail)
