"""The server's long-lived parent process: opens the port, wires the parts, stops cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from clouddeploy_runtime import kit as kits
from clouddeploy_runtime import launchers, lifecycle, settings, temporary_folder, tls
from clouddeploy_runtime.audit import AuditLog
from clouddeploy_runtime.errors import AlreadyRunning, JobNotFound
from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.kit.kit import ANY_ADDRESS, join
from clouddeploy_runtime.launchers import orphans
from clouddeploy_runtime.lifecycle import StatusFile, StopSignal
from clouddeploy_runtime.server.commands import Commands
from clouddeploy_runtime.server.federation import FederationCalls
from clouddeploy_runtime.server.gate import Gate
from clouddeploy_runtime.server.health import Health
from clouddeploy_runtime.server.inquiries import of_server
from clouddeploy_runtime.server.logins import Logins
from clouddeploy_runtime.server.membership import HEARTBEAT_S, Membership
from clouddeploy_runtime.server.monitoring import Monitoring, asked_for
from clouddeploy_runtime.server.people import PeopleCalls
from clouddeploy_runtime.server.registration import Registration
from clouddeploy_runtime.server.running import RunningJob
from clouddeploy_runtime.server.scheduler import Scheduler
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.store import JobStore, held, root_of
from clouddeploy_runtime.server.studies import StudyBook
from clouddeploy_runtime.server.study_commands import StudyCommands
from clouddeploy_runtime.server.submissions import Submissions
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.calls import Command

log = logging.getLogger(__name__)

BIND_VARIABLE = "CLOUDDEPLOY_BIND"
"""Overrides the address to listen on, for example `127.0.0.1:0`; port 0 takes a free one, see status.json."""
HEARTBEAT_VARIABLE = "CLOUDDEPLOY_HEARTBEAT_S"
"""How often the sites say that they are there, default 10; who is silent for three and a half times as long is gone."""
_GRACE_S = 2.0
_SETTLE_S = 2.0


def listen_address(kit: Kit) -> str:
    """Return where a server listens, `host:port`: as its kit says, unless the environment says otherwise."""
    given = os.environ.get(BIND_VARIABLE)
    if given:
        return given
    return join("::" if kit.host == ANY_ADDRESS and _has_ipv6() else kit.host, kit.port)


def _has_ipv6() -> bool:
    """Tell whether this machine has IPv6; a socket for every address then takes IPv4 too (RFC 3493 §3.7)."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _heartbeat_s() -> float:
    given = os.environ.get(HEARTBEAT_VARIABLE, "")
    try:
        return max(0.1, float(given)) if given else HEARTBEAT_S
    except ValueError as exc:
        raise settings.BadSettings(f"{HEARTBEAT_VARIABLE} cannot be used", why=f"{given!r} is no number") from exc


def _is_running(job_id: str, *, scheduler: Scheduler, store: JobStore) -> bool:
    """Tell whether a job runs, or ran when the server was stopped, so that it goes on."""
    if scheduler.find(job_id) is not None:
        return True
    try:
        return store.get(job_id).status in {JobStatus.RUNNING, JobStatus.DISPATCHED}
    except JobNotFound:
        return False


def _about_studies(studies: StudyBook, store: JobStore, scheduler: Scheduler, logins: Logins) -> Mapping[str, Command]:
    """Return the commands about studies, after which jobs may start, and who is no member any more is logged out."""

    def changed() -> None:
        logins.end_where(lambda login: studies.role_of(login.peer, login.study) != login.role, "the study was changed")
        scheduler.wake()

    return StudyCommands(studies, store, changed=changed).table


async def _listening(server: Any) -> None:
    """Return once the port is closed."""
    await server.wait_for_termination()


