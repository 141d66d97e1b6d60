"""A machine on which commands run and to which files go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Completed:
    """How a command ended.

    Attributes:
        status: its exit status.
        output: the last 64 KiB of standard output and error together.
    """

    status: int
    output: str


class Host(Protocol):
    """One connected machine; closed by who opened it. Used by one thread at a time."""

    name: str

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        sudo: bool = False,
        input: bytes = b"",
        check: bool = True,
    ) -> Completed:
        """Runs a command to its end.

        Raises:
            RemoteCommandFailed: it ended with another status than 0 and `check` is set.
            RemoteTimeout: it did not end in time.
        """
        ...

    def upload(self, source: Path, target: str, *, mode: int) -> str:
        """Copies a file: temporary name born with `mode`, digest compared there, renamed. Returns its sha256.

        Raises:
            UploadFailed: what arrived is not what was sent.
        """
        ...

    def read(self, path: str, *, limit: int) -> bytes | None:
        """Returns at most `limit` bytes of a file; None when it does not exist."""
        ...

    def close(self) -> None:
        """Ends the connection; may be repeated."""
        ...
