"""The connections to Azure: shared by all clients, as many as sites are at work, and quick to use again."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.util import Retry

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECTIONS: Final = 64
NO_RETRIES: Final = Retry(total=False, redirect=False, raise_on_status=False)
"""As the SDK has it: it repeats by itself, and tells failures apart by what urllib3 raises."""
BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Environment variables that replace the certificate authorities of the system, as requests reads them."""


class Session(requests.Session):
    """Learns the environment's proxies once per host; by default that is a third of the work of every request.

    `~/.netrc` is left alone: a password in it would replace the token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self._proxies: dict[tuple[str, str], dict[str, str]] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Adds what the environment says to what was given, as requests does."""
        scheme, host, *_ = urlsplit(url)
        if (scheme, host) not in self._proxies:
            self._proxies[scheme, host] = get_environ_proxies(url)
        if verify is True or verify is None:
            verify = next((os.environ[name] for name in BUNDLES if os.environ.get(name)), verify)
        given = {**self._proxies[scheme, host], **(proxies or {})}
        return super().merge_environment_settings(url, given, stream, verify, cert)


def transport(options: Mapping[str, Any]) -> RequestsTransport:
    """Returns connections for several clients; they are kept, since a new one costs a handshake.

    Args:
        options: of the SDK: `connection_verify` and timeouts.
    """
    session = Session()
    session.mount("https://", HTTPAdapter(max_retries=NO_RETRIES, pool_maxsize=CONNECTIONS))
    made = RequestsTransport(session=session, **options)
    made.open()
    weakref.finalize(made, session.close)  # whoever forgets `close` leaves no open connection behind
    return made
