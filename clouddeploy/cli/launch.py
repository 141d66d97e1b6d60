"""`launch`: one startup kit to a machine of a cloud, for somebody who knows nothing else of the project."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_providers import registry
from clouddeploy_providers.resources import Need

from clouddeploy import cloud_config, lone_kit
from clouddeploy import launch as launching
from clouddeploy.cli.confirming import confirm
from clouddeploy.cli.deploy import endpoints_option, plan_text, show_applied, ssh_cidr_option
from clouddeploy.cli.main import Session, command_options
from clouddeploy.cloud_config import AWS, AZURE
from clouddeploy.deployment import Deployment
from clouddeploy.errors import ConfigError, LockedError, PreflightFailed
from clouddeploy.lone_kit import Maker
from clouddeploy.plan import Action
from clouddeploy.rehearse import load_endpoints
from clouddeploy.selection import need_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.endpoints import Endpoints

    from clouddeploy.lone_kit import LoneKit

NEWEST = "the newest Ubuntu 24.04"
SUBSCRIPTION = "AZURE_SUBSCRIPTION_ID"


@click.command()
@click.argument("kit", type=click.Path(path_type=Path))
@click.option("--cloud", type=click.Choice([AZURE, AWS]), required=True, help="Where the machine is made.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="KEY=VALUE lines as NVFLARE has them; they are never run."
)
@click.option("--region", "--location", "place", help="Default: us-west-2 (AWS), westus2 (Azure).")
@click.option("--size", help="The cloud's name of a machine size. Default: a small one, or with the GPUs of the kit.")
@click.option(
    "--image",
    help=f"A container image that runs the site; or the cloud's own, by its id, for the machine. Default: {NEWEST}.",
)
@click.option("--vpc-id", help="An AWS network that exists.")
@click.option("--subnet-id", help="A subnet of it.")
@ssh_cidr_option
@endpoints_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask before creating what costs money.")
@command_options
def launch(
    session: Session,
    *,
    kit: Path,
    cloud: str,
    config: Path | None,
    place: str | None,
    ssh_sources: tuple[str, ...],
    endpoints: Path | None,
    yes: bool,
    **options: str | None,
) -> None:
    """Start one startup kit on a machine of its own in a cloud; safe to repeat."""
    lone = lone_kit.read(kit)
    if lone.maker is Maker.NVFLARE:
        session.output.say("Warning: NVFLARE made this kit, and nothing in it tells whether somebody changed it since.")
    where = load_endpoints(endpoints)
    from_file = cloud_config.read(config, cloud=cloud) if config is not None else cloud_config.CloudConfig()
    for warning in from_file.warnings:
        session.output.say(f"Warning: {warning}")
    named = {launching.WHERE[cloud]: place, **options}
    if image := named.pop("image"):
        named[cloud_config.key_of_image(cloud, image)] = image
    given = {**from_file.settings, **{key: value for key, value in named.items() if value}}
    launching.Wish(cloud, given)  # refused before anybody is asked
    file = launching.deploy_file(lone)
    if session.may_ask and config is None and not file.exists():
        given |= _ask(lone, cloud, given, as_json=session.output.as_json)
    prepared = launching.prepare(lone, launching.Wish(cloud, given, ssh_sources))
    _require_subscription(cloud, prepared.text, where)
    if prepared.note:
        session.output.say(f"{prepared.note}.")
    prepared.save()
    try:
        deployment = Deployment(file, endpoints=where, cancel=session.cancel)
        _settle(session, deployment, is_known=prepared.before is not None, yes=yes)
        ways = _ways(lone, file, endpoints)
        session.output.say(f"Everything that is made from here on is deleted by: {ways['destroy']}")
    except BaseException:
        prepared.undo()  # nothing was made with it
        raise
    try:
        applied = deployment.apply(on_event=session.output.event)
    except (PreflightFailed, LockedError):
        prepared.undo()  # as above
        raise
    address = deployment.recorded().resources[f"{lone.participant}/machine"].ref.outputs.get("address", "")
    text = (
        f"\n\n{lone.participant} runs at {address}.\n"
        f"  a terminal there:   {ways['ssh']}\n"
        f"  its log:            {ways['logs']}\n"
        f"  delete all of it:   {ways['destroy']}"
    )
    show_applied(session, applied, {"file": str(file), "address": address, **ways}, text)


def _settle(session: Session, deployment: Deployment, *, is_known: bool, yes: bool) -> None:
    """Asks before something is made; without anybody to ask, refuses to end what runs already."""
    if yes or not (session.may_ask or is_known):
        return
    made = deployment.plan()
    if session.may_ask:
        if made.work_left:
            session.output.say(plan_text(made))
            confirm(session, "Go on?")
        return
    ended = [change.node for change in made.changes if change.action in {Action.REPLACE, Action.DELETE}]
    if ended:
        raise ConfigError(
            f"{', '.join(ended)} would be replaced",
            why="what is asked for now is not what runs, and there is nobody to ask",
            hint="repeat it with --yes, or as it was launched before",
        )


def _ask(lone: LoneKit, cloud: str, given: Mapping[str, str], *, as_json: bool) -> dict[str, str]:
    """Asks for what was not named; what stands in brackets is taken by the Enter key."""
    usual = launching.defaults(lone, cloud)
    need = Need(usual["gpus"], usual.get("gpu_memory_gib", 0)) if "gpus" in usual else None
    place = launching.WHERE[cloud]
    small = f"the cheapest with {need_text(need)}" if need else registry.load(cloud).default_size
    shown = {place: usual[place], "size": small, "image": NEWEST}
    found = {}
    for key, default in shown.items():
        if key not in given:
            answer = str(click.prompt(key.capitalize(), default=default, err=as_json)).strip()
            if answer != default:
                found[cloud_config.key_of_image(cloud, answer) if key == "image" else key] = answer
    return found


def _require_subscription(cloud: str, text: str, endpoints: Endpoints) -> None:
    if cloud == AZURE and endpoints.azure is None and "subscription_id:" not in text and SUBSCRIPTION not in os.environ:
        raise ConfigError(
            "the Azure subscription is not known",
            why=f"neither {SUBSCRIPTION} nor SUBSCRIPTION_ID in a file for --config says it",
            hint=f"export {SUBSCRIPTION}=$(az account show --query id --output tsv)",
        )


def _ways(lone: LoneKit, file: Path, endpoints: Path | None) -> dict[str, str]:
    """Returns the commands that people need next."""
    more = ["--endpoints", str(endpoints)] if endpoints else []
    site = lone.participant
    return {
        "ssh": shlex.join(["clouddeploy", "ssh", site, "--file", str(file), *more]),
        "logs": shlex.join(["clouddeploy", "logs", site, "--file", str(file), *more]),
        "destroy": shlex.join(["clouddeploy", "destroy", str(file), *more]),
    }
