"""`image build`: the image of containers in which sites and jobs run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from clouddeploy.cli.main import CommandGroup, command_options

if TYPE_CHECKING:
    from clouddeploy.cli.main import Session


@click.group(cls=CommandGroup)
def image() -> None:
    """Images of containers in which sites and jobs run."""


@image.command()
@click.option("--engine", help="docker or podman, or the path of one; default: the first that is here.")
@click.option("--tag", default="clouddeploy-site:latest", show_default=True, help="The image's name.")
@click.option("--base", default="", help="Image with Python to start from; default: python:VERSION-slim.")
@click.option("--python", default="3.12", show_default=True, help="Version of the base's python3.")
@click.option("--with", "extra", multiple=True, metavar="REQUIREMENT", help="What jobs import, such as torch==2.7.1.")
@command_options
def build(session: Session, *, engine: str | None, tag: str, base: str, python: str, extra: tuple[str, ...]) -> None:
    """Build an image that runs sites and jobs, and note its digest."""
    from clouddeploy.image import build as building  # noqa: PLC0415 - --help needs no pip

    made = building.build(building.Wanted(tag, base=base, python=python, extra=extra), engine=engine)
    lines = [
        f"{made.tag} was built: {made.digest}",
        f"  Put it where the sites can pull it (`{made.engine} push {made.tag}`), and name it with the digest that the",
        "  registry gives it, NAME@sha256:…, as parent.docker_image of `clouddeploy prepare`.",
    ]
    session.output.result(asdict(made), "\n".join(lines))
