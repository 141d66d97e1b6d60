"""The OpenAPI document, made from the table of calls, so that it says what is served."""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from clouddeploy.dashboard.listing import MOST, USUAL
from clouddeploy.dashboard.web import shapes
from clouddeploy.dashboard.web.rest import CALLS, PREFIXES, encoded

if TYPE_CHECKING:
    from pydantic import BaseModel

    from clouddeploy.dashboard.web.calls import Call

_REF = "#/components/schemas/{model}"
_ERRORS = {
    "400": "What was sent cannot be used.",
    "401": "Nobody is logged in, or the token is not valid any more.",
    "403": "Not allowed, or not approved yet.",
    "404": "There is no such thing.",
    "409": "The state of things does not allow it.",
    "412": "It is not any more what was seen.",
    "413": "More was sent than is taken.",
    "428": "An approval must say in the header If-Match as what it was seen.",
    "429": "Too many tries, or too much at once; the header Retry-After says when the next one counts.",
}
_SECONDS = {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}
_ERROR_HEADERS: dict[str, dict[str, Any]] = {
    "401": {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    "429": {"Retry-After": _SECONDS},
}
_TAG = {"description": "The digest of what is told.", "required": True, "schema": {"type": "string"}}
_CONDITIONAL = frozenset({"412", "428"})
_PLACE = re.compile(r"\{(\w+)\}")
_KINDS = {
    "id": {"type": "integer", "minimum": 0},
    "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"},
    "job": {"type": "string"},
}
"""Of what stands in a path's places."""


def document(version: str) -> dict[str, Any]:
    """Returns the document.

    Args:
        version: of the dashboard.
    """
    models: set[type[BaseModel]] = {
        shapes.ErrorOut,
        *(one.takes for one in CALLS if one.takes),
        *(one.gives for one in CALLS if one.gives),
    }
    ordered = sorted(models, key=lambda one: one.__name__)
    _, definitions = models_json_schema([(one, "validation") for one in ordered], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "clouddeploy dashboard",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": prefix} for prefix in PREFIXES],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


@cache
def encoded_document(version: str) -> bytes:
    """Return the document as JSON; once for a process."""
    return encoded(document(version))


def _operation(call: Call) -> dict[str, Any]:
    name = _PLACE.sub("one", f"{call.method.lower()}{call.path}").replace("/", "_")
    made: dict[str, Any] = {
        "operationId": name,
        "summary": call.summary,
        "security": [] if call.is_open else [{"token": []}],
        "responses": {**{str(one): _success(call) for one in _statuses(call)}, **_failures(call)},
    }
    places = [
        {"name": place, "in": "path", "required": True, "schema": _KINDS[place]} for place in _PLACE.findall(call.path)
    ]
    if call.is_conditional:
        about = "The digest, or digests, of what was seen; an approval needs one."
        places.append({"name": "If-Match", "in": "header", "description": about, "schema": {"type": "string"}})
    if call.is_list:
        places += _list_places(call)
    if places:
        made["parameters"] = places
    if call.takes is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(call.takes)}}}
    if call.takes_file:
        made["requestBody"] = {"required": True, "content": {call.takes_file: {"schema": {}}}}
    return made


def _list_places(call: Call) -> list[dict[str, Any]]:
    given: list[tuple[str, dict[str, Any]]] = [
        ("q", {"type": "string"}),
        ("page", {"type": "integer", "minimum": 1, "default": 1}),
        ("per_page", {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL}),
    ]
    if call.has_states:
        given.append(("state", {"type": "string", "enum": ["", "pending", "approved", "denied"]}))
    return [{"name": name, "in": "query", "schema": schema} for name, schema in given]


def _success(call: Call) -> dict[str, Any]:
    if call.gives is None:
        return {"description": "A zip archive.", "content": {"application/zip": {"schema": {}}}, **_archive_of(call)}
    headers = {"headers": {"ETag": _TAG}} if call.gives in {shapes.UserReply, shapes.SiteReply} else {}
    return {"description": "Done.", "content": {"application/json": {"schema": _ref(call.gives)}}, **headers}


def _archive_of(call: Call) -> dict[str, Any]:
    text = {"schema": {"type": "string"}}
    if call.takes_file:
        return {"headers": {"X-Rootca-Fingerprint": {**text, "required": True}, "X-Public-Key-Sha256": text}}
    return {"headers": {"X-Kit-Code": {**text, "description": "What opens it; not told when a pin was sent."}}}


def _statuses(call: Call) -> tuple[int, ...]:
    """Returns those of answers that went well: what is put may be new (RFC 9110 §9.3.4)."""
    return (call.status, HTTPStatus.CREATED) if call.method == "PUT" else (call.status,)


def _failures(call: Call) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(shapes.ErrorOut)}}
    return {
        status: {"description": text, "content": content, "headers": _ERROR_HEADERS.get(status, {})}
        for status, text in _ERRORS.items()
        if call.is_conditional or status not in _CONDITIONAL
    }


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
