"""`access refresh`, `access repin`: who may reach the machines over SSH, and under which host key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clouddeploy.cli.deploy import deploy_file, endpoints_option, ssh_cidr_option
from clouddeploy.cli.main import CommandGroup, Session, command_options
from clouddeploy.deployment import Deployment
from clouddeploy.rehearse import load_endpoints

if TYPE_CHECKING:
    from pathlib import Path


@click.group(cls=CommandGroup)
def access() -> None:
    """Who may reach the machines over SSH, and under which host key."""


@access.command()
@deploy_file
@endpoints_option
@ssh_cidr_option
@command_options
def refresh(session: Session, file: Path, endpoints: Path | None, ssh_sources: tuple[str, ...]) -> None:
    """Open SSH to the address this machine has now, and close it to the old one; changes nothing else."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints), cancel=session.cancel, ssh_sources=ssh_sources)
    changes = deployment.refresh_access(on_event=session.output.event)
    session.output.result(
        {"changed": [{"node": change.node, "name": change.name, "reason": change.reason} for change in changes]},
        f"{len(changes)} firewall(s) changed.",
    )


@access.command()
@click.argument("site")
@deploy_file
@click.option("--host-key", required=True, help="SHA256:…, read on the machine's console with ssh-keygen -lf.")
@command_options
def repin(session: Session, *, site: str, file: Path, host_key: str) -> None:
    """Accept another host key of a site's machine, which you have read on its console; never asked of the machine."""
    before = Deployment(file, cancel=session.cancel).repin(site, host_key)
    old = ", ".join(before) or "nothing"
    session.output.result(
        {"site": site, "host_key": host_key, "before": list(before)}, f"{site}: {host_key} is pinned; before: {old}."
    )
