"""Why a server cannot be reached, in one line: gRPC says "Socket closed" to almost everything.

gRPC closes the connection without a TLS alert when it refuses a client's certificate, so that cause is found by leaving
out all others: this side's and that side's certificates, both clocks, the name, the port, the proxy.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from clouddeploy_runtime import tls
from clouddeploy_runtime.errors import printable
from clouddeploy_runtime.kit import Kind
from clouddeploy_runtime.kit.kit import attribute, authorities, certificate, join
from clouddeploy_runtime.kit.verify import issuer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy_runtime.kit import Kit

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_ANSWER_S = 3.0
WHOLE_S = 15.0
"""All steps of one look together, however slowly somebody answers; only the resolver has a time of its own."""
_AGAIN_S = 30.0
"""While nothing changes, a cause is looked for again after this time, not at each attempt: a look is a connection."""
_PROXY_PORT = 80
_MAX_ANSWER_BYTES = 16 << 10


@dataclass(frozen=True)
class Cause:
    """Why there is no connection."""

    code: str = ""
    """Stable name, one of `preflight.codes.CODES`; empty: there is one."""
    text: str = ""
    """For people."""


class Diagnosis:
    """Finds out why there is no connection, now and then.

    Args:
        kit: a client's or relay's.
        clock: seconds that only grow.
    """

    def __init__(self, kit: Kit, clock: Callable[[], float] = time.monotonic) -> None:
        self._kit = kit
        self._clock = clock
        self._due = 0.0
        self._symptom = ""
        self._cause = ""

    def reset(self) -> None:
        """Note that there was a connection: the next failure has a cause of its own."""
        self._due, self._symptom, self._cause = 0.0, "", ""

    async def look(self, symptom: str) -> tuple[str, bool]:
        """Return what `find` does, in a thread for which a site that is told to stop does not wait."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[str, bool]] = loop.create_future()

        def tell(found: tuple[str, bool]) -> None:
            if not answer.done():
                answer.set_result(found)

        def work() -> None:
            try:
                found = self.find(symptom)
            except Exception as exc:  # whatever it is, it must not keep the site from trying again
                log.warning("The cause could not be looked for", exc_info=exc)
                found = ("", False)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, found)

        threading.Thread(target=work, daemon=True).start()
        return await answer

    def find(self, symptom: str) -> tuple[str, bool]:
        """Return the cause, empty when none was found, and whether it is news; takes seconds when nobody answers.

        Args:
            symptom: what gRPC says.
        """
        if symptom == self._symptom and self._clock() < self._due:
            return self._cause, False
        before, self._cause, self._symptom = self._cause, cause(self._kit), symptom
        self._due = self._clock() + _AGAIN_S
        return self._cause, self._cause != before


class _Left:
    """What is left of the time for one look."""

    def __init__(self, whole_s: float) -> None:
        self._end = time.monotonic() + whole_s

    def at_most(self, seconds: float) -> float:
        """Return how long a step may take.

        Raises:
            TimeoutError: not at all any more.
        """
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return min(seconds, left_s)


def cause(kit: Kit, *, now: datetime | None = None, whole_s: float = WHOLE_S) -> str:
    """Say why the server of a kit cannot be reached; empty when it can.

    Args:
        kit: a client's, relay's or admin's.
        now: the time; the clock's when not given.
        whole_s: how long looking may take.
    """
    return explain(kit, now=now, whole_s=whole_s).text


def explain(kit: Kit, *, now: datetime | None = None, whole_s: float = WHOLE_S) -> Cause:
    """Return what `cause` says, with a stable name of it."""
    moment, left = now or datetime.now(UTC), _Left(whole_s)
    if kit.connection_security == "mtls":
        own = certificate(kit.cert_file)
        if problem := _outside_its_time(own, moment):
            return Cause(f"KIT_{_age(own, moment)}", f"The server refuses {_whose(kit)} certificate: {problem}")
    try:
        with _dial(kit, left) as raw:
            return _asked(kit, raw, moment, left)
    except _Unreachable as exc:
        return exc.cause
    except OSError as exc:
        return Cause("CONNECTION_BROKEN", f"The connection to {join(kit.host, kit.port)} breaks: {_words(exc)}")
    except ValueError as exc:
        text = f"What answers at {join(kit.host, kit.port)} shows no certificate that can be read: {exc}"
        return Cause("SERVER_UNREADABLE", text)


