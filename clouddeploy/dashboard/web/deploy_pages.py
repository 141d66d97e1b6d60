"""Deployments: the deploy files, what they cost, and runs of them that one can watch."""

from __future__ import annotations

from typing import Any

from clouddeploy.dashboard import deploy_files, deploying
from clouddeploy.dashboard.runs import CONFIRMED, VERBS
from clouddeploy.dashboard.web.asking import Ask, Page, Redirect, Stream
from clouddeploy.dashboard.web.open_pages import field


def deployments(ask: Ask) -> Page:
    """Shows every deployment."""
    with ask.visit() as visit:
        rows = deploying.every(visit)
    costs = [row.run.result.get("usd_per_hour") for row in rows if row.run is not None]
    known = [one for one in costs if one is not None]
    folder = ask.desk.folder / deploy_files.FOLDER
    return Page("deployments.html", {"rows": rows, "folder": folder, "cost": sum(known)})


def keep(ask: Ask) -> Redirect:
    """Keeps a deploy file that was sent in."""
    with ask.visit() as visit:
        deploy_files.keep(visit, field(ask, "name"), ask.upload)
    return Redirect(f"/deployments/{field(ask, 'name')}")


def deployment(ask: Ask) -> Page:
    """Shows one deployment and its last run."""
    found = _found(ask)
    return Page("deployment.html", {**_values(found), "file": found.file, "verbs": VERBS, "confirmed": CONFIRMED})


def deployment_events(ask: Ask) -> Stream:
    """Sends what changes while it runs."""
    file, runs = _found(ask).file, ask.desk.runs

    def revision() -> object:
        run = runs.last(file.name, file=file.path)
        return None if run is None else (run.began, run.revision)

    return Stream(
        "deployment_part.html",
        revision=revision,
        values=lambda: _values(_found(ask)),
        is_over=lambda: not runs.is_busy(file.name),
    )


def start(ask: Ask) -> Redirect:
    """Starts a run."""
    with ask.visit() as visit:
        begun = deploying.start(visit, ask.path["name"], field(ask, "verb"), is_sure=field(ask, "sure") == "yes")
    return Redirect(f"/deployments/{begun.file.name}")


def stop(ask: Ask) -> Redirect:
    """Has a run stop after what is in flight."""
    with ask.visit() as visit:
        stopped = deploying.stop(visit, ask.path["name"])
    return Redirect(f"/deployments/{stopped.file.name}")


def _found(ask: Ask) -> deploying.Deployment:
    with ask.visit() as visit:
        return deploying.get(visit, ask.path["name"])


def _values(found: deploying.Deployment) -> dict[str, Any]:
    return {"name": found.file.name, "run": found.run, "state": found.state, "is_busy": found.is_busy}
