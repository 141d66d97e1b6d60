"""Who may be registered just now: not the disabled, not more than the server takes, and each site once."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING

import grpc

from clouddeploy_runtime.errors import RuntimeFault
from clouddeploy_runtime.lifecycle import write_atomically
from clouddeploy_runtime.settings import BadSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clouddeploy_runtime.server.sessions import Registry

log = logging.getLogger(__name__)

FILE = "disabled_clients.json"
HEARTBEAT_S = 10.0
_KEY = "disabled_clients"
_POLL_S = 1.0
_SILENT_BEATS = 3.5
"""Three heartbeats may get lost or be late; whoever is silent for longer is gone."""
_ALIVE_BEATS = 2.5
"""A site that was heard of within this time is there, so its name is taken."""


class Membership:
    """The server's list of disabled sites, and its rules for a registration.

    Args:
        registry: the sessions.
        workspace: where the list is kept over restarts.
        settings: how many sites there may be, and how long a lost one is remembered.
        heartbeat_s: how often a site says that it is there.
        clock: seconds that only grow.

    Raises:
        BadSettings: there is a list, but it cannot be read; to start without it would let disabled sites in.
    """

    def __init__(
        self,
        registry: Registry,
        workspace: Path,
        settings: Settings | None = None,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._file = workspace / FILE
        self._settings = settings or Settings()
        self._clock = clock
        self.heartbeat_s = heartbeat_s
        self._disabled = _read(self._file)

    @property
    def disabled(self) -> tuple[str, ...]:
        """The disabled sites, by name."""
        return tuple(sorted(self._disabled))

    @property
    def silence_s(self) -> float:
        """A stream on which nothing comes for so long is closed."""
        return _SILENT_BEATS * self.heartbeat_s

    def disable(self, name: str) -> None:
        """Keep a site out, over restarts too, until it is enabled; whether it is registered or not.

        Raises:
            RuntimeFault: it is out, but the disk does not take that, so it lasts until the server's restart.
        """
        self._disabled |= {name}
        log.info("Client %s is disabled", name, extra={"site": name})
        self.remove(name)
        try:
            self._keep(self._disabled)
        except OSError as exc:
            raise RuntimeFault(
                f"The client {name} is disabled only until the server's restart",
                why=f"{FILE} cannot be written: {exc.strerror or exc}",
                hint="Look at the server's disk, and disable it again.",
            ) from exc

    def enable(self, name: str) -> None:
        """Let a disabled site in again; it comes by itself within half a minute.

        Raises:
            RuntimeFault: the disk does not take that; the site stays out.
        """
        try:
            self._keep(self._disabled - {name})
        except OSError as exc:
            raise RuntimeFault(
                f"The client {name} stays disabled",
                why=f"{FILE} cannot be written: {exc.strerror or exc}",
                hint="Look at the server's disk, and enable it again.",
            ) from exc
        log.info("Client %s is enabled", name, extra={"site": name})

    def remove(self, name: str) -> bool:
        """End a site's session; returns whether it had one. It registers again if it may."""
        session = self._registry.session_of(name)
        if session is None:
            return False
        self._registry.end(session)
        return True

    def problem(self, name: str, instance: str) -> tuple[grpc.StatusCode, str] | None:
        """Say why a site cannot register now; None when it can.

        Args:
            name: the site's, proven.
            instance: of its process. The same one may come back at once: it has lost its connection.
        """
        if name in self._disabled:
            return grpc.StatusCode.PERMISSION_DENIED, f"{name} is disabled at this server; ask the project admin"
        old = self._registry.session_of(name)
        if old is None:
            if len(self._registry.all()) >= self._settings.max_clients:
                limit = self._settings.max_clients
                return grpc.StatusCode.RESOURCE_EXHAUSTED, f"the server takes {limit} clients (max_num_clients)"
            return None
        if old.instance and old.instance == instance:
            return None
        if self._clock() - old.heard < _ALIVE_BEATS * self.heartbeat_s:
            return (
                grpc.StatusCode.ALREADY_EXISTS,
                f"another {name} is registered from {old.address}; stop it, or use the kit of another site here",
            )
        return None

    async def watch(self) -> None:
        """Forget who went away, until cancelled."""
        while True:
            self.sweep()
            await asyncio.sleep(_POLL_S)

    def sweep(self) -> None:
        """End sessions that nobody listens to, and forget the sites that have been away for long."""
        now = self._clock()
        for session in self._registry.all():
            if not session.is_streaming and now - session.heard > self.silence_s:
                log.warning("Client %s registered, but does not listen; its session ends", session.name)
                self._registry.end(session)
            elif session.is_overfull or (
                session.stuck_since is not None and now - session.stuck_since > self.silence_s
            ):
                log.warning("Client %s does not take what it is sent; its session ends", session.name)
                self._registry.end(session)
        for name in self._registry.forget(now - self._settings.silence_s):
            log.info("Client %s was away for %d s and is forgotten", name, self._settings.silence_s)

    def _keep(self, names: frozenset[str]) -> None:
        write_atomically(self._file, json.dumps({_KEY: sorted(names)}, indent=2).encode() + b"\n")
        self._disabled = names


def _read(path: Path) -> frozenset[str]:
    try:
        names = json.loads(path.read_bytes())[_KEY]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f'"{_KEY}" must be a list of names')
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        why = f'there is no "{_KEY}"' if isinstance(exc, KeyError) else str(exc)
        raise BadSettings(
            f"{path} cannot be used", why=why, hint="Correct it; taking it away enables every disabled client."
        ) from exc
    return frozenset(names)