class _Unreachable(Exception):
    """Says why no connection could be made."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.cause = Cause(code, text)


def _whose(kit: Kit) -> str:
    return "this kit's" if kit.kind is Kind.ADMIN else "this site's"


def _dial(kit: Kit, left: _Left) -> socket.socket:
    """Connect as gRPC does, through the proxy where there is one."""
    proxy = tls.proxy_of(kit)
    if not proxy:
        return _connect(kit.host, kit.port, "the server", left)
    parts = urlsplit(proxy)
    where = f"the HTTP proxy {parts.hostname}:{parts.port or _PROXY_PORT}"
    try:
        raw = _connect(unquote(parts.hostname or ""), parts.port or _PROXY_PORT, "the HTTP proxy", left)
    except _Unreachable as exc:
        raise _Unreachable("PROXY_FAILED", exc.cause.text) from exc
    host = join(kit.host, kit.port)
    try:
        raw.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{_credentials(proxy)}\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < _MAX_ANSWER_BYTES:
            raw.settimeout(left.at_most(_CONNECT_S))
            if not (part := raw.recv(4096)):
                break
            answer += part
    except OSError as exc:
        raw.close()
        raise _Unreachable("PROXY_FAILED", f"{_upper(where)} does not answer: {_words(exc)}") from exc
    line = printable(answer.split(b"\r\n", 1)[0].decode("latin-1"))[:100]
    if line.split(" ")[1:2] != ["200"]:
        raw.close()
        raise _Unreachable("PROXY_FAILED", f"{_upper(where)} does not lead to {host}: it answers {line!r}")
    return raw


def _credentials(proxy: str) -> str:
    """Return the header that tells a proxy the name and password in its URL, as gRPC does (RFC 7617 §2)."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


def _connect(host: str, port: int, what: str, left: _Left) -> socket.socket:
    try:
        return _connected(host, port, left)
    except socket.gaierror as exc:
        code = "RESOLVER_SILENT" if exc.errno == socket.EAI_AGAIN else "NAME_UNKNOWN"
        raise _Unreachable(code, f"The name {host} of {what} cannot be resolved: {exc.strerror}") from exc
    except TimeoutError as exc:
        raise _Unreachable(
            "SERVER_SILENT",
            f"Nothing answers at {join(host, port)} within {_CONNECT_S:g} s: {what} is off, or a firewall is in "
            "between",
        ) from exc
    except ConnectionRefusedError as exc:
        raise _Unreachable("SERVER_REFUSES", f"Nobody listens at {join(host, port)}: {what} does not run") from exc
    except OSError as exc:
        text = f"There is no way to {what} at {join(host, port)}: {_words(exc)}"
        raise _Unreachable("SERVER_NO_ROUTE", text) from exc


def _connected(host: str, port: int, left: _Left) -> socket.socket:
    """Do what `socket.create_connection` does, with one time for all addresses of a name."""
    *others, last = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for address in others:
        with contextlib.suppress(OSError):
            return _connected_to(address, left)
    return _connected_to(last, left)


def _connected_to(address: Any, left: _Left) -> socket.socket:
    family, kind, protocol, _, where = address
    raw = socket.socket(family, kind, protocol)
    try:
        raw.settimeout(left.at_most(_CONNECT_S))
        raw.connect(where)
    except OSError:
        raw.close()
        raise
    return raw


