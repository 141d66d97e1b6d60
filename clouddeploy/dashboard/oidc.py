"""Log in with the account of another place (OpenID Connect Core 1.0, code flow with PKCE): for known e-mail addresses.

It makes nobody an account who has none and was not invited, and an address counts only when the provider has verified
it.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from clouddeploy.dashboard import logins, people
from clouddeploy.dashboard.errors import DashboardError, Invalid, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from clouddeploy.dashboard.desk import Desk
    from clouddeploy.dashboard.logins import Opened
    from clouddeploy.secrets import Secret

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Signatures with a key that only the provider has; neither `none` nor one made with our own secret."""
WITHIN = timedelta(minutes=10)
"""So long somebody may take at the provider."""
_LEEWAY_S = 60
_MOST = 1000
"""Logins under way; the oldest goes first."""
_TIMEOUT_S = 10.0
_BYTES = 32
_VERIFIER_BYTES = 48


@dataclass(frozen=True)
class Provider:
    """Who vouches.

    Attributes:
        issuer: its address; by HTTPS, or on this machine.
        client_id: what the dashboard is there.
        client_secret: which it shows there.
        callback: address of the dashboard to which the provider leads back.
    """

    issuer: str
    client_id: str
    client_secret: Secret
    callback: str

    def __post_init__(self) -> None:
        """Refuse what anybody on the way could change.

        Raises:
            Invalid: an address is not by HTTPS.
        """
        for one in (self.issuer, self.callback):
            found = urlsplit(one)
            if found.scheme != "https" and found.hostname not in {"127.0.0.1", "localhost"}:
                raise Invalid(f"{one} is refused", why="it is not by HTTPS", hint="https://…")


@dataclass(frozen=True)
class Begun:
    """A login that is under way.

    Attributes:
        url: where the browser goes.
        state: what it must have when it comes back, in a cookie too.
    """

    url: str
    state: str


@dataclass(frozen=True)
class _Pending:
    nonce: str
    verifier: str
    ends_at: datetime


