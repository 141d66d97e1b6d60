"""The addresses of a login by way of a provider: to it, to it once more as a proof, and back from it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from clouddeploy.dashboard.oidc import WITHIN
from clouddeploy.dashboard.web import entrance, factor_pages
from clouddeploy.dashboard.web.asking import Page
from clouddeploy.dashboard.web.lanes import Lane

if TYPE_CHECKING:
    from starlette.requests import Request

    from clouddeploy.dashboard.desk import Desk
    from clouddeploy.dashboard.oidc import Begun, SignIn
    from clouddeploy.dashboard.web.entrance import Cookies
    from clouddeploy.dashboard.web.rendering import Renderer

BEGIN, PROVE, BACK = "/oidc", "/oidc/proof", "/oidc/back"
_TOGETHER = 4
"""Threads that may wait for the provider; logins with passwords and all other pages have their own."""


class OidcPages:
    """Answers all three.

    Args:
        desk: the dashboard.
        sign_in: does it.
        cookies: names and properties.
        renderer: of pages.
    """

    def __init__(self, desk: Desk, sign_in: SignIn, cookies: Cookies, renderer: Renderer) -> None:
        self._desk, self._sign_in, self._cookies, self._renderer = desk, sign_in, cookies, renderer
        # A browser that comes back from elsewhere shows no strict cookie; this one is good for that moment only.
        self._flags = {**cookies.flags, "samesite": "lax"}
        self._name = cookies.session.replace("session", "oidc")
        self._lane = Lane(_TOGETHER)

    @property
    def routes(self) -> list[Route]:
        """What the application gets."""
        return [Route(BEGIN, self.begin), Route(PROVE, self.prove), Route(BACK, self.back)]

    async def begin(self, request: Request) -> Response:
        """Leads to the provider."""
        return self._led(await self._lane.run(lambda: self._sign_in.begin(address=_address(request))))

    async def prove(self, request: Request) -> Response:
        """Leads somebody who is logged in to the provider, to log in there once more."""
        known = await self._lane.run(lambda: entrance.known_browser(self._desk, request, self._cookies))
        if known is None:
            return RedirectResponse("/", HTTPStatus.SEE_OTHER)
        path = factor_pages.back(request.query_params.get("back", ""))
        return self._led(
            await self._lane.run(lambda: self._sign_in.begin(address=_address(request), known=known, path=path))
        )

    def _led(self, begun: Begun) -> Response:
        response = RedirectResponse(begun.url, HTTPStatus.SEE_OTHER)
        response.set_cookie(self._name, begun.cookie, max_age=int(WITHIN.total_seconds()), **self._flags)
        return response

    async def back(self, request: Request) -> Response:
        """Takes what the provider says.

        The page leads on by itself: a redirect would still count as coming from the provider, and a strict cookie would
        not be shown.
        """
        shown, given = request.cookies.get(self._name, ""), dict(request.query_params)
        found = await self._lane.run(lambda: self._sign_in.finish(given, cookie=shown, address=_address(request)))
        page = self._renderer.page(Page("signed_in.html", {"path": found.path}), None)
        response = Response(page, media_type="text/html")
        if found.opened is not None:
            response.set_cookie(self._cookies.session, found.opened.secret, **self._cookies.flags)
            self._cookies.set_device(response, found.opened.device)
        response.delete_cookie(self._name, **self._flags)
        return response


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
