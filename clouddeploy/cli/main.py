"""The click group, the options every command has, and the single `except` that turns errors into exit codes."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from clouddeploy_runtime.errors import ClouddeployError, ExitCode

from clouddeploy.cli.output import Output
from clouddeploy.cli.schema import print_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMANDS = {
    "access": ("access", "Open SSH to the address this machine has now."),
    "audit": ("audit", "Verify what was recorded of everything done."),
    "cert": ("cert", "Certificates: list, renew, revoke; requests of sites that keep their own key."),
    "apply": ("deploy", "Make the deploy file true: machines, kits, server, clients."),
    "cost": ("machines", "Show what runs costs, and what it has cost so far."),
    "exec": ("machines", "Run a command at a site's machine."),
    "export": ("machines", "Export an ssh_config for other tools."),
    "forward": ("machines", "Make ports of a site ports of this machine."),
    "launch": ("launch", "Start one startup kit on a machine of its own in a cloud."),
    "logs": ("machines", "Show a site's log, or follow it."),
    "ssh": ("machines", "Open a terminal at a site's machine."),
    "destroy": ("deploy", "Delete everything a deployment made, and verify it."),
    "job": ("job", "Submit, watch, abort, repeat, delete and download jobs."),
    "package": ("cert", "Make the startup kit from what the project admin approved."),
    "plan": ("deploy", "Show what apply would do."),
    "preflight": ("preflight", "Check a startup kit before it starts."),
    "provision": ("provision", "Make signed startup kits from a project file."),
    "rehearse": ("rehearse", "Run a deploy file against emulated clouds on this machine."),
    "rollback": ("upgrade", "Bring a site to the release that it had before."),
    "status": ("deploy", "Ask every site how it is."),
    "sweep": ("sweep", "Find what carries our tags and belongs to no known state."),
    "upgrade": ("upgrade", "Bring running sites to this version, and back where that fails."),
}
"""Command → module and help; the module is imported only when its command runs, so that help stays fast."""


class Interruption(BaseException):
    """The second Ctrl-C."""


@dataclass(frozen=True)
class Session:
    """What the common options of a command came to."""

    output: Output
    may_ask: bool
    cancel: threading.Event


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"clouddeploy.cli.{COMMANDS[name][0]}")
        # `exec_`: what is built in keeps its name.
        command: click.Command = getattr(module, name, None) or getattr(module, f"{name}_")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="clouddeploy", message="%(prog)s %(version)s")
def cli() -> None:
    """Take a federated-learning project to running sites on Azure, AWS and on premises, and back to nothing."""


def command_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds `--output`, `--no-input`, `--schema` and `-v`, and gives the command a `Session` as its first argument."""

    @click.option("--output", "form", type=click.Choice(["text", "json"]), default="text", help="Form of the result.")
    @click.option("--no-input", is_flag=True, help="Never ask; fail instead.")
    @click.option(
        "--schema",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=print_schema,
        help="Show what it takes, as JSON.",
    )
    @click.option("-v", "--verbose", is_flag=True, help="Log more, and show tracebacks.")
    @wraps(function)
    def wrapped(*args: Any, form: str, no_input: bool, verbose: bool, **kwargs: Any) -> None:
        logging.basicConfig(
            level=logging.INFO if verbose else logging.ERROR,
            stream=sys.stderr,
            format="%(levelname)s %(name)s %(message)s",
        )
        gc.freeze()  # what was imported lives as long as the process; collections need not look at it
        session = Session(
            output=Output(as_json=form == "json", verbose=verbose),
            may_ask=not no_input and sys.stdin.isatty(),
            cancel=_cancel_on_interrupt(),
        )
        try:
            function(session, *args, **kwargs)
        except ClouddeployError as error:
            if verbose:
                traceback.print_exc()
            session.output.error(error)
            sys.exit(error.exit_code)

    return wrapped


def _cancel_on_interrupt() -> threading.Event:
    cancel = threading.Event()

    def on_interrupt(_signal: int, _frame: object) -> None:
        if cancel.is_set():
            raise Interruption
        cancel.set()
        print("\nStopping after what is in flight; Ctrl-C once more leaves at once.", file=sys.stderr, flush=True)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, on_interrupt)
    return cancel


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; the only place that ends the process."""
    arguments = sys.argv[1:] if argv is None else argv
    # pydantic would look through every installed distribution for plugins; we have none, and it takes 15 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    try:
        cli.main(args=argv, prog_name="clouddeploy", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        sys.exit(ExitCode.BAD_INPUT)
    except click.ClickException as error:
        _usage_error(error, arguments)
    except (Interruption, click.Abort, KeyboardInterrupt):
        print("\nInterrupted; the same command again resumes.", file=sys.stderr, flush=True)
        # Workers may be inside a cloud call; the journal knows of it, and waiting for them is what was just refused.
        os._exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os._exit(ExitCode.OK)
    except Exception as error:  # noqa: BLE001 - the process's edge
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        defect = ClouddeployError(
            "this is a defect of clouddeploy",
            why=f"{type(error).__name__}: {error}",
            hint="run again with -v and report what it prints",
        )
        defect.exit_code, defect.error_code = ExitCode.INTERNAL, "INTERNAL_ERROR"
        Output(as_json="json" in arguments, verbose=False).error(defect)
        sys.exit(ExitCode.INTERNAL)


def _usage_error(error: click.ClickException, arguments: Sequence[str]) -> None:
    wrong = ClouddeployError(error.format_message().rstrip("."), hint="see --help")
    wrong.exit_code, wrong.error_code = ExitCode.BAD_INPUT, "INVALID_ARGS"
    Output(as_json="json" in arguments, verbose=False).error(wrong)
    sys.exit(ExitCode.BAD_INPUT)
