"""When a site is ready: the server answers with our certificate, a client is registered, a service answers."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from clouddeploy_providers.errors import Transient
from clouddeploy_providers.resources import MachineSpec, Resource
from clouddeploy_providers.waiters import wait_for

from clouddeploy.errors import StateError
from clouddeploy.remote import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from threading import Event

    from clouddeploy.plan import Wanted
    from clouddeploy.remote.host import Host

POLL_S = 0.2
CONNECT_S = 5.0


def wait_server(address: str, port: int, *, name: str, roots: bytes, timeout_s: float, cancel: Event) -> None:
    """Returns once a TLS handshake proves that the server has a certificate of this name from one of these roots.

    Args:
        address: of the server.
        port: of the server.
        name: of the server in its certificate, whatever address leads there.
        roots: PEM, as `CaStore.bundle` gives them: also where the server's kit was made on its machine and is not here.
        timeout_s: how long to wait.
        cancel: ends the wait.

    Raises:
        ProviderError: not before the deadline.
    """
    context = ssl.create_default_context(cadata=roots.decode("ascii"))

    def answers() -> bool:
        try:
            with (
                socket.create_connection((address, port), timeout=CONNECT_S) as raw,
                context.wrap_socket(raw, server_hostname=name),
            ):
                return True
        except OSError:
            return False

    wait_for(
        answers, timeout_s=timeout_s, interval_s=POLL_S, cancel=cancel, what=f"the server at {address}:{port} to answer"
    )


def wait_registered(site: str, host: Host, release: bootstrap.Release, *, timeout_s: float, cancel: Event) -> None:
    """Returns once the client's runtime says that the server has accepted it.

    Raises:
        ProviderError: not before the deadline.
    """

    def registered() -> bool:
        return (bootstrap.status(host, release) or {}).get("state") == "registered"

    wait_for(
        registered, timeout_s=timeout_s, interval_s=POLL_S, cancel=cancel, what=f"{site} to register with the server"
    )


@dataclass(frozen=True)
class Question:
    """What is asked of a service.

    Attributes:
        address: of its machine.
        port: of the service.
        path: what is asked for over HTTP; empty: a connection is enough.
        certificate: PEM of the one that it has to show over TLS; empty: without TLS.
    """

    address: str
    port: int
    path: str = ""
    certificate: str = ""


@dataclass(frozen=True)
class Supervised:
    """What the supervisor of a service says of it.

    Attributes:
        is_serving: whether it listens on its port itself; something else may have that, and answer.
        failed: why there is nothing more to wait for; empty: there is.
        detail: why it does not serve; empty: nothing is known.
    """

    is_serving: bool
    failed: str = ""
    detail: str = ""


def wait_service(question: Question, ask: Callable[[], Supervised], *, timeout_s: float, cancel: Event) -> str:
    """Returns once a service answers, and it is the service that does, or has failed for good.

    Args:
        question: what it is asked.
        ask: asks its supervisor.
        timeout_s: how long to wait.
        cancel: ends the wait.

    Returns:
        Why it has failed; empty: it answers.

    Raises:
        ProviderError: neither before the deadline; says what the last answer was.
    """
    failures: list[str] = []

    def is_decided() -> bool:
        wrong = _asked(question)
        said = ask()
        if not wrong and said.is_serving:
            return True
        if said.failed:
            failures.append(said.failed)
            return True
        raise Transient(wrong or f"what answers is not the service: {said.detail or 'nothing is known of it'}")

    what = f"the service at {question.address}:{question.port} to answer"
    wait_for(is_decided, timeout_s=timeout_s, interval_s=POLL_S, cancel=cancel, what=what)
    return next(iter(failures), "")


def _asked(question: Question) -> str:
    """Asks a service once; returns what was wrong, empty for nothing."""
    try:
        with socket.create_connection((question.address, question.port), timeout=CONNECT_S) as raw:
            if not question.certificate:
                return _status(raw, question) if question.path else ""
            with _context(question.certificate).wrap_socket(raw) as stream:
                # The handshake has proved that it has the key of what it shows; what it shows has to be that one.
                if stream.getpeercert(binary_form=True) != ssl.PEM_cert_to_DER_cert(question.certificate):
                    return "it shows another certificate than the one named"
                return _status(stream, question) if question.path else ""
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def _context(certificate: str) -> ssl.SSLContext:
    """Returns a context that trusts one certificate and nothing else, whoever has issued it.

    It is known before its machine has an address, so it need not name that: which certificate it is counts.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context


def _status(stream: socket.socket, question: Question) -> str:
    connection = http.client.HTTPConnection(question.address, question.port, timeout=CONNECT_S)
    connection.sock = stream
    connection.request("GET", question.path)
    with connection.getresponse() as response:
        status = response.status
    is_fine = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
    return "" if is_fine else f"GET {question.path} is answered with {status}"


def adoption(wanted: Wanted) -> Resource:
    """Returns the request that adopts a machine which exists already."""
    spec = MachineSpec(None, None, wanted.site.disk_gib, wanted.site.user, public_key="", user_data="")
    return Resource(kind=wanted.kind, name=wanted.name, owner=wanted.owner, machine=spec)


def newest_kit(result: Path, participant: str) -> Path:
    """Returns the participant's kit in the newest `prod_NN` below `result`.

    Raises:
        StateError: there is none.
    """
    kits = sorted(result.glob(f"prod_*/{participant}/startup"))
    if not kits:
        raise StateError(
            f"{result} holds no startup kit of {participant}", hint="run `clouddeploy apply` or `provision` first"
        )
    return kits[-1].parent
