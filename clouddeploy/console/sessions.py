"""The console's commands for the sessions of people at the server."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from clouddeploy.console.command import Command, Reply
from clouddeploy.tables import boxed

if TYPE_CHECKING:
    import argparse

    from clouddeploy.console.command import Arguments
    from clouddeploy.console.desk import Desk


def _list(desk: Desk, _given: argparse.Namespace) -> Reply:
    found = [asdict(one) for one in desk.session.sessions()]
    head = [name.upper().replace("_", " ") for name in found[0]] if found else []
    text = boxed(head, [list(one.values()) for one in found]) if found else "No sessions."
    return Reply(text, data=found)


def _takes_user(arguments: Arguments) -> None:
    arguments.add_argument("user", help="whose; see list_sessions")


def _end(desk: Desk, given: argparse.Namespace) -> Reply:
    desk.confirm(f"End every session of {given.user}?")
    ended = desk.session.end_sessions(given.user)
    return Reply(f"Ended {ended} session{'' if ended == 1 else 's'} of {given.user}.", data={"ended": ended})


COMMANDS = (
    Command("list_sessions", "list_sessions", "List who is logged in at the server.", _list),
    Command("end_sessions", "end_sessions", "End somebody's sessions at the server; asks first.", _end, _takes_user),
)
