"""All commands of the console, in the order of `help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy.console import jobs, local, sessions, shell, status, studies, system

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.console.command import Command

GROUPS: Mapping[str, tuple[Command, ...]] = {
    "Console": local.COMMANDS,
    "Jobs": jobs.COMMANDS,
    "Status": status.COMMANDS,
    "System": system.COMMANDS,
    "Shell": shell.COMMANDS,
    "Studies": studies.COMMANDS,
    "Sessions": sessions.COMMANDS,
}
"""Group → its commands; the page has one table of each."""

COMMANDS: Mapping[str, Command] = {command.name: command for group in GROUPS.values() for command in group}
OTHER_NAMES: Mapping[str, str] = {"?": "help", "exit": "bye", "quit": "bye"}
"""What else is understood."""
