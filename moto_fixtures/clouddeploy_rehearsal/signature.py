"""Whether a request was signed with the emulated account's secret; refused in the words of the service that was asked.

Source:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import io
import json
import re
from dataclasses import dataclass
from typing import Any

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<date>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, "
    r"SignedHeaders=(?P<headers>[^,]+), Signature=(?P<signature>[0-9a-f]{64})$"
)
XML = (
    '<?xml version="1.0" encoding="UTF-8"?><{outer}><{inner}><Error><Code>{code}</Code><Message>{message}</Message>'
    "</Error></{inner}><RequestID>00000000-0000-0000-0000-000000000000</RequestID></{outer}>"
)


@dataclass(frozen=True)
class Refusal:
    """An answer of a service that does not do what it was asked.

    Attributes:
        status: HTTP status line.
        content_type: of the body.
        body: the error in the service's own form.
    """

    status: str
    content_type: str
    body: bytes


def service_of(environ: dict[str, Any]) -> str:
    """Returns the service that a request is signed for; `ec2` where it is not signed."""
    match = AUTHORIZATION.match(environ.get("HTTP_AUTHORIZATION", ""))
    return match["service"] if match else "ec2"


def refusal(service: str, status: str, code: str, message: str) -> Refusal:
    """Returns an error in the form of a service: EC2 and STS speak XML, each its own, SSM speaks JSON."""
    if service == "ssm":
        body = json.dumps({"__type": code, "message": message})
        return Refusal("400 Bad Request", "application/x-amz-json-1.1", body.encode())
    outer, inner = ("Response", "Errors") if service == "ec2" else ("ErrorResponse", "Errors")
    return Refusal(status, "text/xml", XML.format(outer=outer, inner=inner, code=code, message=message).encode())


def check(environ: dict[str, Any], *, key_id: str, secret: str) -> Refusal | None:
    """Returns why a request is refused, or None when its signature is that of the secret; its body stays readable."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    match = AUTHORIZATION.match(environ.get("HTTP_AUTHORIZATION", ""))
    service = match["service"] if match else "ec2"
    known = match is not None and match["key"] == key_id
    if match is not None and known and hmac.compare_digest(_expected(environ, match, body, secret), match["signature"]):
        return None
    if service == "ec2":
        message = "AWS was not able to validate the provided access credentials"
        return refusal(service, "401 Unauthorized", "AuthFailure", message)
    if not known:
        code = "UnrecognizedClientException" if service == "ssm" else "InvalidClientTokenId"
        message = "The security token included in the request is invalid."
    else:
        code = "InvalidSignatureException" if service == "ssm" else "SignatureDoesNotMatch"
        message = "The request signature we calculated does not match the signature you provided."
    return refusal(service, "403 Forbidden", code, message)


def _expected(environ: dict[str, Any], match: re.Match[str], body: bytes, secret: str) -> str:
    """Signs the request as the client should have."""
    from botocore.auth import SigV4Auth  # noqa: PLC0415 - botocore is an extra, and takes long to import
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.credentials import Credentials  # noqa: PLC0415

    query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
    headers = {}
    for name in match["headers"].split(";"):
        key = name.upper().replace("-", "_")
        headers[name] = environ.get(key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}", "")
    url = f"http://{environ['HTTP_HOST']}{environ['PATH_INFO']}{query}"
    request = AWSRequest(method=environ["REQUEST_METHOD"], url=url, data=body, headers=headers)
    request.context["timestamp"] = environ.get("HTTP_X_AMZ_DATE", "")
    signer = SigV4Auth(Credentials(match["key"], secret), match["service"], match["region"])
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))
