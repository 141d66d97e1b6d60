"""What a site remembers of signed statements, over restarts: each is good for one job, or for one command."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from clouddeploy_runtime.lifecycle import write_atomically
from clouddeploy_runtime.signing import COMMAND_AGE, Moment, SignatureRefused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clouddeploy_runtime.signing import Permit

log = logging.getLogger(__name__)

MAX_JOBS = 2000
"""A year of five jobs a day; a record has about 300 bytes, and the file is written anew for each job."""


MAX_COMMANDS = 2000
"""Of one person, in twenty minutes: the file is written anew for each command, and everybody may ask. Guessed."""


class _Used(msgspec.Struct, frozen=True):
    seal: str
    origin: str
    time: Moment


class _Memory(msgspec.Struct):
    jobs: dict[str, _Used] = {}
    """By job id."""
    commands: dict[str, Moment] = {}
    """Signer and fingerprint → when it was given; kept for as long as a site would obey it."""
    commands_forgotten: Moment | None = None
    """The same for commands: the time of the newest of which the fingerprint is not kept any more."""
    forgotten: Moment | None = None
    """The time of the newest statement that made room: none that is as old is taken any more."""


def _now() -> datetime:
    return datetime.now(UTC)


class UsedStatements:
    """The memory of one site; lives in the event loop.

    It is bounded, and still nothing can be repeated once it is full: what is as old as the oldest record is refused.

    Args:
        path: the file; one that cannot be read is set aside, and nothing is taken that was signed before.
        limit: how many jobs are remembered.
        now: the time.
    """

    def __init__(self, path: Path, *, limit: int = MAX_JOBS, now: Callable[[], datetime] = _now) -> None:
        self._path = path
        self._limit = limit
        self._now = now
        self._memory = self._read()

    def _read(self) -> _Memory:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Memory)
        except FileNotFoundError:
            return _Memory()
        except (OSError, msgspec.MsgspecError, RecursionError) as exc:
            log.error("%s cannot be read, so older jobs are refused here from now on: %s", self._path, exc)  # noqa: TRY400
            return _Memory(commands_forgotten=self._now(), forgotten=self._now())

    def check_job(self, job_id: str, permit: Permit) -> None:
        """Refuse what was signed for another job.

        Raises:
            SignatureRefused: names that job.
        """
        jobs = self._memory.jobs
        known = jobs.get(job_id)
        if known is not None:
            if known.seal != permit.seal:
                raise _refused(f"the job {job_id} came here before, and something else was signed for it")
            return
        for other, used in jobs.items():
            if used.seal == permit.seal:
                raise _refused(f"what was signed is for the job {other}, not for {job_id}")
        original = jobs.get(permit.cloned_from)
        if original is not None and original.origin != permit.origin:
            raise _refused(f"it is no clone of {permit.cloned_from}: something else was signed for that job")
        forgotten = self._memory.forgotten
        if forgotten is not None and permit.time <= forgotten:
            raise _refused(f"it was signed at {permit.time:%Y-%m-%d %H:%M} UTC, before what this site remembers")

    def note_job(self, job_id: str, permit: Permit) -> None:
        """Remember what was signed for a job, before it starts.

        Raises:
            SignatureRefused: as `check_job`, or it cannot be written down.
        """
        self.check_job(job_id, permit)
        memory = self._memory
        if job_id in memory.jobs:
            return
        jobs = {**memory.jobs, job_id: _Used(permit.seal, permit.origin, permit.time)}
        forgotten = memory.forgotten
        while len(jobs) > self._limit:
            oldest = min(jobs, key=lambda one: jobs[one].time)
            gone = jobs.pop(oldest)
            forgotten = max(forgotten or gone.time, gone.time)
        self._keep(_Memory(jobs, memory.commands, memory.commands_forgotten, forgotten))

    def note_command(self, seal: str, time: datetime, *, signer: int) -> None:
        """Remember a command, before it is obeyed.

        Args:
            seal: its fingerprint.
            time: when it was given.
            signer: serial number of the certificate of whoever gave it.

        Raises:
            SignatureRefused: it was obeyed before, it is one too many, or it cannot be written down.
        """
        memory, now, own = self._memory, self._now(), f"{signer:x}."
        forgotten = memory.commands_forgotten
        if {seal, own + seal} & memory.commands.keys():  # the first as versions before this one noted it
            raise _refused("the command was obeyed here before")
        if forgotten is not None and time <= forgotten:
            raise _refused(f"it was given at {time:%H:%M:%S} UTC, before what this site remembers")
        kept = {one: given for one, given in memory.commands.items() if now - given <= 2 * COMMAND_AGE}
        if sum(one.startswith(own) for one in kept) >= MAX_COMMANDS:
            raise _refused(f"its signer gave {MAX_COMMANDS} commands within {2 * COMMAND_AGE}")
        # Not by age alone: a clock that jumps ahead and back would make room for what was obeyed already.
        gone = [given for one, given in memory.commands.items() if one not in kept]
        newest = max([*gone, *([forgotten] if forgotten else [])], default=None)
        self._keep(_Memory(memory.jobs, {**kept, own + seal: time}, newest, memory.forgotten))

    def _keep(self, memory: _Memory) -> None:
        try:
            write_atomically(self._path, msgspec.json.encode(memory))
        except OSError as exc:
            raise _refused(f"the site cannot note that it was used: {exc.strerror or exc}") from exc
        self._memory = memory


def _refused(why: str) -> SignatureRefused:
    return SignatureRefused(
        "The statement does not pass signature verification",
        why=why,
        hint="Submit the job again, or give the command again.",
    )
