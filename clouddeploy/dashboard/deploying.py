"""Starting and stopping runs of deployments, whoever asks for it by whichever way; all recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.dashboard import deploy_files
from clouddeploy.dashboard.errors import Invalid
from clouddeploy.dashboard.rules import Action
from clouddeploy.dashboard.runs import CONFIRMED, FAILED, RUNNING, Run

if TYPE_CHECKING:
    from clouddeploy.dashboard.deploy_files import DeployFile
    from clouddeploy.dashboard.desk import Visit


@dataclass(frozen=True)
class Deployment:
    """One deployment.

    Attributes:
        file: its deploy file.
        run: the one that runs, or the last one; None: nothing was done with it from here.
        is_busy: whether it runs.
    """

    file: DeployFile
    run: Run | None
    is_busy: bool

    @property
    def state(self) -> str:
        """Of the run: running, done or failed; empty: there is none."""
        if self.run is None:
            return ""
        # Of a dashboard that ended meanwhile: its run did too.
        return FAILED if self.run.state == RUNNING and not self.is_busy else self.run.state

    @property
    def providers(self) -> str:
        """Where its sites are."""
        return ", ".join(dict.fromkeys(provider for _, provider in self.file.sites))


def every(visit: Visit) -> list[Deployment]:
    """Returns every deployment, by name.

    Raises:
        Forbidden: the one who asks may not see any.
    """
    visit.require(Action.DEPLOY_VIEW)
    return [_known(visit, one) for one in deploy_files.every(visit.desk.folder)]


def get(visit: Visit, name: str) -> Deployment:
    """Returns one deployment.

    Raises:
        Forbidden: the one who asks may not see it.
        NotFound: there is none of the name.
    """
    visit.require(Action.DEPLOY_VIEW)
    return _known(visit, deploy_files.find(visit.desk.folder, name))


def start(visit: Visit, name: str, verb: str, *, is_sure: bool) -> Deployment:
    """Starts a run.

    Args:
        visit: the request.
        name: of the deployment.
        verb: plan, rehearse, apply or destroy.
        is_sure: whether it was confirmed; what costs or ends something is not started without.

    Raises:
        Forbidden: the one who asks may not do this.
        ProofNeeded: they must type their password again first.
        NotFound: there is no such deployment.
        Invalid: it was not confirmed, or there is no such verb.
        Conflict: another run of it is under way.
    """
    # Who may not, is told that and not what there is.
    me = visit.require(Action.DEPLOY if verb in CONFIRMED else Action.DEPLOY_RUN)
    desk, address = visit.desk, visit.address
    file = deploy_files.find(desk.folder, name)
    if verb in CONFIRMED and not is_sure:
        raise Invalid(
            f"{verb} was not started",
            why="it was not confirmed",
            hint="tick the box (a program sends sure): it costs, or ends something",
        )
    run = Run(file.name, verb, by=me.email, began=desk.now().isoformat(timespec="seconds"))

    def ended(run: Run) -> None:
        error = run.result.get("error")
        with desk.visit(me, address=address) as later:
            detail = f"{run.name}: {error['code'] if error else 'done'}"
            later.note(f"deploy_{run.verb}_ended", detail=detail, code=error["code"] if error else "")

    desk.runs.start(run, file=file.path, passphrase=desk.kits.passphrase, ended=ended)
    try:
        visit.note(f"deploy_{verb}", detail=file.name)
    except ClouddeployError:
        desk.runs.cancel(file.name)  # what cannot be recorded is not done
        raise
    return _known(visit, file)


def stop(visit: Visit, name: str) -> Deployment:
    """Has a run stop after what is in flight.

    Raises:
        Forbidden: the one who asks may not do this.
        NotFound: there is no such deployment.
        Conflict: nothing of it runs.
    """
    visit.require(Action.DEPLOY_RUN)
    file = deploy_files.find(visit.desk.folder, name)
    visit.desk.runs.cancel(file.name)
    visit.note("deploy_stop", detail=file.name)
    return _known(visit, file)


def _known(visit: Visit, file: DeployFile) -> Deployment:
    runs = visit.desk.runs
    return Deployment(file, runs.last(file.name, file=file.path), runs.is_busy(file.name))
