"""Starts and stops a federation on this machine, and says how it is."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError, Interrupted, PocState
from clouddeploy.poc import processes
from clouddeploy.poc import record as records
from clouddeploy.poc.preparing import placed, registered

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from clouddeploy.poc.record import Record

READY = {"server": "serving", "client": "registered"}
START_S, STOP_S = 30.0, 30.0
_TOGETHER = 4
"""Participants that are started at the same time: each is busy for a second."""


@dataclass(frozen=True)
class Site:
    """A participant as it is now."""

    name: str
    kind: str
    state: str
    """As it says itself; `starting`, or `stopped`."""

    @property
    def is_ready(self) -> bool:
        """Whether a job can be run with it."""
        return self.state == READY[self.kind]


@dataclass(frozen=True)
class PocStatus:
    """How a federation on this machine is."""

    status: str
    """`running`: everything is ready; `partial`, `starting`, `stopped`; `not_prepared`."""
    workspace: str
    server_address: str = ""
    admin: str = ""
    admin_kit: str = ""
    kit_id: str = ""
    server: Site | None = None
    clients: tuple[Site, ...] = ()
    ready: bool = False
    port_conflict: bool = False
    """Another program listens where the server is to."""
    warnings: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The server and the clients."""
        return ((self.server,) if self.server else ()) + self.clients

    def as_json(self) -> dict[str, object]:
        """Returns what stands in the JSON envelope."""
        return asdict(self)


def status(workspace: Path, *, warnings: Iterable[str] = (), had_conflict: bool = False) -> PocStatus:
    """Returns how the federation of a workspace is."""
    record = records.read(workspace)
    if record is None or not record.is_ready:
        return PocStatus("not_prepared", str(workspace), warnings=tuple(warnings))
    sites = [
        Site(name, "server" if name == record.server else "client", processes.state(workspace, name))
        for name in record.participants
    ]
    is_up = sites[0].state != "stopped"
    return PocStatus(
        status=_summary(sites),
        workspace=str(workspace),
        server_address=record.address,
        admin=record.admin,
        admin_kit=str(workspace / record.kits[record.admin]),
        kit_id=record.kit_id,
        server=sites[0],
        clients=tuple(sites[1:]),
        ready=all(site.is_ready for site in sites),
        port_conflict=had_conflict or (not is_up and not processes.is_free(record.port)),
        warnings=tuple(warnings),
    )


def _summary(sites: list[Site]) -> str:
    if all(site.is_ready for site in sites):
        return "running"
    if all(site.state == "stopped" for site in sites):
        return "stopped"
    return "partial" if any(site.state == "stopped" for site in sites) else "starting"


def start(
    workspace: Path,
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    timeout_s: float = START_S,
    is_waiting: bool = True,
    on_phase: Callable[[str], None] = lambda _line: None,
    cancel: threading.Event | None = None,
) -> PocStatus:
    """Starts participants that do not run yet; may be repeated.

    Args:
        workspace: a prepared one.
        only: their names; empty: all.
        without: those that are left out.
        timeout_s: how long to wait until they are ready.
        is_waiting: False: return once they are started.
        on_phase: called with a line for people.
        cancel: set: nobody else is started or waited for.

    Returns:
        How it is then: not `ready` when the time was not enough, or not everybody was wanted.

    Raises:
        PocState: it is not prepared.
        ConfigError: a name is none of a participant.
        RemoteCommandFailed: a kit refused to be started.
        Interrupted: `cancel` was set.
    """
    cancel = cancel or threading.Event()
    with records.held(workspace):
        record = records.prepared(workspace)
        wanted = chosen(record, only=only, without=without)
        due = [name for name in wanted if not processes.is_running(workspace, name)]
        warnings = [f"{name} runs already" for name in wanted if name not in due]
        has_conflict = record.server in due and not processes.is_free(record.port)
        if has_conflict:
            old, record = record, placed(workspace, record, processes.free_port())
            away = [name for name in record.clients if processes.is_running(workspace, name)]
            processes.end(workspace, away, timeout_s=timeout_s)  # they look for the old port
            due = [name for name in record.participants if name in due or name in away]
            warnings.append(f"port {old.port} is taken by another program; {record.port} is used instead")
        records.write(workspace, registered(workspace, record))
        deadline = time.monotonic() + timeout_s
        if record.server in due:
            on_phase(f"the server, at {record.address}")
            processes.launch(workspace, record, record.server)
            _wait(workspace, record, [record.server], deadline=deadline, cancel=cancel)
        clients = [name for name in due if name != record.server]
        if clients:
            on_phase(f"the clients {', '.join(clients)}")
            with ThreadPoolExecutor(_TOGETHER) as pool:
                list(pool.map(lambda name: processes.launch(workspace, record, name), clients))
        if is_waiting:
            _wait(workspace, record, wanted, deadline=deadline, cancel=cancel)
        return status(workspace, warnings=warnings, had_conflict=has_conflict)


def stop(
    workspace: Path, *, only: Collection[str] = (), without: Collection[str] = (), timeout_s: float = STOP_S
) -> PocStatus:
    """Stops participants; whoever does not end within the time is killed. May be repeated, also after a kill.

    Raises:
        ConfigError: a name is none of a participant.
        PocState: a process does not end.
    """
    if not workspace.is_dir():
        return PocStatus("not_prepared", str(workspace))
    with records.held(workspace):
        warnings = []
        if only or without:
            names = chosen(records.prepared(workspace), only=only, without=without)
            if not processes.end(workspace, names, timeout_s=timeout_s):
                raise PocState(
                    f"not every participant has stopped within {timeout_s:g} s",
                    hint="run `clouddeploy poc stop`, which ends all, if need be by force",
                )
        elif not processes.end_all(workspace, timeout_s=timeout_s):
            warnings.append("what did not stop by itself was killed")
        return status(workspace, warnings=warnings)


def chosen(record: Record, *, only: Collection[str], without: Collection[str]) -> tuple[str, ...]:
    """Returns the participants that are meant; `server` and `clients` may stand for what they are.

    Raises:
        ConfigError: a name is none of a participant, or none is left.
    """
    groups = {"server": (record.server,), "clients": record.clients, **{name: (name,) for name in record.participants}}
    for name in (*only, *without):
        if name not in groups:
            known = ", ".join(record.participants)
            raise ConfigError(f"{name!r} does not take part", why=f"there are {known}", hint="name one of these")
    wanted = {one for name in only or record.participants for one in groups[name]}
    wanted -= {one for name in without for one in groups[name]}
    if not wanted:
        raise ConfigError("nobody is left to be started or stopped", hint="exclude fewer")
    return tuple(name for name in record.participants if name in wanted)


def _wait(workspace: Path, record: Record, names: Collection[str], *, deadline: float, cancel: threading.Event) -> None:
    """Returns once all are ready, or the time is over.

    Raises:
        Interrupted: `cancel` is set.
    """
    while time.monotonic() < deadline:
        if cancel.is_set():
            raise Interrupted(
                "the start was interrupted",
                why="what was started runs on",
                hint="`clouddeploy poc start` goes on with it, `clouddeploy poc stop` ends it",
            )
        states = {name: processes.state(workspace, name) for name in names}
        if all(state == READY["server" if name == record.server else "client"] for name, state in states.items()):
            return
        time.sleep(processes.POLL_S)
