"""`preflight`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.kit import KitError
from clouddeploy_runtime.preflight import kit as checks

from clouddeploy.cli.main import command_options

if TYPE_CHECKING:
    from clouddeploy.cli.main import Session


@click.command()
@click.argument("kit", type=click.Path(path_type=Path))
@click.option("-w", "--workspace", type=click.Path(path_type=Path), help="Where it works, if not in the kit itself.")
@command_options
def preflight(session: Session, kit: Path, workspace: Path | None) -> None:
    """Check a startup kit before it starts: as it was signed, in time, not revoked, not replaced by a newer one."""
    found = checks.check(kit, workspace=workspace)
    problems = [one for one in found if one.is_problem]
    lines = []
    for one in found:
        lines.append(f"{'PROBLEM' if one.is_problem else 'ok':8}{one.check}: {one.text}")
        if one.remedy:
            lines.append(f"{'':8}fix: {one.remedy}")
    data = {"checks": [asdict(one) for one in found]}
    if not problems:
        session.output.result(data, "\n".join(lines))
        return
    if not session.output.as_json:
        print("\n".join(lines))
    refusal = KitError(f"{kit} must not be started", why=problems[0].text, hint=problems[0].remedy)
    refusal.error_code = problems[0].code
    session.output.error(refusal, data=data)
    sys.exit(refusal.exit_code)
