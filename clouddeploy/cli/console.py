"""`console`: commands to a running federation at a prompt, or line by line from a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from clouddeploy_runtime import kit as kit_format

from clouddeploy import admin_kits
from clouddeploy.cli.main import Session, command_options, end_at_once
from clouddeploy.console.errors import CommandsFailed
from clouddeploy.console.opening import Options, sit_down
from clouddeploy.errors import ConfigError

_DEFAULT = Options()


@click.command()
@click.option("--startup-kit", type=click.Path(path_type=Path), help="An admin's startup kit.")
@click.option("--kit-id", default="", help="The same by its name, see `config`.")
@click.option("--user", default="", help="The user name, which is asked for otherwise; the one in the certificate.")
@click.option("--study", default=_DEFAULT.study, show_default=True, help="The study to work in.")
@click.option(
    "--cli_history_size",
    "--cli-history-size",
    "history_size",
    type=click.IntRange(1, 100_000),
    default=_DEFAULT.history_size,
    show_default=True,
    help="Lines that the history keeps.",
)
@click.option("--with_debug", "--with-debug", is_flag=True, help="Show tracebacks of what fails.")
@click.option(
    "--idle-timeout",
    "idle_s",
    type=click.FloatRange(min=0, min_open=True),
    default=_DEFAULT.idle_s,
    show_default=True,
    help="Log out after so many seconds without input.",
)
@click.option(
    "--timeout",
    "--connect-timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=_DEFAULT.timeout_s,
    show_default=True,
    help="Seconds that connecting and each command may take.",
)
@click.option("--keep-going", is_flag=True, help="Of a script: go on after a command that failed.")
@command_options
def console(
    session: Session,
    *,
    startup_kit: Path | None,
    kit_id: str,
    user: str,
    study: str,
    history_size: int,
    with_debug: bool,
    idle_s: float,
    timeout_s: float,
    keep_going: bool,
) -> None:
    """Open the admin console; where stdin is no terminal, do the commands that come from there."""
    is_terminal = sys.stdin.isatty()
    if is_terminal and (session.output.as_json or not session.may_ask):
        raise ConfigError(
            "the console cannot be opened so",
            why="stdin is a terminal, so a person is asked for commands",
            hint="pipe the commands into it, or leave out --no-input and --output json",
        )
    root = admin_kits.choose(kit_id=kit_id, startup_kit=startup_kit)
    kit_format.verify(root)
    options = Options(
        user=user,
        study=study,
        history_size=history_size,
        idle_s=idle_s,
        timeout_s=timeout_s,
        is_terminal=is_terminal,
        is_shown=not session.output.as_json,
        keeps_going=keep_going,
        shows_tracebacks=with_debug or session.output.verbose,
    )
    # Ctrl-C gives up a line or an answer, and not the console.
    end_at_once()
    closed = sit_down(kit_format.load(root), options)
    data = {"commands": [one.document() for one in closed.done]}
    if closed.fault is not None:
        if session.output.as_json or isinstance(closed.fault, CommandsFailed):
            session.output.error(closed.fault, data=data)
        sys.exit(closed.fault.exit_code)
    if session.output.as_json:
        session.output.result(data, "")
