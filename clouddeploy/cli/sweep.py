"""`sweep`: what carries our tags in an account and no state knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clouddeploy import sweep as sweeping
from clouddeploy.cli.confirming import confirm
from clouddeploy.cli.deploy import endpoints_option
from clouddeploy.cli.main import Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.deployment import Deployment
from clouddeploy.errors import ConfigError, PartialFailure, StateError
from clouddeploy.rehearse import load_endpoints

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clouddeploy.recovery import Place
    from clouddeploy.sweep import Stray

ALL = "all"


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@endpoints_option
@click.option(
    "--known",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder with further deployments' states; may be repeated.",
)
@click.option(
    "--remove",
    "chosen",
    multiple=True,
    help="The id of a deployment whose resources to delete, or `all`; may be repeated.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@command_options
def sweep(
    session: Session,
    *,
    files: tuple[Path, ...],
    endpoints: Path | None,
    known: tuple[Path, ...],
    chosen: tuple[str, ...],
    yes: bool,
) -> None:
    """Find what carries our tags in the accounts of deploy files and belongs to no known state."""
    deployments: list[Deployment] = []
    places: list[Place] = []
    ids: set[str] = set()
    for file in files or (Path("deploy.yml"),):
        deployment = Deployment(file, endpoints=load_endpoints(endpoints), cancel=session.cancel)
        deployments.append(deployment)
        places += deployment.places()
        own = deployment.deployment_id()
        ids |= {own} if own else set()
        ids |= _ids_below(file.parent / ".clouddeploy")
    for folder in known:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder", hint="name a folder with states, such as .clouddeploy")
        ids |= _ids_below(folder)
    strays = sweeping.look(places, frozenset(ids))
    doomed = _chosen(strays, chosen)
    if not doomed:
        session.output.result({"found": _as_json(strays), "deleted": [], "left": []}, _text(strays))
        return
    if not yes:
        session.output.say(_text(doomed))
        confirm(session, f"Delete these {len(doomed)} resource(s), which another operator's deployment may own?")
    with deployments[0].held("sweep", session.output.event) as (ledger, tell):
        swept = sweeping.remove(doomed, cancel=session.cancel, on_event=tell, flush=ledger.flush)
    data = {"found": _as_json(strays), "deleted": list(swept.deleted), "left": list(swept.left)}
    if swept.left:
        why = "; ".join(str(error) for error in swept.report.errors.values()) or "the run was stopped"
        raise PartialFailure(f"{len(swept.left)} resource(s) are still there", why=why, hint="run sweep again")
    session.output.result(data, f"\n{len(swept.deleted)} deleted.")


def _ids_below(folder: Path) -> set[str]:
    return set(_ids(folder.rglob("state.json"))) if folder.is_dir() else set()


def _ids(files: Iterable[Path]) -> list[str]:
    found = []
    for file in files:
        try:
            found.append(str(json.loads(file.read_text(encoding="utf-8"))["deployment"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Passing over it would call a living deployment a stray.
            raise StateError(f"cannot read the state {file}", why=str(error), hint="mend or remove it") from error
    return found


def _chosen(strays: Sequence[Stray], chosen: Sequence[str]) -> list[Stray]:
    owners = {stray.found.owner.deployment for stray in strays}
    unknown = sorted(set(chosen) - owners - {ALL})
    if unknown:
        raise ConfigError(
            f"nothing of {', '.join(unknown)} was found, or its state is known",
            hint="run sweep without --remove to see what there is; use destroy for what has a state",
        )
    return [stray for stray in strays if ALL in chosen or stray.found.owner.deployment in chosen]


def _as_json(strays: Sequence[Stray]) -> list[dict[str, str]]:
    return [
        {
            "deployment": stray.found.owner.deployment,
            "project": stray.found.owner.project,
            "site": stray.found.owner.site,
            "kind": stray.found.ref.kind.value,
            "name": stray.found.ref.name,
            "id": stray.found.ref.id,
            "place": stray.place,
        }
        for stray in strays
    ]


def _text(strays: Sequence[Stray]) -> str:
    if not strays:
        return "Nothing of ours without a state."
    rows = [
        (s.found.owner.deployment, s.found.owner.project, s.found.owner.site, s.found.ref.kind, s.found.ref.id, s.place)
        for s in strays
    ]
    return table(("deployment", "project", "site", "kind", "id", "where"), rows)
