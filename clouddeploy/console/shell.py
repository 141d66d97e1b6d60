"""The console's commands for files in the workspace of one site; the site decides what may be seen."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from clouddeploy.console.command import Command, Reply
from clouddeploy.console.errors import SyntaxFault
from clouddeploy.console.targets import with_text

if TYPE_CHECKING:
    from clouddeploy.console.command import Arguments
    from clouddeploy.console.desk import Desk


def _takes_words(arguments: Arguments) -> None:
    arguments.add_argument("target", help="server, or a client")
    arguments.add_argument("words", nargs=argparse.REMAINDER, help="as the command takes them")
    arguments.usage = f"{arguments.prog} target [options] {'text ' if arguments.prog == 'grep' else ''}file"
    arguments.takes_rest = True


def _takes_target(arguments: Arguments) -> None:
    arguments.add_argument("target", help="server, or a client")
    arguments.set_defaults(words=())


def _run(desk: Desk, given: argparse.Namespace, *, name: str) -> Reply:
    if given.target in {"all", "client"}:
        raise SyntaxFault(
            f"{name} is for one participant", why=f"the target is {given.target}", hint="Name the server or a client."
        )
    replies = desk.session.sites.shell(given.target, name, *given.words)
    text = "\n".join(str(reply.data.get("text", "")).rstrip("\n") for reply in replies.values() if reply.is_ok)
    return with_text(replies, text)


def _command(name: str, summary: str) -> Command:
    takes = _takes_target if name == "pwd" else _takes_words
    return Command(name, name, summary, partial(_run, name=name), takes, ("site",))


COMMANDS = (
    _command("pwd", "Show where the workspace of a site is."),
    _command("ls", "List files of a site's workspace."),
    _command("cat", "Show a text file of a site's workspace."),
    _command("head", "Show the first lines of a text file."),
    _command("tail", "Show the last lines of a text file."),
    _command("grep", "Show the lines of a text file that hold a text."),
)
