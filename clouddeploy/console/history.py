"""The file with the lines that were typed: 0600, bounded, one line each; a kit that is read-only has none."""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING

from prompt_toolkit.history import History

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

NAME = ".admin_cli_history"
_MAX_LINE = 4096
_MODE = 0o600
"""Lines name jobs, people and files."""


class BoundedHistory(History):
    """The last lines that were typed.

    Args:
        path: the file; made with the first line.
        size: so many lines are kept.
    """

    def __init__(self, path: Path, *, size: int) -> None:
        super().__init__()
        self._path = path
        self._kept: deque[str] = deque(maxlen=size)
        self._written = 0
        """Lines in the file, as far as it is known."""

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines, the newest first; a link in the file's place is not followed."""
        try:
            with os.fdopen(
                os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8", errors="replace"
            ) as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as exc:
            log.warning("The history %s cannot be read: %s", self._path, exc)
            lines = []
        self._kept.extend(lines)
        self._written = len(lines)
        return reversed(self._kept)

    def store_string(self, string: str) -> None:
        """Add a line; a file with twice as many as are kept is written anew."""
        line = " ".join(string[:_MAX_LINE].splitlines())
        self._kept.append(line)
        self._written += 1
        is_anew = self._written > 2 * (self._kept.maxlen or 0)
        try:
            if is_anew:
                self._write(self._path.with_name(f"{NAME}.new"), self._kept, os.O_TRUNC)
                self._path.with_name(f"{NAME}.new").replace(self._path)
                self._written = len(self._kept)
            else:
                self._write(self._path, [line], os.O_APPEND)
        except OSError as exc:
            log.info("The history %s cannot be written: %s", self._path, exc)

    def _write(self, path: Path, lines: Iterable[str], how: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | how, _MODE)
        with os.fdopen(descriptor, "a" if how == os.O_APPEND else "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