async def serve(kit: Kit, workspace: Path) -> None:
    """Run the server until it is told to stop.

    Args:
        kit: a loaded server kit.
        workspace: an existing folder for jobs, logs and `status.json`.

    Raises:
        KitTampered: the kit is not as it was signed.
        KitRevoked: its certificate was revoked or replaced.
        AlreadyRunning: the port is taken, or the folder of the jobs is.
        BadSettings: a file in `local`, or the list of disabled clients, cannot be read.
    """
    kits.verify(kit.root)
    memory.check(kit, workspace)
    root = root_of(workspace)
    with held(root):
        own = settings.load(kit.local)
        await asyncio.to_thread(temporary_folder.warn, is_needed=own.offloads_tensors)
        await _serve(kit, workspace, own, JobStore(root))


async def _serve(kit: Kit, workspace: Path, own: settings.Settings, store: JobStore) -> None:
    status = StatusFile(workspace, name=kit.name)
    stop = StopSignal(workspace)
    registry = Registry()
    health = Health(stop)
    membership = Membership(registry, workspace, own, heartbeat_s=_heartbeat_s())
    await asyncio.to_thread(orphans.end_below, store.root.resolve())
    start = partial(RunningJob, launcher=launchers.of(own, kit), hidden=(kit.root, workspace))
    studies = StudyBook(kit.local, workspace, registry)
    scheduler = Scheduler(store, registry, settings=own, start=start, takes=studies.takes)
    submissions = Submissions(store, own, check_study=studies.check_job)
    audit = AuditLog(workspace / "audit.jsonl")
    logins = Logins(admit=studies.admit, idle_s=own.session_idle_s, life_s=own.session_life_s)
    gate = Gate(kit, registry, workspace, audit, logins=logins)
    server = grpc.aio.server(options=list(rpc.SERVER_OPTIONS))
    inquiries = of_server(kit, workspace, registry=registry, scheduler=scheduler, store=store, audit=audit)
    commands = Commands(
        kit,
        store=store,
        scheduler=scheduler,
        registry=registry,
        membership=membership,
        submissions=submissions,
        stop=stop,
        more={**logins.commands(), **inquiries.table, **_about_studies(studies, store, scheduler, logins)},
    )
    people = PeopleCalls(
        kit,
        store=store,
        scheduler=scheduler,
        submissions=submissions,
        commands=commands,
        audit=audit,
        gate=gate,
    )
    monitoring = Monitoring(kit, registry=registry, scheduler=scheduler, store=store, health=health)
    watched_at = asked_for(own)
    registration = Registration(
        kit, registry, gate, membership, is_running=partial(_is_running, scheduler=scheduler, store=store)
    )
    federation = FederationCalls(registration, registry, scheduler, answered=inquiries.answered)
    server.add_generic_rpc_handlers((federation.handler(), people.handler()))
    address = listen_address(kit)
    status.write("starting", port=kit.port)
    try:
        port = tls.listen(server, address, kit)
    except RuntimeError as exc:
        raise AlreadyRunning(
            f"Cannot listen on {address}",
            why=str(exc),
            hint="Stop the process that holds the port, or set another one.",
        ) from exc
    await monitoring.open(watched_at)
    await server.start()
    work = tuple(asyncio.create_task(one) for one in (scheduler.run(), gate.watch(), membership.watch()))
    port_open: asyncio.Task[None] = asyncio.create_task(_listening(server))
    health.watch(scheduler=work[0], gate=work[1], membership=work[2], port=port_open)
    if kit.connection_security == "clear":
        log.warning("connection_security is clear: everybody on the way to this server can read and change it all")
    memory.remember(kit, workspace)
    status.write("serving", port=port, detail=studies.problem)
    log.info("The server %s of project %s listens on port %d", kit.name, kit.project, port)
    try:
        await lifecycle.until(stop, *work)
    finally:
        log.info("The server stops")
        await scheduler.stop()
        for one in work:
            one.cancel()
        registry.end_all()
        await _end(server, port_open, monitoring)
        status.write("stopped", port=port)


async def _end(server: grpc.aio.Server, port_open: asyncio.Task[None], monitoring: Monitoring) -> None:
    await server.stop(_GRACE_S)
    port_open.cancel()  # not before: it waits for what ends the server, and would take that with it
    await monitoring.close()
    await lifecycle.settle(at_most_s=_SETTLE_S)
