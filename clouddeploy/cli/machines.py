"""`ssh`, `exec`, `logs`, `forward`, `export`, `cost`: what people do with machines that run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from clouddeploy_runtime.errors import printable

from clouddeploy.cli.deploy import HOURS_PER_MONTH, endpoints_option
from clouddeploy.cli.main import CommandGroup, Session, command_options
from clouddeploy.cli.output import table
from clouddeploy.deployment import Deployment
from clouddeploy.errors import HostUnreachable, StateError
from clouddeploy.rehearse import load_endpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clouddeploy.costs import Cost

UNREACHED = 255
"""OpenSSH's own exit status, when it never came to run anything."""
site_argument = click.argument("site")
file_option = click.option(
    "--file", type=click.Path(path_type=Path), default=Path("deploy.yml"), help="The deploy file.", show_default=True
)


def _there(function: Callable[..., None]) -> Callable[..., None]:
    return site_argument(file_option(endpoints_option(command_options(function))))


@click.command()
@_there
def ssh(session: Session, *, site: str, file: Path, endpoints: Path | None) -> None:  # noqa: ARG001 - all have it
    """Open a terminal at a site's machine, with the deployment's key and the pinned host key."""
    command = Deployment(file, endpoints=load_endpoints(endpoints)).shells().command(site, [], has_terminal=True)
    _become(command)


@click.command("exec")
@_there
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND...")
def exec_(session: Session, *, site: str, words: tuple[str, ...], file: Path, endpoints: Path | None) -> None:
    """Run a command at a site's machine; its output and exit status become ours (255: OpenSSH's own)."""
    command = Deployment(file, endpoints=load_endpoints(endpoints)).shells().command(site, words)
    if not session.output.as_json:
        _become(command)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    out, error = (one.decode(errors="replace") for one in (done.stdout, done.stderr))
    if done.returncode == UNREACHED:
        raise _unreached(site, error)
    session.output.result({"site": site, "status": done.returncode, "stdout": out, "stderr": error}, "")


@click.command()
@_there
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is added.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=200, show_default=True, help="So many of the last.")
def logs(session: Session, *, site: str, follow: bool, lines: int, file: Path, endpoints: Path | None) -> None:
    """Show a site's log."""
    deployment = Deployment(file, endpoints=load_endpoints(endpoints))
    text = None if follow else deployment.installation.pod_log(site, deployment.recorded(), lines=lines)
    if text is not None:
        safe = [printable(line) for line in text.splitlines()]
        session.output.result({"site": site, "log": safe}, "\n".join(safe))
        return
    command = deployment.shells().log_command(site, lines=lines, is_followed=follow)
    if follow:
        _become(command)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    said, text = done.stderr.decode(errors="replace"), done.stdout.decode(errors="replace")
    if done.returncode == UNREACHED:
        raise _unreached(site, said)
    if done.returncode:
        raise StateError(f"{site} has no log yet", why=said.strip(), hint="start it: `clouddeploy apply`")
    session.output.result({"site": site, "log": text.splitlines()}, text.rstrip("\n"))


@click.command()
@_there
@click.argument("forwards", nargs=-1, required=True, metavar="PORT:HOST:HOSTPORT...")
def forward(
    session: Session,  # noqa: ARG001 - all have it
    *,
    site: str,
    forwards: tuple[str, ...],
    file: Path,
    endpoints: Path | None,
) -> None:
    """Make ports of a site's network ports of this machine, until Ctrl-C: `forward site-1 8443:localhost:8443`."""
    shells = Deployment(file, endpoints=load_endpoints(endpoints)).shells()
    _become(shells.command(site, [], forwards=forwards))


@click.group(cls=CommandGroup)
def export() -> None:
    """What other tools want to know."""


@export.command("ssh-config")
@file_option
@endpoints_option
@command_options
def ssh_config(session: Session, *, file: Path, endpoints: Path | None) -> None:
    """An ssh_config with a host for each site, for `Include`, editors and rsync; nothing in it is secret."""
    text = Deployment(file, endpoints=load_endpoints(endpoints)).shells().config()
    session.output.result({"ssh_config": text}, text.rstrip("\n"))


@click.command()
@file_option
@endpoints_option
@command_options
def cost(session: Session, *, file: Path, endpoints: Path | None) -> None:
    """Show what runs costs by the hour, and what it has cost since it was made, in list prices."""
    found = Deployment(file, endpoints=load_endpoints(endpoints)).costs()
    per_hour = sum(one.price.usd_per_hour for one in found if one.price is not None)
    total = sum(one.usd or 0.0 for one in found)
    data = {
        "resources": [_as_json(one) for one in found],
        "usd_per_hour": round(per_hour, 4),
        "usd": round(total, 2),
        "prices_as_of": sorted({one.price.as_of for one in found if one.price is not None}),
    }
    rows = [(one.node, one.size, _number(_per_hour(one), 4), _number(one.hours, 1)) for one in found]
    month = per_hour * HOURS_PER_MONTH
    lines = [
        table(("resource", "size", "USD/h", "hours"), rows),
        f"{per_hour:.3f} USD per hour ({month:.0f} per month), {total:.2f} USD so far, without egress and taxes.",
    ]
    session.output.result(data, "\n".join(lines))


def _as_json(one: Cost) -> dict[str, Any]:
    return {
        "node": one.node,
        "name": one.name,
        "size": one.size,
        "usd_per_hour": _per_hour(one),
        "hours": one.hours,
        "usd": one.usd,
    }


def _per_hour(one: Cost) -> float | None:
    return None if one.price is None else one.price.usd_per_hour


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _become(command: Sequence[str]) -> None:
    """Replaces this process, so that a terminal, its signals and its exit status are the command's own."""
    sys.stdout.flush()
    os.execvp(command[0], list(command))  # noqa: S606 - no shell is what is wanted


def _unreached(site: str, said: str) -> HostUnreachable:
    why = said.strip().splitlines()[-1:] or ["OpenSSH says so above"]
    return HostUnreachable(
        f"{site} could not be reached", why=why[0], hint="see `clouddeploy status`; `access refresh` opens SSH to you"
    )
