"""Names of calls as they arrive at the emulated clouds: `RunInstances`, `PUT virtualmachines`."""

from __future__ import annotations

import io
import re
import urllib.parse
from typing import Any

ARM = re.compile(r"/subscriptions/[^/]+(?P<group>/resourcegroups/[^/]+)?(/providers/[^/]+/(?P<rest>.+))?$")


def aws(environ: dict[str, Any]) -> str:
    """Returns the action that a request to an AWS service asks for; its body stays readable."""
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    if target:
        return target.rpartition(".")[2]
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    form = urllib.parse.parse_qs(body.decode("utf-8", "replace"))
    return form["Action"][0] if "Action" in form else f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"


def azure(method: str, path: str) -> str:
    """Returns method and resource type of a request to Resource Manager, or what Entra ID is asked for."""
    path = urllib.parse.urlsplit(path).path.lower().rstrip("/")
    match = ARM.match(path)
    if match is None:
        return f"{method} {path.rpartition('/')[2]}"
    if match["rest"] is None:
        return f"{method} {'resourcegroup' if match['group'] else path.rpartition('/')[2]}"
    if "/operations/" in path:
        return f"{method} operation"
    return f"{method} {'/'.join(match['rest'].split('/')[::2])}"
