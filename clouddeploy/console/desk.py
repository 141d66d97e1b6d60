"""What the commands of the console work with: session, kit, screen, and questions to who types."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.jobs.normal import is_job

from clouddeploy.console.errors import NotConfirmed, SyntaxFault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_runtime.admin.session import AdminSession
    from clouddeploy_runtime.kit import Kit

    from clouddeploy.console.command import Command
    from clouddeploy.console.keyboard import Keyboard
    from clouddeploy.console.screen import Screen

_YES = frozenset({"y", "yes"})
_FOLDER_MODE = 0o700
"""Results of jobs are for who may download them."""


@dataclass
class Desk:
    """The place where one person works."""

    session: AdminSession
    kit: Kit
    screen: Screen
    keyboard: Keyboard
    commands: Mapping[str, Command]
    is_over: bool = field(default=False)
    """Set by `bye`."""

    @property
    def user(self) -> str:
        """The person, as in the certificate."""
        return self.kit.name

    def transfer(self) -> Path:
        """Return the folder for jobs that go up and results that come down, made when it is not there."""
        self.kit.transfer.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        return self.kit.transfer

    def job_folder(self, name: str) -> Path:
        """Return the folder that is meant: of the transfer folder first, else below the working folder.

        Raises:
            SyntaxFault: there is none.
        """
        for folder in (self.kit.transfer / name, Path(name).expanduser()):
            if is_job(folder):
                return folder
        raise SyntaxFault(
            f"There is no job folder {name}",
            why=f"neither {self.kit.transfer} nor {Path.cwd()} has one with a meta.json",
            hint="Put it into the transfer folder, see `info`, or write its whole path.",
        )

    def confirm(self, question: str) -> None:
        """Go on when who types says y.

        Raises:
            NotConfirmed: the answer is another one, or there is none.
        """
        if self._answer(f"{question} (y/n): ").lower() not in _YES:
            raise NotConfirmed("Not confirmed", why="the answer was not y", hint="Nothing was changed.")

    def confirm_user(self, question: str) -> None:
        """Go on when who types writes the own user name once more, which no finger does by itself.

        Raises:
            NotConfirmed: it is another name, or there is none.
        """
        if self._answer(f"{question} Type your user name to confirm: ") != self.user:
            raise NotConfirmed("Not confirmed", why="it is not your user name", hint="Nothing was changed.")

    def _answer(self, prompt: str) -> str:
        try:
            return self.keyboard.answer(prompt).strip()
        except (EOFError, KeyboardInterrupt) as exc:
            raise NotConfirmed("Not confirmed", why="there was no answer", hint="Nothing was changed.") from exc
