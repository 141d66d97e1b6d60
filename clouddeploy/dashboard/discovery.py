"""What a login provider says of itself: its addresses and keys, kept for a while (OpenID Connect Discovery 1.0 §4).

Whoever is not logged in may begin a login; that must not make the dashboard ask the provider each time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clouddeploy.dashboard.errors import DashboardError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

TIMEOUT_S = 5.0
KEPT_S = 3600.0
"""Providers change keys seldom, and announce new ones before they use them."""
AGAIN_S = 30.0
"""So long a failure counts, and so seldom keys are asked for again because one is not among them."""
_WANTED = ("authorization_endpoint", "token_endpoint", "jwks_uri")


@dataclass
class _Kept:
    found: dict[str, Any] | None = None
    error: DashboardError | None = None
    asked_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class Discovery:
    """Asks a provider, one request at a time; safe for several threads.

    Args:
        issuer: its address.
        now: the clock.
        get: returns the JSON object at an address; raises DashboardError.
    """

    def __init__(
        self, issuer: str, *, now: Callable[[], datetime], get: Callable[[str], dict[str, Any]] | None = None
    ) -> None:
        self._issuer, self._now, self._get = issuer, now, get or fetched
        self._configuration, self._keys = _Kept(), _Kept()

    def configuration(self) -> dict[str, Any]:
        """Returns the provider's configuration.

        Raises:
            DashboardError: it is not reached, or it is of another issuer.
        """
        return self._kept(self._configuration, self._ask_configuration)

    def keys(self, *, key_id: str = "") -> dict[str, Any]:
        """Returns the provider's keys.

        Args:
            key_id: of the one that is needed; when it is not among those that are kept, they are asked for again.

        Raises:
            DashboardError: the provider is not reached.
        """
        address = self.configuration()["jwks_uri"]
        found = self._kept(self._keys, lambda: self._get(address))
        if not key_id or key_id in _ids(found):
            return found
        return self._kept(self._keys, lambda: self._get(address), longest_s=AGAIN_S)

    def _kept(self, kept: _Kept, ask: Callable[[], dict[str, Any]], *, longest_s: float = KEPT_S) -> dict[str, Any]:
        with kept.lock:
            age = self._now().timestamp() - kept.asked_at
            if kept.error is not None and age < AGAIN_S:
                raise DashboardError(kept.error.what, why=kept.error.why, hint=kept.error.hint)
            if kept.found is not None and kept.error is None and age < longest_s:
                return kept.found
            kept.error = None
            try:
                kept.found = ask()
            except DashboardError as error:
                kept.error = error
                raise
            finally:
                kept.asked_at = self._now().timestamp()
            return kept.found

    def _ask_configuration(self) -> dict[str, Any]:
        found = self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self._issuer or not all(isinstance(found.get(one), str) for one in _WANTED):
            raise DashboardError(
                "the login provider is refused",
                why="its configuration is of another issuer",
                hint="set CLOUDDEPLOY_DASHBOARD_OIDC_ISSUER to exactly what its configuration calls issuer",
            )
        return found


def fetched(url: str) -> dict[str, Any]:
    """Returns the JSON object at an address.

    Raises:
        DashboardError: it is not reached, or there is none.
    """
    import requests  # noqa: PLC0415 - an extra

    try:
        answer = requests.get(url, timeout=TIMEOUT_S, allow_redirects=False)
        answer.raise_for_status()
        found = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise DashboardError(
            "the login provider is not reached", why=type(error).__name__, hint="log in with the password"
        ) from error
    return found if isinstance(found, dict) else {}


def _ids(keys: dict[str, Any]) -> set[str]:
    found = keys.get("keys")
    return {str(one.get("kid")) for one in found if isinstance(one, dict)} if isinstance(found, list) else set()
