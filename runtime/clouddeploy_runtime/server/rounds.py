"""The finished rounds of a job: measured while it runs, kept beside its record, shown to whoever watches."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime.jobs.rounds import MAX_REASONS, MAX_ROUNDS, Round, numbers, shortened
from clouddeploy_runtime.lifecycle import write_atomically
from clouddeploy_runtime.server.tally import Tally, Way

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clouddeploy_runtime.job.messages import Progress
    from clouddeploy_runtime.server.tally import Cause

log = logging.getLogger(__name__)

FILE = "rounds.jsonl"
"""Beside the record, which is written anew with each change and stays small. One line for each round."""


class Rounds:
    """The rounds of one running job.

    Args:
        folder: the job's in the store, where an earlier process may have left its rounds.
        tally: the server's.
        clock: seconds that only grow.
    """

    def __init__(self, folder: Path, tally: Tally | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / FILE
        self._tally = tally or Tally()
        self._clock = clock
        self._known = deque(read(folder), maxlen=MAX_ROUNDS)
        self._lines = len(self._known)
        self._is_torn = self._path.exists()
        """The file's last line may have no end: the disk was full, or the server was killed."""
        self._is_failing = False
        self._began: float | None = None
        self._moved = dict.fromkeys(Way, 0)
        self._answered: set[str] = set()
        self._failed: dict[str, str] = {}

    @property
    def known(self) -> tuple[Round, ...]:
        """The finished ones, at most the last thousand, in their order."""
        return tuple(self._known)

    def begin(self) -> None:
        """Note that the controller asks something; the first time the clock starts."""
        if self._began is None:
            self._began = self._clock()

    def moved(self, way: Way, size: int) -> None:
        """Note that bytes of this job went over the line."""
        self._moved[way] += size

    def answered(self, site: str) -> None:
        """Note that a site has done its task."""
        self._answered.add(site)

    def failed(self, site: str, reason: str, cause: Cause) -> None:
        """Note that a site did not do its task."""
        self._tally.failures[cause] += 1
        self._failed.setdefault(site, shortened(reason))

    def end(self, progress: Progress) -> Round:
        """Note that a round has ended, and begin the next one.

        A controller that went on from a checkpoint does some rounds again: what was known of them is replaced.
        """
        now = self._clock()
        seconds = now - (now if self._began is None else self._began)
        done = Round(
            round=progress.round,
            total_rounds=progress.total_rounds,
            seconds=round(seconds, 6),
            metrics=numbers(progress.metrics),
            bytes_down=self._moved[Way.TO_SITE],
            bytes_up=self._moved[Way.FROM_SITE],
            answered=len(self._answered - self._failed.keys()),
            failed=len(self._failed),
            reasons=tuple(self._failed.values())[:MAX_REASONS],
        )
        self._tally.rounds.add(seconds)
        self._began, self._moved = now, dict.fromkeys(Way, 0)
        self._answered, self._failed = set(), {}
        _take(self._known, done)
        self._keep(done)
        return done

    def publish(self, folder: Path) -> None:
        """Put the rounds among the job's results, once nothing of the job runs any more.

        What the job has left under that name is not followed, but replaced.
        """
        if not self._known:
            return
        target = folder / FILE
        with contextlib.suppress(OSError):  # a full disk, or the job made a folder of this name
            target.unlink(missing_ok=True)
            with target.open("xb") as file:  # O_EXCL follows no link
                file.writelines(_line(one) for one in self._known)

    def _keep(self, done: Round) -> None:
        """Add a line; what a full disk does not take is missing after a restart of the server, and no harm now."""
        try:
            if self._lines >= 2 * MAX_ROUNDS:
                write_atomically(self._path, b"".join(_line(one) for one in self._known))
                self._lines = len(self._known)
            else:
                with self._path.open("ab") as file:
                    file.write((b"\n" if self._is_torn else b"") + _line(done))
                self._lines += 1
            self._is_torn = self._is_failing = False
        except OSError as exc:
            if not self._is_failing:
                log.warning("The rounds of job %s are not kept: %s", self._path.parent.name, exc)
            self._is_torn = self._is_failing = True


def read(folder: Path) -> tuple[Round, ...]:
    """Return the rounds that a job's folder keeps; a line that cannot be read is left out."""
    found: deque[Round] = deque(maxlen=MAX_ROUNDS)
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    except OSError as exc:
        log.warning("The rounds of job %s cannot be read: %s", folder.name, exc)
        return ()
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError):
            _take(found, msgspec.json.decode(line, type=Round))
    return tuple(found)


def _take(known: deque[Round], done: Round) -> None:
    while known and known[-1].round >= done.round:
        known.pop()
    known.append(done)


def _line(one: Round) -> bytes:
    return msgspec.json.encode(one) + b"\n"
