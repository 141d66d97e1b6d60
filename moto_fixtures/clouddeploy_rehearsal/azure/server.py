"""The HTTPS endpoint: tokens, api-versions, error bodies, long-running operations."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
import uuid
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.endpoints import AzureEndpoint

from clouddeploy_rehearsal.azure import schema
from clouddeploy_rehearsal.azure.certificate import make_context
from clouddeploy_rehearsal.azure.store import MACHINES, Refused, Store
from clouddeploy_rehearsal.faults import Counter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clouddeploy_rehearsal.faults import Faults
    from clouddeploy_rehearsal.fleet import Fleet

TENANT = "11111111-1111-1111-1111-111111111111"
CLIENT = "22222222-2222-2222-2222-222222222222"
SUBSCRIPTION = "33333333-3333-3333-3333-333333333333"
SECRET = "rehearsal-client-secret"  # noqa: S105 - opens nothing but this emulator
TOKEN = "rehearsal-token"  # noqa: S105 - the same
VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?$")
VERSIONS = ["24.04.202608150", "24.04.202609010"]
NAMESPACES = ("microsoft.compute", "microsoft.network")
IMAGES = re.compile(
    r"/providers/microsoft\.compute/locations/[^/]+/publishers/canonical/artifacttypes/vmimage/offers/[^/]+/skus/[^/]+/versions$"
)
RESOURCE = re.compile(
    r"/subscriptions/([^/]+)/resourcegroups(?:/([^/]+)(?:/providers/([^/]+)/([^/]+)(?:/([^/]+))?)?)?$", re.IGNORECASE
)
COLLECTION = re.compile(r"/providers/[^/]+/[^/]+$")


class AzureCloud:
    """The emulated Azure of one world."""

    def __init__(self, fleet: Fleet, faults: Faults, *, addresses: Iterator[str] | None = None) -> None:
        self.store = Store(fleet, faults, addresses=addresses)
        self.faults = faults
        self.counter = Counter(faults)
        self._server: ThreadingHTTPServer | None = None

    def start(self, directory: Path) -> AzureEndpoint:
        """Starts the server and returns how to reach it."""
        cloud = self

        class Handler(_Handler):
            azure = cloud

        context, ca_file = make_context(directory)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, daemon=True, name="azure").start()
        return AzureEndpoint(
            url=f"https://localhost:{self._server.server_port}",
            ca_file=str(ca_file),
            tenant_id=TENANT,
            client_id=CLIENT,
            client_secret=SECRET,
            subscription_id=SUBSCRIPTION,
        )

    def close(self) -> None:
        """Stops the server."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def resources(self) -> list[str]:
        """Returns the ARM ids of what exists."""
        return [f"azure {resource['id']}" for resource in self.store.resources.values()]


