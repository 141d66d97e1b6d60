"""The way to the server, one finding for each step of it: proxy, name, address, TLS, the server's proof, the clocks."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime import communication, revocation
from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.kit.kit import Kind, authorities, certificate, join
from clouddeploy_runtime.preflight.findings import Finding, Status, found, passed, skipped

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from clouddeploy_runtime.kit.kit import Kit
    from clouddeploy_runtime.server_proof import Proof

# tls, diagnosis and server_proof need gRPC, which need not be there to check a kit.
# ruff: noqa: PLC0415

STEP_S = 10.0
"""How long one step may take."""
SKEW_WARN_S, SKEW_FAIL_S = 60.0, 300.0
PROXY, NAME, SERVER = "Check proxy", "Check server name", "Check server available"
TLS, PROOF, CLOCK = "Check TLS", "Check server identity", "Check clock"
_CONNECT_S = 5.0
_AFTER = {PROXY: (NAME, SERVER, TLS, PROOF, CLOCK), NAME: (SERVER, TLS, PROOF, CLOCK)}
_AFTER |= {SERVER: (TLS, PROOF, CLOCK), TLS: (PROOF, CLOCK), PROOF: (CLOCK,)}
_STEP_OF = {"PROXY_FAILED": PROXY, "SERVER_REFUSES": SERVER, "SERVER_SILENT": SERVER, "SERVER_NO_ROUTE": SERVER}
"""Where a cause belongs that is found on the way to TLS; all others are TLS's own."""


def check(kit: Kit, *, offset: timedelta = timedelta(0), environment: dict[str, str]) -> list[Finding]:
    """Go the way to the server as the kit's participant does, and leave again: it is not registered.

    Args:
        kit: a sound one of a client, relay or admin.
        offset: by which the clock that is asked differs from this machine's.
        environment: may hold proxies.
    """
    proxy = communication.proxy_for(kit.host, communication.load(kit.local), environment)
    findings: list[Finding] = []
    steps: list[Callable[[], Finding]] = []
    if proxy:
        findings += [skipped(NAME, "the proxy looks it up")]
    else:
        addresses: list[Any] = []
        steps = [lambda: _name(kit, addresses), lambda: _server(kit, addresses)]
    steps.append(lambda: _handshake(kit, offset))
    for step in steps:
        one = step()
        if one.status is Status.FAIL:
            return [*findings, one, *(skipped(after, f"{one.check} failed") for after in _AFTER[one.check])]
        findings.append(one)
    if proxy:
        findings = [passed(PROXY, f"through {_host_of(proxy)}"), *findings]
    return findings + _identity(kit, offset)


def _host_of(proxy: str) -> str:
    """Return a proxy without name and password."""
    return proxy.rpartition("@")[2].removeprefix("http://")


