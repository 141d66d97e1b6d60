"""The console's own commands, which ask nobody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy.console.command import Command, Reply
from clouddeploy.console.errors import SyntaxFault
from clouddeploy.tables import pairs

if TYPE_CHECKING:
    import argparse

    from clouddeploy.console.command import Arguments
    from clouddeploy.console.desk import Desk

_MAX_TIMEOUT_S = 86_400.0


def _takes_command(arguments: Arguments) -> None:
    arguments.add_argument("command", nargs="?", default="", help="one of them")


def _help(desk: Desk, given: argparse.Namespace) -> Reply:
    if given.command:
        command = desk.commands.get(given.command)
        if command is None:
            raise SyntaxFault(f"There is no command {given.command}", hint="`help` lists them.")
        right = f"\nNeeds the right {command.right}." if command.right else ""
        return Reply(f"{command.summary}{right}\n\n{command.parser().format_help().rstrip()}")
    shown = [(name, one.summary) for name, one in desk.commands.items() if not one.is_hidden]
    return Reply(f"{pairs(shown)}\n\n`help COMMAND` says more. `COMMAND > FILE` writes the answer to a file as well.")


def _lpwd(_desk: Desk, _given: argparse.Namespace) -> Reply:
    return Reply(str(Path.cwd()))


def _info(desk: Desk, _given: argparse.Namespace) -> Reply:
    kit = desk.kit
    values = {
        "User": kit.name,
        "Project": kit.project,
        "Server": f"{kit.server_name} ({kit.host}:{kit.port})",
        "Study": desk.session.study,
        "Upload from": str(kit.transfer),
        "Download to": str(kit.transfer),
        "Working folder": str(Path.cwd()),
    }
    return Reply(pairs(list(values.items())), data=values)


def _takes_timeout(arguments: Arguments) -> None:
    arguments.add_argument("seconds", nargs="?", type=float, help="how long each command may take")


def _timeout(desk: Desk, given: argparse.Namespace) -> Reply:
    if given.seconds is not None:
        if not 0 < given.seconds <= _MAX_TIMEOUT_S:
            raise SyntaxFault("The timeout cannot be used", why=f"it is {given.seconds:g} s", hint="timeout 10")
        desk.session.timeout_s = desk.session.sites.reply_s = given.seconds
    return Reply(f"Each command may take {desk.session.timeout_s:g} s.", data={"timeout_s": desk.session.timeout_s})


def _bye(desk: Desk, _given: argparse.Namespace) -> Reply:
    desk.is_over = True
    return Reply()


COMMANDS = (
    Command("help", "", "List the commands, or say how one is used; also `?`.", _help, _takes_command, ("command",)),
    Command("info", "", "Show who you are, the server, and the folders for jobs and results.", _info),
    Command("lpwd", "", "Show the working folder of the console.", _lpwd),
    Command("timeout", "", "Show or set how many seconds each command may take.", _timeout, _takes_timeout),
    Command("bye", "", "End the session and the console; also Ctrl-D.", _bye),
)
