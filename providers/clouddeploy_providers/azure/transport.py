"""The connections to Azure: shared by all clients, as many as sites are at work, and quick to use again."""

from __future__ import annotations

import os
import ssl
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies
from urllib3.util import Retry, create_urllib3_context

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECTIONS: Final = 64
NO_RETRIES: Final = Retry(total=False, redirect=False, raise_on_status=False)
"""As the SDK has it: it repeats by itself, and tells failures apart by what urllib3 raises."""
HEADERS: Final = {"Accept-Encoding": "gzip, deflate"}
BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Environment variables that replace the certificate authorities of the system, as requests reads them."""


class Adapter(HTTPAdapter):
    """Finds the connections of a host by its address alone, and reads the certificate authorities once for them all.

    By default each connection reads them again, which takes longer than all the rest of making it.
    """

    def __init__(self) -> None:
        super().__init__(max_retries=NO_RETRIES, pool_maxsize=CONNECTIONS)
        self._pools: dict[tuple[Any, ...], Any] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        """Returns the pool for a request's host; it is the same one as long as nothing of its security differs."""
        parts = urlsplit(request.url)
        key = (parts.scheme, parts.netloc, verify, *sorted((proxies or {}).items()))
        with self._lock:
            if key not in self._pools:
                make = super().get_connection_with_tls_context
                self._pools[key] = make(request, verify, proxies=proxies, cert=cert)
            return self._pools[key]

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Returns what a pool of connections is made with.

        Raises:
            ValueError: the server is not to be verified, or a certificate is to be shown; neither is done here.
            OSError: the authorities cannot be read.
        """
        if verify is False or cert is not None:
            raise ValueError("servers are always verified, and clients are known by their token")
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        authorities = verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH
        if authorities not in self._contexts:
            context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
            is_folder = Path(authorities).is_dir()
            context.load_verify_locations(**{"capath" if is_folder else "cafile": authorities})
            self._contexts[authorities] = context
        return host, {"ssl_context": self._contexts[authorities], "cert_reqs": "CERT_REQUIRED"}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Does nothing: the pool's context knows."""

    def close(self) -> None:
        """Ends all connections."""
        with self._lock:
            self._pools.clear()
        super().close()


class Session(requests.Session):
    """Sends what the SDK wrote without taking it apart again, which would be as much work as sending it.

    The environment's proxies are learnt once per host. `~/.netrc` is left alone: a password in it would replace the
    token. Cookies are not kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self._proxies: dict[tuple[str, str], dict[str, str]] = {}
        self.mount("https://", Adapter())

    def request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        *,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        files: Any = None,
        stream: bool = False,
        verify: Any = None,
        cert: Any = None,
        timeout: Any = None,
        proxies: Mapping[str, str] | None = None,
        allow_redirects: bool = False,
    ) -> requests.Response:
        """Sends a request whose URL and headers are complete; follows no redirect.

        Raises:
            RequestException: as requests has it.
        """
        body = data.encode() if isinstance(data, str) else data
        if files or allow_redirects or not isinstance(body, bytes | None):
            raise TypeError("only bodies of text or bytes can be sent, and redirects are not followed")
        sent = requests.PreparedRequest()
        sent.method, sent.url, sent.body = method, url, body
        sent.headers = CaseInsensitiveDict({**HEADERS, **(headers or {})})
        if body is not None or method not in {"GET", "HEAD"}:
            sent.headers["Content-Length"] = str(len(body or b""))
        settings = self.settings(url, proxies=proxies, verify=verify)
        answer = self.get_adapter(url).send(sent, timeout=timeout, stream=stream, cert=cert, **settings)
        if not stream:
            answer.content  # noqa: B018 - it is read, which gives the connection back
        return answer

    def settings(self, url: str, *, proxies: Mapping[str, str] | None = None, verify: Any = True) -> dict[str, Any]:
        """Returns `proxies` and `verify` for a URL: what was given, else what the environment says."""
        scheme, host, *_ = urlsplit(url)
        if (scheme, host) not in self._proxies:
            self._proxies[scheme, host] = get_environ_proxies(url)
        if verify is True or verify is None:
            verify = next((os.environ[name] for name in BUNDLES if os.environ.get(name)), True)
        return {"proxies": {**self._proxies[scheme, host], **(proxies or {})}, "verify": verify}


def transport(options: Mapping[str, Any]) -> RequestsTransport:
    """Returns connections for several clients; they are kept, since a new one costs a handshake.

    Args:
        options: of the SDK: `connection_verify` and timeouts.
    """
    session = Session()
    made = RequestsTransport(session=session, **options)
    made.open()
    weakref.finalize(made, session.close)  # whoever forgets `close` leaves no open connection behind
    return made
