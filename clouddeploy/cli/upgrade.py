"""`upgrade` and `rollback`: running sites to another release, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clouddeploy import upgrade as upgrades
from clouddeploy.cli.deploy import deploy_file, endpoints_option
from clouddeploy.cli.main import Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.deployment import Deployment
from clouddeploy.rehearse import load_endpoints

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@deploy_file
@endpoints_option
@click.option("--site", "sites", multiple=True, help="Only this site; may be repeated.")
@click.option("--canary", help="The site that goes first, alone; default: the first client.")
@command_options
def upgrade(
    session: Session, *, file: Path, endpoints: Path | None, sites: tuple[str, ...], canary: str | None
) -> None:
    """Bring running sites to this version and the newest kits; what does not become healthy is rolled back."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints), cancel=session.cancel)
    done = upgrades.upgrade(deployment, sites=frozenset(sites), canary=canary, on_event=session.output.event)
    changed = [site for site, one in done.items() if one.is_changed]
    rows = [(site, "upgraded" if one.is_changed else "up to date", one.release.digest) for site, one in done.items()]
    lines = [table(("site", "", "release"), rows)]
    lines += [] if changed else ["Nothing to do: every site runs this release, none was restarted."]
    session.output.result(
        {
            "sites": [
                {"name": site, "upgraded": one.is_changed, "kit": one.release.digest} for site, one in done.items()
            ]
        },
        "\n".join(lines),
    )


@click.command()
@deploy_file
@endpoints_option
@click.option("--site", required=True, help="Which one.")
@command_options
def rollback(session: Session, *, file: Path, endpoints: Path | None, site: str) -> None:
    """Bring a site to the release that it had before: kit, Python environment, unit and data."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints), cancel=session.cancel)
    release = upgrades.rollback(deployment, site, on_event=session.output.event)
    session.output.result(
        {"site": site, "kit": release.digest},
        f"{site} runs its earlier release, {release.digest}. `clouddeploy upgrade` goes forward again.",
    )
