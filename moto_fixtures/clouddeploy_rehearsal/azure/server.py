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

from clouddeploy_rehearsal import calls
from clouddeploy_rehearsal.azure import answers, catalog, schema
from clouddeploy_rehearsal.azure.account import Account
from clouddeploy_rehearsal.azure.certificate import make_context
from clouddeploy_rehearsal.azure.store import DISKS, MACHINES, PRIVATE, Refused, Store
from clouddeploy_rehearsal.faults import Counter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from clouddeploy_rehearsal.faults import Faults
    from clouddeploy_rehearsal.fleet import Fleet

TENANT = "11111111-1111-1111-1111-111111111111"
CLIENT = "22222222-2222-2222-2222-222222222222"
SUBSCRIPTION = "33333333-3333-3333-3333-333333333333"
SECRET = "rehearsal-client-secret"  # noqa: S105 - opens nothing but this emulator
TOKEN = "rehearsal-token"  # noqa: S105 - the same
VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?$")
RETAIL = "/api/retail/prices"
POWER = re.compile(r"(.+/virtualmachines/[^/]+)/(start|poweroff|deallocate)$", re.IGNORECASE)
RESOURCE = re.compile(
    r"/subscriptions/([^/]+)/resourcegroups(?:/([^/]+)(?:/providers/([^/]+)/([^/]+)(?:/([^/]+))?)?)?$", re.IGNORECASE
)
OPERATION = re.compile(r"/(operations|diskoperations|operationresults)/[^/]+$")
COLLECTION = re.compile(r"/providers/[^/]+/[^/]+$")


