"""The server's long-lived parent process: opens the port, wires the parts, stops cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import grpc

from clouddeploy_runtime import kit as kits
from clouddeploy_runtime import lifecycle, tls
from clouddeploy_runtime.audit import AuditLog
from clouddeploy_runtime.errors import AlreadyRunning
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.kit.kit import join
from clouddeploy_runtime.lifecycle import StatusFile, StopSignal
from clouddeploy_runtime.server.federation import FederationCalls
from clouddeploy_runtime.server.gate import Gate
from clouddeploy_runtime.server.people import PeopleCalls
from clouddeploy_runtime.server.registration import Registration
from clouddeploy_runtime.server.scheduler import Scheduler
from clouddeploy_runtime.server.sessions import Registry
from clouddeploy_runtime.server.store import JobStore
from clouddeploy_runtime.wire import rpc

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit

log = logging.getLogger(__name__)

BIND_VARIABLE = "CLOUDDEPLOY_BIND"
"""Overrides the address to listen on, for example `127.0.0.1:0`; port 0 takes a free one, see status.json."""
_GRACE_S = 2.0


def _listen_address(kit: Kit) -> str:
    given = os.environ.get(BIND_VARIABLE)
    if given:
        return given
    return join(kit.host, kit.port)


async def serve(kit: Kit, workspace: Path) -> None:
    """Run the server until it is told to stop.

    Args:
        kit: a loaded server kit.
        workspace: an existing folder for jobs, logs and `status.json`.

    Raises:
        KitTampered: the kit is not as it was signed.
        KitRevoked: its certificate was revoked or replaced.
        AlreadyRunning: the port is taken.
    """
    kits.verify(kit.root)
    memory.check(kit, workspace)
    status = StatusFile(workspace, name=kit.name)
    stop = StopSignal(workspace)
    registry = Registry()
    store = JobStore(workspace / "jobs")
    scheduler = Scheduler(store, registry)
    gate = Gate(kit, registry, workspace)
    server = grpc.aio.server(options=list(rpc.SERVER_OPTIONS))
    people = PeopleCalls(
        kit,
        store=store,
        scheduler=scheduler,
        registry=registry,
        audit=AuditLog(workspace / "audit.jsonl"),
        gate=gate,
        shutdown=stop.set,
    )
    federation = FederationCalls(Registration(kit, registry, gate), registry, scheduler)
    server.add_generic_rpc_handlers((federation.handler(), people.handler()))
    address = _listen_address(kit)
    status.write("starting", port=kit.port)
    try:
        port = server.add_secure_port(address, tls.server_credentials(kit))
    except RuntimeError as exc:
        raise AlreadyRunning(
            f"Cannot listen on {address}",
            why=str(exc),
            hint="Stop the process that holds the port, or set another one.",
        ) from exc
    await server.start()
    work = (asyncio.create_task(scheduler.run()), asyncio.create_task(gate.watch()))
    memory.remember(kit, workspace)
    status.write("serving", port=port)
    log.info("The server %s of project %s listens on port %d", kit.name, kit.project, port)
    try:
        await lifecycle.until(stop, *work)
    finally:
        log.info("The server stops")
        await scheduler.stop()
        for one in work:
            one.cancel()
        registry.end_all()
        await server.stop(_GRACE_S)
        status.write("stopped", port=port)
