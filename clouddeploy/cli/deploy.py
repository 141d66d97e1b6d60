"""`plan`, `apply`, `status`, `destroy`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.cli.main import Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.deployment import Deployment, pending
from clouddeploy.errors import ConfigError
from clouddeploy.rehearse import load_endpoints
from clouddeploy.secrets import ca_passphrase

MARKS = {"create": "+", "keep": " ", "update": "~", "replace": "!", "delete": "-"}

deploy_file = click.argument("file", type=click.Path(path_type=Path), default=Path("deploy.yml"))
endpoints_option = click.option(
    "--endpoints",
    type=click.Path(path_type=Path),
    help="Clouds of a rehearsal that is being served, instead of the real ones (its endpoints.json).",
)


@click.command()
@deploy_file
@endpoints_option
@click.option("--detailed-exitcode", is_flag=True, help="Exit 8 when there is something to do.")
@command_options
def plan(session: Session, file: Path, endpoints: Path | None, detailed_exitcode: bool) -> None:
    """Show what apply would do, contacting no cloud."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints))
    changes = deployment.plan()
    todo = pending(changes)
    rows = [(MARKS[c.action], c.action, c.node, c.name, c.place, c.reason) for c in changes]
    summary = f"{len(todo)} change(s), {len(changes) - len(todo)} as wanted."
    code = ExitCode.CHANGES_PENDING if detailed_exitcode and todo else ExitCode.OK
    data = {
        "changes": [
            {"action": c.action, "node": c.node, "name": c.name, "place": c.place, "reason": c.reason} for c in changes
        ],
        "pending": len(todo),
    }
    text = table(("", "action", "resource", "name", "where", "why"), rows)
    session.output.result(data, f"{text}\n\n{summary}", exit_code=code)
    if code:
        sys.exit(code)


@click.command()
@deploy_file
@endpoints_option
@click.option("--yes", is_flag=True, help="Do not ask before creating what costs money.")
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path), help="File with the certificate authority's passphrase."
)
@command_options
def apply(session: Session, file: Path, endpoints: Path | None, yes: bool, passphrase_file: Path | None) -> None:
    """Make the deploy file true; safe to repeat, also after a kill."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints), cancel=session.cancel)
    todo = pending(deployment.plan())
    if todo and not yes:
        _confirm(session, f"{len(todo)} change(s); see `clouddeploy plan {file}`. Go on?")
    state = deployment.workspace / deployment.project.name / "state"
    passphrase = ca_passphrase(file=passphrase_file, may_ask=session.may_ask, confirm=not state.exists())
    applied = deployment.apply(passphrase, on_event=session.output.event)
    rows = [(name, f"{seconds:.1f} s") for name, seconds in applied.ready_after_s.items()]
    session.output.result(
        {"sites": [{"name": name, "ready_after_s": round(s, 2)} for name, s in applied.ready_after_s.items()]},
        f"\n{table(('site', 'ready after'), rows)}",
    )


@click.command()
@deploy_file
@endpoints_option
@command_options
def status(session: Session, file: Path, endpoints: Path | None) -> None:
    """Ask every site how it is."""
    sites = Deployment(file, endpoints=load_endpoints(endpoints)).status()
    rows = [(site.name, site.provider, site.address, site.state, site.detail) for site in sites]
    data = {
        "sites": [
            {"name": s.name, "provider": s.provider, "address": s.address, "state": s.state, "detail": s.detail}
            for s in sites
        ]
    }
    session.output.result(data, table(("site", "provider", "address", "state", "detail"), rows))


@click.command()
@deploy_file
@endpoints_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@command_options
def destroy(session: Session, file: Path, endpoints: Path | None, yes: bool) -> None:
    """Delete everything a deployment made, and verify it with the clouds."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints), cancel=session.cancel)
    if not yes:
        _confirm(session, f"Delete everything that {file} made?")
    result = deployment.destroy(on_event=session.output.event)
    session.output.result(
        {"deleted": list(result.deleted), "left": list(result.left)}, f"\n{len(result.deleted)} deleted, nothing left."
    )


def _confirm(session: Session, question: str) -> None:
    if not session.may_ask:
        raise ConfigError("this needs a confirmation", why="nobody is there to ask", hint="add --yes")
    if not click.confirm(question):
        raise ConfigError("not confirmed", hint="nothing was changed")
