"""Pure builders of remote commands: lists of words, quoted once where they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def with_sudo(argv: Sequence[str]) -> list[str]:
    """Runs a command as root, never asking for a password."""
    return ["sudo", "-n", "--", *argv]


def digest(path: str) -> list[str]:
    """Prints the sha256 of a file."""
    return ["sha256sum", "--", path]


def rename(source: str, target: str) -> list[str]:
    """Replaces `target` by `source` in one step."""
    return ["mv", "-fT", "--", source, target]


def script(*arguments: str) -> list[str]:
    """Runs the script that is fed to standard input, with arguments."""
    return ["sh", "-s", "--", *arguments]
