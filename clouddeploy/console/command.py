"""What a command of the console is: its name, who may use it, what it takes, what it does."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from clouddeploy.console.errors import SyntaxFault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clouddeploy_runtime.errors import ClouddeployError

    from clouddeploy.console.desk import Desk

_WIDTH = 100


class Arguments(argparse.ArgumentParser):
    """Reads a command's words; what is wrong is an error of the console, never the end of the program."""

    def __init__(self, name: str) -> None:
        super().__init__(
            prog=name,
            add_help=False,
            allow_abbrev=False,
            formatter_class=partial(argparse.HelpFormatter, width=_WIDTH, max_help_position=32),
        )
        self.color = False  # Python 3.14 colours usage, and the console writes to files, too
        self.takes_rest = False
        """Whether the last argument is all that follows, dashes and all."""

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Return what the words say; options may stand between them.

        Raises:
            SyntaxFault: they are not what is taken.
        """
        return self.parse_args(words) if self.takes_rest else self.parse_intermixed_args(words)

    def error(self, message: str) -> NoReturn:
        """Refuse the words, and say how the command is used.

        Raises:
            SyntaxFault: always.
        """
        raise SyntaxFault(f"{self.prog} cannot be used so", why=message, hint=self.usage_line())

    def usage_line(self) -> str:
        """Return how the command is used, in one line."""
        return " ".join(self.format_usage().split()).removeprefix("usage: ")


@dataclass(frozen=True)
class Reply:
    """What a command found out."""

    text: str = ""
    """For people; may be several lines, and hold what others wrote."""
    data: Any = None
    """The same for programs, made of what JSON has; None: the text is all there is."""
    fault: ClouddeployError | None = None
    """What failed although there is something to show."""


def _takes_nothing(_arguments: Arguments) -> None:
    """Add no argument."""


@dataclass(frozen=True)
class Command:
    """One command."""

    name: str
    right: str
    """Which right of the policy it needs, and whose when it is not the server's; empty: none, it stays here."""
    summary: str
    """What it does, for `help` and the page."""
    run: Callable[[Desk, argparse.Namespace], Reply]
    takes: Callable[[Arguments], None] = _takes_nothing
    """Adds what it takes."""
    completes: Sequence[str] = field(default=())
    """Kind of each argument without a dash, for completion: `job`, `site`, `client`, `target`, `folder`, `command`. The
    last one stands for all that follow."""
    is_hidden: bool = False
    """Whether `help` leaves it out of its list."""

    def parser(self) -> Arguments:
        """Return what reads its words."""
        arguments = Arguments(self.name)
        self.takes(arguments)
        return arguments

    def usage(self) -> str:
        """Return how it is used, in one line."""
        return self.parser().usage_line()
