"""The command line of a site: `clouddeploy-runtime server|client KIT`, `clouddeploy-runtime verify KIT`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clouddeploy-runtime", description="Runs one site of a federation.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("server", "run the federation's server"),
        ("client", "run the agent of a site"),
        ("verify", "check that a startup kit is as it was signed"),
    ):
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("kit", type=Path, metavar="KIT", help="the folder that holds startup/ and local/")
        if command != "verify":
            sub.add_argument(
                "--workspace", type=Path, help="folder for jobs, logs and status.json; default: <KIT>/workspace"
            )
    return parser


def _run(command: str, kit_folder: Path, workspace: Path | None) -> None:
    # Late, so that --help answers at once and `verify` needs no grpc.
    from clouddeploy_runtime import kit as kits  # noqa: PLC0415

    kits.verify(kit_folder)  # first: what nobody signed is not parsed either
    kit = kits.load(kit_folder)
    if command == "verify":
        sys.stdout.write(f"The kit of {kit.name} (project {kit.project}) is as it was signed.\n")
        return
    if kit.kind != command:
        raise kits.KitError(
            f"{kit_folder} is the kit of a {kit.kind}", why=f"a {command} was asked for", hint=f"Run `{kit.kind}`."
        )
    folder = workspace if workspace is not None else kit_folder / "workspace"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Job processes are started with vfork and exec; gRPC's fork handlers would only write warnings.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

    import asyncio  # noqa: PLC0415

    from clouddeploy_runtime import logging as runtime_logging  # noqa: PLC0415

    runtime_logging.configure(folder)
    if command == "server":
        from clouddeploy_runtime.server.parent import serve as run_server  # noqa: PLC0415

        asyncio.run(run_server(kit, folder.resolve()))
    else:
        from clouddeploy_runtime.client.agent import serve as run_client  # noqa: PLC0415

        asyncio.run(run_client(kit, folder.resolve()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the one place that turns errors into a message and an exit code."""
    given = _parser().parse_args(arguments)
    try:
        _run(given.command, given.kit, getattr(given, "workspace", None))
    except ClouddeployError as exc:
        for part in (f"Error: {exc.what}", f"  Why: {exc.why}", f"  Hint: {exc.hint}"):
            if not part.endswith(": "):
                sys.stderr.write(part + "\n")
        return exc.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as exc:  # the process's edge
        log.debug("A defect ended the process", exc_info=True)
        sys.stderr.write(f"Error: {type(exc).__name__}: {exc}\n  Why: a defect of this program\n")
        sys.stderr.write("  Hint: please report it, with log.txt\n")
        return ExitCode.INTERNAL
    return ExitCode.OK
