"""From the network's request to an `Ask`, and back: who it is, whether the request is theirs, what was sent."""

from __future__ import annotations

import hmac
import json
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from clouddeploy.dashboard import devices, logins
from clouddeploy.dashboard.errors import Forbidden, Invalid
from clouddeploy.dashboard.web.asking import Ask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.responses import Response

    from clouddeploy.dashboard.desk import Desk
    from clouddeploy.dashboard.logins import Known

FORM_FIELD = "form_token"
FORM_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD"})
_FORM_BYTES = 24
_MAX_FIELDS = 1100
"""A page of people who are approved together has a field for each."""


class Cookies:
    """Names and properties of the three cookies.

    Args:
        is_tls: with HTTPS a browser takes them from this host by HTTPS alone (`__Host-`, RFC 6265bis §4.1.3.2).
    """

    def __init__(self, *, is_tls: bool) -> None:
        prefix = "__Host-" if is_tls else ""
        self.session = f"{prefix}clouddeploy_session"
        self.form = f"{prefix}clouddeploy_form"
        self.device = f"{prefix}clouddeploy_device"
        self.flags: dict[str, Any] = {"httponly": True, "samesite": "strict", "secure": is_tls, "path": "/"}

    def set_device(self, response: Response, shown: str) -> None:
        """Has the browser keep what it is known by, longer than any session."""
        response.set_cookie(self.device, shown, max_age=int(devices.LASTS.total_seconds()), **self.flags)


def known_browser(desk: Desk, request: Request, cookies: Cookies, *, is_use: bool = True) -> Known | None:
    """Returns who shows the cookie of a session; whether that counts as use of it is said."""
    shown = request.cookies.get(cookies.session, "")
    return logins.known(desk, shown, kinds=("browser",), is_use=is_use) if shown else None


def known_program(desk: Desk, request: Request) -> Known | None:
    """Returns who shows a token."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return logins.known(desk, shown.strip(), kinds=("api", "token")) if scheme.lower() == "bearer" else None


def has_token(request: Request) -> bool:
    """Tells whether a program shows something, right or wrong; then no cookie counts."""
    return "authorization" in request.headers


def check_origin(request: Request) -> None:
    """Refuses what the page of another site had the browser send.

    Raises:
        Forbidden: the browser says that it comes from elsewhere.
    """
    if request.method in _SAFE:
        return
    origin, fetched = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    try:
        is_here = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    except ValueError:  # it is no address at all
        is_here = False
    if not is_here or fetched not in {"same-origin", "none"}:
        raise Forbidden("the request is refused", why="another site's page sent it", hint="use the dashboard's pages")


def check_form(given: str, expected: str) -> None:
    """Refuses a form that was not made for this browser's session.

    Raises:
        Forbidden: its token is another or missing.
    """
    if not expected or not hmac.compare_digest(given.encode(), expected.encode()):
        raise Forbidden(
            "the form is refused", why="it is not of this session", hint="reload the page, then send it again"
        )


def form_token(request: Request, known: Known | None, cookies: Cookies) -> str:
    """Returns what forms must send back: the session's, or for who is not logged in that of a cookie."""
    return known.form_token if known is not None else request.cookies.get(cookies.form, "")


def new_form_token() -> str:
    """Returns a token for the forms of somebody who is not logged in yet."""
    return secrets.token_urlsafe(_FORM_BYTES)


def ask_of(desk: Desk, request: Request, known: Known | None, *, token: str = "", **given: Any) -> Ask:
    """Returns a request as handlers see it.

    Raises:
        Invalid: the address has a sign that no text has.
    """
    _check_text([*request.path_params.values(), *request.query_params.values()])
    address = request.client.host if request.client is not None else ""
    return Ask(
        desk=desk,
        known=known,
        address=address,
        path={key: str(value) for key, value in request.path_params.items()},
        query=dict(request.query_params),
        form_token=token,
        seen=_seen(request),
        **given,
    )


def _seen(request: Request) -> tuple[str, ...] | None:
    """Returns the digests of `If-Match` (RFC 9110 §13.1.1). That it matches whatever there is says nothing."""
    given = (one.strip() for one in request.headers.get("if-match", "").split(","))
    return tuple(one.strip('"') for one in given if one not in {"", "*"}) or None


async def json_body(request: Request, model: type[BaseModel]) -> BaseModel:
    """Reads and checks a body.

    Raises:
        Invalid: it is no JSON, or not what is taken here; names every problem.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A form of another site's page cannot send this type without asking first.
        raise Invalid("the body is refused", why="it is not application/json", hint="Content-Type: application/json")
    try:
        found = model.model_validate(json.loads(await request.body() or b"{}"))
        _check_text([found.model_dump()])
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}"
            for one in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise Invalid("the body is refused", why="; ".join(problems)[:1000], hint="see openapi.json") from error
    except (ValueError, RecursionError) as error:
        raise Invalid("the body is refused", why="it is not JSON", hint="see openapi.json") from error
    return found


def _check_text(values: Iterable[Any]) -> None:
    """Refuses a zero byte, wherever it stands: PostgreSQL takes none in a text, and nobody types one.

    Raises:
        Invalid: there is one.
    """
    for value in values:
        if isinstance(value, str) and "\0" in value:
            raise Invalid("the request is refused", why="a text has a zero byte", hint="leave it out")
        if isinstance(value, dict | list):
            _check_text(value.values() if isinstance(value, dict) else value)


async def form_body(request: Request) -> tuple[Mapping[str, list[str]], bytes]:
    """Reads a form: its fields, and the one file that it may have.

    Raises:
        Invalid: it is none.
    """
    from starlette.datastructures import UploadFile  # noqa: PLC0415 - only here
    from starlette.exceptions import HTTPException  # noqa: PLC0415

    fields: dict[str, list[str]] = {}
    upload = b""
    try:
        async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
            for key, value in form.multi_items():
                if isinstance(value, UploadFile):
                    upload = await value.read()
                else:
                    fields.setdefault(key, []).append(value)
    except HTTPException as error:
        raise Invalid("the form is refused", why=str(error.detail)) from error
    _check_text(fields.values())
    return fields, upload
