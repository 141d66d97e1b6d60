"""A small OpenID Connect provider on this machine, which can be told to misbehave."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT, SECRET = "the-dashboard", "s3cret of the dashboard"


class LocalProvider:
    """Knows one person, who always agrees.

    `claims` are what it signs besides the usual; `key` is what it signs with; `algorithm` how.
    """

    def __init__(self, clock):
        self.clock, self.claims = clock, {}
        self.known = self.key = RSAKey.generate_key(2048, {"kid": "one"})
        self.algorithm, self.key_id = "RS256", "one"
        self.codes = {}
        self.issuer = ""
        self.says_issuer = None
        self.asked, self.is_ill = [], False

    def agree(self, url):
        """What the browser is led to after the person has agreed: the query of the way back."""
        asked = {key: value[0] for key, value in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        self.last = asked
        return {"code": code, "state": asked["state"]}

    def configuration(self):
        return {
            "issuer": self.says_issuer or self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }

    def token(self, form, authorization):
        asked = self.codes.pop(form.get("code", ""), None)
        shown = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        is_good = asked and authorization == f"Basic {shown}" and form["redirect_uri"] == asked["redirect_uri"]
        if not is_good or challenge.decode().rstrip("=") != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        now = int(self.clock().timestamp())
        claims = {"iss": self.issuer, "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": asked["nonce"], "sub": "1"}
        header = {"alg": self.algorithm, "kid": self.key_id}
        key = OctKey.import_key(SECRET) if self.algorithm == "HS256" else self.key
        if "max_age" in asked:
            claims["auth_time"] = now
        signed = jwt.encode(header, {**claims, **self.claims}, key, algorithms=[self.algorithm])
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": signed}


@contextmanager
def running(clock):
    """Yields a provider that listens."""
    one = LocalProvider(clock)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            one.asked.append(self.path)
            if one.is_ill:
                self.tell(500, {})
            elif self.path == "/keys":
                self.tell(200, {"keys": [one.known.as_dict(private=False)]})
            else:
                self.tell(200, one.configuration())

        def do_POST(self):
            text = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {key: value[0] for key, value in parse_qs(text).items()}
            self.tell(*one.token(form, self.headers.get("authorization", "")))

        def tell(self, status, document):
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        one.issuer = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield one
        finally:
            server.shutdown()
            thread.join()