class _Handler(BaseHTTPRequestHandler):
    """One connection; routes by method and path."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is written in two pieces, and the second would wait for 40 ms
    azure: AzureCloud

    def log_message(self, *_arguments: Any) -> None:
        """Writes no access log."""

    def _handle(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.azure.faults.latency_s)
        fault = self.azure.counter.next()
        if fault == "drop":
            self.close_connection = True
            return
        try:
            if fault == "throttle":
                raise Refused(429, "TooManyRequests", "The request is being throttled.")
            self._route(url.path, raw)
        except Refused as refusal:
            extra = {"WWW-Authenticate": "Bearer"} if refusal.status == HTTPStatus.UNAUTHORIZED else {}
            self._answer(refusal.status, {"error": {"code": refusal.code, "message": refusal.message}}, extra)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle  # noqa: N815 - the library's names

    def _route(self, path: str, raw: bytes) -> None:
        low = path.lower()
        if low.endswith("/.well-known/openid-configuration"):
            self._discover(path)
        elif low.endswith("/oauth2/v2.0/token"):
            self._token(urllib.parse.parse_qs(raw.decode()))
        else:
            self._authorise()
            if "/operations/" in low:
                self._operation(low.rsplit("/", 1)[1])
            elif IMAGES.search(low):
                self._answer(
                    200, [{"name": version, "location": "x", "id": f"{path}/{version}"} for version in VERSIONS]
                )
            else:
                self._manage(path, raw)

    def _discover(self, path: str) -> None:
        base = f"https://{self.headers['Host']}/{path.split('/')[1]}"
        endpoints = {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        }
        self._answer(200, {**endpoints, "issuer": f"{base}/v2.0", "jwks_uri": f"{base}/keys"})

    def _token(self, form: dict[str, list[str]]) -> None:
        if form.get("client_secret") != [SECRET] or form.get("client_id") != [CLIENT]:
            text = "AADSTS7000215: Invalid client secret provided."
            self._answer(401, {"error": "invalid_client", "error_description": text, "error_codes": [7000215]})
            return
        self._answer(200, {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": TOKEN})

    def _authorise(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "InvalidAuthenticationToken", "The access token is missing or invalid.")
        version = self.query.get("api-version")
        if version is None:
            raise Refused(
                400, "MissingApiVersionParameter", "The api-version query parameter is required for all requests."
            )
        if not VERSION.match(version):
            raise Refused(400, "InvalidApiVersionParameter", f"The api-version '{version}' is invalid.")

    def _operation(self, number: str) -> None:
        operation = self.azure.store.operations.get(number)
        if operation is None:
            raise Refused(404, "NotFound", "The operation does not exist.")
        body: dict[str, Any] = {"name": number, "status": operation.status}
        if operation.status == "Failed":
            body["error"] = {"code": operation.error[0], "message": operation.error[1]}
        self._answer(200, body)

    def _manage(self, path: str, raw: bytes) -> None:
        inside = re.match(r"(/subscriptions/[^/]+/resourcegroups/[^/]+)/resources$", path, re.IGNORECASE)
        if inside:
            self._list(f"{inside[1].lower()}/")
            return
        match = RESOURCE.match(path)
        if not match:
            raise Refused(404, "InvalidResourceType", f"The resource type of {path} could not be found.")
        subscription, group, namespace, kind, _name = match.groups()
        if subscription != SUBSCRIPTION:
            raise Refused(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")
        if group is None:
            self._list_groups()
            return
        full = f"{namespace}/{kind}".lower() if namespace else ""
        if full and full not in schema.PROPERTIES:
            raise Refused(400, "NoRegisteredProviderFound", f"No registered resource provider found for type '{full}'.")
        root = f"/subscriptions/{subscription}/resourcegroups/{group}".lower()
        if full and root not in self.azure.store.resources:
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        {"GET": self._get, "HEAD": self._head, "PUT": self._put, "DELETE": self._delete}.get(
            self.command, self._no_method
        )(path, full, raw)

    def _no_method(self, _path: str, _kind: str, _raw: bytes) -> None:
        raise Refused(405, "MethodNotAllowed", self.command)

    def _list(self, prefix: str) -> None:
        found = self.azure.store.listed(prefix)
        self._answer(200, {"value": [{key: one[key] for key in ("id", "name", "type", "location")} for one in found]})

    def _list_groups(self) -> None:
        wanted = re.match(r"tagName eq '([^']*)' and tagValue eq '([^']*)'$", self.query.get("$filter", ""))
        groups = [one for one in self.azure.store.listed("") if "/providers/" not in one["id"]]
        self._answer(
            200, {"value": [one for one in groups if not wanted or one.get("tags", {}).get(wanted[1]) == wanted[2]]}
        )

    def _get(self, path: str, _kind: str, _raw: bytes) -> None:
        resource = self.azure.store.resources.get(path.lower())
        if resource is None and COLLECTION.search(path):
            self._answer(200, {"value": self.azure.store.listed(f"{path.lower()}/")})
            return
        if resource is None:
            code = "ResourceNotFound" if "/providers/" in path else "ResourceGroupNotFound"
            raise Refused(404, code, f"The Resource '{path}' was not found.")
        self._answer(200, resource)

    def _head(self, path: str, _kind: str, _raw: bytes) -> None:
        self.send_response(204 if path.lower() in self.azure.store.resources else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _put(self, path: str, kind: str, raw: bytes) -> None:
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise Refused(400, "InvalidRequestContent", f"The request content was invalid: {error}") from error
        wrong = schema.problem(kind, body)
        if wrong:
            raise Refused(400, "InvalidRequestContent" if kind != MACHINES else "InvalidParameter", wrong)
        is_new, resource, operation = self.azure.store.put(path, kind, body)
        self._answer(201 if is_new else 200, resource, self._headers(operation) if operation else {})

    def _delete(self, path: str, kind: str, _raw: bytes) -> None:
        if path.lower() not in self.azure.store.resources:
            if kind:
                self._answer(204, None)
                return
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{path}' could not be found.")
        headers = self._headers(self.azure.store.delete(path, kind))
        self._answer(202, None, {**headers, "Location": headers["Azure-AsyncOperation"]})

    def _headers(self, operation: str) -> dict[str, str]:
        place = f"https://{self.headers['Host']}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/x"
        return {"Azure-AsyncOperation": f"{place}/operations/{operation}?api-version=2025-04-01", "Retry-After": "0"}

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("x-ms-request-id", str(uuid.uuid4()))
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
