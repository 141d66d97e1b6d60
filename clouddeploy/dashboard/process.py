"""The dashboard as a process: one for each folder, found by a file that it holds locked, ended by a signal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.dashboard.bringing import bringing
from clouddeploy.dashboard.errors import DashboardError, DashboardState
from clouddeploy.dashboard.identity import identity
from clouddeploy.dashboard.oidc import SignIn
from clouddeploy.dashboard.watching import watching
from clouddeploy.dashboard.web import addresses, app
from clouddeploy.dashboard.web.connections import Bounds, Listener, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clouddeploy.dashboard.desk import Desk
    from clouddeploy.dashboard.identity import Identity
    from clouddeploy.dashboard.oidc import Provider

LOG = "dashboard.log"
LOCALHOST = "127.0.0.1"
_LOCK = "dashboard.lock"
_STOP_S = 20.0
_POLL_S = 0.05
_MAX_TOLD = 1 << 16


@dataclass(frozen=True)
class Running:
    """A dashboard that runs.

    Attributes:
        pid: its process.
        url: where it is reached.
        fingerprint: of its certificate; empty without HTTPS.
        is_own: whether it signed that certificate itself.
    """

    pid: int
    url: str
    fingerprint: str = ""
    is_own: bool = False


@dataclass(frozen=True)
class Where:
    """Where it listens.

    Attributes:
        host: an address of this machine.
        port: 0: any free one.
        is_local: this machine only, without HTTPS.
        proxies: addresses and networks of proxies that may say where a request comes from.
        bounds: of connections.
    """

    host: str
    port: int
    is_local: bool = False
    proxies: tuple[str, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)


def running(folder: Path) -> Running | None:
    """Returns the dashboard of a folder that runs now."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError, TypeError):
                return Running(**json.loads(file.read()))
            return Running(0, "")
        return None


def stop(folder: Path) -> Running:
    """Ends the dashboard of a folder, and returns once it has ended.

    Raises:
        DashboardState: none runs.
        DashboardError: it does not end.
    """
    found = running(folder)
    if found is None or not found.pid:
        raise DashboardState("the dashboard does not run", why=f"nothing holds {folder / _LOCK}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while running(folder) is not None:
        if time.monotonic() > deadline:
            raise DashboardError(
                "the dashboard does not end", why=f"process {found.pid} is still there", hint=f"kill {found.pid}"
            )
        time.sleep(_POLL_S)
    return found


def serve(desk: Desk, where: Where, *, ready: Callable[[Running], None], provider: Provider | None = None) -> None:
    """Serves until the process is told to end.

    Args:
        desk: the dashboard.
        where: it listens.
        ready: called once it does.
        provider: who vouches for people too; None: nobody.

    Raises:
        DashboardState: it runs already, or the port cannot be had.
    """
    with _held(desk.folder) as tell, _listening(where) as listener:
        port = listener.getsockname()[1]
        known = None if where.is_local else _identity(desk, where)
        name = LOCALHOST if where.is_local else _public_name(where.host)
        url = f"{'http' if known is None else 'https'}://{name}:{port}/"
        told = Running(os.getpid(), url, known.fingerprint if known else "", known.is_own if known else False)
        hosts = [LOCALHOST, "localhost"] if where.is_local else ["*"]
        made = app.make(
            desk,
            is_tls=known is not None,
            version=version("clouddeploy"),
            hosts=hosts,
            proxies=where.proxies,
            per_address=where.bounds.per_address,
            sign_in=SignIn(desk, provider) if provider is not None else None,
        )
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)  # uvicorn sends itself again what it ended for

        def begin() -> None:
            tell(told)
            ready(told)

        with watching(desk), bringing(desk), closing(desk.runs):
            Server(made, begin, bounds=where.bounds, identity=known).run(sockets=[listener])


def detached(folder: Path, run: Callable[[Callable[[Running], None]], None]) -> Running:
    """Runs something in a process of its own that outlives this one; returns what it told once it was ready.

    A fork, so that no secret has to be handed over in arguments, variables or files.

    Args:
        folder: gets the process's log.
        run: is given what it has to call when it is ready; returns when it is to end.

    Raises:
        DashboardError: it could not start; says why.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        os.close(reader)
        os._exit(_child(folder, run, writer))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read(_MAX_TOLD)
    try:
        document = json.loads(said)
    except ValueError as error:
        raise DashboardError("the dashboard did not start", why="it ended", hint=f"see {folder / LOG}") from error
    if "pid" in document:
        return Running(**document)
    raise DashboardError("the dashboard did not start", why=document["why"], hint=document["hint"])


def _child(folder: Path, run: Callable[[Callable[[Running], None]], None], writer: int) -> int:
    """Runs in the new process; returns its exit status."""
    os.setsid()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    streams = ((0, os.open(os.devnull, os.O_RDONLY)), (1, os.open(folder / LOG, flags, 0o600)), (2, 1))
    for number, other in streams:
        os.dup2(other, number)

    def ready(told: Running) -> None:
        os.write(writer, json.dumps(asdict(told)).encode())
        os.close(writer)

    try:
        run(ready)
    except ClouddeployError as error:
        os.write(writer, json.dumps({"why": str(error), "hint": error.hint}).encode())
        return int(error.exit_code)
    return 0


@contextmanager
def _held(folder: Path) -> Iterator[Callable[[Running], None]]:
    """Holds the folder's lock; yields what writes into it who holds it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = running(folder)
            raise DashboardState(
                "the dashboard runs already", why=found.url if found else "", hint="clouddeploy dashboard stop"
            ) from error
        file.truncate(0)

        def tell(told: Running) -> None:
            file.write(json.dumps(asdict(told)).encode())

        yield tell


@contextmanager
def _listening(where: Where) -> Iterator[Listener]:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    with Listener(family) as listener:
        listener.limit(where.bounds, addresses.networks(where.proxies))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((where.host, where.port))
        except OSError as error:
            raise DashboardState(
                f"the dashboard cannot listen on {where.host}, port {where.port}",
                why=error.strerror or str(error),
                hint="choose another port: -p 8443",
            ) from error
        yield listener


def _identity(desk: Desk, where: Where) -> Identity:
    hosts = dict.fromkeys(["localhost", LOCALHOST, *_names(where.host)])
    return identity(desk.folder, hosts=list(hosts), now=desk.now())


def _names(host: str) -> list[str]:
    own = socket.gethostname()
    return [one for one in (own, host) if one not in {"0.0.0.0", "::"}]  # noqa: S104 - what is left out


def _public_name(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - to be told from others
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