class AzureCloud:
    """The emulated Azure of one world."""

    def __init__(
        self,
        fleet: Fleet,
        faults: Faults,
        *,
        addresses: Iterator[str] | None = None,
        account: Account | None = None,
    ) -> None:
        self.account = account or Account()
        self.store = Store(fleet, faults, addresses=addresses, account=self.account)
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

    def add_theirs(self, settings: Mapping[str, str]) -> None:
        """Makes the group and the network that a site's settings name, as if somebody else had made them long ago.

        Args:
            settings: of an Azure site in a deploy file. Its ids are taken to be in the emulated subscription. A
                `machine` is not made: its id stands among the hosts of the endpoints, like an address on premises.
        """
        group, network = settings.get("resource_group", ""), settings.get("network", "")
        if network.startswith("/"):
            group, network = network.split("/")[4], network.rsplit("/", 1)[1]
        if settings.get("resource_group"):
            self.store.add_theirs(f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{settings['resource_group']}", {})
        if network:
            within = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}"
            self.store.add_theirs(within, {})
            subnet = {"name": settings.get("subnet", ""), "properties": {"addressPrefix": PRIVATE}}
            properties = {"addressSpace": {"addressPrefixes": [PRIVATE]}, "subnets": [subnet]}
            arm_id = f"{within}/providers/Microsoft.Network/virtualNetworks/{network}"
            self.store.add_theirs(arm_id, properties, location=settings.get("location", ""))

    def resources(self) -> list[str]:
        """Returns the ARM ids of what exists, without what was there before."""
        return [f"azure {one['id']}" for key, one in self.store.resources.items() if key not in self.store.theirs]


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
        self.call = calls.azure(self.command, self.path)
        fault = self.azure.counter.next(self.call)
        if fault == "drop":
            self.close_connection = True
            return
        try:
            if fault == "throttle":
                raise Refused(429, "TooManyRequests", "The request is being throttled.")
            self._route(url.path, raw)
        except Refused as refusal:
            extra = {"WWW-Authenticate": "Bearer"} if refusal.status == HTTPStatus.UNAUTHORIZED else {}
            extra |= {"Retry-After": "1"} if refusal.status == HTTPStatus.TOO_MANY_REQUESTS else {}
            self._answer(refusal.status, {"error": {"code": refusal.code, "message": refusal.message}}, extra)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle  # noqa: N815 - the library's names

    def _route(self, path: str, raw: bytes) -> None:
        low = path.lower()
        if low.endswith("/.well-known/openid-configuration"):
            self._discover(path)
        elif low.endswith("/oauth2/v2.0/token"):
            self._token(urllib.parse.parse_qs(raw.decode()))
        elif low == RETAIL:
            address, skip = f"https://{self.headers['Host']}{RETAIL}", int(self.query.get("$skip", "0"))
            self._answer(200, catalog.retail(self.query.get("$filter", ""), skip=skip, address=address))
        else:
            self._authorise(path)
            if OPERATION.search(low):
                self._operation(low.rsplit("/", 1)[1])
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

    def _authorise(self, path: str) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "InvalidAuthenticationToken", "The access token is missing or invalid.")
        version = self.query.get("api-version")
        if version is None:
            raise Refused(
                400, "MissingApiVersionParameter", "The api-version query parameter is required for all requests."
            )
        if not VERSION.match(version):
            raise Refused(400, "InvalidApiVersionParameter", f"The api-version '{version}' is invalid.")
        lacking = self.azure.account.lacks(self.command, path)
        if lacking:
            text = (
                f"The client '{CLIENT}' does not have authorization to perform action '{lacking}' over scope '{path}'."
            )
            raise Refused(403, "AuthorizationFailed", text)

    def _operation(self, number: str) -> None:
        operation = self.azure.store.operations.get(number)
        if operation is None:
            raise Refused(404, "NotFound", "The operation does not exist.")
        body: dict[str, Any] = {"name": number, "status": operation.status}
        if operation.status == "Failed":
            body["error"] = {"code": operation.error[0], "message": operation.error[1]}
        self._answer(200, body)

    def _manage(self, path: str, raw: bytes) -> None:
        subscription = path.split("/")[2] if path.startswith("/subscriptions/") else ""
        if subscription not in {"", SUBSCRIPTION}:
            raise Refused(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")
        if self.command == "GET":
            body = answers.answer(path, self.query, account=self.azure.account, store=self.azure.store)
            if body is not None:
                self._answer(200, body)
                return
        power = POWER.match(path)
        if power is not None and self.command == "POST":
            headers = self._headers(self.azure.store.switch(power[1], verb=power[2].lower()), MACHINES)
            self._answer(202, None, {**headers, "Location": headers["Azure-AsyncOperation"]})
            return
        match = RESOURCE.match(path)
        if not match:
            raise Refused(404, "InvalidResourceType", f"The resource type of {path} could not be found.")
        _, group, namespace, kind, _name = match.groups()
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

    def _list_groups(self) -> None:
        wanted = self.query.get("$filter", "")
        groups = [one for one in self.azure.store.listed("") if "/providers/" not in one["id"]]
        self._answer(200, {"value": [one for one in groups if answers.has_tag(one, wanted)]})

    def _get(self, path: str, _kind: str, _raw: bytes) -> None:
        resource = self.azure.store.resources.get(path.lower())
        if resource is None and COLLECTION.search(path):
            self._answer(200, {"value": self.azure.store.listed(f"{path.lower()}/")})
            return
        if resource is None:
            code = "ResourceNotFound" if "/providers/" in path else "ResourceGroupNotFound"
            raise Refused(404, code, f"The Resource '{path}' was not found.")
        if self.query.get("$expand", "").lower() == "instanceview":
            view = {"instanceView": self.azure.store.instance_view(path)}
            resource = {**resource, "properties": {**resource["properties"], **view}}
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
        namespace = kind.partition("/")[0]
        if namespace in self.azure.account.unregistered:
            text = f"The subscription is not registered to use namespace '{namespace}'."
            raise Refused(409, "MissingSubscriptionRegistration", text)
        if kind == MACHINES and self.headers.get("If-None-Match") == "*" and path.lower() in self.azure.store.resources:
            raise Refused(412, "PreconditionFailed", f"The resource '{path}' exists.")
        is_new, resource, operation = self.azure.store.put(path, kind, body)
        self._answer(201 if is_new else 200, resource, self._headers(operation, kind) if operation else {})

    def _delete(self, path: str, kind: str, _raw: bytes) -> None:
        if path.lower() not in self.azure.store.resources:
            if kind:
                self._answer(204, None)
                return
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{path}' could not be found.")
        headers = self._headers(self.azure.store.delete(path, kind), kind)
        self._answer(202, None, {**headers, "Location": headers["Azure-AsyncOperation"]})

    def _headers(self, operation: str, kind: str) -> dict[str, str]:
        """Returns where an operation is asked about, which needs a permission of the namespace that answers."""
        place = "operationresults"  # of a group
        if kind:
            namespace = "Microsoft.Compute" if kind.startswith("microsoft.compute/") else "Microsoft.Network"
            place = f"providers/{namespace}/locations/x/{'diskOperations' if kind == DISKS else 'operations'}"
        root = f"https://{self.headers['Host']}/subscriptions/{SUBSCRIPTION}"
        return {"Azure-AsyncOperation": f"{root}/{place}/{operation}?api-version=2025-04-01", "Retry-After": "0"}

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        if self.azure.counter.loses_answer(self.call):
            self.close_connection = True
            return
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
