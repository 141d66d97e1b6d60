"""`plan`, `apply`, `status`, `destroy`."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from clouddeploy_runtime.errors import ExitCode

from clouddeploy.cli.confirming import confirm
from clouddeploy.cli.main import Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.deployment import Deployment
from clouddeploy.rehearse import load_endpoints
from clouddeploy.secrets import ca_passphrase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy.apply import Applied
    from clouddeploy.plan import Change, Plan

MARKS = {"create": "+", "keep": " ", "update": "~", "replace": "!", "delete": "-", "release": "<"}
HOURS_PER_MONTH = 730


def _blocks(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(value)) for value in values)
    except ValueError as error:
        raise click.BadParameter(f"{error}; a CIDR block is wanted, such as 203.0.113.7/32") from error


deploy_file = click.argument("file", type=click.Path(path_type=Path), default=Path("deploy.yml"))
endpoints_option = click.option(
    "--endpoints",
    type=click.Path(path_type=Path),
    help="Clouds of a rehearsal that is being served, instead of the real ones (its endpoints.json).",
)
ssh_cidr_option = click.option(
    "--ssh-cidr",
    "ssh_sources",
    multiple=True,
    callback=_blocks,
    help="Who may reach port 22, instead of the address this machine is seen from; may be repeated.",
)
abandon_option = click.option(
    "--abandon",
    "abandoned",
    multiple=True,
    help="A site on a machine of somebody else that is not there any more to be cleaned up; may be repeated.",
)


@click.command()
@deploy_file
@endpoints_option
@ssh_cidr_option
@click.option("--detailed-exitcode", is_flag=True, help="Exit 8 when there is something to do.")
@click.option("--offline", is_flag=True, help="Contact nobody: no drift, no preflight, prices of the snapshot.")
@command_options
def plan(
    session: Session,
    *,
    file: Path,
    endpoints: Path | None,
    ssh_sources: tuple[str, ...],
    detailed_exitcode: bool,
    offline: bool,
) -> None:
    """Show what apply would do, what it costs, and what has changed behind our back."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints), ssh_sources=ssh_sources)
    made = deployment.plan(is_offline=offline)
    code = ExitCode.CHANGES_PENDING if detailed_exitcode and made.work_left else ExitCode.OK
    session.output.result(_as_json(made), plan_text(made), exit_code=code)
    if code:
        sys.exit(code)


@click.command()
@deploy_file
@endpoints_option
@ssh_cidr_option
@click.option("--yes", is_flag=True, help="Do not ask before creating what costs money.")
@click.option("--site", "sites", multiple=True, help="Only this site; may be repeated.")
@abandon_option
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path), help="File with the certificate authority's passphrase."
)
@click.option("--keyring", is_flag=True, help="Take the passphrase from the operating system's keyring.")
@command_options
def apply(
    session: Session,
    *,
    file: Path,
    endpoints: Path | None,
    ssh_sources: tuple[str, ...],
    yes: bool,
    sites: tuple[str, ...],
    abandoned: tuple[str, ...],
    passphrase_file: Path | None,
    keyring: bool,
) -> None:
    """Make the deploy file true; safe to repeat, also after a kill."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints), cancel=session.cancel, ssh_sources=ssh_sources)
    if not yes:
        made = deployment.plan(sites=frozenset(sites))
        if made.pending:
            session.output.say(plan_text(made))
            confirm(session, "Go on?")
    passphrase = None
    if deployment.facts.is_signed_here:
        authority = deployment.workspace / deployment.facts.project / "state"
        passphrase = ca_passphrase(
            file=passphrase_file,
            may_ask=session.may_ask,
            confirm=not authority.exists(),
            keyring_entry=deployment.facts.project if keyring else None,
        )
    applied = deployment.apply(
        passphrase, sites=frozenset(sites), abandoned=frozenset(abandoned), on_event=session.output.event
    )
    show_applied(session, applied, {}, "")


@click.command()
@deploy_file
@endpoints_option
@click.option("--refresh", is_flag=True, help="Also ask the clouds what has changed behind our back.")
@command_options
def status(session: Session, file: Path, endpoints: Path | None, refresh: bool) -> None:
    """Ask every site how it is."""
    sites = Deployment(file, endpoints=load_endpoints(endpoints)).status(is_refresh=refresh)
    rows = [(site.name, site.provider, site.address, site.state, site.detail) for site in sites]
    data = {
        "sites": [
            {
                "name": s.name,
                "provider": s.provider,
                "address": s.address,
                "state": s.state,
                "detail": s.detail,
                "drift": list(s.drift),
            }
            for s in sites
        ]
    }
    lines = [table(("site", "provider", "address", "state", "detail"), rows)]
    lines += [f"Changed behind our back: {site.name}: {one}" for site in sites for one in site.drift]
    session.output.result(data, "\n".join(lines))


@click.command()
@deploy_file
@endpoints_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-address", is_flag=True, help="Leave the server's address reserved; others allow-list it.")
@abandon_option
@command_options
def destroy(
    session: Session,
    *,
    file: Path,
    endpoints: Path | None,
    yes: bool,
    keep_address: bool,
    abandoned: tuple[str, ...],
) -> None:
    """Delete everything a deployment made, and verify it with the clouds."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints), cancel=session.cancel)
    if not yes:
        confirm(session, f"Delete everything that {file} made?")
    result = deployment.destroy(
        keep_address=keep_address, abandoned=frozenset(abandoned), on_event=session.output.event
    )
    left = f"kept: {', '.join(result.kept)}" if result.kept else "nothing left"
    released = f"{len(result.released)} released, " if result.released else ""
    session.output.result(
        {
            "deleted": list(result.deleted),
            "released": list(result.released),
            "kept": list(result.kept),
            "left": list(result.left),
        },
        f"\n{len(result.deleted)} deleted, {released}{left}.",
    )


