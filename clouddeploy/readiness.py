"""When a site counts as ready: the server answers with our certificate, a client says that it is registered."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from clouddeploy_providers.resources import MachineSpec, Resource
from clouddeploy_providers.waiters import wait_for

from clouddeploy.errors import StateError
from clouddeploy.remote import bootstrap

if TYPE_CHECKING:
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
