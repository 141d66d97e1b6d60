"""`--schema`: what a command takes, for programs that call it."""

from __future__ import annotations

import json
from typing import Any

import click


def print_schema(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Prints the command's arguments and options as JSON and ends."""
    if not wanted or context.resilient_parsing:
        return
    command = context.command
    described = {
        "command": context.command_path,
        "description": (command.help or "").split("\n")[0],
        "arguments": [_describe(one) for one in command.params if isinstance(one, click.Argument)],
        "options": [_describe(one) for one in command.params if isinstance(one, click.Option) and one.name != "schema"],
    }
    click.echo(json.dumps(described, indent=2))
    context.exit(0)


def _describe(parameter: click.Parameter) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": parameter.type.name}
    if isinstance(parameter.type, click.Choice):
        kind = {"type": "choice", "choices": list(parameter.type.choices)}
    found = {"name": parameter.name, "required": parameter.required, "multiple": parameter.nargs != 1, **kind}
    if isinstance(parameter, click.Option):
        found |= {"flags": parameter.opts, "help": parameter.help or ""}
    return found
