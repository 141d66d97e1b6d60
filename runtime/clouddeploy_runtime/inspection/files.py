"""Looks into the text files of a workspace: what `pwd`, `ls`, `cat`, `head`, `tail` and `grep` mean here.

No program is run. A path is relative, goes nowhere but down, and no link on it is followed, since jobs write there.
What is not shown, whoever asks: the kit, the site's own data, hidden files, the audit log, and the parent's records of
what people signed and who is in which study. What is in a job's folder is part of its result: `jobs_in` names the jobs
of which the asker needs that right, too.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

from clouddeploy_runtime import job_folders
from clouddeploy_runtime.errors import InvalidCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

TEXT = (".txt", ".log", ".json", ".csv", ".sh", ".config", ".py")
"""Ends of the names of files that are read; the reference's."""
MAX_BYTES = 1 << 20
"""Of one answer."""
MAX_LINES = 10_000
"""That `head` and `tail` show."""
_PATH = re.compile(r"[A-Za-z0-9._/-]+")
_MAX_PATH = 1000
_MAX_ENTRIES = 5000
_MAX_WORDS = 10
_MAX_PATTERN = 200
_LINE_BYTES = 1 << 16
"""A longer line is taken in pieces, so that a file without lines is no danger."""
_SEARCH_BYTES = 256 << 20
_SEARCH_S = 5.0
_USUAL_LINES = 10
_CLOSED = frozenset(
    {"used_statements.json", "admitted.json", "record.json", "manifest.bin", "deleted.json", "studies.json"}
)
"""Who signed what for which job, the tokens of submissions, and the members of studies."""
_JOBS = "jobs"
_JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""As the server makes them, whose jobs may be in a folder of another name."""
_CLOSED_STARTS = (".", "audit.")
_OPTIONS: Mapping[str, str] = {"ls": "alrt", "cat": "n", "head": "", "tail": "", "grep": "cinvF", "pwd": ""}
"""Options without a value, by command."""
_VALUED: Mapping[str, str] = {"head": "nc", "tail": "nc"}


class PathRefused(InvalidCommand):
    """A file is not one that is shown."""

    error_code = "PATH_REFUSED"


@dataclass(frozen=True)
class _Words:
    """What stands behind the name of a command."""

    options: frozenset[str]
    values: Mapping[str, int]
    others: tuple[str, ...]


@dataclass
class _Text:
    """Lines up to a limit."""

    limit: int = MAX_BYTES
    parts: list[str] = field(default_factory=list)
    is_cut: bool = False

    def add(self, line: str) -> bool:
        """Take a line; returns whether there is room for more."""
        if len(line) > self.limit:
            self.is_cut = True
            return False
        self.limit -= len(line)
        self.parts.append(line)
        return True

    def answer(self) -> dict[str, object]:
        return {"text": "".join(self.parts), "is_cut": self.is_cut}


class Shell:
    """The files of one workspace.

    Args:
        workspace: where paths begin.
        kit: the startup kit, which may lie below it, or around it.
        hidden: further folders of which nothing is shown, whether they are there or not.
        clock: seconds that only grow.
    """

    def __init__(
        self, workspace: Path, kit: Path, *, hidden: Iterable[Path] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = workspace.resolve()
        self._clock = clock
        root = kit.resolve()
        is_inside = root.is_relative_to(self._root) and root != self._root
        own = (root,) if is_inside else (root / "startup", root / "local", root / "transfer")
        self._closed = (*own, *(way for one in hidden for way in (self._root / one, one.resolve())))

    def run(self, command: str, words: Sequence[str]) -> dict[str, object]:
        """Return `text`, and whether it `is_cut`.

        Args:
            command: one of `questions.SHELL`.
            words: what follows it.

        Raises:
            InvalidCommand: an option or argument is wrong.
            PathRefused: the path leads to nothing that is shown.
        """
        given = _parsed(command, words)
        if command == "pwd":
            return _Text(parts=[f"{self._root}\n"]).answer()
        if command == "ls":
            return self._ls(given)
        pattern, paths = ("", given.others) if command != "grep" else (_pattern(given.others), given.others[1:])
        if len(paths) != 1:
            raise InvalidCommand(f"{command} takes one file", why=f"{len(paths)} are named")
        with self._opened(paths[0]) as file:
            if command == "cat":
                return _numbered(_lines(file), given).answer()
            if command == "head":
                return _head(file, given).answer()
            if command == "tail":
                return _tail(file, given).answer()
            return self._grep(file, pattern, given).answer()

    def _parts(self, path: str) -> tuple[str, ...]:
        """Return the names in a path that may be looked at.

        Raises:
            PathRefused: it may not.
        """
        if path.startswith("/"):
            raise _refused(path, "it must be relative to the workspace")
        if len(path) > _MAX_PATH or not _PATH.fullmatch(path):
            raise _refused(path, "a path holds letters, digits, and the signs . _ / -")
        parts = tuple(part for part in path.split("/") if part not in {"", "."})
        if ".." in parts:
            raise _refused(path, "it must not hold ..")
        whole = self._root.joinpath(*parts)
        if any(whole.is_relative_to(one) for one in self._closed) or not all(map(_is_open, parts)):
            raise _refused(path, "it is not shown")
        return parts

    def _opened(self, path: str) -> IO[bytes]:
        parts = self._parts(path)
        if not parts or not parts[-1].endswith(TEXT):
            raise _refused(path, f"only {', '.join(TEXT)} are shown")
        try:
            return job_folders.opened(self._root, "/".join(parts))
        except OSError as exc:
            raise _refused(path, "there is no such file, or a link is on the way") from exc

    def _ls(self, given: _Words) -> dict[str, object]:
        if len(given.others) > 1:
            raise InvalidCommand("ls takes one folder", why=f"{len(given.others)} are named")
        path = given.others[0] if given.others else "."
        parts = self._parts(path)
        try:
            entries = self._entries(parts)
        except OSError as exc:
            raise _refused(path, "there is no such file, or a link is on the way") from exc
        found = _Text(is_cut=len(entries) > _MAX_ENTRIES)
        key = (lambda one: -one[1].st_mtime) if "t" in given.options else (lambda one: one[0])
        for name, status in sorted(entries[:_MAX_ENTRIES], key=key, reverse="r" in given.options):
            if not found.add(_long(name, status) if "l" in given.options else f"{name}\n"):
                break
        return found.answer()

    def _entries(self, parts: Sequence[str]) -> list[tuple[str, os.stat_result]]:
        """Return the entries of a folder that are shown, or a file as the only one."""
        folder = self._folder(parts[:-1])
        try:
            if parts:
                status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    return [(parts[-1], status)]
                before, folder = folder, job_folders.opened_folder(parts[-1], inside=folder)
                os.close(before)
            whole = self._root.joinpath(*parts)
            with os.scandir(folder) as entries:
                shown = (one for one in entries if _is_open(one.name) and whole / one.name not in self._closed)
                return [
                    (one.name, one.stat(follow_symlinks=False)) for one in itertools.islice(shown, _MAX_ENTRIES + 1)
                ]
        finally:
            os.close(folder)

    def _folder(self, parts: Sequence[str]) -> int:
        """Return a descriptor of a folder below the workspace; no link is followed."""
        inside = job_folders.opened_folder(str(self._root))
        for part in parts:
            try:
                below = job_folders.opened_folder(part, inside=inside)
            finally:
                os.close(inside)
            inside = below
        return inside

    def _grep(self, file: IO[bytes], pattern: str, given: _Words) -> _Text:
        """Search for plain text, not for an expression, which could take for ever; bounded in bytes and time."""
        wanted = pattern.casefold() if "i" in given.options else pattern
        found, count, deadline, read = _Text(), 0, self._clock() + _SEARCH_S, 0
        for number, line in enumerate(_lines(file), 1):
            read += len(line)
            if read > _SEARCH_BYTES or self._clock() > deadline:
                found.is_cut = True
                break
            if (wanted in (line.casefold() if "i" in given.options else line)) is ("v" in given.options):
                continue
            count += 1
            shown = f"{number}:{line}" if "n" in given.options else line
            if "c" not in given.options and not found.add(shown if shown.endswith("\n") else f"{shown}\n"):
                break
        if "c" in given.options:
            found.add(f"{count}\n")
        return found


def words_of(text: str) -> list[str]:
    """Return the words of a question, which are JSON.

    Raises:
        InvalidCommand: they are none.
    """
    try:
        words = json.loads(text or "[]")
    except (ValueError, RecursionError) as exc:
        raise InvalidCommand("The command cannot be read", why=str(exc)) from exc
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidCommand("The command cannot be read", why="its words are no list of texts")
    return words


def jobs_in(command: str, words: Sequence[str]) -> frozenset[str]:
    """Return the ids of the jobs whose folders a command looks into.

    Raises:
        InvalidCommand: an option is not known.
    """
    others = _parsed(command, words).others
    found: set[str] = set()
    for path in others[1:] if command == "grep" else others:
        parts = [part for part in path.split("/") if part not in {"", "."}]
        found |= {part for before, part in zip(["", *parts], parts, strict=False) if before == _JOBS}
        found |= {part for part in parts if _JOB_ID.fullmatch(part)}
    return frozenset(found)


def _parsed(command: str, words: Sequence[str]) -> _Words:
    """Tell options from the rest, as getopt(3) does, up to a word `--`.

    Raises:
        InvalidCommand: an option is not known.
    """
    if len(words) > _MAX_WORDS:
        raise InvalidCommand(f"{command} takes fewer words", why=f"there are {len(words)}")
    options: set[str] = set()
    values: dict[str, int] = {}
    others: list[str] = []
    left = deque(words)
    while left:
        word = left.popleft()
        if word == "--":
            others += left
            break
        if not word.startswith("-") or word == "-" or (command == "grep" and others):
            others.append(word)
            continue
        name, rest = word[1:2], word[2:]
        if name in _VALUED.get(command, ""):
            values[name] = _number(command, word, rest or (left.popleft() if left else ""))
        elif _VALUED.get(command) and word[1:].isdigit():
            values["n"] = _number(command, word, word[1:])
        elif set(word[1:]) <= set(_OPTIONS[command]):
            options |= set(word[1:])
        else:
            raise InvalidCommand(f"{command} has no option {word[:20]!r}")
    return _Words(frozenset(options), values, tuple(others))


def _number(command: str, option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_BYTES)):
        raise InvalidCommand(f"{command} {option[:20]} needs a number", why=f"it has {text[:20]!r}")
    return int(text)


def _pattern(others: Sequence[str]) -> str:
    if not others or not 0 < len(others[0]) <= _MAX_PATTERN:
        raise InvalidCommand("grep needs what to look for", why=f"a text of 1 to {_MAX_PATTERN} signs")
    return others[0]


def _is_open(name: str) -> bool:
    return name not in _CLOSED and not name.startswith(_CLOSED_STARTS)


def _lines(file: IO[bytes]) -> Iterator[str]:
    while line := file.readline(_LINE_BYTES):
        yield line.decode("utf-8", "replace")


def _numbered(lines: Iterable[str], given: _Words) -> _Text:
    found = _Text()
    for number, line in enumerate(lines, 1):
        if not found.add(f"{number:6}\t{line}" if "n" in given.options else line):
            break
    return found


def _head(file: IO[bytes], given: _Words) -> _Text:
    if "c" in given.values:
        size = given.values["c"]
        return _Text(parts=[file.read(min(size, MAX_BYTES)).decode("utf-8", "replace")], is_cut=size > MAX_BYTES)
    return _numbered(itertools.islice(_lines(file), min(given.values.get("n", _USUAL_LINES), MAX_LINES)), given)


def _tail(file: IO[bytes], given: _Words) -> _Text:
    size = os.fstat(file.fileno()).st_size
    taken = min(size, MAX_BYTES, given.values.get("c", MAX_BYTES))
    file.seek(size - taken)
    text = file.read(taken).decode("utf-8", "replace")
    if "c" in given.values:
        return _Text(parts=[text], is_cut=given.values["c"] > MAX_BYTES)
    lines, wanted = text.splitlines(keepends=True), min(given.values.get("n", _USUAL_LINES), MAX_LINES)
    is_short = len(lines) <= wanted and taken < size  # there are more, and the first of these may be half a line
    return _Text(parts=lines[1:] if is_short else lines[len(lines) - min(wanted, len(lines)) :], is_cut=is_short)


def _long(name: str, status: os.stat_result) -> str:
    when = datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
    return f"{stat.filemode(status.st_mode)} {status.st_size:>12} {when} {name}\n"


def _refused(path: str, why: str) -> PathRefused:
    return PathRefused(f"{path[:_MAX_PATTERN]!r} cannot be shown", why=why, hint="Look with `ls` what there is.")
