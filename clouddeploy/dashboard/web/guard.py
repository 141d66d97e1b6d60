"""What stands before every answer: headers that browsers obey, and an end to what is sent in, and by whom at once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from starlette.requests import Request

from clouddeploy.dashboard.attempts import place_of
from clouddeploy.dashboard.errors import TooLarge, TooMany
from clouddeploy.dashboard.web import addresses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from clouddeploy.dashboard.web.addresses import Network

MAX_BODY = 2 << 20
"""A site's request has a few KiB, everything else less."""
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not `no-referrer`: with that browsers say `Origin: null` for our own forms, which looks like an attack.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_STRICT_TRANSPORT = "max-age=31536000"


def headers(*, is_tls: bool) -> dict[str, str]:
    """Returns what every answer has, besides what it says of caching.

    Args:
        is_tls: whether the dashboard is reached by HTTPS.
    """
    return {**HEADERS, **({"strict-transport-security": _STRICT_TRANSPORT} if is_tls else {})}


class Guard:
    """Adds the headers to every answer; refuses bodies that are too large while they arrive, and too much at once.

    Args:
        app: what answers.
        is_tls: whether the dashboard is reached by HTTPS.
        refused: answers a request with an error.
        per_address: requests of one address that may be under way. Connections are counted before (`connections`), but
            those of a trusted proxy are anybody's.
        proxies: networks of those who may say where a request comes from.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        is_tls: bool,
        refused: Callable[[Request, Exception], Awaitable[Response]],
        per_address: int,
        proxies: tuple[Network, ...] = (),
    ) -> None:
        self._app, self._refused = app, refused
        self._per_address, self._under_way = per_address, Counter[str]()
        self._proxies = proxies
        self._headers = [(key.encode(), value.encode()) for key, value in headers(is_tls=is_tls).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._proxies and scope.get("client"):
            host, port = scope["client"]
            said = [value for key, value in scope["headers"] if key == addresses.HEADER]
            scope = {**scope, "client": (addresses.origin(host, said, self._proxies), port)}
        left = MAX_BODY
        is_static = scope["path"].startswith("/static/")

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise TooLarge("the request is refused", why=f"it has more than {MAX_BODY} bytes", hint="send less")
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {key.lower() for key, _ in message["headers"]}
                added = [pair for pair in self._headers if pair[0] not in given]
                if not is_static and b"cache-control" not in given:
                    added.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *added]
            await send(message)

        place = place_of(scope["client"][0]) if scope.get("client") else ""
        if self._under_way[place] >= self._per_address:
            error = TooMany(
                "the request is refused",
                why=f"your address has {self._per_address} under way",
                hint="wait until one has ended",
                retry_after_s=1,
            )
            await (await self._refused(Request(scope), error))(scope, limited, guarded)
            return
        self._under_way[place] += 1
        try:
            await self._app(scope, limited, guarded)
        finally:
            self._under_way[place] -= 1
            if not self._under_way[place]:
                del self._under_way[place]