def _name(kit: Kit, addresses: list[Any]) -> Finding:
    """Look the server's name up, IPv4 (A) and IPv6 (AAAA) each by itself, and keep what was found."""
    if _is_address(kit.host):
        addresses += _looked_up(kit, socket.AF_UNSPEC)[0]
        return passed(NAME, f"{kit.host} is an address")
    answers: dict[str, str] = {}
    codes = set()
    for record, family in (("A", socket.AF_INET), ("AAAA", socket.AF_INET6)):
        entries, problem, number = _looked_up(kit, family)
        addresses += entries
        answers[record] = ", ".join(entry[4][0] for entry in entries) or problem
        codes.add(number)
    said = "; ".join(f"{record}: {answer}" for record, answer in answers.items())
    if addresses:
        return passed(NAME, said)
    code = "RESOLVER_SILENT" if codes & {socket.EAI_AGAIN, None} else "NAME_UNKNOWN"
    return found(NAME, code, f"the name {kit.host} cannot be resolved: {said}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _looked_up(kit: Kit, family: int) -> tuple[list[Any], str, int | None]:
    """Ask the resolver, in a thread of its own: it has no deadline that we could set."""
    answer: list[tuple[list[Any], str, int | None]] = []

    def ask() -> None:
        try:
            answer.append((socket.getaddrinfo(kit.host, kit.port, family, socket.SOCK_STREAM), "", 0))
        except socket.gaierror as exc:
            answer.append(([], exc.strerror or str(exc), exc.errno))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(STEP_S / 2)
    return answer[0] if answer else ([], f"no answer within {STEP_S / 2:g} s", None)


def _server(kit: Kit, addresses: list[Any]) -> Finding:
    """Connect to each address of the server."""
    where = join(kit.host, kit.port)
    problems: dict[str, tuple[str, str]] = {}
    deadline = time.monotonic() + STEP_S
    for entry in addresses:
        problem = _connected(entry, deadline)
        if problem[0]:
            problems[entry[4][0]] = problem
    text = "; ".join(f"{address}: {why}" for address, (_, why) in problems.items())
    if len(problems) < len(addresses):
        if problems:
            return found(SERVER, "ADDRESS_UNREACHABLE", f"{where} has an address that cannot be reached: {text}")
        return passed(SERVER, f"{where} accepts connections")
    codes = {code for code, _ in problems.values()}
    code = next(one for one in ("SERVER_REFUSES", "SERVER_SILENT", "SERVER_NO_ROUTE") if one in codes)
    return found(SERVER, code, f"Can't connect to grpc server ({where}): {text}")


def _connected(entry: Any, deadline: float) -> tuple[str, str]:
    """Connect and hang up; returns a code and why it failed, both empty when it did not."""
    family, kind, protocol, _, address = entry
    try:
        with socket.socket(family, kind, protocol) as raw:
            raw.settimeout(max(0.1, min(_CONNECT_S, deadline - time.monotonic())))
            raw.connect(address)
    except ConnectionRefusedError as exc:
        return "SERVER_REFUSES", exc.strerror or str(exc)
    except TimeoutError:
        return "SERVER_SILENT", "no answer in time"
    except OSError as exc:
        return "SERVER_NO_ROUTE", exc.strerror or str(exc)
    return "", ""


def _handshake(kit: Kit, offset: timedelta) -> Finding:
    """Shake hands with the kit's certificate, and check the server's: issuer, time, name."""
    from clouddeploy_runtime.client import diagnosis

    cause = diagnosis.explain(kit, now=datetime.now(UTC) + offset, whole_s=STEP_S)
    if cause.code:
        return found(_STEP_OF.get(cause.code, TLS), cause.code, cause.text)
    if kit.connection_security == "clear":
        return passed(TLS, "there is none: connection_security is clear")
    shown = "both sides showed" if kit.connection_security == "mtls" else "the server showed"
    return passed(TLS, f"{shown} a certificate of {kit.project}; the server's is for {kit.server_name}")


def _identity(kit: Kit, offset: timedelta) -> list[Finding]:
    """Ask the server to prove which certificate it has; its answer tells its clock and its newest list, too."""
    import grpc

    try:
        proof, server, skew_s = _proven(kit, offset)
        roots = authorities(kit.root_cert_file)
        known = revocation.read(kit.root / revocation.LIST_PATH, roots)
        sent = revocation.parse(proof.crl, roots) if proof.crl else revocation.Revoked()
    except grpc.RpcError as exc:
        why = f"{exc.code().name.lower().replace('_', ' ')}: {exc.details()}"
        return [found(PROOF, "SERVER_NOT_PROVEN", f"it does not answer: {why}"), skipped(CLOCK, f"{PROOF} failed")]
    except (RuntimeFault, OSError) as exc:
        return [found(PROOF, "SERVER_NOT_PROVEN", str(exc)), skipped(CLOCK, f"{PROOF} failed")]
    revoked = known.serials | sent.serials
    if server.serial_number in revoked:
        return [found(PROOF, "SERVER_REVOKED", f"{kit.server_name}: its certificate was revoked"), _clock(skew_s)]
    if certificate(kit.cert_file).serial_number in revoked:
        text = f"the server's list number {sent.number} names this kit's certificate"
        return [found(PROOF, "KIT_REVOKED", text), _clock(skew_s)]
    return [passed(PROOF, f"{kit.server_name} holds the key of its certificate"), _clock(skew_s)]


def _proven(kit: Kit, offset: timedelta) -> tuple[Proof, x509.Certificate, float | None]:
    from clouddeploy_runtime import server_proof, tls
    from clouddeploy_runtime.wire import rpc

    number, security = server_proof.nonce(), kit.connection_security
    method = rpc.PROVE_TO_ADMIN if kit.kind is Kind.ADMIN else rpc.PROVE
    request = server_proof.request(number, security=security, certificate=kit.cert_file.read_bytes())
    with tls.channel(kit) as line:
        call = line.unary_unary(method)
        before_s = time.time()
        reply = call(request, timeout=STEP_S, metadata=((rpc.SECURITY_KEY, security),))
        own_s = (before_s + time.time()) / 2 + offset.total_seconds()
    roots, moment = authorities(kit.root_cert_file), datetime.fromtimestamp(own_s, UTC)
    own = certificate(kit.cert_file)
    name = kit.server_name
    proof, server = server_proof.check(reply, nonce=number, own=own, server_name=name, trusted=roots, now=moment)
    return proof, server, own_s - proof.time_s if proof.time_s else None


def _clock(skew_s: float | None) -> Finding:
    if skew_s is None:
        return skipped(CLOCK, "the server does not tell its time")
    text = f"this clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the server's"
    if abs(skew_s) > SKEW_FAIL_S:
        return found(CLOCK, "CLOCK_WRONG", text)
    if abs(skew_s) > SKEW_WARN_S:
        return found(CLOCK, "CLOCK_OFF", text)
    return passed(CLOCK, text)
