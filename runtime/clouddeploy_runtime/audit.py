"""A hash-chained JSONL log of every command, allowed or refused."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clouddeploy_runtime.audit_chain import FIRST, KEPT, ROTATED, ChainBroken, digest, follow
from clouddeploy_runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_BYTES = 16 << 20
"""A full file is set aside as `<name>.1`, that one as `<name>.2`, and so on up to `KEPT`, at most 160 MiB in all."""
_REPAIRED = "audit_repaired"
_MAX_DETAIL = 2000
_MAX_NAME = 255
"""A site writes down whom the server names, which may be anything, and must find its last entry again."""
_TAIL_BYTES = 1 << 16
"""More than an entry has."""


class AuditUnwritable(RuntimeFault):
    """An answer cannot be recorded, so it is not given."""

    error_code = "AUDIT_UNWRITABLE"


class AuditLog:
    """Appends entries; each carries the hash of the one before, so a removed or edited line shows.

    Safe for several threads. A write takes as long as the disk needs, so an event loop leaves it to a thread.

    Args:
        path: the file, created 0600; an existing chain is continued. Half a line at its end, of a process that was
            killed, is cut off, which is an entry of its own.
        max_bytes: a larger file is set aside; the chain goes on in the next one.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._torn_at: int | None = None
        """Where the file ends, when what a failed write left there could not be taken away."""
        line, torn_bytes = _end_of(path)
        self._last = str(_parsed(line).get("hash", FIRST)) if line or not _before(path).exists() else _last_of(path)
        if torn_bytes:
            log.warning("%s ends with half a line of %d bytes, which is cut off", path, torn_bytes)
            self._torn_at = path.stat().st_size - torn_bytes
            with contextlib.suppress(OSError):  # the next entry cuts it, too, and says when it cannot
                self._own(_REPAIRED, f"{torn_bytes} bytes of half a line were cut off")

    def record(
        self,
        *,
        user: str,
        role: str,
        action: str,
        address: str,
        allowed: bool,
        detail: str = "",
        code: str = "",
        reference: str = "",
    ) -> None:
        """Append one entry and flush it to the disk before the command goes on.

        Args:
            user: who asks.
            role: the one that counts.
            action: for what.
            address: from where.
            allowed: the answer.
            detail: why, or more about it.
            code: of the error that a refusal is.
            reference: the same in each entry about one command, at the server and at sites.

        Raises:
            AuditUnwritable: it is not on the disk, and nothing of it is; the chain is as it was.
        """
        self._note(
            user=user,
            role=role,
            action=action,
            address=address,
            result="allowed" if allowed else "refused",
            code=code,
            detail=detail,
            reference=reference,
        )

    def record_end(
        self, *, user: str, role: str, action: str, address: str, reference: str, code: str = "", detail: str = ""
    ) -> None:
        """Append how something ended that was allowed: well, or with an error of a code.

        Raises:
            AuditUnwritable: as in `record`.
        """
        self._note(
            user=user,
            role=role,
            action=action,
            address=address,
            result="failed" if code else "done",
            code=code,
            detail=detail,
            reference=reference,
        )

    def _note(self, **facts: str) -> None:
        with self._lock, self._named():
            if self._path.exists() and self._path.stat().st_size >= self._max_bytes:
                self._rotate()
            self._append(**facts)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise AuditUnwritable(
                f"The command cannot be recorded in {self._path.name}",
                why=exc.strerror or str(exc),
                hint="Look at the disk of the machine that says this.",
            ) from exc

    def _own(self, action: str, detail: str) -> None:
        """Append what no person did."""
        self._append(user="", role="", action=action, address="", result="allowed", detail=detail)

    def _append(self, *, action: str, detail: str, **facts: str) -> None:
        entry: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "user": facts["user"][:_MAX_NAME],
            "role": facts["role"][:_MAX_NAME],
            "action": action[:100],
            "address": facts["address"][:_MAX_NAME],
            "result": facts["result"],
            "code": facts.get("code", "")[:_MAX_NAME],
            "detail": detail[:_MAX_DETAIL],
            "reference": facts.get("reference", "")[:_MAX_NAME],
            "previous": self._last,
        }
        entry["hash"] = own = digest(self._last, entry)
        self._write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self._last = own  # not before: an entry that is not there would break the chain for ever

    def _write(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if self._torn_at is not None:
                os.ftruncate(descriptor, self._torn_at)
                self._torn_at = None
            end = os.fstat(descriptor).st_size
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except OSError:
                self._torn_at = end
                with contextlib.suppress(OSError):  # else the next write does it first
                    os.ftruncate(descriptor, end)
                    self._torn_at = None
                raise
        finally:
            os.close(descriptor)

    def _rotate(self) -> None:
        """Set the full file aside; the first entry of the next one carries the hash of its last."""
        for number in range(KEPT, 0, -1):
            older = self._path if number == 1 else _aside(self._path, number - 1)
            if older.exists():
                older.replace(_aside(self._path, number))
        self._torn_at = None
        self._own(ROTATED, f"goes on from {_before(self._path).name}")


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _before(path: Path) -> Path:
    """Return the file whose chain a file continues, if it is there."""
    stem, _, number = path.name.rpartition(".")
    return _aside(path.with_name(stem), int(number) + 1) if number.isdigit() else _aside(path, 1)


def _end_of(path: Path) -> tuple[bytes, int]:
    """Return the last whole line, and the length of what stands behind it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return b"", 0
    whole, end, torn = tail.rpartition(b"\n")
    return whole.rpartition(b"\n")[2] + end, len(torn)


def _last_of(path: Path) -> str:
    """Return the hash that the next entry of a file with none yet continues."""
    return str(_parsed(_end_of(_before(path))[0]).get("hash", FIRST))


def _parsed(line: bytes) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def first_broken_line(path: Path) -> int | None:
    """Return the number (from 1) of the first line that does not continue the chain; None when all do.

    The first line of a file continues the one that was set aside before it. When that one has gone, as the oldest ones
    do, it is believed if it says that the file was begun so.
    """
    try:
        for _ in follow(path.read_bytes(), previous=_last_of(path), is_part=not _before(path).exists()):
            pass
    except ChainBroken as exc:
        return exc.line
    return None
