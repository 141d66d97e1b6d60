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
from functools import partial, wraps
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
    "auth": ("auth", "Show what a policy allows, and to whom."),
    "cert": ("cert", "Certificates: list, renew, revoke; requests of sites that keep their own key."),
    "apply": ("deploy", "Make the deploy file true: machines, kits, server, clients."),
    "console": ("console", "Open the admin console of a running federation."),
    "cost": ("machines", "Show what runs costs, and what it has cost so far."),
    "exec": ("machines", "Run a command at a site's machine."),
    "dashboard": ("dashboard", "Invite people, approve sites and hand out kits, in a browser."),
    "export": ("machines", "Export an ssh_config for other tools."),
    "forward": ("machines", "Make ports of a site ports of this machine."),
    "launch": ("launch", "Start one startup kit on a machine of its own in a cloud."),
    "logs": ("machines", "Show a site's log, or follow it."),
    "ssh": ("machines", "Open a terminal at a site's machine."),
    "destroy": ("deploy", "Delete everything a deployment made, and verify it."),
    "config": ("config", "Give startup kits of admins names, and choose the one that commands use."),
    "job": ("job", "Submit, watch, abort, repeat, delete and download jobs."),
    "package": ("cert", "Make the startup kit from what the project admin approved."),
    "plan": ("deploy", "Show what apply would do."),
    "poc": ("poc", "Run a whole federation on this machine, to try things out."),
    "preflight": ("preflight", "Check a startup kit before it starts."),
    "image": ("image", "Build the image of containers in which sites and jobs run."),
    "prepare": ("prepare", "Make a startup kit ready for docker, Kubernetes or Slurm."),
    "provision": ("provision", "Make signed startup kits from a project file."),
    "rehearse": ("rehearse", "Run a deploy file against emulated clouds on this machine."),
    "rollback": ("upgrade", "Bring a site to the release that it had before."),
    "status": ("deploy", "Ask every site how it is."),
    "study": ("study", "Studies: which sites and people take part in one."),
    "system": ("system", "See who is connected; stop, restart, keep out, configure the server and its sites."),
    "sweep": ("sweep", "Find what carries our tags and belongs to no known state."),
    "upgrade": ("upgrade", "Bring running sites to this version, and back where that fails."),
}
"""Command → module and help; the module is imported only when its command runs, so that help stays fast."""
ALIASES = {"preflight-check": "preflight", "preflight_check": "preflight"}
"""The reference's names of commands that have another one here; help does not list them."""

_MAX_SHORT = 200


class Interruption(BaseException):
    """The second Ctrl-C."""


@dataclass(frozen=True)
class Session:
    """What the common options of a command came to."""

    output: Output
    may_ask: bool
    cancel: threading.Event


class CommandGroup(click.Group):
    """A group whose help shows the first sentence of each command whole; click would cut it at the line's end."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands, one below the other."""
        shown = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(limit=_MAX_SHORT)) for name, one in shown if one and not one.hidden]
            )


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        name = ALIASES.get(name, name)
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


def command_options(
    function: Callable[..., None] | None = None, *, has_lines: bool = False, form_flag: str = "--output"
) -> Callable[..., Any]:
    """Adds `--output`, `--no-input`, `--schema` and `-v`, and gives the command a `Session` as its first argument.

    Args:
        function: the command.
        has_lines: `--output jsonl` is possible too: a command that tells several results as they come.
        form_flag: the option for the form of the result, where `--output` has another meaning.
    """
    if function is None:
        return partial(command_options, has_lines=has_lines, form_flag=form_flag)
    forms = ["text", "json", *(["jsonl"] if has_lines else [])]

    @click.option(form_flag, "form", type=click.Choice(forms), default="text", help="Form of the result.")
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
            output=Output(as_json=form != "text", verbose=verbose, has_lines=form == "jsonl"),
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


def end_at_once() -> None:
    """Lets the first Ctrl-C end the command: it waits for others, and nothing of its own has to be recorded."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
        Output(as_json=bool({"json", "jsonl"} & set(arguments)), verbose=False).error(defect)
        sys.exit(ExitCode.INTERNAL)


def _usage_error(error: click.ClickException, arguments: Sequence[str]) -> None:
    wrong = ClouddeployError(error.format_message().rstrip("."), hint="see --help")
    wrong.exit_code, wrong.error_code = ExitCode.BAD_INPUT, "INVALID_ARGS"
    Output(as_json=bool({"json", "jsonl"} & set(arguments)), verbose=False).error(wrong)
    sys.exit(ExitCode.BAD_INPUT)
