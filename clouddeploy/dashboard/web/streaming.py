"""Server-sent events: a part of a page, sent as HTML with each change, until the browser has to ask anew."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from clouddeploy.dashboard.web.asking import Stream

LASTS_S = 30.0
"""Then the browser comes back by itself, and whoever was denied or logged out meanwhile is not let in."""
_LOOK_S = 0.3
_RETRY_MS = 1000


def response(stream: Stream, render: Callable[[], str]) -> StreamingResponse:
    """Returns the answer.

    Args:
        stream: what it is about.
        render: returns the part as it is now; called in a thread.
    """
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(events(stream, render), media_type="text/event-stream", headers=headers)


async def events(stream: Stream, render: Callable[[], str], *, lasts_s: float = LASTS_S) -> AsyncIterator[str]:
    """Yields an event `part` now and with each change, and `over` when no further one will come."""
    end = time.monotonic() + lasts_s
    yield f"retry: {_RETRY_MS}\n\n"
    shown: object = None
    while True:
        is_over, revision = stream.is_over(), stream.revision()
        if revision != shown:
            shown = revision
            yield _event("part", await run_in_threadpool(render))
        if is_over:
            yield _event("over", "")
            return
        if time.monotonic() >= end:
            return
        await anyio.sleep(_LOOK_S)


def _event(name: str, text: str) -> str:
    # A line of the text must not end the event: what others wrote is in it.
    lines = "".join(f"data: {line}\n" for line in text.replace("\r", "\n").split("\n"))
    return f"event: {name}\n{lines}\n"
