"""Faults that a rehearsal shows on request: what the emulated clouds refuse or hide, kills, pulled network cables."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clouddeploy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_rehearsal.faults import Faults
    from clouddeploy_rehearsal.world import World

    from clouddeploy.scheduler import Event

CAPACITY, THROTTLE, LAG, KILL, PARTITION = "capacity", "throttle", "lag", "kill", "partition"
FORM = re.compile(rf"(?P<name>{CAPACITY}|{THROTTLE}|{LAG}|{PARTITION}|{KILL}(?==))(=(?P<number>[1-9][0-9]{{0,5}}))?")
KNOWN = f"{CAPACITY}, {THROTTLE}, {LAG}, {KILL}=N, {PARTITION}"
THROTTLE_EVERY = 7
"""Often enough to meet every kind of call in a rehearsal of three sites, and never the same one twice in a row."""
LAG_S = 2.0
PARTITION_S = 3.0
"""Long enough for TCP to repeat several times, too short for it to give up."""
INTO_THE_JOB_S = 0.5


@dataclass(frozen=True)
class Wish:
    """The faults that are wanted.

    Attributes:
        names: of them, each once.
        kill_at: the call to a cloud at which the deploying process is killed; 0: none.
    """

    names: tuple[str, ...] = ()
    kill_at: int = 0

    def of_clouds(self) -> Faults:
        """Returns what the emulated clouds have to show."""
        from clouddeploy_rehearsal.faults import Faults  # noqa: PLC0415 - an extra

        return Faults(
            scarce_zones=1 if CAPACITY in self.names else 0,
            throttle_every=THROTTLE_EVERY if THROTTLE in self.names else 0,
            lag_s=LAG_S if LAG in self.names else 0.0,
        )


@dataclass(frozen=True)
class Met:
    """A fault, and how often it was met."""

    name: str
    hits: int


def parse(texts: Sequence[str], *, as_root: bool) -> Wish:
    """Reads the values of `--fault`.

    Args:
        texts: `capacity`, `throttle`, `lag`, `kill=N` or `partition`, in any order.
        as_root: whether the hosts have network cables.

    Raises:
        ConfigError: there is no such fault, or not here.
    """
    names, kill_at = [], 0
    for text in texts:
        match = FORM.fullmatch(text)
        if match is None or (match["number"] is not None) != (match["name"] == KILL):
            raise ConfigError(
                f"there is no fault {text!r}", why=f"the faults are {KNOWN}", hint="for example --fault lag"
            )
        names.append(match["name"])
        kill_at = int(match["number"] or kill_at)
    if PARTITION in names and not as_root:
        raise ConfigError(
            f"the fault {PARTITION} needs root",
            why="hosts for other users are processes of this machine, without a network cable that could be pulled",
            hint="run the rehearsal as root, or leave this fault out",
        )
    return Wish(tuple(dict.fromkeys(names)), kill_at)


@dataclass
class Cables:
    """Pulls every host's network cable for some seconds, once while sites are installed and once while a job runs."""

    world: World
    is_wanted: bool
    hits: int = 0
    _done: set[str] = field(default_factory=set)
    _pulls: list[threading.Thread] = field(default_factory=list)

    def on_event(self, event: Event) -> None:
        """Pulls them as the first installation starts."""
        if event.title == "install" and event.phase == "start":
            self._pull_once("install", after_s=0.0)

    def on_job(self) -> None:
        """Pulls them shortly after a job was submitted."""
        self._pull_once("job", after_s=INTO_THE_JOB_S)

    def settle(self) -> None:
        """Returns once every cable is in again."""
        for pull in self._pulls:
            pull.join()

    def _pull_once(self, occasion: str, *, after_s: float) -> None:
        if not self.is_wanted or occasion in self._done:
            return
        self._done.add(occasion)
        pull = threading.Thread(target=self._pull, args=(after_s,), name=f"cables-{occasion}", daemon=True)
        pull.start()
        self._pulls.append(pull)

    def _pull(self, after_s: float) -> None:
        time.sleep(after_s)
        if self.world.plug(is_in=False):
            self.hits += 1
        try:
            time.sleep(PARTITION_S)
        finally:
            self.world.plug(is_in=True)


def met(wish: Wish, *, clouds: Faults, kills: int, cables: Cables) -> tuple[Met, ...]:
    """Returns how often each wanted fault was met."""
    hits = {KILL: kills, PARTITION: cables.hits}
    return tuple(Met(name, hits[name] if name in hits else clouds.tally.hits(name)) for name in wish.names)
