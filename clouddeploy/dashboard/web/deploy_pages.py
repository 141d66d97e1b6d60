"""Deployments: the deploy files, what they cost, and runs of them that one can watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.dashboard import deploy_files, runs
from clouddeploy.dashboard.errors import Invalid
from clouddeploy.dashboard.rules import Action
from clouddeploy.dashboard.runs import CONFIRMED, RUNNING, VERBS, Run
from clouddeploy.dashboard.web.asking import Ask, Page, Redirect, Stream
from clouddeploy.dashboard.web.open_pages import field

if TYPE_CHECKING:
    from clouddeploy.dashboard.deploy_files import DeployFile


@dataclass(frozen=True)
class Row:
    """One deployment as the list shows it; `run` is None while nothing was done with it."""

    file: DeployFile
    run: Run | None

    @property
    def providers(self) -> str:
        """Where its sites are."""
        return ", ".join(dict.fromkeys(provider for _, provider in self.file.sites))


def deployments(ask: Ask) -> Page:
    """Shows every deployment."""
    with ask.visit() as visit:
        visit.require(Action.DEPLOY_VIEW)
    desk = ask.desk
    rows = [Row(one, desk.runs.last(one.name, file=one.path)) for one in deploy_files.every(desk.folder)]
    costs = [row.run.result.get("usd_per_hour") for row in rows if row.run is not None]
    known = [one for one in costs if one is not None]
    return Page("deployments.html", {"rows": rows, "folder": desk.folder / deploy_files.FOLDER, "cost": sum(known)})


def keep(ask: Ask) -> Redirect:
    """Keeps a deploy file that was sent in."""
    with ask.visit() as visit:
        kept = deploy_files.keep(visit, field(ask, "name"), ask.upload)
    return Redirect(f"/deployments/{kept.name}")


def deployment(ask: Ask) -> Page:
    """Shows one deployment and its last run."""
    values = _values(ask)
    return Page("deployment.html", {**values, "file": _file(ask), "verbs": VERBS, "confirmed": CONFIRMED})


def deployment_events(ask: Ask) -> Stream:
    """Sends what changes while it runs."""
    file = _file(ask)

    def revision() -> object:
        run = ask.desk.runs.last(file.name, file=file.path)
        return None if run is None else (run.began, run.revision)

    return Stream(
        "deployment_part.html",
        revision=revision,
        values=lambda: _values(ask),
        is_over=lambda: not ask.desk.runs.is_busy(file.name),
    )


def start(ask: Ask) -> Redirect:
    """Starts a run."""
    file, verb = _file(ask), field(ask, "verb")
    desk = ask.desk
    if verb in CONFIRMED and field(ask, "sure") != "yes":
        raise Invalid(
            f"{verb} was not started", why="it was not confirmed", hint="tick the box: it costs, or ends something"
        )
    with ask.visit() as visit:
        me = visit.require(Action.DEPLOY if verb in CONFIRMED else Action.DEPLOY_VIEW)
        run = Run(file.name, verb, by=me.email, began=desk.now().isoformat(timespec="seconds"))

        def ended(run: Run) -> None:
            error = run.result.get("error")
            with desk.visit(me, address=ask.address) as later:
                detail = f"{run.name}: {error['code'] if error else 'done'}"
                later.note(f"deploy_{run.verb}_ended", detail=detail, code=error["code"] if error else "")

        desk.runs.start(run, file=file.path, passphrase=desk.kits.passphrase, ended=ended)
        try:
            visit.note(f"deploy_{verb}", detail=file.name)
        except ClouddeployError:
            desk.runs.cancel(file.name)  # what cannot be recorded is not done
            raise
    return Redirect(f"/deployments/{file.name}")


def stop(ask: Ask) -> Redirect:
    """Has a run stop after what is in flight."""
    file = _file(ask)
    with ask.visit() as visit:
        visit.require(Action.DEPLOY_VIEW)
        ask.desk.runs.cancel(file.name)
        visit.note("deploy_stop", detail=file.name)
    return Redirect(f"/deployments/{file.name}")


def _file(ask: Ask) -> DeployFile:
    with ask.visit() as visit:
        visit.require(Action.DEPLOY_VIEW)
    return deploy_files.find(ask.desk.folder, ask.path.get("name", ""))


def _values(ask: Ask) -> dict[str, Any]:
    file = _file(ask)
    run = ask.desk.runs.last(file.name, file=file.path)
    is_busy = ask.desk.runs.is_busy(file.name)
    # Of a dashboard that ended meanwhile: its run did too.
    state = run.state if run is not None else ""
    return {
        "name": file.name,
        "run": run,
        "state": runs.FAILED if state == RUNNING and not is_busy else state,
        "is_busy": is_busy,
    }
