import io

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from clouddeploy_rehearsal import signature

BODY = b"Action=DescribeVpcs&Version=2016-11-15"


def environ(*, key="KEY", secret="right", service="ec2", body=BODY, sent=None):
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Host": "127.0.0.1:5000"}
    request = AWSRequest(method="POST", url="http://127.0.0.1:5000/", data=body, headers=headers)
    SigV4Auth(Credentials(key, secret), service, "us-west-2").add_auth(request)
    sent = body if sent is None else sent
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "CONTENT_LENGTH": str(len(sent)),
        "CONTENT_TYPE": headers["Content-Type"],
        "wsgi.input": io.BytesIO(sent),
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()},
    }


def test_a_request_signed_with_the_secret_passes_and_its_body_is_still_there():
    given = environ()
    assert signature.check(given, key_id="KEY", secret="right") is None
    assert given["wsgi.input"].read() == BODY


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (environ(secret="wrong"), b"AuthFailure"),
        (environ(key="OTHER"), b"AuthFailure"),
        (environ(sent=BODY.replace(b"Vpcs", b"Zzzz")), b"AuthFailure"),
        ({"wsgi.input": io.BytesIO()}, b"AuthFailure"),
        (environ(secret="wrong", service="sts"), b"SignatureDoesNotMatch"),
        (environ(key="OTHER", service="sts"), b"InvalidClientTokenId"),
        (environ(secret="wrong", service="ssm"), b"InvalidSignatureException"),
        (environ(key="OTHER", service="ssm"), b"UnrecognizedClientException"),
    ],
)
def test_anything_else_is_refused_in_the_services_own_words(given, code):
    refusal = signature.check(given, key_id="KEY", secret="right")
    assert refusal is not None
    assert code in refusal.body
    assert refusal.status[0] == "4"
