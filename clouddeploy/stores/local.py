"""The state in a folder of this machine: plain files, and a lock that the kernel takes back when its holder dies."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clouddeploy import durable
from clouddeploy.errors import LockedError, StateError
from clouddeploy.stores.base import STATE, Stored, holder_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class LocalStore:
    """See `StateStore`.

    Args:
        directory: made, 0700, when the lock is taken.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def where(self) -> str:
        """The folder."""
        return str(self._directory)

    def load(self) -> Stored | None:
        """Returns the state; its version is the digest of the file."""
        path = self._directory / STATE
        try:
            body = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(
                f"cannot read the state {path}", why=str(error), hint="fix the permissions, then repeat"
            ) from error
        return Stored(body, hashlib.sha256(body).hexdigest())

    def save(self, body: bytes, *, version: str | None) -> str:
        """Replaces the file, unless somebody else did since it was read."""
        path = self._directory / STATE
        there = self.load()
        if (there.version if there else None) != version:
            raise LockedError(
                f"the state {path} is not the one that was read",
                why="another run or an editor has changed it meanwhile",
                hint="nothing was overwritten; run the same command again",
            )
        try:
            durable.replace(path, body.decode())
        except OSError as error:
            raise StateError(f"cannot write the state {path}", why=str(error), hint="make room, then repeat") from error
        return hashlib.sha256(body).hexdigest()

    def keep(self, name: str, body: bytes) -> None:
        """Writes a copy beside the state."""
        path = self._directory / name
        try:
            if not path.exists():
                durable.replace(path, body.decode())
        except OSError as error:
            raise StateError(f"cannot write {path}", why=str(error), hint="make room, then repeat") from error

    def append(self, log: str, lines: bytes, *, at: int | None = None) -> int | None:
        """Appends to a file, 0600, and waits for the disk."""
        path = self._directory / log
        try:
            return durable.append(path, lines, at=at)
        except OSError as error:
            raise StateError(
                f"cannot write {path}", why=str(error), hint="make room or fix the permissions, then repeat"
            ) from error

    def read(self, log: str) -> bytes:
        """Returns a file's content."""
        path = self._directory / log
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StateError(f"cannot read {path}", why=str(error), hint="fix the permissions, then repeat") from error

    @contextmanager
    def locked(self, command: str) -> Iterator[None]:
        """Holds the folder; the kernel lets go when the process dies."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.MODE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
                raise LockedError(
                    f"another run holds the deployment in {self._directory}",
                    why=holder or "its holder has not said who it is yet",
                    hint="wait until it ends; the lock goes with its process",
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder_text(command).encode(), 0)
            yield
        finally:
            os.close(descriptor)
