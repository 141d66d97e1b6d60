"""Reads a line that was typed: words as a shell takes them, and where the answer goes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from clouddeploy.console.errors import SyntaxFault


@dataclass(frozen=True)
class Line:
    """One command."""

    words: tuple[str, ...]
    """The command's name and its arguments; empty for an empty line or a comment."""
    file: Path | None = None
    """`> file` and `>> file`: where the answer goes."""
    is_shown: bool = True
    """Whether the answer is shown as well: not with `>>`."""


def parse(text: str) -> Line:
    """Take a line apart; what stands in quotes is one word, and `#` at its begin makes it a comment.

    Raises:
        SyntaxFault: a quote is open, or it is not one file that the answer goes to.
    """
    if text.lstrip().startswith("#"):
        return Line(())
    at = _redirection(text)
    words = _words(text if at is None else text[:at])
    if at is None:
        return Line(words)
    mark = ">>" if text.startswith(">>", at) else ">"
    files = _words(text[at + len(mark) :])
    if len(files) != 1 or not words:
        raise SyntaxFault(
            f"The line cannot be read: {text.strip()}",
            why=f"after {mark} stands one file, and a command before it",
            hint="`list_jobs > jobs.txt` shows the answer and writes it, `list_jobs >> jobs.txt` only writes it.",
        )
    return Line(words, file=Path(files[0]).expanduser(), is_shown=mark == ">")


def _redirection(text: str) -> int | None:
    """Return where the first `>` stands that is in no quotes and not behind a backslash."""
    quote, is_escaped = "", False
    for at, sign in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif sign == "\\" and quote != "'":
            is_escaped = True
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign == ">":
            return at
    return None


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as exc:
        raise SyntaxFault(
            f"The line cannot be read: {text.strip()}",
            why=str(exc),
            hint="Close the quote, or put a backslash before it.",
        ) from exc
