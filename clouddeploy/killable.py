"""`python -m clouddeploy.killable`: runs deployments in processes that may be killed at any call or write.

Reads one order a line from standard input and answers it with two lines: the process that carries it out, and how that
ended. The processes are forked from this one, which has imported everything already, so each costs milliseconds.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from clouddeploy_providers import registry
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.deployment import Deployment
from clouddeploy.installation import Installation
from clouddeploy.kit_installation import KitInstallation
from clouddeploy.machine_work import MachineWork
from clouddeploy.remote.bootstrap import Release
from clouddeploy.secrets import Secret
from clouddeploy.service_installation import ServiceInstallation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from clouddeploy_providers.base import ComputeProvider
    from clouddeploy_providers.resources import ResourceRef

    from clouddeploy.remote.host import Host
    from clouddeploy.removal import Farewell
    from clouddeploy.site_work import SiteWork
    from clouddeploy.state import State

BEFORE, AFTER, TORN = "before", "after", "torn"


@dataclass(frozen=True)
class Point:
    """A moment in a run."""

    what: str
    """A cloud call (`aws RunInstances`) or a write (`fsync journal.jsonl`)."""
    occurrence: int
    """The how manieth of these, from 1."""
    moment: str
    """`before` it is done, `after` it is done and before anybody hears of it, or `torn`: half of it is done."""

    def __str__(self) -> str:
        return f"{self.moment} {self.what} {self.occurrence}"


@dataclass(frozen=True)
class Order:
    """One run of one deployment.

    Attributes:
        verb: `apply`, `reapply` (and plan what is left to do) or `destroy`.
        file: the deploy.yml.
        endpoints: the endpoints.json of a rehearsal.
        directory: for state, journal and keys; the kits go beside it.
        cache: where wheels are kept.
        is_bare: nothing is done on machines, which need not even exist.
        kill_at: a write at which the process kills itself.
        passphrase: of the certificate authority.
    """

    verb: str
    file: str
    endpoints: str
    directory: str
    cache: str = ""
    is_bare: bool = True
    kill_at: Point | None = None
    passphrase: str = field(default="rehearsal", repr=False)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        is_killed: it was, so nothing else is known.
        error: what it raised; empty: nothing.
        pending: names of the changes that a plan still has.
        writes: what it wrote, in order, as `what` of points.
    """

    is_killed: bool
    error: str = ""
    pending: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


class Bare(MachineWork):
    """What is done on machines that need not exist: nothing."""

    def work(self, passphrase: Secret | None) -> SiteWork:
        """Returns steps that do nothing; user data is what it always is."""
        return replace(
            super().work(passphrase),
            kits=lambda _address: {site.name: self.cache for site in self.config.sites},
            open=lambda _site, _machine: cast("Host", _NoHost()),
            install=lambda _site, _host, _kit: Release("none", "/none", "/none"),
            start=lambda _site, _host, _release: None,
            wait_ready=lambda _site, _host, _release, _address: None,
        )

    def probe(self, site: str, machine: ResourceRef) -> None:
        """Reaches nothing."""

    def status(self, site: str, machine: ResourceRef, installed: Mapping[str, str]) -> tuple[str, str]:
        """Returns that nobody was asked."""
        del site, machine, installed
        return "not asked", ""

    def farewell(self, recorded: State, *, abandoned: frozenset[str] = frozenset()) -> Farewell:
        """Returns what is done when a machine goes: its keys are forgotten."""
        return replace(super().farewell(recorded, abandoned=abandoned), uninstall=lambda _site, _machine: None)


class BareInstallation(Bare, Installation):
    """Nothing, for the sites of a project."""


class BareKitInstallation(Bare, KitInstallation):
    """Nothing, for a kit that is deployed alone."""


class BareServiceInstallation(Bare, ServiceInstallation):
    """Nothing, for a service."""


class _NoHost:
    """Nothing to be connected to."""

    def close(self) -> None:
        """There is nothing to close."""