class SignIn:
    """Logins by way of one provider.

    Args:
        desk: the dashboard.
        provider: who vouches.
    """

    def __init__(self, desk: Desk, provider: Provider) -> None:
        self._desk = desk
        self._provider = provider
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self) -> Begun:
        """Returns where the browser goes.

        Raises:
            DashboardError: the provider cannot be used.
        """
        state, nonce = secrets.token_urlsafe(_BYTES), secrets.token_urlsafe(_BYTES)
        verifier = secrets.token_urlsafe(_VERIFIER_BYTES)
        there = self._discovered()
        with self._client() as client:
            url, _ = client.create_authorization_url(
                there["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
            )
        with self._lock:
            self._pending[state] = _Pending(nonce, verifier, self._desk.now() + WITHIN)
            while len(self._pending) > _MOST:
                self._pending.popitem(last=False)
        return Begun(url, state)

    def finish(self, given: Mapping[str, str], *, cookie: str, address: str) -> Opened:
        """Opens a session for who comes back from the provider.

        Args:
            given: what stands behind the question mark.
            cookie: the state that this browser was given.
            address: from where.

        Raises:
            Unauthenticated: it is not sure who it is, or nobody knows them here.
            DashboardError: the provider cannot be used.
        """
        try:
            claims = self._claims(given, cookie)
            email = str(claims.get("email", "")).strip().lower()
            if claims.get("email_verified") is not True or not email:
                raise Unauthenticated("login refused", why="the provider has not verified an e-mail address")
            with self._desk.visit(address=address) as visit:
                user = people.known_or_invited(visit, email, name=str(claims.get("name", ""))[:200])
                if user is None or user.approval_state < 0:
                    why = "nobody of this address has an account or an invitation"
                    raise Unauthenticated("login refused", why=why, hint="ask the project admin for an invitation")
                visit.note("login", user=email, detail="openid connect")
                return logins.open_browser(visit, user)
        except Unauthenticated as error:
            with self._desk.visit(address=address) as visit:
                visit.note("login", allowed=False, detail=f"openid connect: {error}", code=error.error_code)
            raise

    def _claims(self, given: Mapping[str, str], cookie: str) -> dict[str, Any]:
        state = given.get("state", "")
        with self._lock:
            pending = self._pending.pop(state, None)
        is_this_browser = bool(cookie) and hmac.compare_digest(cookie.encode(), state.encode())
        if pending is None or not is_this_browser or pending.ends_at <= self._desk.now():
            raise Unauthenticated(
                "login refused", why="it was not begun in this browser, or too long ago", hint="again"
            )
        if "error" in given or not given.get("code"):
            raise Unauthenticated("login refused", why="the provider says no", hint="try again")
        if given.get("iss", self._provider.issuer) != self._provider.issuer:  # RFC 9207 §2.4
            raise Unauthenticated("login refused", why="another provider answers", hint="try again")
        return self._verified(self._token(given["code"], pending.verifier), pending.nonce)

    def _token(self, code: str, verifier: str) -> str:
        from authlib.common.errors import AuthlibBaseError  # noqa: PLC0415 - an extra
        from requests import RequestException  # noqa: PLC0415

        there = self._discovered()
        try:
            with self._client() as client:
                found = client.fetch_token(
                    there["token_endpoint"], code=code, code_verifier=verifier, grant_type="authorization_code"
                )
        except (AuthlibBaseError, RequestException, ValueError) as error:
            raise Unauthenticated("login refused", why="the provider does not take the code", hint="again") from error
        return str(found.get("id_token", ""))

    def _verified(self, token: str, nonce: str) -> dict[str, Any]:
        from joserfc import jwt  # noqa: PLC0415 - an extra
        from joserfc.errors import JoseError  # noqa: PLC0415
        from joserfc.jwk import KeySet  # noqa: PLC0415

        one = self._provider
        keys = self._get(self._discovered()["jwks_uri"])
        try:
            claims = jwt.decode(token, KeySet.import_key_set(keys), algorithms=list(ALGORITHMS)).claims  # type: ignore[arg-type]
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise Unauthenticated("login refused", why="the provider did not sign that", hint="try again") from error
        now, audience = self._desk.now().timestamp(), claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        end = claims.get("exp")
        # OpenID Connect Core 1.0 §3.1.3.7, in its order.
        is_good = (
            claims.get("iss") == one.issuer
            and one.client_id in audiences
            and (len(audiences) == 1 or claims.get("azp") == one.client_id)
            and claims.get("azp", one.client_id) == one.client_id
            and isinstance(end, int | float)
            and end > now - _LEEWAY_S
            and hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode())
        )
        if not is_good:
            raise Unauthenticated("login refused", why="what the provider signed is not for this login", hint="again")
        return dict(claims)

    def _discovered(self) -> dict[str, Any]:
        found = self._get(f"{self._provider.issuer.rstrip('/')}/.well-known/openid-configuration")
        wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        if found.get("issuer") != self._provider.issuer or not all(isinstance(found.get(one), str) for one in wanted):
            raise DashboardError("the login provider is refused", why="its configuration is of another issuer")
        return found

    def _get(self, url: str) -> dict[str, Any]:
        import requests  # noqa: PLC0415 - an extra

        try:
            answer = requests.get(url, timeout=_TIMEOUT_S, allow_redirects=False)
            answer.raise_for_status()
            found = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise DashboardError(
                "the login provider is not reached", why=type(error).__name__, hint="log in with the password"
            ) from error
        return found if isinstance(found, dict) else {}

    def _client(self) -> Any:
        from authlib.integrations.requests_client import OAuth2Session  # noqa: PLC0415 - an extra

        one = self._provider
        return OAuth2Session(
            one.client_id,
            one.client_secret.reveal(),
            scope="openid email profile",
            redirect_uri=one.callback,
            code_challenge_method="S256",
            default_timeout=_TIMEOUT_S,
        )
