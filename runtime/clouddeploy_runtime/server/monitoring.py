"""What the server tells a monitoring system, when it is asked to: metrics, health and readiness, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
from http import HTTPStatus
from typing import TYPE_CHECKING

from clouddeploy_runtime import settings
from clouddeploy_runtime.kit.kit import certificate
from clouddeploy_runtime.server.endpoint import Endpoint, Reply, document
from clouddeploy_runtime.server.health import Lag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.server.health import Health
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.settings import Address, Settings

VARIABLE = "CLOUDDEPLOY_METRICS"
"""`host:port` at which a server's metrics are served; wins over `metrics_endpoint` in `local/resources.json`."""


def asked_for(own: Settings) -> Address | None:
    """Return where metrics are to be served; None: nowhere, which is the default.

    Raises:
        BadSettings: the environment names no address.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return own.metrics
    address = settings.address_of(given)
    if address is None:
        raise settings.BadSettings(
            f"{VARIABLE} cannot be used", why=f"{given!r} is not host:port", hint="example: 127.0.0.1:9090"
        )
    return address


class Monitoring:
    """The endpoint of a server and what measures for it; `close` ends both.

    Args:
        kit: the server's.
        registry: the sites.
        scheduler: the running jobs.
        store: all jobs.
        health: what the probes ask.
    """

    def __init__(self, kit: Kit, *, registry: Registry, scheduler: Scheduler, store: JobStore, health: Health) -> None:
        self._kit = kit
        self._registry = registry
        self._scheduler = scheduler
        self._store = store
        self._health = health
        self._lag = Lag()
        self._endpoint: Endpoint | None = None
        self._measuring: asyncio.Task[None] | None = None

    async def open(self, address: Address | None) -> int:
        """Serve at an address; returns the port. None: do nothing, and load nothing.

        Raises:
            AlreadyRunning: the address is taken, or none of this machine.
        """
        if address is None:
            return 0
        self._endpoint = Endpoint(
            {
                "/metrics": self._metrics_page(),
                "/healthz": self._page(self._health.problems),
                "/readyz": self._page(self._health.hindrances),
            }
        )
        port = await self._endpoint.open(address.host, address.port)
        self._measuring = asyncio.create_task(self._lag.run())
        return port

    async def close(self) -> None:
        """End what `open` began."""
        if self._measuring is not None:
            self._measuring.cancel()
        if self._endpoint is not None:
            await self._endpoint.close()

    def _metrics_page(self) -> Callable[[], Awaitable[Reply]]:
        from clouddeploy_runtime.server import metrics  # noqa: PLC0415 - what nobody asked for is not loaded

        sources = metrics.Sources(
            registry=self._registry,
            scheduler=self._scheduler,
            store=self._store,
            lag=self._lag,
            not_after=certificate(self._kit.cert_file).not_valid_after_utc,
        )

        async def page() -> Reply:
            found = metrics.collect(sources)
            return Reply(HTTPStatus.OK, await asyncio.to_thread(metrics.text, found), metrics.CONTENT_TYPE)

        return page

    @staticmethod
    def _page(problems: Callable[[], Mapping[str, str]]) -> Callable[[], Awaitable[Reply]]:
        async def page() -> Reply:
            found = problems()
            status = HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK
            body = {"status": "failing" if found else "ok", "problems": dict(found)}
            return document(status, json.dumps(body).encode() + b"\n")

        return page
