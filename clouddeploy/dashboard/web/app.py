"""The application: routes from the tables, each run in a thread, each error told in one place."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError, printable
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from clouddeploy.dashboard import rules
from clouddeploy.dashboard.errors import (
    Changed,
    Conflict,
    DashboardError,
    DigestNeeded,
    NotFound,
    ProofNeeded,
    TooMany,
    Unauthenticated,
    status_of,
)
from clouddeploy.dashboard.web import addresses, entrance, factor_pages, guard, openapi, streaming
from clouddeploy.dashboard.web.asking import Answer, Archive, Page, Redirect, Reply, Stream
from clouddeploy.dashboard.web.connections import Bounds
from clouddeploy.dashboard.web.entrance import Cookies
from clouddeploy.dashboard.web.guard import Guard
from clouddeploy.dashboard.web.lanes import Lane
from clouddeploy.dashboard.web.oidc_pages import OidcPages
from clouddeploy.dashboard.web.page_table import PAGES
from clouddeploy.dashboard.web.rendering import Renderer
from clouddeploy.dashboard.web.rest import CALLS, PREFIXES, encoded
from clouddeploy.dashboard.web.shapes import ErrorOut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from clouddeploy.dashboard.desk import Desk
    from clouddeploy.dashboard.logins import Known
    from clouddeploy.dashboard.oidc import SignIn
    from clouddeploy.dashboard.web.asking import Ask
    from clouddeploy.dashboard.web.calls import Call
    from clouddeploy.dashboard.web.page_table import PageCall

log = logging.getLogger(__name__)

STRANGERS = 8
"""Logins and sign-ups at once: each hashes a password, and people who are logged in wait for none of them."""


def make(
    desk: Desk,
    *,
    is_tls: bool,
    version: str,
    hosts: Sequence[str] = ("*",),
    proxies: Sequence[str] = (),
    per_address: int = Bounds.per_address,
    sign_in: SignIn | None = None,
) -> Starlette:
    """Returns the application.

    Args:
        desk: the dashboard.
        is_tls: whether it is reached by HTTPS: cookies and headers depend on it.
        version: told in the OpenAPI document.
        hosts: names under which it may be asked for; without HTTPS only those of this machine.
        proxies: addresses and networks of those who may say where a request comes from.
        per_address: requests of one address that may be under way.
        sign_in: logs people in by way of a provider; None: there is none.

    Raises:
        Invalid: one of those is none.
    """
    trusted = addresses.networks(proxies)
    app = _App(desk, is_tls=is_tls, version=version, has_provider=sign_in is not None)
    routes: list[Route | Mount] = [
        Route(prefix + call.path, partial(app.api, call=call), methods=[call.method])
        for prefix in PREFIXES
        for call in CALLS
    ]
    routes += [Route(f"{prefix}/openapi.json", app.document) for prefix in PREFIXES]
    routes += [Route(page.path, partial(app.page, page=page), methods=[page.method]) for page in PAGES]
    if sign_in is not None:
        routes += app.provider_routes(sign_in)
    static = resources.files("clouddeploy.dashboard.web") / "static"
    routes.append(Mount("/static", StaticFiles(directory=str(static))))
    middleware = [
        Middleware(Guard, is_tls=is_tls, refused=app.refused, per_address=per_address, proxies=trusted),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: app.unknown,
        ClouddeployError: app.refused,
        ClientDisconnect: app.left,
        Exception: app.defect,
    }
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class _App:
    """Runs handlers and tells what they say."""

    def __init__(self, desk: Desk, *, is_tls: bool, version: str, has_provider: bool = False) -> None:
        self._desk = desk
        self._is_tls = is_tls
        self._cookies = Cookies(is_tls=is_tls)
        self._streams = Counter[int]()
        self._strangers = Lane(STRANGERS)
        self._renderer = Renderer(has_provider=has_provider)
        self._document = openapi.encoded_document(version)

    def provider_routes(self, sign_in: SignIn) -> list[Route]:
        """Returns the addresses of logins by way of a provider."""
        return OidcPages(self._desk, sign_in, self._cookies, self._renderer).routes

    async def document(self, _request: Request) -> Response:
        """Answers with the OpenAPI document."""
        return Response(self._document, media_type="application/json")

    async def api(self, request: Request, *, call: Call) -> Response:
        """Answers one call of the REST interface."""
        try:
            answer = await self._called(request, call)
        except ClouddeployError as error:
            return _told(error)
        if isinstance(answer, Archive):
            return _file(answer)
        assert isinstance(answer, Reply)  # noqa: S101 - the table has no other
        data = answer.data.model_dump(mode="json")
        response = Response(encoded(data), answer.status, dict(answer.headers), "application/json")
        self._set_session(response, answer.session)
        return response

    async def _called(self, request: Request, call: Call) -> Answer:
        known = await run_in_threadpool(self._caller, request)
        if known is None and not call.is_open:
            raise Unauthenticated("nobody is logged in", why="there is no valid token", hint="POST /login")
        if known is not None:
            rules.check_scope(known.actor, call.scope)
        body = await entrance.json_body(request, call.takes) if call.takes is not None else None
        upload = await request.body() if call.takes_file else b""
        ask = entrance.ask_of(self._desk, request, known, body=body, upload=upload)
        return await self._run(call, ask)

    def _caller(self, request: Request) -> Known | None:
        """Returns who asks: a token, or the session of a browser, whose scripts must show its form token too."""
        if entrance.has_token(request):
            return entrance.known_program(self._desk, request)
        known = entrance.known_browser(self._desk, request, self._cookies)
        if known is not None and request.method not in {"GET", "HEAD"}:
            entrance.check_origin(request)
            entrance.check_form(request.headers.get(entrance.FORM_HEADER, ""), known.form_token)
        return known

    async def page(self, request: Request, *, page: PageCall) -> Response:
        """Answers with a page, or with what led there and the error above it."""
        is_use = not page.is_watching
        known = await run_in_threadpool(entrance.known_browser, self._desk, request, self._cookies, is_use=is_use)
        if known is None and not page.is_open:
            return RedirectResponse("/", HTTPStatus.SEE_OTHER)
        token = entrance.form_token(request, known, self._cookies)
        made = "" if token or known is not None else entrance.new_form_token()
        device = request.cookies.get(self._cookies.device, "")
        ask = entrance.ask_of(self._desk, request, known, token=token or made, device=device)
        try:
            if page.method == "POST":
                entrance.check_origin(request)
                fields, upload = await entrance.form_body(request)
                entrance.check_form(fields.get(entrance.FORM_FIELD, [""])[0], token)
                ask = replace(ask, body=fields, upload=upload)
            answer = await self._run(page, ask)
        except ClouddeployError as error:
            answer = await self._with_error(page, ask, error)
            if isinstance(error, ProofNeeded):
                back = next((one.path for one in PAGES if one.method == "GET" and one.handle is page.again), "/")
                back = back.format_map(ask.path)
                asked = await run_in_threadpool(factor_pages.proof_page, ask, back)
                answer = replace(asked, values={**asked.values, "error": error}, status=int(status_of(error)))
        response = await run_in_threadpool(self._shown, answer, ask)
        if made:
            response.set_cookie(self._cookies.form, made, **self._cookies.flags)
        return response

    async def _with_error(self, page: PageCall, ask: Ask, error: ClouddeployError) -> Page:
        """Returns the page that a form was on, with the error above it; a page of its own when there is none."""
        status = int(status_of(error))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("%s: %s", type(error).__name__, error)
        plain = Page("error.html", {"error": error}, status)
        if page.again is None:
            return plain
        try:
            shown = await run_in_threadpool(page.again, ask)
        except ClouddeployError:
            return plain
        if not isinstance(shown, Page):
            return plain
        return replace(shown, values={**shown.values, "error": error}, status=status)

    async def _run(self, call: Call | PageCall, ask: Ask) -> Answer:
        """Runs a handler in a thread of its own; those that decide who is in wait for each other."""

        def run() -> Answer:
            try:
                with self._desk.turn if call.in_turn else nullcontext():
                    return call.handle(ask)
            except (Changed, Conflict, DigestNeeded) as error:
                # What somebody may not do is recorded where it is found; what cannot be done now, here for all.
                with ask.visit() as visit:
                    visit.note(f"{call.method} {call.path}", allowed=False, detail=str(error), code=error.error_code)
                raise

        return await (self._strangers.run(run) if ask.known is None else run_in_threadpool(run))

    def _shown(self, answer: Answer, ask: Ask) -> Response:
        if isinstance(answer, Archive):
            return _file(answer)
        if isinstance(answer, Stream):
            return streaming.EventStream(
                answer,
                lambda: self._renderer.page(Page(answer.template, answer.values()), ask),
                open_ones=self._streams,
                person=ask.known.actor.id if ask.known is not None else 0,
            )
        if isinstance(answer, Redirect):
            response: Response = RedirectResponse(answer.to, HTTPStatus.SEE_OTHER)
            session = answer.session
            if answer.device:
                self._cookies.set_device(response, answer.device)
        else:
            assert isinstance(answer, Page)  # noqa: S101 - the table has no other
            response = Response(self._renderer.page(answer, ask), answer.status, media_type="text/html")
            session = answer.session
            response.headers.update(_retry(answer.values.get("error")))
        self._set_session(response, session)
        return response

    def _set_session(self, response: Response, session: str | None) -> None:
        """Gives the browser another session; empty: it loses the one that it has; None: it keeps it."""
        if session:
            response.set_cookie(self._cookies.session, session, **self._cookies.flags)
        elif session is not None:
            response.delete_cookie(self._cookies.session, **self._cookies.flags)

    async def unknown(self, request: Request, error: Exception) -> Response:
        """Answers what no route is for."""
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
        found = NotFound("there is nothing here", why=HTTPStatus(status).phrase, hint="begin at /")
        found.status = HTTPStatus(status)
        return await self.refused(request, found)

    async def refused(self, request: Request, error: Exception) -> Response:
        """Answers with an error that was found before any handler ran."""
        assert isinstance(error, ClouddeployError)  # noqa: S101 - registered for it
        if request.url.path.startswith(PREFIXES):
            return _told(error)
        page = Page("error.html", {"error": error}, int(status_of(error)))
        return Response(self._renderer.page(page, None), page.status, _retry(error), "text/html")

    async def left(self, _request: Request, _error: Exception) -> Response:
        """Answers nobody: who asked has gone before all was sent, or was too slow; anybody may do that, often."""
        return Response(status_code=HTTPStatus.REQUEST_TIMEOUT)

    async def defect(self, request: Request, error: Exception) -> Response:
        """Answers a defect of ours: the log has it, the answer does not."""
        log.error("a defect, at %s %s", request.method, printable(request.url.path), exc_info=error)
        response = await self.refused(request, DashboardError("this is a defect of the dashboard", hint="see its log"))
        # Starlette answers these outside of the guard.
        response.headers.update({**guard.headers(is_tls=self._is_tls), "cache-control": "no-store"})
        return response


def _told(error: ClouddeployError) -> Response:
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s: %s", type(error).__name__, error)
    word = error.word if isinstance(error, DashboardError) else "error"
    out = ErrorOut(status=word, code=error.error_code, message=printable(str(error)), hint=error.hint)
    headers = _retry(error)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return Response(encoded(out.model_dump()), int(status), headers, "application/json")


def _retry(error: object) -> dict[str, str]:
    return {"retry-after": str(error.retry_after_s)} if isinstance(error, TooMany) else {}


def _file(answer: Archive) -> Response:
    headers = {"content-disposition": f'attachment; filename="{answer.filename}"', **answer.headers}
    return Response(answer.content, 200, headers, answer.media_type)