def show_applied(session: Session, applied: Applied, more: Mapping[str, object], text: str) -> None:
    """Ends a command that has applied.

    Args:
        session: of the command.
        applied: what it came to.
        more: further members of the JSON result.
        text: further lines for people.
    """
    for warning in applied.warnings:
        session.output.say(f"Warning: {warning}")
    rows = [(name, f"{seconds:.1f} s") for name, seconds in applied.ready_after_s.items()]
    session.output.result(
        {
            "sites": [{"name": name, "ready_after_s": round(s, 2)} for name, s in applied.ready_after_s.items()],
            "warnings": list(applied.warnings),
            **more,
        },
        f"\n{table(('site', 'ready after'), rows)}{text}",
    )


def _as_json(made: Plan) -> dict[str, object]:
    return {
        "changes": [
            {
                "action": change.action,
                "node": change.node,
                "name": change.name,
                "place": change.place,
                "reason": change.reason,
                "size": change.size,
                "image": change.image,
                "usd_per_hour": change.price.usd_per_hour if change.price else None,
            }
            for change in made.changes
        ],
        "certificates": [
            {"participant": one.participant, "action": one.action, "reason": one.reason} for one in made.signatures
        ],
        "uninstalled": list(made.uninstalled),
        "pending": made.work_left,
        "usd_per_hour": round(made.usd_per_hour, 4),
        "prices_as_of": sorted({price.as_of for price in made.prices}),
        "problems": list(made.problems),
        "warnings": list(made.warnings),
        "refreshed": made.is_refreshed,
    }


def plan_text(made: Plan) -> str:
    """Returns a plan for people, with what it costs."""
    rows = [(MARKS[c.action], c.action, c.node, c.name, c.place, c.size, _price(c), c.reason) for c in made.changes]
    lines = [table(("", "action", "resource", "name", "where", "size", "USD/h", "why"), rows)]
    images = sorted({f"{c.node}: {c.image}" for c in made.changes if c.image})
    lines += ["", "Images, pinned:", *(f"  {image}" for image in images)] if images else []
    lines += ["", *(f"Certificate of {s.participant}: {s.action}. {s.reason}".rstrip() for s in made.unsigned)]
    lines += [f"To be installed: {site}" for site in made.uninstalled]
    lines += [f"Warning: {warning}" for warning in made.warnings]
    lines += [f"Problem: {problem}" for problem in made.problems]
    if made.prices:
        month = made.usd_per_hour * HOURS_PER_MONTH
        sources = ", ".join(sorted({f"{price.source} of {price.as_of}" for price in made.prices}))
        lines.append(
            f"Costs {made.usd_per_hour:.3f} USD per hour ({month:.0f} per month): {sources}, without egress and taxes."
        )
    kept = len(made.changes) - len(made.pending)
    lines.append(f"{len(made.pending)} change(s), {kept} as wanted.")
    return "\n".join(lines)


def _price(change: Change) -> str:
    return f"{change.price.usd_per_hour:.4f}" if change.price else ""
