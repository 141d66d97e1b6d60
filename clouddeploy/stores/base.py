"""What every store of a deployment's state can do, and who holds it."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

STATE = "state.json"
"""Name of the state in every store."""


@dataclass(frozen=True)
class Stored:
    """The state as it was read."""

    body: bytes
    version: str
    """Changes with every write; opaque."""


class StateStore(Protocol):
    """Keeps one deployment's state and its append-only logs. Writes are for whoever holds the lock.

    Once a write returns, a kill of this process cannot lose it. A write of a run that lost the lock is refused.
    Every verb raises `StateError` when the store cannot be read or written.
    """

    @property
    def where(self) -> str:
        """Names the store, for people: a folder or an address."""
        ...

    def load(self) -> Stored | None:
        """Returns the state; None when there is none yet."""
        ...

    def save(self, body: bytes, *, version: str | None) -> str:
        """Replaces the state if it is still the one that `version` names; None: if there is none.

        Returns:
            The new version.

        Raises:
            LockedError: another run has written meanwhile.
        """
        ...

    def keep(self, name: str, body: bytes) -> None:
        """Writes a copy beside the state, unless there is one of that name."""
        ...

    def append(self, log: str, lines: bytes, *, at: int | None = None) -> int | None:
        """Appends whole lines to a log.

        Args:
            log: `journal.jsonl` or `audit.jsonl`.
            lines: end with a line feed.
            at: how long the log has to be, in bytes, for the lines to be written; None: however long it is.

        Returns:
            How long the log is now; None when it was not as long as `at` said, and nothing was written.

        Raises:
            LockedError: the lock was lost.
        """
        ...

    def read(self, log: str) -> bytes:
        """Returns a whole log; empty when there is none."""
        ...

    def locked(self, command: str) -> AbstractContextManager[None]:
        """Holds the deployment for the time of the `with` block.

        Raises:
            LockedError: another run holds it; says which.
        """
        ...


def holder_text(command: str) -> str:
    """Returns who is about to hold a lock, for whoever finds it held."""
    return f"{command}, pid {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def actor() -> str:
    """Returns who runs this process, `user@host`."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name  # and no variable of the environment, which anybody can set
    except KeyError:  # a container's user without an entry
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def lines_of(text: bytes) -> Iterator[bytes]:
    """Yields the lines of a log without their ends; a last one without its end comes too."""
    yield from (line for line in text.split(b"\n") if line)
