"""Log in with the account of another place (OpenID Connect Core 1.0, code flow with PKCE): for known e-mail addresses.

It makes nobody an account who has none and was not invited, and an address counts only when the provider has verified
it. A login under way is kept by the browser that began it, encrypted: nobody who begins many pushes out others'. Who is
logged in proves the same way that it is still them, by logging in at the provider once more.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken

from clouddeploy.dashboard import logins, model, people
from clouddeploy.dashboard.attempts import place_of
from clouddeploy.dashboard.discovery import TIMEOUT_S, Discovery
from clouddeploy.dashboard.errors import Invalid, TooMany, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.dashboard.desk import Desk
    from clouddeploy.dashboard.logins import Known, Opened
    from clouddeploy.secrets import Secret

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Signatures with a key that only the provider has; neither `none` nor one made with our own secret."""
WITHIN = timedelta(minutes=10)
"""So long somebody may take at the provider."""
_LEEWAY_S = 60
STARTS = 30
"""Logins that one address may begin within `WITHIN`; many people may share one."""
_MOST = 10_000
"""Addresses that are counted, and ways back that are remembered; the oldest go first."""
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
        cookie: what it must show when it comes back.
    """

    url: str
    cookie: str


@dataclass(frozen=True)
class Back:
    """Somebody has come back from the provider.

    Attributes:
        opened: their new session; None: they had one, and have shown that it is them.
        path: page to which they want.
    """

    opened: Opened | None
    path: str


@dataclass(frozen=True)
class _Pending:
    """What the browser keeps, encrypted; `login_id` is 0 for who is not logged in yet, times are seconds since 1970."""

    state: str
    nonce: str
    verifier: str
    begun_at: float
    login_id: int
    path: str


class SignIn:
    """Logins by way of one provider; safe for several threads.

    Args:
        desk: the dashboard.
        provider: who vouches.
        discovery: what it says of itself; None: it is asked.
    """

    def __init__(self, desk: Desk, provider: Provider, discovery: Discovery | None = None) -> None:
        self._desk = desk
        self._provider = provider
        self._discovery = discovery or Discovery(provider.issuer, now=desk.now)
        self._vault = Fernet(Fernet.generate_key())  # of this process: a restart ends what is under way
        self._starts: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._used: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, *, address: str, known: Known | None = None, path: str = "/") -> Begun:
        """Returns where the browser goes.

        Args:
            address: from where.
            known: who is logged in already and is to prove that it is them; None: nobody.
            path: page to which they want afterwards.

        Raises:
            TooMany: too many logins were begun from this address.
            DashboardError: the provider cannot be used.
        """
        self._count(place_of(address))
        now = self._desk.now().timestamp()
        pending = _Pending(
            state=secrets.token_urlsafe(_BYTES),
            nonce=secrets.token_urlsafe(_BYTES),
            verifier=secrets.token_urlsafe(_VERIFIER_BYTES),
            begun_at=now,
            login_id=known.login_id if known is not None else 0,
            path=path,
        )
        # OpenID Connect Core 1.0 §3.1.2.1: with `max_age` the provider says when they logged in.
        again = {"prompt": "login", "max_age": "0"} if known is not None else {}
        there = self._discovery.configuration()
        with self._client() as client:
            url, _ = client.create_authorization_url(
                there["authorization_endpoint"],
                state=pending.state,
                nonce=pending.nonce,
                code_verifier=pending.verifier,
                **again,
            )
        return Begun(url, self._vault.encrypt(json.dumps(asdict(pending)).encode()).decode())

    def finish(self, given: Mapping[str, str], *, cookie: str, address: str) -> Back:
        """Opens a session for who comes back from the provider, or notes in theirs that they are who they were.

        Args:
            given: what stands behind the question mark.
            cookie: what this browser was given.
            address: from where.

        Raises:
            Unauthenticated: it is not sure who it is, or nobody knows them here.
            DashboardError: the provider cannot be used.
        """
        # Not recorded when it was not begun here: anybody can ask for that, as often as they like.
        pending = self._pending(given, cookie)
        action = "prove" if pending.login_id else "login"
        try:
            claims = self._claims(given, pending)
            email = str(claims.get("email", "")).strip().lower()
            if claims.get("email_verified") is not True or not email:
                raise Unauthenticated(
                    "login refused",
                    why="the provider has not verified an e-mail address",
                    hint="verify it there, then try again",
                )
            if pending.login_id:
                self._prove(pending, claims, email, address=address)
                return Back(None, pending.path)
            opened = self._open(email, str(claims.get("name", ""))[:200], address=address)
            return Back(logins.welcomed(self._desk, opened, address=address), pending.path)
        except Unauthenticated as error:
            with self._desk.visit(address=address) as visit:
                visit.note(action, allowed=False, detail=f"openid connect: {error}", code=error.error_code)
            raise

    def _open(self, email: str, name: str, *, address: str) -> Opened:
        with self._desk.visit(address=address) as visit:
            user = people.known_or_invited(visit, email, name=name)
            if user is None or user.approval_state < 0:
                why = "nobody of this address has an account or an invitation"
                raise Unauthenticated("login refused", why=why, hint="ask the project admin for an invitation")
            visit.note("login", user=email, detail="openid connect")
            return logins.open_browser(visit, user)

    def _prove(self, pending: _Pending, claims: Mapping[str, Any], email: str, *, address: str) -> None:
        when = claims.get("auth_time")
        if not isinstance(when, int | float) or when < pending.begun_at - _LEEWAY_S:
            raise Unauthenticated(
                "it is not certain that it is you",
                why="the provider does not say that you have just logged in there",
                hint="log out there, then try again; or type the password",
            )
        with self._desk.visit(address=address) as visit:
            login = visit.db.get(model.Login, pending.login_id)
            user = visit.db.get(model.User, login.user_id) if login is not None else None
            if login is None or user is None or user.email != email or login.expires_at <= self._desk.now():
                raise Unauthenticated(
                    "it is not certain that it is you",
                    why="the account at the provider is another one, or your session has ended",
                    hint="log in again",
                )
            login.proved_at = self._desk.now()
            visit.note("prove", user=email, detail="openid connect")

    def _count(self, place: str) -> None:
        """Refuses an address that begins too many logins; others are not pushed out by it."""
        now, within = self._desk.now().timestamp(), WITHIN.total_seconds()
        with self._lock:
            since, count = self._starts.pop(place, (now, 0))
            if now - since >= within:
                since, count = now, 0
            self._starts[place] = since, min(count + 1, STARTS + 1)
            while len(self._starts) > _MOST:
                self._starts.popitem(last=False)
        if count >= STARTS:
            raise TooMany(
                "the login is not begun",
                why=f"from your address {STARTS} were begun within {within / 60:.0f} minutes",
                retry_after_s=since + within - now,
            )

    def _pending(self, given: Mapping[str, str], cookie: str) -> _Pending:
        state, now = given.get("state", ""), self._desk.now().timestamp()
        error = Unauthenticated(
            "login refused", why="it was not begun in this browser, or too long ago", hint="begin again"
        )
        try:
            pending = _Pending(**json.loads(self._vault.decrypt(cookie.encode())))
        except InvalidToken:
            raise error from None
        is_this = hmac.compare_digest(pending.state.encode(), state.encode())
        if not is_this or now - pending.begun_at >= WITHIN.total_seconds():
            raise error
        with self._lock:
            if state in self._used:
                raise error
            self._used[state] = None
            while len(self._used) > _MOST:
                self._used.popitem(last=False)
        return pending

    def _claims(self, given: Mapping[str, str], pending: _Pending) -> dict[str, Any]:
        if "error" in given or not given.get("code"):
            raise Unauthenticated("login refused", why="the provider says no", hint="try again")
        if given.get("iss", self._provider.issuer) != self._provider.issuer:  # RFC 9207 §2.4
            raise Unauthenticated("login refused", why="another provider answers", hint="try again")
        return self._verified(self._token(given["code"], pending.verifier), pending.nonce)

    def _token(self, code: str, verifier: str) -> str:
        from authlib.common.errors import AuthlibBaseError  # noqa: PLC0415 - an extra
        from requests import RequestException  # noqa: PLC0415

        there = self._discovery.configuration()
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
        try:
            keys = self._discovery.keys(key_id=_key_id(token))
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

    def _client(self) -> Any:
        from authlib.integrations.requests_client import OAuth2Session  # noqa: PLC0415 - an extra

        one = self._provider
        return OAuth2Session(
            one.client_id,
            one.client_secret.reveal(),
            scope="openid email profile",
            redirect_uri=one.callback,
            code_challenge_method="S256",
            default_timeout=TIMEOUT_S,
        )


def _key_id(token: str) -> str:
    """Returns the name of the key that a token says it is signed with; nothing is verified yet.

    Raises:
        ValueError: it is no token.
    """
    head = token.partition(".")[0]
    found = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    return str(found.get("kid", "")) if isinstance(found, dict) else ""
