"""Kills a deployment at every call to a cloud and every write, repeats it, destroys it, and asks the clouds each time.

Nothing but the machines is left out: the engine and the providers run in a process of their own, over HTTP, against the
emulated clouds of this process. What is asked for is decided by the calls of an undisturbed run.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clouddeploy_rehearsal.unmanned import UnmannedFleet
from clouddeploy_rehearsal.world import World, save_endpoints

from clouddeploy.killable import Nursery, Order, Point, points_of
from clouddeploy.trap import NOWHERE, Trap

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clouddeploy.killable import Ended

Choice = Callable[[Sequence[Point]], Sequence[Point]]
AZURE_POLL_S = 0.02


@dataclass(frozen=True)
class CrashMatrix:
    """What came of all the kills.

    Attributes:
        kills: how many runs were killed; each was repeated, and what it made destroyed.
        orphans: resources that a cloud still had after destroy.
        duplicates: resources that a cloud had after the second apply beside those of an undisturbed run.
        by_point: what was wrong after the kill at a point; an empty text: nothing.
        missed: points that a run never came to, since threads took another order; it was not killed.
        calls: how many calls an undisturbed run makes.
        writes: how many writes.
        seconds: of all of it.
    """

    kills: int
    orphans: int
    duplicates: int
    by_point: Mapping[Point, str]
    missed: tuple[Point, ...]
    calls: int
    writes: int
    seconds: float

    @property
    def wrong(self) -> dict[str, str]:
        """What was wrong, by point."""
        return {str(point): text for point, text in self.by_point.items() if text}


@dataclass(frozen=True)
class _Tried:
    is_killed: bool
    duplicates: int
    orphans: int
    problem: str


class _Laboratory:
    """One deploy file, one world, one nursery, and as many deployments as there are points."""

    def __init__(self, file: Path, directory: Path, *, verb: str, world: World, nursery: Nursery) -> None:
        self._file = file
        self._verb = verb
        self._directory = directory
        self._world = world
        self._nursery = nursery
        self._wanted: Counter[str] = Counter()

    def undisturbed(self) -> tuple[list[str], list[str]]:
        """Returns the calls and the writes of a run that nobody kills, and remembers what apply makes."""
        runs = {verb: self._run(verb, "undisturbed") for verb in ("apply", "reapply")}
        self._wanted = _kinds(self._world.resources())
        runs["destroy"] = self._run("destroy", "undisturbed")
        problems = [ended.error for _, ended in runs.values() if ended.error]
        problems += [*runs["reapply"][1].pending, *self._world.resources()]
        if problems:
            raise RuntimeError(f"already the undisturbed run went wrong: {'; '.join(problems)}")
        trap, ended = runs[self._verb]
        return trap.calls, list(ended.writes)

    def attempt(self, point: Point) -> _Tried:
        """Kills a run at a point, then repeats it, and destroys."""
        name, problems, duplicates = "tried", [], Counter[str]()
        if self._verb == "destroy":
            problems += self._problems("apply", name)
        is_killed = self._run(self._verb, name, kill_at=point)[1].is_killed
        if self._verb == "apply":
            problems += self._problems("reapply", name)
            there = _kinds(self._world.resources())
            duplicates = there - self._wanted
            problems += [f"there twice: {kind}" for kind in duplicates.elements()]
            problems += [f"missing: {kind}" for kind in (self._wanted - there).elements()]
        problems += self._problems("destroy", name)
        left = self._world.resources()
        problems += [f"left: {one}" for one in left]
        shutil.rmtree(self._directory / name)
        return _Tried(is_killed, duplicates.total(), len(left), "; ".join(problems))

    def _problems(self, verb: str, name: str) -> list[str]:
        ended = self._run(verb, name)[1]
        problems = [f"{verb}: {ended.error}"] if ended.error else []
        return problems + [f"still to do: {change}" for change in ended.pending]

    def _run(self, verb: str, name: str, *, kill_at: Point | None = None) -> tuple[Trap, Ended]:
        is_call = kill_at is not None and kill_at.what.startswith(("aws ", "azure "))
        trap = Trap(kill_at if kill_at is not None and is_call else NOWHERE)
        self._world.watch(trap.watch)
        order = Order(
            verb,
            file=str(self._file),
            endpoints=str(self._directory / "endpoints.json"),
            directory=str(self._directory / name / "state"),
            kill_at=None if is_call else kill_at,
        )
        ended = self._nursery.run(order, started=trap.process.set_result)
        trap.wait_until_quiet()
        return trap, ended


def run(
    file: Path,
    *,
    directory: Path,
    verb: str = "apply",
    choose: Choice = list,
    on_point: Callable[[Point, str], None] = lambda _point, _problem: None,
) -> CrashMatrix:
    """Kills at every point, or at those that are chosen.

    Args:
        file: the deploy.yml; sites in clouds and on premises.
        directory: an empty folder.
        verb: what is killed: `apply`, which is then repeated and destroyed, or `destroy`, which is then repeated.
        choose: takes all points in order and returns those to try, e.g. `spread(40)`.
        on_point: called after each with what was wrong.

    Raises:
        RuntimeError: already the undisturbed run did not work.
    """
    started = time.monotonic()
    by_point: dict[Point, str] = {}
    kills = orphans = duplicates = 0
    missed = []
    fleet = UnmannedFleet(directory / "world")
    with World(directory / "world", as_root=False, fleet=fleet) as world, Nursery() as nursery:
        endpoints = world.endpoints
        if endpoints.azure is not None:
            endpoints = replace(endpoints, azure=replace(endpoints.azure, polling_interval_s=AZURE_POLL_S))
        save_endpoints(endpoints, directory / "endpoints.json")
        laboratory = _Laboratory(file, directory, verb=verb, world=world, nursery=nursery)
        calls, writes = laboratory.undisturbed()
        for point in choose(points_of([*calls, *writes])):
            tried = laboratory.attempt(point)
            by_point[point] = tried.problem
            kills += tried.is_killed
            orphans += tried.orphans
            duplicates += tried.duplicates
            missed += [] if tried.is_killed else [point]
            on_point(point, tried.problem)
    seconds = round(time.monotonic() - started, 1)
    return CrashMatrix(kills, orphans, duplicates, by_point, tuple(missed), len(calls), len(writes), seconds)


def spread(limit: int) -> Choice:
    """Returns a choice of so many points at equal distances, the first and the last included."""

    def choose(points: Sequence[Point]) -> Sequence[Point]:
        if limit >= len(points):
            return points
        return [points[round(number * (len(points) - 1) / max(1, limit - 1))] for number in range(limit)]

    return choose


def _kinds(resources: Sequence[str]) -> Counter[str]:
    """Returns how many there are of each type: ids and names differ between deployments."""

    def kind(resource: str) -> str:
        cloud, _, rest = resource.partition(" ")
        words = rest.split("/")
        if cloud == "aws":
            return f"{cloud} {rest.split(maxsplit=1)[0]}"
        return f"{cloud} {'/'.join(words[-3:-1]) if 'providers' in words else 'resourceGroups'}"

    return Counter(kind(one) for one in resources)
