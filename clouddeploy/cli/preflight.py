"""`preflight`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.preflight import package, text

from clouddeploy.cli.main import command_options

if TYPE_CHECKING:
    from clouddeploy.cli.main import Session


@click.command()
@click.argument("kit", type=click.Path(path_type=Path), required=False)
@click.option(
    "-p",
    "--package-path",
    "--package_path",
    "package_path",
    type=click.Path(path_type=Path),
    help="The kit, as in the reference's command.",
)
@click.option("-w", "--workspace", type=click.Path(path_type=Path), help="Where it works, if not in the kit itself.")
@click.option("--offline", is_flag=True, help="Connect to nobody.")
@command_options
def preflight(
    session: Session, kit: Path | None, package_path: Path | None, workspace: Path | None, offline: bool
) -> None:
    """Check a startup kit, this machine and the way to the server before it starts; changes nothing."""
    given = [one for one in (kit, package_path) if one is not None]
    if len(given) != 1:
        raise click.UsageError("name one startup kit, as KIT or with --package-path")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # what it would write to the terminal is a line of the table
    report = package.check(given[0], workspace=workspace, offline=offline)
    refusal, table = report.refusal, text.table(report, is_verbose=session.output.verbose)
    if refusal is None:
        session.output.result(report.document(), table)
        return
    if not session.output.as_json:
        print(table)
    session.output.error(refusal, data=report.document())
    sys.exit(refusal.exit_code)
