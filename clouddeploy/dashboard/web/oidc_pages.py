"""The two addresses of a login by way of a provider: to it, and back from it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from clouddeploy.dashboard.oidc import WITHIN
from clouddeploy.dashboard.web.asking import Page

if TYPE_CHECKING:
    from starlette.requests import Request

    from clouddeploy.dashboard.oidc import SignIn
    from clouddeploy.dashboard.web.entrance import Cookies
    from clouddeploy.dashboard.web.rendering import Renderer

BEGIN, BACK = "/oidc", "/oidc/back"


class OidcPages:
    """Answers both.

    Args:
        sign_in: does it.
        cookies: names and properties.
        renderer: of pages.
    """

    def __init__(self, sign_in: SignIn, cookies: Cookies, renderer: Renderer) -> None:
        self._sign_in, self._cookies, self._renderer = sign_in, cookies, renderer
        # A browser that comes back from elsewhere shows no strict cookie; this one is good for that moment only.
        self._flags = {**cookies.flags, "samesite": "lax"}
        self._name = cookies.session.replace("session", "oidc")

    @property
    def routes(self) -> list[Route]:
        """What the application gets."""
        return [Route(BEGIN, self.begin), Route(BACK, self.back)]

    async def begin(self, _request: Request) -> Response:
        """Leads to the provider."""
        begun = await run_in_threadpool(self._sign_in.begin)
        response = RedirectResponse(begun.url, HTTPStatus.SEE_OTHER)
        response.set_cookie(self._name, begun.state, max_age=int(WITHIN.total_seconds()), **self._flags)
        return response

    async def back(self, request: Request) -> Response:
        """Takes what the provider says.

        The page leads on by itself: a redirect would still count as coming from the provider, and a strict cookie would
        not be shown.
        """
        address = request.client.host if request.client is not None else ""
        shown = request.cookies.get(self._name, "")
        opened = await run_in_threadpool(
            lambda: self._sign_in.finish(dict(request.query_params), cookie=shown, address=address)
        )
        page = self._renderer.page(Page("signed_in.html"), None)
        response = Response(page, media_type="text/html")
        response.set_cookie(self._cookies.session, opened.secret, **self._cookies.flags)
        response.delete_cookie(self._name, **self._flags)
        return response