def _asked(kit: Kit, raw: socket.socket, now: datetime, left: _Left) -> Cause:
    """Shake hands without checking anything, then check what was seen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if kit.connection_security == "mtls":
        context.load_cert_chain(kit.cert_file, kit.key_file)
    name = kit.host if tls.proxy_root(kit) else kit.server_name
    raw.settimeout(left.at_most(_ANSWER_S))
    try:
        link = context.wrap_socket(raw, server_hostname=name)
    except (ssl.SSLError, ConnectionError, TimeoutError) as exc:
        if kit.connection_security == "clear":
            return Cause()
        return Cause(
            "TLS_NOT_SPOKEN",
            f"What answers at {join(kit.host, kit.port)} does not speak TLS ({_words(exc)}): it is no server of this "
            "kind, or has connection_security clear",
        )
    with link:
        if kit.connection_security == "clear":
            text = "The server speaks TLS, and this site's kit has connection_security clear; provision both alike"
            return Cause("TLS_UNEXPECTED", text)
        shown = x509.load_der_x509_certificate(link.getpeercert(binary_form=True) or b"")
        problem = _server_problem(kit, shown, name, now)
        if not problem.code:
            link.settimeout(left.at_most(_ANSWER_S))
            return _refusal(kit, link, now)
    _object(kit, name, left)
    return problem


def _object(kit: Kit, name: str, left: _Left) -> None:
    """Tell the server what is wrong with its certificate, by a TLS alert (RFC 8446 §6.2), so that its log has it too.

    gRPC hangs up without one, and the server hears nothing.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    # In TLS 1.3 OpenSSL sends it before its keys, and gRPC's BoringSSL reads no such alert.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(kit.root_cert_file)
    with contextlib.suppress(OSError, _Unreachable), _dial(kit, left) as raw:
        raw.settimeout(left.at_most(_ANSWER_S))
        context.wrap_socket(raw, server_hostname=name).close()


def _server_problem(kit: Kit, shown: x509.Certificate, name: str, now: datetime) -> Cause:
    roots = authorities(kit.root_cert_file)
    if (extra := tls.proxy_root(kit)) is not None:
        roots += authorities(extra)
    if issuer_of(shown, roots) is None:
        issuer = printable(shown.issuer.rfc4514_string())[:80]
        text = f"The server's certificate was issued by another authority ({issuer}) than this kit's rootCA.pem"
        return Cause("SERVER_FOREIGN", text)
    if problem := _outside_its_time(shown, now):
        return Cause(f"SERVER_{_age(shown, now)}", f"The server's certificate is refused: {problem}")
    names = _names(shown)
    if name not in names:
        text = f"The server's certificate is for {', '.join(sorted(names))[:200]}, not for {name}"
        return Cause("SERVER_NAME_WRONG", text)
    return Cause()


def _refusal(kit: Kit, link: ssl.SSLSocket, now: datetime) -> Cause:
    """Wait for the server's first words; one that refuses a certificate ends the connection instead (RFC 8446 §4.4)."""
    try:
        if link.recv(1):
            return Cause()
    except TimeoutError:
        return Cause()
    except OSError:
        pass
    if kit.connection_security != "mtls":
        text = "The server demands a certificate in TLS (mtls), and this site's kit has connection_security tls"
        return Cause("MTLS_DEMANDED", text)
    end = certificate(kit.cert_file).not_valid_after_utc
    if issuer_of(certificate(kit.cert_file), authorities(kit.root_cert_file)) is None:
        text = f"The server refused {_whose(kit)} certificate: it was issued by another authority than rootCA.pem"
        return Cause("CERT_REFUSED", text)
    return Cause(
        "CERT_REFUSED",
        f"The server refused {_whose(kit)} certificate, which is valid here until {end:%Y-%m-%d}: the clock of one of "
        f"the two machines is wrong (here it is {now:%Y-%m-%d %H:%M} UTC), or the server has another rootCA.pem",
    )


def _age(cert: x509.Certificate, now: datetime) -> str:
    return "EXPIRED" if now > cert.not_valid_after_utc else "NOT_YET_VALID"


def _outside_its_time(cert: x509.Certificate, now: datetime) -> str:
    begin, end = cert.not_valid_before_utc, cert.not_valid_after_utc
    if now > end:
        return f"it expired on {end:%Y-%m-%d} (here it is {now:%Y-%m-%d %H:%M} UTC)"
    if now < begin:
        return (
            f"it is not valid yet: its time begins {begin:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M} UTC; set the clock"
        )
    return ""


def _names(cert: x509.Certificate) -> set[str]:
    found = {attribute(cert, NameOID.COMMON_NAME)}
    with contextlib.suppress(x509.ExtensionNotFound):
        extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found |= {*extension.get_values_for_type(x509.DNSName)}
        found |= {str(one) for one in extension.get_values_for_type(x509.IPAddress)}
    return found


def _words(exc: OSError) -> str:
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "TLS error").lower().replace("_", " ")
    return exc.strerror or str(exc) or type(exc).__name__


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
