"""`provision`."""

from __future__ import annotations

from pathlib import Path

import click
from clouddeploy_provision import project as project_file
from clouddeploy_provision.provisioner import provision as make_kits

from clouddeploy.cli.main import Session, command_options
from clouddeploy.errors import ConfigError
from clouddeploy.secrets import ca_passphrase


@click.command()
@click.option(
    "-p",
    "--project-file",
    "--project_file",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    help="The project file.",
)
@click.option("-w", "--workspace", type=click.Path(path_type=Path), default=Path("workspace"), help="Where results go.")
@click.option("--force", is_flag=True, help="Add a new result although the workspace has some already.")
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path), help="File with the certificate authority's passphrase."
)
@command_options
def provision(session: Session, file: Path, workspace: Path, force: bool, passphrase_file: Path | None) -> None:
    """Make signed startup kits from a project file."""
    project = project_file.load(file)
    results = workspace / project.name
    if any(results.glob("prod_*")) and not force:
        if not session.may_ask:
            raise ConfigError(f"{results} exists", why="another result would be added to it", hint="add --force")
        if not click.confirm(f"{results} exists. Add a new result?"):
            raise ConfigError("not confirmed", hint="nothing was changed")
    passphrase = ca_passphrase(file=passphrase_file, may_ask=session.may_ask, confirm=not (results / "state").exists())
    report = make_kits(project, workspace, passphrase=passphrase.reveal().encode())
    data = {
        "workspace": str(workspace),
        "result": str(report.result),
        "packages": {name: str(kit) for name, kit in report.kits.items()},
        "created": list(report.created),
        "kept": list(report.kept),
        "reissued": list(report.reissued),
    }
    text = "\n".join(
        [
            f"Project yaml file: {file}.",
            f"Generated results can be found under {report.result}.",
            f"Kits: {len(report.created)} new, {len(report.kept)} kept, {len(report.reissued)} re-issued.",
            f"Root CA validity: until {report.root_not_after:%Y-%m-%d}.",
        ]
    )
    session.output.result(data, text)
