"""Server-sent events: a part of a page, sent as HTML with each change, until the browser has to ask anew."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, StreamingResponse

from clouddeploy.dashboard.errors import TooMany

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from clouddeploy.dashboard.web.asking import Stream

LASTS_S = 30.0
"""Then the browser comes back by itself, and whoever was denied or logged out meanwhile is not let in."""
MOST = 6
"""Of one person at once; a browser opens no more connections to one host (HTTP/1.1)."""
_AGAIN_S = 10
_LOOK_S = 0.3
_RETRY_MS = 1000


class EventStream(StreamingResponse):
    """An answer that goes on, or 429 for who has too many of them already.

    Args:
        stream: what it is about.
        render: returns the part as it is now; called in a thread.
        open_ones: how many each person has; of one event loop.
        person: who asks.
    """

    def __init__(self, stream: Stream, render: Callable[[], str], *, open_ones: Counter[int], person: int) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events(stream, render), media_type="text/event-stream", headers=headers)
        self._open, self._person = open_ones, person

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; counted from here to its end, whichever that is."""
        if self._open[self._person] >= MOST:
            await _refused()(scope, receive, send)
            return
        self._open[self._person] += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._open[self._person] -= 1
            if not self._open[self._person]:
                del self._open[self._person]


def _refused() -> PlainTextResponse:
    error = TooMany(
        "the page does not keep itself up to date",
        why=f"you look at {MOST} such pages already",
        hint="close one",
        retry_after_s=_AGAIN_S,
    )
    headers = {"retry-after": str(error.retry_after_s), "cache-control": "no-store"}
    return PlainTextResponse(f"{error}\n{error.hint}\n", int(HTTPStatus.TOO_MANY_REQUESTS), headers)


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
