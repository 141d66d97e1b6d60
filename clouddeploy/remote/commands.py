"""Pure builders of remote commands: lists of words, quoted once where they leave."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def with_sudo(argv: Sequence[str]) -> list[str]:
    """Runs a command as root, never asking for a password."""
    return ["sudo", "-n", "--", *argv]


def script(*arguments: str) -> list[str]:
    """Runs the script that is fed to standard input, with arguments."""
    return ["sh", "-s", "--", *arguments]


def receive(target: str, *, mode: int, lost_s: int) -> list[str]:
    """Takes a file from standard input, as `receive` says; ends when nothing comes for `lost_s`."""
    return _python("receive.py", target, f"{mode:o}", str(lost_s))


def dial(root: str, *place: str, timeout_s: float) -> list[str]:
    """Tries the way from a site to its server, as `dial` says; `place` is host and port, if they are known."""
    return _python("dial.py", root, str(timeout_s), *place)


def _python(name: str, *arguments: str) -> list[str]:
    """Runs a program of ours that needs nothing but Python; it travels in the command itself, in no round trip."""
    folder = resources.files("clouddeploy.remote")
    program = folder.joinpath(name).read_text(encoding="utf-8")
    return ["sh", "-c", folder.joinpath("python.sh").read_text(encoding="utf-8"), "sh", program, *arguments]
