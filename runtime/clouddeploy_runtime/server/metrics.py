"""The server's state as metrics of Prometheus: collected when somebody asks, so that they cost nothing in between.

Only `monitoring` imports this, when the endpoint is on: the library takes a tenth of a second to load.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from clouddeploy_runtime.jobs import JobStatus
from clouddeploy_runtime.server.tally import Cause, Way

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from clouddeploy_runtime.server.health import Lag
    from clouddeploy_runtime.server.running import RunningJob
    from clouddeploy_runtime.server.scheduler import Scheduler
    from clouddeploy_runtime.server.sessions import Registry
    from clouddeploy_runtime.server.store import JobStore
    from clouddeploy_runtime.server.tally import Distribution

PREFIX = "clouddeploy_"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_DAY_S = 86_400.0
_PROCESS = Path("/proc/self")
"""Linux only; elsewhere memory and descriptors are missing."""


@dataclass(frozen=True)
class Sources:
    """Where the numbers come from."""

    registry: Registry
    scheduler: Scheduler
    store: JobStore
    lag: Lag
    not_after: datetime
    """End of the server's certificate."""


def collect(sources: Sources) -> list[Metric]:
    """Return all metrics as they are now; runs in the event loop, a few milliseconds for a thousand sites."""
    running = [(job_id, job) for job_id in sources.scheduler.running if (job := sources.scheduler.find(job_id))]
    return [
        *_sites(sources.registry),
        *_jobs(sources.store, running),
        *_work(sources.registry, [job for _, job in running]),
        *_server(sources),
    ]


def text(metrics: list[Metric]) -> bytes:
    """Return metrics in the text format that Prometheus reads; needs nothing of the event loop's."""
    own = CollectorRegistry(auto_describe=False)
    own.register(_Collected(metrics))
    return generate_latest(own)


class _Collected:
    """What was collected, as the library wants it."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def _sites(registry: Registry) -> Iterator[Metric]:
    tally = registry.tally
    yield _gauge("sites_connected", "Sites that are registered and listen.", len(registry.connected()))
    yield _gauge(
        "heartbeat_age_max_seconds",
        "Time since the connected site that has been silent for longest said something.",
        registry.longest_silence_s,
    )
    yield _counter("registrations", "Sessions given out; a site that comes back has a new one.", tally.registrations)
    yield _counters("refusals", "Registrations, and proofs before them, that were refused.", "reason", tally.refusals)
    yield _counters("sent_bytes", "Bytes of jobs and parameters sent to a site.", "site", tally.moved[Way.TO_SITE])
    yield _counters("received_bytes", "Bytes of updates received from a site.", "site", tally.moved[Way.FROM_SITE])
    yield _histogram("download_seconds", "Time of a site's complete downloads.", tally.transfers[Way.TO_SITE])
    yield _histogram("upload_seconds", "Time of a site's complete uploads.", tally.transfers[Way.FROM_SITE])


def _jobs(store: JobStore, running: list[tuple[str, RunningJob]]) -> Iterator[Metric]:
    """The series of single jobs are those of running ones only, so that their number is bounded."""
    found = Counter(info.status for info in store.all())
    by_status = GaugeMetricFamily(f"{PREFIX}jobs", "Jobs in the store, by status.", labels=["status"])
    for status in JobStatus:
        by_status.add_metric([status.value], found[status])
    done = GaugeMetricFamily(f"{PREFIX}job_rounds_finished", "Finished rounds of a running job.", labels=["job"])
    total = GaugeMetricFamily(f"{PREFIX}job_rounds_planned", "Rounds that a running job is to have.", labels=["job"])
    for job_id, _ in running:
        info = store.get(job_id)
        done.add_metric([job_id], info.rounds)
        total.add_metric([job_id], info.total_rounds)
    yield from (by_status, done, total)


def _work(registry: Registry, running: list[RunningJob]) -> Iterator[Metric]:
    tally = registry.tally
    failures = {cause.value: tally.failures[cause] for cause in Cause}
    yield _histogram("round_seconds", "Time of the finished rounds of all jobs.", tally.rounds)
    yield _counters("tasks_failed", "Tasks that a site did not do.", "cause", failures)
    yield _gauge("open_tasks", "Answers that sites owe to running jobs.", sum(job.open_tasks for job in running))
    yield _gauge(
        "shared_memory_bytes",
        "Buffers with parameters that running jobs hold, in memory or in files.",
        sum(job.shared_bytes for job in running),
    )


def _server(sources: Sources) -> Iterator[Metric]:
    left_s = (sources.not_after - datetime.now(UTC)).total_seconds()
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield _gauge("event_loop_lag_seconds", "Worst delay of the event loop in the last minute.", sources.lag.worst_s)
    yield _gauge("certificate_days_left", "Days until the server's certificate ends.", round(left_s / _DAY_S, 3))
    yield _counter("process_cpu_seconds", "Processor time of the server's own process.", used.ru_utime + used.ru_stime)
    memory = GaugeMetricFamily(f"{PREFIX}process_resident_memory_bytes", "Memory of the server's own process.")
    descriptors = GaugeMetricFamily(f"{PREFIX}process_open_fds", "Open descriptors of the server's own process.")
    with contextlib.suppress(OSError, ValueError, IndexError):
        memory.add_metric([], int((_PROCESS / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        descriptors.add_metric([], len(list((_PROCESS / "fd").iterdir())))
    yield from (memory, descriptors)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, what, value=value)


def _counters(name: str, what: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, what, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _histogram(name: str, what: str, values: Distribution) -> Metric:
    return HistogramMetricFamily(PREFIX + name, what, buckets=values.buckets, sum_value=values.sum)
