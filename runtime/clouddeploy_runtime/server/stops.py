"""Stopping and restarting the server and its clients for people: refused while that would disturb others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClientsRunning, InvalidCommand, InvalidTarget, JobsRunning
from clouddeploy_runtime.jobs import ALL_SITES, SERVER
from clouddeploy_runtime.server.calls import Command
from clouddeploy_runtime.signing import FORCE, FORCED
from clouddeploy_runtime.studies import named
from clouddeploy_runtime.wire import federation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.lifecycle import StopSignal
    from clouddeploy_runtime.server.calls import Call
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry, Session
    from clouddeploy_runtime.server.store import JobStore

log = logging.getLogger(__name__)

_SHOWN = 5


class Stops:
    """The commands `shutdown` and `restart`; lives in the event loop.

    What is looked at and what follows happen in one step of the loop, so that no job can start in between.

    Args:
        kit: the server's.
        store: what jobs there are.
        scheduler: which of them run.
        registry: who is connected.
        stop: ends this process.
    """

    def __init__(
        self, kit: Kit, *, store: JobStore, scheduler: Scheduler, registry: Registry, stop: StopSignal
    ) -> None:
        self._kit = kit
        self._store = store
        self._scheduler = scheduler
        self._registry = registry
        self._stop = stop

    @property
    def table(self) -> Mapping[str, Command]:
        """Name → command."""
        return {
            "shutdown": Command("shutdown", self._shutdown, is_signed=True, subject="target"),
            "restart": Command("restart", self._restart, is_signed=True, subject="target"),
        }

    async def _shutdown(self, call: Call) -> Any:
        """End the server with the jobs that run there, or the process of a client, or of all."""
        if self._tell_clients(call, is_restart=False):
            return {}
        self._refuse_disturbing(call, self._scheduler.running, is_restart=False)
        clients = sorted(session.name for session in self._registry.connected())
        if clients and not _is_forced(call):
            raise ClientsRunning(
                "the server is not shut down while clients are connected",
                why=f"connected: {', '.join(clients[:_SHOWN])}",
                hint="Shut down the clients first, or force it.",
            )
        self._scheduler.end_all(f"the server was shut down by {call.peer.name}")
        self._stop.set()
        return {}

    async def _restart(self, call: Call) -> Any:
        """End a process that its supervisor starts again; the jobs that run go on."""
        if self._tell_clients(call, is_restart=True):
            return {}
        self._refuse_disturbing(call, self._scheduler.running, is_restart=True)
        log.info("The server is restarted by %s", call.peer.name)
        self._stop.restart()
        return {}

    def _tell_clients(self, call: Call, *, is_restart: bool) -> bool:
        """Pass the wish on to clients if it is about them; each asks its own policy."""
        target = call.text("target", SERVER)
        if target in {SERVER, self._kit.name}:
            return False
        sessions = self._registry.connected() if target == ALL_SITES else [self._session(target)]
        self._refuse_disturbing(call, {job for one in sessions for job in one.jobs}, is_restart=is_restart)
        peer = call.peer
        for session in sessions:
            wish = pb.StopSite(restart=is_restart, user=peer.name, user_org=peer.org, user_role=peer.role)
            wish.command = call.signed
            session.outbox.put_nowait(pb.ServerEvent(stop_site=wish))
        return True

    def _session(self, name: str) -> Session:
        session = self._registry.find(name)
        if session is None:
            raise InvalidTarget(
                f"The client {name[:100]} is not connected", hint="`clouddeploy system status` names those that are."
            )
        return session

    def _refuse_disturbing(self, call: Call, jobs: Iterable[str], *, is_restart: bool) -> None:
        """Refuse to end jobs; of those of other studies only their number is told."""
        found = sorted(jobs)
        if not found or _is_forced(call):
            return
        own = {info.job_id for info in self._store.all() if named(info.study) == call.study}
        shown = [job for job in found if job in own]
        others = len(found) - len(shown)
        listed = [*shown[:_SHOWN], *([f"{others} of other studies"] if others else [])]
        raise JobsRunning(
            f"the {'restart' if is_restart else 'shutdown'} is refused while jobs run",
            why=f"there run {', '.join(listed)}",
            hint="Wait for them, abort them, or force it.",
        )


def _is_forced(call: Call) -> bool:
    wish = call.text(FORCE)
    if wish not in {"", FORCED}:
        why = f"its {FORCE!r} must be {FORCED!r}, and is {wish[:20]!r}"
        raise InvalidCommand("The command cannot be used", why=why)
    return bool(wish)
