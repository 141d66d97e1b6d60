"""The long-lived process of a relay: passes its clients' connections on, and is registered at the server itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from clouddeploy_runtime import kit as kits
from clouddeploy_runtime import lifecycle
from clouddeploy_runtime.client.connection import Connection
from clouddeploy_runtime.client.transfer import Transfer
from clouddeploy_runtime.errors import AlreadyRunning
from clouddeploy_runtime.kit import memory
from clouddeploy_runtime.lifecycle import StopSignal
from clouddeploy_runtime.relay.listening import listening
from clouddeploy_runtime.relay.splice import Splice

if TYPE_CHECKING:
    from pathlib import Path

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.wire import federation_pb2 as pb

log = logging.getLogger(__name__)


async def serve(kit: Kit, workspace: Path) -> None:
    """Run a relay until it is told to stop.

    Args:
        kit: a loaded relay kit.
        workspace: an existing folder for logs and `status.json`.

    Raises:
        KitTampered: the kit is not as it was signed.
        KitRevoked: its certificate was revoked or replaced.
        KitError: it does not say where to listen.
        AlreadyRunning: the port is taken.
    """
    kits.verify(kit.root)
    memory.check(kit, workspace)
    host, port = listening(kit)
    splice = Splice(kit.host, kit.port)
    try:
        await splice.listen(host or None, port)
    except OSError as exc:
        raise AlreadyRunning(
            f"Cannot listen on port {port}",
            why=exc.strerror or str(exc),
            hint="Stop the process that holds the port, or set another one.",
        ) from exc
    log.info("The relay %s listens on port %d and leads to %s:%d", kit.name, splice.port, kit.host, kit.port)
    connection = Connection(kit, workspace, transfer=Transfer(), active_jobs=tuple, handle=_ignore)
    running = asyncio.create_task(connection.run())
    try:
        await lifecycle.until(StopSignal(workspace), running)
    finally:
        log.info("The relay stops")
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(running, return_exceptions=True)
        await splice.close()
        connection.stopped()


def _ignore(_event: pb.ServerEvent) -> None:
    """Do nothing: a relay has no part in jobs."""
