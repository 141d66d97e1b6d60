"""Checks audit logs: each line carries the hash of the one before, in the logs of sites as in those of deployments.

A line that was changed, removed, moved or inserted shows, and so does a beginning that was cut off, over each file that
was set aside. That lines were cut off at the end shows only to somebody who kept a later hash (`known`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FIRST = "0" * 64
"""What the first entry of a log continues."""
KEPT = 9
"""So many full files are set aside, `<name>.1` the newest."""
ROTATED = "audit_rotated"
"""Action of the first entry of a file that goes on from one that was set aside."""
TORN = "torn line"
"""Event of an entry that follows half a line; a kill cut that one off while it was written."""


class AuditBroken(RuntimeFault):
    """A log is not as it was written."""

    error_code = "AUDIT_BROKEN"


class ChainBroken(Exception):
    """A line does not continue the chain.

    Args:
        line: its number, from 1.
    """

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line}")
        self.line = line


@dataclass(frozen=True)
class Verified:
    """What an unbroken audit log holds."""

    entries: int
    last_hash: str
    """Keep it elsewhere: a later verification can then tell that nothing up to it was cut off."""
    torn_lines: int = 0
    """Lines cut by a kill, recorded as such by the entry that follows; one at the very end counts too."""


@dataclass(frozen=True)
class Link:
    """A line of an unbroken log."""

    hash: str
    entry: Mapping[str, Any] | None = None
    """None: half a line, which follows the entry of that hash."""
    torn: bytes = b""
    """The half line."""


def digest(previous: str, entry: Mapping[str, Any]) -> str:
    """Return the hash of an entry that continues another one."""
    body = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


def follow(body: bytes, *, previous: str = FIRST, is_part: bool = False) -> Iterator[Link]:
    """Yield a link per entry, and one per half line, which either the next entry records or nothing follows.

    Args:
        body: of a file.
        previous: the hash that its first entry continues.
        is_part: the file before is not there: the first entry is believed if it says that it goes on from one.

    Raises:
        ChainBroken: a line does not continue the chain.
    """
    last, torn = previous, b""
    number = 0
    for number, line in enumerate(body.removesuffix(b"\n").split(b"\n") if body else (), start=1):
        if number == 1 and is_part:
            last = _claimed(line, last)
        entry = _continuing(line, last)
        if torn:
            digest_of_torn = hashlib.sha256(torn).hexdigest()
            if entry is None or entry.get("event") != TORN or entry.get("sha256") != digest_of_torn:
                raise ChainBroken(number - 1)
            yield Link(last, torn=torn)
            torn = b""
        elif entry is None:
            torn = line or b" "
            continue
        last = str(entry["hash"])
        yield Link(last, entry=entry)
    if torn:
        if body.endswith(b"\n"):
            raise ChainBroken(number)
        yield Link(last, torn=torn)


def _claimed(line: bytes, usual: str) -> str:
    entry = _parsed(line)
    return str(entry.get("previous")) if entry.get("action") == ROTATED else usual


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _continuing(line: bytes, previous: str) -> dict[str, Any] | None:
    """Return an entry with its hash when it continues the chain."""
    entry = _parsed(line)
    claimed = entry.pop("hash", None)
    if entry.get("previous") != previous or claimed != digest(previous, entry):
        return None
    return {**entry, "hash": claimed}


def files_of(path: Path) -> list[Path]:
    """Return a log's files, oldest first: those that were set aside before it, and itself."""
    stem, _, number = path.name.rpartition(".")
    newest = int(number) if number.isdigit() and len(number) < len(str(KEPT)) + 1 else 0
    name = stem if newest else path.name
    found = [path]
    while (older := path.with_name(f"{name}.{newest + len(found)}")).exists():
        found.insert(0, older)
    return found


def read(path: Path, *, is_part: bool = False) -> Iterator[tuple[Path, Link]]:
    """Yield the lines of a log with the files they stand in, those that were set aside first.

    Raises:
        AuditBroken: a file cannot be read, or a line does not continue the chain; names the first one.
    """
    files, last = files_of(path), FIRST
    # The tenth file that is set aside pushes out the oldest; before that, the first of all is still there.
    has_lost_one = files[0].name.endswith(f".{KEPT}")
    for file in files:
        try:
            body = file.read_bytes()
        except OSError as exc:
            raise AuditBroken(f"{file} cannot be read", why=exc.strerror or str(exc)) from exc
        is_first = file is files[0]
        try:
            for link in follow(body, previous=last, is_part=is_first and (is_part or has_lost_one)):
                last = link.hash
                yield file, link
        except ChainBroken as exc:
            raise broken(str(file), exc.line, first=body.split(b"\n", 1)[0] if is_first else b"") from exc


def verify(path: Path, *, known: str = "", is_part: bool = False) -> Verified:
    """Return what a log holds, after checking every line of it and of what was set aside before.

    Args:
        path: the newest file.
        known: the hash of an entry that must be in it.
        is_part: believe how the oldest file begins, since those before it are elsewhere.

    Raises:
        AuditBroken: it cannot be read or is empty, a line does not continue the chain (names the first), or `known` is
            missing.
    """
    found = counted((link for _, link in read(path, is_part=is_part)), known=known, where=str(path))
    if found == Verified(0, FIRST):
        raise AuditBroken(f"There is no entry in {path}", hint="Name an audit.jsonl.")
    return found


def counted(links: Iterable[Link], *, known: str, where: str) -> Verified:
    """Return what the lines of a log are.

    Raises:
        AuditBroken: the entry with the hash `known` is missing.
    """
    entries, torn, last, seen = 0, 0, FIRST, not known
    for link in links:
        entries += link.entry is not None
        torn += bool(link.torn)
        last = link.hash
        seen = seen or last == known
    if not seen:
        raise AuditBroken(
            f"{where} does not hold the entry {known}",
            why="lines were cut off at its end, or the whole chain was written anew",
            hint="restore it from a backup and find out who could write it",
        )
    return Verified(entries, last, torn)


def broken(where: str, line: int, *, first: bytes = b"") -> AuditBroken:
    """Return the error of a log that is broken at a line; `first` is the oldest file's first one."""
    if line == 1 and _parsed(first).get("action") == ROTATED:
        return AuditBroken(
            f"{where} is broken at line 1",
            why="it goes on from a file that is not there",
            hint="put the files that were set aside beside it; where they are elsewhere, verify it with --part",
        )
    return AuditBroken(
        f"{where} is broken at line {line}",
        why="that line does not continue the chain: it was changed, or lines before it were removed or inserted",
        hint="rely on nothing from this line on: move the log aside, compare it with a backup and find out who could "
        "write it; the next run begins a new one",
    )