class Nursery:
    """The process that forks runs; closes it at the end of a `with` block. One run at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clouddeploy.killable"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        with self._process as process:
            if process.stdin is not None:
                process.stdin.close()

    def run(self, order: Order, *, started: Callable[[int], None] = lambda _pid: None) -> Ended:
        """Returns how a run ended.

        Args:
            order: what to run.
            started: called with the process's id.
        """
        into, out = self._process.stdin, self._process.stdout
        assert into is not None  # noqa: S101 - both are pipes
        assert out is not None  # noqa: S101
        into.write(json.dumps(asdict(order)) + "\n")
        into.flush()
        started(int(json.loads(out.readline())["pid"]))
        raw = json.loads(out.readline())
        return Ended(raw["is_killed"], raw["error"], tuple(raw["pending"]), tuple(raw["writes"]))


class Writes:
    """Counts what this process makes durable, and dies at one of these points."""

    def __init__(self, kill_at: Point | None) -> None:
        self.seen: list[str] = []
        self._kill_at = kill_at
        self._counts: Counter[str] = Counter()
        self._write, self._fsync = os.write, os.fsync

    def install(self) -> None:
        """Watches this process for good; nothing that writes knows of it."""
        os.write, os.fsync = self._torn_write, self._watched_fsync  # type: ignore[assignment]

    def _torn_write(self, descriptor: int, data: bytes) -> int:
        point = self._next("write", descriptor)
        if self._kill_at == replace(point, moment=TORN):
            self._write(descriptor, data[: len(data) // 2])
            _die()
        return self._write(descriptor, data)

    def _watched_fsync(self, descriptor: int) -> None:
        point = self._next("fsync", descriptor)
        if self._kill_at == replace(point, moment=BEFORE):
            _die()
        self._fsync(descriptor)
        if self._kill_at == replace(point, moment=AFTER):
            _die()

    def _next(self, verb: str, descriptor: int) -> Point:
        what = f"{verb} {Path(f'/proc/self/fd/{descriptor}').readlink().name}"
        self._counts[what] += 1
        self.seen.append(what)
        return Point(what, self._counts[what], BEFORE)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def points_of(whats: Iterable[str]) -> list[Point]:
    """Returns the points at which a run may be killed, in order; a single write can be torn, all else not."""
    counts: Counter[str] = Counter()
    found = []
    for what in whats:
        counts[what] += 1
        moments = (TORN,) if what.startswith("write ") else (BEFORE, AFTER)
        found += [Point(what, counts[what], moment) for moment in moments]
    return found


def carry_out(order: Order) -> tuple[str, ...]:
    """Runs an order in this process; returns the names of the changes that a plan still has."""
    from clouddeploy_rehearsal.world import load_endpoints  # noqa: PLC0415 - an extra, and heavy

    directory = Path(order.directory)
    deployment = Deployment(
        Path(order.file),
        endpoints=load_endpoints(Path(order.endpoints)),
        directory=directory,
        workspace=directory.with_name("workspace"),
        cache=Path(order.cache) if order.cache else None,
        installation=BareInstallation if order.is_bare else Installation,
    )
    if order.verb in {"apply", "reapply"}:
        deployment.apply(Secret(order.passphrase))
    if order.verb == "reapply":
        return tuple(f"{change.action} {change.node}" for change in deployment.plan().pending)
    if order.verb == "destroy":
        deployment.destroy()
    return ()


def _made_once(load: Callable[[str], type[ComputeProvider]]) -> Callable[[str], Any]:
    """Returns a loader of providers that are made before the fork: a cloud's clients cost half a second."""
    made: dict[tuple[Any, ...], ComputeProvider] = {}

    class Once:
        def __init__(self, kind: type[ComputeProvider]) -> None:
            self._kind = kind

        def __getattr__(self, name: str) -> Any:
            return getattr(self._kind, name)

        def __call__(self, settings: Mapping[str, str], endpoints: Any) -> ComputeProvider:
            key = (self._kind, tuple(sorted(settings.items())), repr(endpoints))
            if key not in made:
                made[key] = self._kind(settings, endpoints)
            return made[key]

    return cache(lambda name: Once(load(name)))


def _answer(order: Order) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(order, writer)
    os.close(writer)
    _say({"pid": child})
    with os.fdopen(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return asdict(Ended(is_killed=True))
    return json.loads(text) if text else asdict(Ended(is_killed=False, error=f"the process ended with {status}"))


def _in_child(order: Order, writer: int) -> None:
    writes, write = Writes(order.kill_at), os.write
    error = ""
    changes: tuple[str, ...] = ()
    writes.install()
    try:
        changes = carry_out(order)
    except ClouddeployError as exc:
        error = f"{exc.error_code}: {exc}: {exc.why}"
    except Exception as exc:  # noqa: BLE001 - the process's edge: the error is its result
        error = f"{type(exc).__name__}: {exc}"
    answer = Ended(is_killed=False, error=error, pending=changes, writes=tuple(writes.seen))
    write(writer, json.dumps(asdict(answer)).encode())
    os._exit(0)


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answers orders until standard input ends."""
    # This process exists for nothing else, so what it changes is nobody's surprise.
    registry.load = _made_once(registry.load)  # type: ignore[assignment]
    known = set()
    for line in itertools.takewhile(bool, iter(sys.stdin.readline, "")):
        raw = json.loads(line)
        point = raw.pop("kill_at")
        order = Order(**raw, kill_at=Point(**point) if point else None)
        if order.is_bare and (order.file, order.endpoints) not in known:
            known.add((order.file, order.endpoints))
            with contextlib.suppress(ClouddeployError):  # the run itself will say it
                carry_out(replace(order, verb="nothing"))
            gc.freeze()
        _say(_answer(order))


if __name__ == "__main__":
    main()
